-- Which files of functions are deployed, so that `migrate` applies again what changed (core/functions.py).
create table sql_functions (
  path       text primary key,
  sha256     text not null,
  version    text not null,
  applied_at timestamptz not null default clock_timestamp()
);
select protect('sql_functions', 'select');

-- Databases of version 0.1.0 do not have it.
create or replace function declare_trigger_function(p_name text) returns void language plpgsql as $$
begin
  if to_regprocedure(format('%I()', p_name)) is null then
    execute format('create function %I() returns trigger language plpgsql as %L', p_name,
                   'begin raise exception ''the functions are not deployed: run manage.py migrate''; end');
  end if;
end $$;
