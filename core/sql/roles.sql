-- The roles of the desk's processes. The login of DATABASE_URL takes them on; they cannot log in themselves.
--   copydesk_app  people's pages, staff, workers: reads all, changes no trade, history or audit row but through functions
--   copydesk_bot  bot requests: no table at all, only the functions that speak the protocol
-- They belong to the cluster, so another desk on it may have made them; and where the login may make none,
-- the desk runs without them and says so (the keys and triggers do not depend on them).
do $$
declare
  wanted text;
begin
  foreach wanted in array array['copydesk_app', 'copydesk_bot'] loop
    if not exists (select from pg_roles where rolname = wanted) then
      execute format('create role %I nologin nosuperuser nocreatedb nocreaterole', wanted);
    end if;
    -- From 16 on, having made a role does not mean that one may take it on: that is granted apart.
    execute format('grant %I to %I', wanted, session_user);
  end loop;
exception
  when insufficient_privilege then
    raise warning 'the roles copydesk_app and copydesk_bot cannot be made by %: ask an administrator', session_user;
  when duplicate_object or unique_violation then
    null;  -- another desk of this cluster made them in this very moment
end $$;

-- Grants, for a role that may not exist.
create function grant_to(p_role text, p_what text) returns void language plpgsql as $$
begin
  if exists (select from pg_roles where rolname = p_role) then
    execute format('grant %s to %I', p_what, p_role);
  end if;
end $$;

select grant_to('copydesk_app', 'usage on schema public'), grant_to('copydesk_bot', 'usage on schema public'),
       grant_to('copydesk_app', 'select on all tables in schema public');

-- Ordinary tables, made from here on, are the application's to write; protect() takes that back.
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

-- What append-only tables answer. ENABLE ALWAYS keeps these awake under session_replication_role too.
create function refuse_mutation() returns trigger language plpgsql as $$
begin
  raise exception '% on % is refused: it is append-only', tg_op, tg_table_name using errcode = 'CD002';
end $$;

create function make_append_only(p_table regclass) returns void language plpgsql as $$
begin
  execute format('create trigger append_only before update or delete on %s for each row execute function refuse_mutation()', p_table);
  execute format('create trigger append_only_truncate before truncate on %s for each statement execute function refuse_mutation()', p_table);
  execute format('alter table %s enable always trigger append_only, enable always trigger append_only_truncate', p_table);
end $$;

-- A UUID of version 7 (RFC 9562): 48 bits of milliseconds, then random bits, so that the index grows at its end.
create function uuid_v7() returns uuid language sql volatile parallel safe as $$
  select encode(
    set_bit(set_bit(
      overlay(uuid_send(gen_random_uuid())
              placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1 for 6),
      52, 1), 53, 1), 'hex')::uuid
$$;

-- Times on the wire: ISO 8601 in UTC with milliseconds.
create function iso(p_at timestamptz) returns text language sql stable parallel safe as $$
  select to_char(p_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;
