-- Money that cannot be lost, invented or spent twice, for every caller.
--
--   a transfer has its two entries:  transfer (id, −1, debit, amount) and (id, +1, credit, amount) reference entries
--   entries are a chain:                     entry (wallet, prev_version, prev_balance) references the entry before
--   a balance is its last entry's:           wallet (id, version, balance) references entries
-- These are foreign keys, not queries: they hold in every race, at every isolation level. Circles are checked at
-- commit.

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
  add constraint entry_belongs_to_a_wallet foreign key (wallet_id) references wallets (id)
    deferrable initially deferred,
  add constraint entry_belongs_to_a_transfer
    foreign key (transfer_id) references ledger_transfers (id) deferrable initially deferred,
  -- "is not null" is spelled out, because a NULL passes a check and a key.
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

select declare_trigger_function('wallet_begins_empty');
select declare_trigger_function('wallet_has_its_first_entry');
select declare_trigger_function('entry_moves_the_balance');
select declare_trigger_function('wallet_moves_with_an_entry');
select declare_trigger_function('wallet_holds_what_is_pending');
select declare_trigger_function('hold_moves_the_held');
select declare_trigger_function('money_request_is_decided_once');

create trigger begins_empty before insert on wallets for each row execute function wallet_begins_empty();
create trigger has_its_first_entry after insert on wallets for each row execute function wallet_has_its_first_entry();
create trigger moves_with_an_entry before update on wallets
  for each row execute function wallet_moves_with_an_entry();
create constraint trigger holds_what_is_pending after update on wallets deferrable initially deferred
  for each row when (old.held is distinct from new.held) execute function wallet_holds_what_is_pending();
create trigger moves_the_balance after insert on ledger_entries
  for each row execute function entry_moves_the_balance();
create trigger moves_the_held after insert or update on wallet_holds
  for each row execute function hold_moves_the_held();
create trigger is_decided_once before update on money_requests
  for each row execute function money_request_is_decided_once();
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
    execute format('create trigger never_deleted before delete on %s'
                   ' for each row execute function refuse_mutation()', t);
    execute format('create trigger never_truncated before truncate on %s'
                   ' for each statement execute function refuse_mutation()', t);
    execute format('alter table %s enable always trigger never_deleted, enable always trigger never_truncated', t);
  end loop;
end $$;
select make_append_only(t) from unnest(array['ledger_requests', 'ledger_transfers', 'ledger_entries', 'settlements',
                                             'fee_terms']::regclass[]) t;

-- Free space in each page, so that the rows that every transfer updates can be updated in place.
alter table wallets set (fillfactor = 70);

-- Fees: the high-water mark is a chain, and the fee follows from it.

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
    (period_no = 0 and prev_no is null and mark_before is null and base = 0 and mark = 0 and fee = 0
      and starts_at = ends_at)
    or (period_no > 0 and prev_no is not null and prev_no = period_no - 1 and mark_before is not null
      and ends_at > starts_at and base = closed_result + floating_result and mark = greatest(mark_before, base)
      -- Cut down to the last unit. Multiplied, not divided, because a quotient would be rounded before it is cut.
      and fee = trunc((mark - mark_before) * rate_bps * 0.0001, 8)));

select declare_trigger_function('transfer_collects_its_claim');
create trigger collects_its_claim after insert on ledger_transfers for each row when (new.claim_id is not null)
  execute function transfer_collects_its_claim();
alter table ledger_transfers enable always trigger collects_its_claim;

select declare_trigger_function('fee_claim_keeps_what_is_owed');
select declare_trigger_function('fee_claim_begins_owed');
select declare_trigger_function('fee_claim_has_its_transfers');
create trigger begins_owed before insert on fee_claims for each row execute function fee_claim_begins_owed();
create constraint trigger has_its_transfers after update on fee_claims deferrable initially deferred
  for each row execute function fee_claim_has_its_transfers();
alter table fee_claims enable always trigger begins_owed, enable always trigger has_its_transfers;
create trigger keeps_what_is_owed before update on fee_claims
  for each row execute function fee_claim_keeps_what_is_owed();
alter table fee_claims enable always trigger keeps_what_is_owed;

-- What the functions and triggers write, nobody else writes.
select protect(t, 'select')
  from unnest(array['ledger_requests', 'ledger_transfers', 'ledger_entries', 'wallet_holds']::regclass[]) t;
select protect('wallets', 'select, insert, update (frozen_at)');
select protect(t, 'select, insert') from unnest(array['settlements', 'fee_terms']::regclass[]) t;
select protect('money_requests', 'select, insert, update (state, hold_id, transfer_id, decided_by_id, decided_at)'),
       protect('fee_agreements', 'select, insert, update (terms_id, next_terms_id, due_at, postponed)'),
       protect('fee_claims', 'select, insert'),
       protect('ledger_halts', 'select, insert, update (ended_at)');
