-- Holds, and the end of a restriction, go through functions alone (trust/sql/functions/restriction.sql).
select declare_trigger_function('lifted_by_function_alone');
create trigger lifted_by_function before update of restricted_at on trust_scores
  for each row when (old.restricted_at is not null and new.restricted_at is null)
  execute function lifted_by_function_alone();
alter table trust_scores enable always trigger lifted_by_function;
create trigger changed_by_function before insert or update or delete on trust_holds
  for each row execute function lifted_by_function_alone();
alter table trust_holds enable always trigger changed_by_function;
