-- The trigger function of restrictions: a restriction is lifted by its function alone, which runs as the owner and
-- writes the audit row. 0.1.0 lifts it itself, under a login that may take on both roles; that ends with 0.3.0.
create or replace function lifted_by_function_alone() returns trigger language plpgsql as $$
begin
  if not pg_has_role(current_user, (select relowner from pg_catalog.pg_class where oid = tg_relid), 'usage')
     and not pg_has_role(session_user, 'copydesk_bot', 'member') then
    raise exception '% of % lifts a restriction, which only its function may do', tg_op, tg_table_name
      using errcode = 'insufficient_privilege';
  end if;
  if tg_op = 'DELETE' then return old; end if;
  return new;
end $$;
