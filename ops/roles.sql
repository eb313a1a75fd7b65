-- The desk's logins and its database, by the cluster's administrator: before the first migration, and again to change a
-- password, to put a limit back, or to upgrade a desk of 0.1.0. Each login has a password of its own; none is a
-- superuser, creates roles, or takes on another role.
--
--   psql --file ops/roles.sql --set owner_password=… --set app_password=… --set bot_password=… postgres
--
--   copydesk_owner  DATABASE_OWNER_URL  owns the tables; `manage.py migrate` alone uses it
--   copydesk_app    DATABASE_URL        people's pages, the admin, workers
--   copydesk_bot    DATABASE_BOT_URL    bots' requests
\set ON_ERROR_STOP on
select format('create role %I', role) from unnest(array['copydesk_owner', 'copydesk_app', 'copydesk_bot']) role
 where not exists (select from pg_roles where rolname = role) \gexec
alter role copydesk_owner login nosuperuser nocreatedb nocreaterole noreplication nobypassrls
  password :'owner_password';
alter role copydesk_app   login nosuperuser nocreatedb nocreaterole noreplication nobypassrls
  password :'app_password';
alter role copydesk_bot   login nosuperuser nocreatedb nocreaterole noreplication nobypassrls
  password :'bot_password';

select format('revoke %s from %s', roleid::regrole, member::regrole) from pg_auth_members
 where member in ('copydesk_app'::regrole, 'copydesk_bot'::regrole) \gexec
-- The migrations grant rights to both roles.
grant copydesk_app, copydesk_bot to copydesk_owner with admin option;

-- A connection asks for these limits itself. A pooler may drop what it asks for, and then the login's own hold.
select format('alter role %I set %s', role, setting)
  from unnest(array['copydesk_app', 'copydesk_bot']) role,
       unnest(array['lock_timeout = ''2s''', 'statement_timeout = ''5s''',
                    'idle_in_transaction_session_timeout = ''10s''']) setting \gexec
alter role copydesk_bot set enable_seqscan = off;

select 'create database copydesk owner copydesk_owner encoding ''UTF8'' template template0'
 where not exists (select from pg_database where datname = 'copydesk') \gexec
revoke all on database copydesk from public;
grant connect on database copydesk to copydesk_app, copydesk_bot;
