-- Fee terms bind nobody who has not accepted them.

-- New terms and acceptances of one strategy take turns. Two transactions that do not see each other's rows would accept
-- terms that are the latest no more. Above READ COMMITTED the look after the wait would show the time before it.
create or replace function take_turns_with_terms(p_strategy bigint) returns void language plpgsql as $$
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'fee terms are added and accepted in READ COMMITTED transactions only' using errcode = '25001';
  end if;
  perform pg_advisory_xact_lock(hashtext('fee_terms'), hashint8(p_strategy));
end $$;

create or replace function fee_terms_take_their_turn() returns trigger language plpgsql as $$
begin
  perform take_turns_with_terms(new.strategy_id);
  return new;
end $$;

create or replace function fee_acceptance_is_of_the_latest_terms() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  perform take_turns_with_terms(new.strategy_id);
  if exists (select from fee_terms where strategy_id = new.strategy_id and id > new.terms_id) then
    raise exception 'terms % are not the latest of strategy %', new.terms_id, new.strategy_id
      using errcode = 'check_violation', constraint = 'fee_acceptance_is_of_the_latest_terms',
            table = 'fee_acceptances';
  end if;
  return new;
end $$;

create or replace function settlement_charges_what_was_accepted() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  if not exists (select from fee_agreements a join fee_terms t on t.id = a.terms_id
                  where a.id = new.agreement_id and a.acceptance_id is not null
                    and t.performance_bps >= new.rate_bps) then
    raise exception 'agreement % has accepted no performance fee of % bps', new.agreement_id, new.rate_bps
      using errcode = 'check_violation', constraint = 'settlement_charges_what_was_accepted', table = 'settlements';
  end if;
  return new;
end $$;

-- A subscription fee may be that of the next period's terms: a month has begun before its period before is settled.
create or replace function fee_claim_charges_what_was_accepted() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  if not exists (
    select from fee_agreements a join fee_terms t
           on t.id = a.terms_id and a.acceptance_id is not null
           or t.id = a.next_terms_id and a.next_acceptance_id is not null
     where a.id = new.agreement_id and (new.kind <> 'FEE_SUBSCRIPTION' or t.subscription_fee >= new.amount)) then
    raise exception 'agreement % has accepted no such fee', new.agreement_id
      using errcode = 'check_violation', constraint = 'fee_claim_charges_what_was_accepted', table = 'fee_claims';
  end if;
  return new;
end $$;

create or replace function fee_notice_keeps_what_it_says() returns trigger language plpgsql as $$
begin
  if (new.id, new.subscription_id, new.terms_id, new.given_at, new.ends_at) is distinct from
     (old.id, old.subscription_id, old.terms_id, old.given_at, old.ends_at)
     or old.closed_at is not null then
    raise exception 'notice % keeps what it says', old.id using errcode = 'CD003';
  end if;
  return new;
end $$;

-- --- subscriptions

-- Whether this account may follow the strategy as far as its fees are concerned: its owner has accepted the latest
-- terms, in the account's currency. Terms without fees need no acceptance, unless others with fees are in force.
create or replace function fees_are_accepted(p_account bigint, p_strategy bigint) returns boolean
language plpgsql stable security definer set search_path = public, pg_temp as $$
declare
  v_owner uuid;
  v_currency text;
  t fee_terms;
begin
  select * into t from fee_terms where strategy_id = p_strategy order by id desc limit 1;
  select owner_id, currency into v_owner, v_currency from trading_accounts where id = p_account;
  return t.id is null
    or v_owner = (select owner_id from strategies where id = p_strategy)
    or exists (select from fee_acceptances a where a.subscriber_id = v_owner and a.strategy_id = p_strategy
                and a.currency = v_currency and a.terms_id = t.id)
    or (t.performance_bps = 0 and t.subscription_fee = 0
        and not exists (select from fee_agreements a
                         where a.subscriber_id = v_owner and a.strategy_id = p_strategy and a.currency = v_currency
                           and a.next_acceptance_id is not null));
end $$;
select callable_by('fees_are_accepted(bigint, bigint)', 'copydesk_app');

-- Whether a fee for this strategy is owed by the account's owner, in the account's currency.
create or replace function fees_are_owed(p_account bigint, p_strategy bigint) returns boolean
language plpgsql stable security definer set search_path = public, pg_temp as $$
begin
  return exists (
    select from trading_accounts t
           join fee_agreements a on a.subscriber_id = t.owner_id and a.currency = t.currency
           join fee_claims c on c.agreement_id = a.id and c.collected_at is null
     where t.id = p_account and a.strategy_id = p_strategy);
end $$;
select callable_by('fees_are_owed(bigint, bigint)', 'copydesk_app');

-- A subscription that was ended or never lived, or that waits for its acceptance, waits until the fees are accepted.
-- One that follows already keeps what was agreed: it has a notice (fee_notices). No pause but the one for unpaid fees
-- ends in copying while a fee is owed. (`wallets.tasks.sweep` ends that one; it knows which fees are disputed.)
create or replace function subscription_waits_for_its_fees() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  v_begins boolean := tg_op = 'INSERT' or old.status = 'ENDED' or old.paused_for = 'TERMS'
                      or (new.account_id, new.strategy_id) is distinct from (old.account_id, old.strategy_id);
begin
  if v_begins and not fees_are_accepted(new.account_id, new.strategy_id) then
    new.status := 'PAUSED';
    new.paused_for := 'TERMS';
  elsif new.status = 'ACTIVE' and (v_begins or old.status = 'PAUSED' and old.paused_for <> 'UNPAID')
        and fees_are_owed(new.account_id, new.strategy_id) then
    new.status := 'PAUSED';
    new.paused_for := 'UNPAID';
  end if;
  return new;
end $$;
