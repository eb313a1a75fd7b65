-- Freezes and halts are lifted by functions alone (wallets/sql/functions/restriction.sql).
select declare_trigger_function('lifted_by_function_alone');
create trigger lifted_by_function before update of frozen_at on wallets
  for each row when (old.frozen_at is not null and new.frozen_at is distinct from old.frozen_at)
  execute function lifted_by_function_alone();
alter table wallets enable always trigger lifted_by_function;
create trigger lifted_by_function before update on ledger_halts
  for each row execute function lifted_by_function_alone();
alter table ledger_halts enable always trigger lifted_by_function;
