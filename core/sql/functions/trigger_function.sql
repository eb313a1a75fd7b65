-- For migrations: a trigger needs its function before the function's body is deployed. Until then the trigger refuses.
create or replace function declare_trigger_function(p_name text) returns void language plpgsql as $$
begin
  if to_regprocedure(format('%I()', p_name)) is null then
    execute format('create function %I() returns trigger language plpgsql as %L', p_name,
                   'begin raise exception ''the functions are not deployed: run manage.py migrate''; end');
  end if;
end $$;
