-- The trigger function of append-only tables: it refuses updates, deletes and truncates.
create or replace function refuse_mutation() returns trigger language plpgsql as $$
begin
  raise exception '% on % is refused: it is append-only', tg_op, tg_table_name using errcode = 'CD002';
end $$;

-- ENABLE ALWAYS lets the triggers fire under session_replication_role = replica too.
create or replace function make_append_only(p_table regclass) returns void language plpgsql as $$
begin
  execute format('create trigger append_only before update or delete on %s'
                 ' for each row execute function refuse_mutation()', p_table);
  execute format('create trigger append_only_truncate before truncate on %s'
                 ' for each statement execute function refuse_mutation()', p_table);
  execute format('alter table %s enable always trigger append_only, enable always trigger append_only_truncate',
                 p_table);
end $$;
