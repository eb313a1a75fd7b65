-- Money that cannot be lost, invented or spent twice, whoever the caller is.
--
--   a transfer has exactly its two entries:  transfer (id, −1, debit, amount) and (id, +1, credit, amount) reference entries
--   entries are a chain:                     entry (wallet, prev_version, prev_balance) references the entry before
--   a balance is its last entry's:           wallet (id, version, balance) references entries
-- Being keys and not looks, these hold in every race, at every isolation level. Circles are checked at commit.

-- NaN is above every number, so no "> 0" keeps it out.
alter table wallets add constraint wallet_amounts_are_numbers check (balance < 'NaN' and held < 'NaN');
alter table ledger_transfers add constraint transfer_amount_is_a_number check (amount < 'NaN');
alter table ledger_entries add constraint entry_amounts_are_numbers check (amount < 'NaN' and balance_after < 'NaN');
alter table wallet_holds add constraint hold_amount_is_a_number check (amount < 'NaN' and posted < 'NaN');
alter table money_requests add constraint money_request_amount_is_a_number check (amount < 'NaN');
alter table fee_claims add constraint fee_claim_amounts_are_numbers
  check (amount < 'NaN' and provider_share < 'NaN' and collected < 'NaN');
alter table fee_terms add constraint fee_terms_amount_is_a_number check (subscription_fee < 'NaN');

alter table wallets add constraint wallet_and_its_currency_are_one unique (id, currency);

alter table ledger_entries
  add constraint entry_and_its_balance_are_one unique (wallet_id, version, balance_after),
  add constraint entry_is_one_side_of_its_transfer unique (transfer_id, side),
  add constraint entry_says_what_its_transfer_says unique (transfer_id, side, wallet_id, amount),
  add constraint entry_follows_the_one_before
    foreign key (wallet_id, prev_version, prev_balance) references ledger_entries (wallet_id, version, balance_after),
  add constraint entry_belongs_to_a_wallet foreign key (wallet_id) references wallets (id) deferrable initially deferred,
  add constraint entry_belongs_to_a_transfer
    foreign key (transfer_id) references ledger_transfers (id) deferrable initially deferred,
  -- "is not null" is said, for a NULL passes a check and a key.
  add constraint entry_adds_up check (
    (version = 0 and prev_version is null and prev_balance is null and transfer_id is null and side = 0 and amount = 0
      and balance_after = 0)
    or (version > 0 and prev_version is not null and prev_version = version - 1 and prev_balance is not null
      and transfer_id is not null and side in (-1, 1) and amount > 0 and balance_after = prev_balance + side * amount));

alter table ledger_transfers
  add column minus smallint not null generated always as (-1) stored,
  add column plus  smallint not null generated always as (1) stored,
  add constraint transfer_and_its_debit_are_one  unique (id, debit_id, amount),
  add constraint transfer_debits_its_currency  foreign key (debit_id, currency)  references wallets (id, currency),
  add constraint transfer_credits_its_currency foreign key (credit_id, currency) references wallets (id, currency),
  add constraint transfer_has_its_debit  foreign key (id, minus, debit_id, amount)
    references ledger_entries (transfer_id, side, wallet_id, amount) deferrable initially deferred,
  add constraint transfer_has_its_credit foreign key (id, plus, credit_id, amount)
    references ledger_entries (transfer_id, side, wallet_id, amount) deferrable initially deferred,
  add constraint transfer_was_asked_for foreign key (scope, idempotency_key)
    references ledger_requests (scope, idempotency_key) deferrable initially deferred;

alter table wallets
  add constraint wallet_balance_is_its_last_entrys foreign key (id, version, balance)
    references ledger_entries (wallet_id, version, balance_after) deferrable initially deferred;

-- What was posted of a hold is the amount of a transfer that debits its wallet.
alter table wallet_holds
  add constraint hold_was_posted_by_its_transfer foreign key (transfer_id, wallet_id, posted)
    references ledger_transfers (id, debit_id, amount) deferrable initially deferred;

-- A wallet begins with nothing, and with the entry that says so.
create function wallet_begins_empty() returns trigger language plpgsql as $$
begin
  if (new.balance, new.held, new.version) is distinct from (0::numeric, 0::numeric, 0::bigint) then
    raise exception 'a wallet begins with nothing' using errcode = 'CD003';
  end if;
  return new;
end $$;
create function wallet_has_its_first_entry() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  insert into ledger_entries (wallet_id, version, side, amount, balance_after) values (new.id, 0, 0, 0, 0);
  return null;
end $$;

-- An entry moves the balance; nothing else does. Whoever built on an older state is refused.
create function entry_moves_the_balance() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  if new.version > 0 then
    update wallets set balance = new.balance_after, version = new.version
     where id = new.wallet_id and version = new.prev_version and balance = new.prev_balance;
    if not found then
      raise exception 'concurrent modification detected: wallet % is not at version %', new.wallet_id, new.prev_version
        using errcode = 'CD006';
    end if;
  end if;
  return null;
end $$;

create function wallet_moves_with_an_entry() returns trigger language plpgsql as $$
begin
  if new.version not in (old.version, old.version + 1) or (new.version = old.version and new.balance <> old.balance)
     or (new.id, new.owner_id, new.currency, new.kind, new.shard, new.created_at) is distinct from
        (old.id, old.owner_id, old.currency, old.kind, old.shard, old.created_at) then
    raise exception 'wallet % moves only with an entry, one version at a time', old.id using errcode = 'CD003';
  end if;
  return new;
end $$;

-- What is held is the sum of the pending holds. Every hold moves the wallet's row, whose lock lasts until the commit, so
-- that this look is at something that stands still.
create function wallet_holds_what_is_pending() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  if new.held <> coalesce((select sum(amount) from wallet_holds where wallet_id = new.id and state = 'PENDING'), 0)
     and new.held = (select held from wallets where id = new.id) then
    raise exception 'wallet % does not hold what is pending', new.id using errcode = 'CD003';
  end if;
  return null;
end $$;

create function hold_moves_the_held() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  if tg_op = 'INSERT' then
    if new.state <> 'PENDING' then raise exception 'a hold begins pending' using errcode = 'CD003'; end if;
    update wallets set held = held + new.amount where id = new.wallet_id;
    return null;
  end if;
  if old.state <> 'PENDING' then raise exception 'hold % is resolved for ever', old.id using errcode = 'CD001'; end if;
  if (new.id, new.wallet_id, new.amount, new.purpose, new.expires_at, new.created_at) is distinct from
     (old.id, old.wallet_id, old.amount, old.purpose, old.expires_at, old.created_at) then
    raise exception 'hold % can only be resolved', old.id using errcode = 'CD003';
  end if;
  if new.state = 'POSTED' and not exists (select from ledger_transfers t, wallet_holds h
                                           where t.id = new.transfer_id and h.id = new.id and t.xmin = h.xmin) then
    raise exception 'hold % is posted with its transfer, not by an older one', old.id using errcode = 'CD003';
  end if;
  if new.state <> 'PENDING' then
    update wallets set held = held - old.amount where id = new.wallet_id;
  end if;
  return null;
end $$;

create function money_request_is_decided_once() returns trigger language plpgsql as $$
begin
  if old.state <> 'PENDING' then raise exception 'request % is decided for ever', old.id using errcode = 'CD001'; end if;
  if (new.id, new.kind, new.wallet_id, new.amount, new.reason, new.idempotency_key, new.requested_by_id, new.needs_second,
      new.created_at) is distinct from
     (old.id, old.kind, old.wallet_id, old.amount, old.reason, old.idempotency_key, old.requested_by_id, old.needs_second,
      old.created_at) then
    raise exception 'request % can only be decided', old.id using errcode = 'CD003';
  end if;
  return new;
end $$;

create trigger begins_empty before insert on wallets for each row execute function wallet_begins_empty();
create trigger has_its_first_entry after insert on wallets for each row execute function wallet_has_its_first_entry();
create trigger moves_with_an_entry before update on wallets for each row execute function wallet_moves_with_an_entry();
create constraint trigger holds_what_is_pending after update on wallets deferrable initially deferred
  for each row when (old.held is distinct from new.held) execute function wallet_holds_what_is_pending();
create trigger moves_the_balance after insert on ledger_entries for each row execute function entry_moves_the_balance();
create trigger moves_the_held after insert or update on wallet_holds for each row execute function hold_moves_the_held();
create trigger is_decided_once before update on money_requests for each row execute function money_request_is_decided_once();
alter table wallets enable always trigger begins_empty, enable always trigger has_its_first_entry,
  enable always trigger moves_with_an_entry, enable always trigger holds_what_is_pending;
alter table ledger_entries enable always trigger moves_the_balance;
alter table wallet_holds enable always trigger moves_the_held;
alter table money_requests enable always trigger is_decided_once;

do $$
declare
  t regclass;
begin
  foreach t in array array['wallets', 'wallet_holds', 'money_requests', 'fee_agreements', 'fee_claims']::regclass[] loop
    execute format('create trigger never_deleted before delete on %s for each row execute function refuse_mutation()', t);
    execute format('create trigger never_truncated before truncate on %s for each statement execute function refuse_mutation()', t);
    execute format('alter table %s enable always trigger never_deleted, enable always trigger never_truncated', t);
  end loop;
end $$;
select make_append_only(t) from unnest(array['ledger_requests', 'ledger_transfers', 'ledger_entries', 'settlements',
                                             'fee_terms']::regclass[]) t;

-- The rows that every movement changes have room to change in place.
alter table wallets set (fillfactor = 70);

-- --- fees: the mark is a chain, and the fee follows from it

alter table settlements
  add constraint settlement_and_its_mark_are_one unique (agreement_id, period_no, mark),
  add constraint settlement_and_its_end_are_one unique (agreement_id, period_no, ends_at),
  add constraint settlement_takes_the_mark_over foreign key (agreement_id, prev_no, mark_before)
    references settlements (agreement_id, period_no, mark),
  add constraint settlement_begins_where_the_last_ended foreign key (agreement_id, prev_no, starts_at)
    references settlements (agreement_id, period_no, ends_at),
  add constraint settlement_amounts_are_numbers
    check (closed_result < 'NaN' and floating_result < 'NaN' and base < 'NaN' and mark < 'NaN' and fee < 'NaN'),
  add constraint settlement_follows_from_its_base check (
    (period_no = 0 and prev_no is null and mark_before is null and base = 0 and mark = 0 and fee = 0 and starts_at = ends_at)
    or (period_no > 0 and prev_no is not null and prev_no = period_no - 1 and mark_before is not null
      and ends_at > starts_at and base = closed_result + floating_result and mark = greatest(mark_before, base)
      -- Down, to the last unit. Multiplied and not divided, for a quotient would be rounded before it is cut.
      and fee = trunc((mark - mark_before) * rate_bps * 0.0001, 8)));

-- What a claim has collected is moved by the transfers that collect it.
create function transfer_collects_its_claim() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  if new.claim_id is not null and new.kind in ('FEE_PERFORMANCE', 'FEE_SUBSCRIPTION') then
    update fee_claims set collected = collected + new.amount,
                          collected_at = case when collected + new.amount = amount then clock_timestamp() end
     where id = new.claim_id and kind = new.kind and payer_id = new.debit_id;
    if not found then raise exception 'this is no fee of claim %', new.claim_id using errcode = 'CD003'; end if;
  elsif new.claim_id is not null and new.kind = 'PAYOUT' then
    update fee_claims set paid_out_at = clock_timestamp()
     where id = new.claim_id and payee_id = new.credit_id and provider_share = new.amount;
    if not found then raise exception 'this is no payout of claim %', new.claim_id using errcode = 'CD003'; end if;
  end if;
  return null;
end $$;
create trigger collects_its_claim after insert on ledger_transfers for each row when (new.claim_id is not null)
  execute function transfer_collects_its_claim();
alter table ledger_transfers enable always trigger collects_its_claim;

create function fee_claim_keeps_what_is_owed() returns trigger language plpgsql as $$
begin
  if (new.id, new.agreement_id, new.kind, new.period_no, new.payer_id, new.payee_id, new.amount, new.provider_share, new.detail,
      new.created_at) is distinct from
     (old.id, old.agreement_id, old.kind, old.period_no, old.payer_id, old.payee_id, old.amount, old.provider_share, old.detail,
      old.created_at)
     or new.collected < old.collected or (old.paid_out_at is not null and new.paid_out_at is distinct from old.paid_out_at) then
    raise exception 'claim % keeps what is owed', old.id using errcode = 'CD003';
  end if;
  return new;
end $$;
-- A claim begins with nothing collected; what it has collected, and whether it was paid out, is what its transfers say.
create function fee_claim_begins_owed() returns trigger language plpgsql as $$
begin
  if new.collected <> 0 or new.collected_at is not null or new.paid_out_at is not null then
    raise exception 'a claim begins with nothing collected' using errcode = 'CD003';
  end if;
  return new;
end $$;
create function fee_claim_has_its_transfers() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  c fee_claims;
begin
  select * into c from fee_claims where id = new.id;
  if c.collected <> coalesce((select sum(amount) from ledger_transfers
                               where claim_id = c.id and kind in ('FEE_PERFORMANCE', 'FEE_SUBSCRIPTION')), 0)
     or (c.paid_out_at is not null)
        <> exists (select from ledger_transfers where claim_id = c.id and kind = 'PAYOUT') then
    raise exception 'claim % has not what its transfers say', c.id using errcode = 'CD003';
  end if;
  return null;
end $$;
create trigger begins_owed before insert on fee_claims for each row execute function fee_claim_begins_owed();
create constraint trigger has_its_transfers after update on fee_claims deferrable initially deferred
  for each row execute function fee_claim_has_its_transfers();
alter table fee_claims enable always trigger begins_owed, enable always trigger has_its_transfers;
create trigger keeps_what_is_owed before update on fee_claims for each row execute function fee_claim_keeps_what_is_owed();
alter table fee_claims enable always trigger keeps_what_is_owed;
