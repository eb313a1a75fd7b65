-- Databases that were migrated while version 0.1.0 was being written lack these two triggers.
select declare_trigger_function('fee_claim_begins_owed'), declare_trigger_function('fee_claim_has_its_transfers');
drop trigger if exists begins_owed on fee_claims;
drop trigger if exists has_its_transfers on fee_claims;
create trigger begins_owed before insert on fee_claims for each row execute function fee_claim_begins_owed();
create constraint trigger has_its_transfers after update on fee_claims deferrable initially deferred
  for each row execute function fee_claim_has_its_transfers();
alter table fee_claims enable always trigger begins_owed, enable always trigger has_its_transfers;
