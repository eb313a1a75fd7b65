-- The two roles that the desk's processes act in. The login of DATABASE_URL takes them on; they cannot log in
-- themselves.
--   copydesk_app  people's pages, staff, workers: reads everything, writes trades, history and audit by functions only
--   copydesk_bot  bots' requests: reads no table, calls only the functions that speak the signed protocol
-- Roles belong to the cluster, so another desk may have created them. Where the login may not create roles, the desk
-- runs without them and says so; its keys and triggers do not depend on them.
do $$
declare
  v_role text;
begin
  foreach v_role in array array['copydesk_app', 'copydesk_bot'] loop
    if not exists (select from pg_roles where rolname = v_role) then
      execute format('create role %I nologin nosuperuser nocreatedb nocreaterole', v_role);
    end if;
    -- From PostgreSQL 16 on, the creator of a role may take it on only where that is granted as well.
    execute format('grant %I to %I', v_role, session_user);
  end loop;
exception
  when insufficient_privilege then
    raise warning 'the roles copydesk_app and copydesk_bot cannot be made by %: ask an administrator', session_user;
  when duplicate_object or unique_violation then
    null;  -- another desk of this cluster created them at the same moment
end $$;

-- What the migrations themselves call. sql/functions/ holds the form that is deployed.
create function grant_to(p_role text, p_what text) returns void language plpgsql as $$
begin
  if exists (select from pg_roles where rolname = p_role) then
    execute format('grant %s to %I', p_what, p_role);
  end if;
end $$;

select grant_to('copydesk_app', 'usage on schema public'), grant_to('copydesk_bot', 'usage on schema public'),
       grant_to('copydesk_app', 'select on all tables in schema public');

-- The application may write every table that is created from here on; protect() takes that back.
do $$
begin
  if exists (select from pg_roles where rolname = 'copydesk_app') then
    alter default privileges in schema public grant select, insert, update, delete on tables to copydesk_app;
    alter default privileges in schema public grant usage on sequences to copydesk_app;
  end if;
end $$;

create function protect(p_table regclass, p_allowed text) returns void language plpgsql as $$
begin
  if exists (select from pg_roles where rolname = 'copydesk_app') then
    execute format('revoke all on %s from copydesk_app', p_table);
  end if;
  perform grant_to('copydesk_app', format('%s on %s', p_allowed, p_table));
end $$;

-- A trigger needs its function before the function's body is deployed. Until then the trigger refuses.
create function declare_trigger_function(p_name text) returns void language plpgsql as $$
begin
  if to_regprocedure(format('%I()', p_name)) is null then
    execute format('create function %I() returns trigger language plpgsql as %L', p_name,
                   'begin raise exception ''the functions are not deployed: run manage.py migrate''; end');
  end if;
end $$;

select declare_trigger_function('refuse_mutation');

create function make_append_only(p_table regclass) returns void language plpgsql as $$
begin
  execute format('create trigger append_only before update or delete on %s'
                 ' for each row execute function refuse_mutation()', p_table);
  execute format('create trigger append_only_truncate before truncate on %s'
                 ' for each statement execute function refuse_mutation()', p_table);
  execute format('alter table %s enable always trigger append_only, enable always trigger append_only_truncate',
                 p_table);
end $$;
