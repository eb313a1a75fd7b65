-- Withdrawals go to confirmed destinations only (sql/functions/destination.sql). Older ones keep none.

select declare_trigger_function('destination_begins_to_cool');
select declare_trigger_function('destination_only_ends');
select declare_trigger_function('withdrawal_has_its_destination');
create trigger begins_to_cool before insert on withdrawal_destinations
  for each row execute function destination_begins_to_cool();
create trigger only_ends before update on withdrawal_destinations
  for each row execute function destination_only_ends();
create trigger never_deleted before delete on withdrawal_destinations for each row execute function refuse_mutation();
create trigger never_truncated before truncate on withdrawal_destinations
  for each statement execute function refuse_mutation();
create trigger has_its_destination before insert or update on money_requests
  for each row when (new.kind = 'WITHDRAWAL') execute function withdrawal_has_its_destination();
alter table withdrawal_destinations enable always trigger begins_to_cool, enable always trigger only_ends,
  enable always trigger never_deleted, enable always trigger never_truncated;
alter table money_requests enable always trigger has_its_destination,
  add constraint money_request_destination_is_a_withdrawals check (destination_id is null or kind = 'WITHDRAWAL');

select protect('withdrawal_destinations', 'select, insert, update (removed_at, sealed_details)');
