-- Rights of the two roles that the desk's processes act in. A hosted database may not have the roles: then nothing is
-- granted, and `manage.py check --database` says so.

create or replace function grant_to(p_role text, p_what text) returns void language plpgsql as $$
begin
  if exists (select from pg_roles where rolname = p_role) then
    execute format('grant %s to %I', p_what, p_role);
  end if;
end $$;

-- Grants the application these rights on a table and revokes all others.
create or replace function protect(p_table regclass, p_allowed text) returns void language plpgsql as $$
begin
  if exists (select from pg_roles where rolname = 'copydesk_app') then
    execute format('revoke all on %s from copydesk_app', p_table);
  end if;
  perform grant_to('copydesk_app', format('%s on %s', p_allowed, p_table));
end $$;

-- Lets only these roles call a function. The role that migrates becomes its owner.
create or replace function callable_by(p_function regprocedure, variadic p_roles text[]) returns void
language plpgsql as $$
declare
  v_grantee text;
  v_role    text;
begin
  execute format('alter function %s owner to %I', p_function, current_user);
  for v_grantee in
    select case granted.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(granted.grantee)) end
      from pg_proc f, aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) granted
     where f.oid = p_function and granted.grantee <> f.proowner
  loop
    execute format('revoke all on function %s from %s', p_function, v_grantee);
  end loop;
  foreach v_role in array p_roles loop
    perform grant_to(v_role, format('execute on function %s', p_function));
  end loop;
end $$;
