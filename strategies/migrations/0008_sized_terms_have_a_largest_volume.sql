-- Databases that were migrated while version 0.1.0 was being written have this check without the largest volume. Terms
-- that break it cannot be changed, so there the check holds for new rows only, and `check --database` names it.
do $$
begin
  if exists (select from pg_constraint where conname = 'terms_have_what_their_mode_needs'
                and pg_get_constraintdef(oid) like '%max_volume%') then
    return;
  end if;
  alter table subscription_terms drop constraint if exists terms_have_what_their_mode_needs,
    add constraint terms_have_what_their_mode_needs check (
      mode = 'MULTIPLIER'
      or (max_volume is not null and mode = 'EQUITY')
      or (fixed_lots is not null and mode = 'FIXED')
      or (max_volume is not null and mode = 'RISK' and not reverse and risk_pct is not null)) not valid;
  begin
    alter table subscription_terms validate constraint terms_have_what_their_mode_needs;
  exception when check_violation then
    raise warning 'subscription_terms has rows by equity or by risk without a largest volume: end those subscriptions';
  end;
end $$;
