-- The outcome of a verb that was refused. Nothing but its audit row was written.
create or replace function refused(p_code text, p_more jsonb default '{}') returns jsonb language sql stable as $$
  select jsonb_build_object('code', p_code, 'refused', true) || p_more
$$;
