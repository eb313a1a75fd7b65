-- Money that one person moves alone is bounded in the database, by amounts and sums (sql/functions/second_person.sql).

alter table money_settings add constraint money_setting_is_a_number check (value >= 0 and value < 'NaN');

select declare_trigger_function('money_request_says_who_decides');
select declare_trigger_function('money_request_is_decided_properly');
select declare_trigger_function('transfer_is_within_the_limits');
create trigger says_who_decides before insert on money_requests
  for each row execute function money_request_says_who_decides();
create trigger is_decided_properly after insert or update on money_requests
  for each row execute function money_request_is_decided_properly();
create constraint trigger is_within_the_limits after insert on ledger_transfers deferrable initially deferred
  for each row when (new.claim_id is null
                     and new.kind in ('DEPOSIT', 'WITHDRAWAL', 'TRANSFER', 'PAYOUT', 'ADJUSTMENT', 'REVERSAL'))
  execute function transfer_is_within_the_limits();
alter table money_requests enable always trigger says_who_decides, enable always trigger is_decided_properly;
alter table ledger_transfers enable always trigger is_within_the_limits;

select protect('money_settings', 'select'), protect('money_movers', 'select');
