"""The books as queries. Each finds nothing as long as they are right; the database's keys see to that."""

from core import invariants
from core.invariants import Fault

INVARIANTS = {
    "all money in a currency adds up to nothing": """
        select currency || ' ' || sum(balance) from wallets group by currency having sum(balance) <> 0""",
    "a balance is the sum of its entries, which have no gap": """
        select w.id::text from wallets w
          left join (select wallet_id, sum(side * amount) as moved, max(version) as latest, count(*) as known
                       from ledger_entries group by wallet_id) e on e.wallet_id = w.id
         where w.balance is distinct from e.moved or w.version is distinct from e.latest
            or e.known is distinct from w.version + 1""",
    "an entry goes on from the one before": """
        select wallet_id || ' v' || version from (
          select wallet_id, version, side, amount, balance_after,
                 lag(balance_after, 1, 0::numeric) over (partition by wallet_id order by version) as before
            from ledger_entries) e
         where balance_after <> before + side * amount""",
    "a transfer is one debit and one credit of its amount": """
        select t.id::text from ledger_transfers t
          left join (select transfer_id, count(*) as sides, sum(side * amount) as left_over,
                            max(wallet_id) filter (where side = -1) as debited,
                            max(wallet_id) filter (where side = 1) as credited, max(amount) as amount
                       from ledger_entries where version > 0 group by transfer_id) e on e.transfer_id = t.id
         where e.sides is distinct from 2 or e.left_over <> 0 or e.debited <> t.debit_id or e.credited <> t.credit_id
            or e.amount <> t.amount""",
    "no wallet is overdrawn": """
        select id::text from wallets where kind not in ('CASH_IN', 'RECEIVABLE', 'ADJUSTMENTS') and balance < held""",
    "what is held is what is pending": """
        select w.id::text from wallets w
          left join (select wallet_id, sum(amount) as pending from wallet_holds where state = 'PENDING'
                      group by wallet_id) h on h.wallet_id = w.id
         where w.held <> coalesce(h.pending, 0)""",
    "a transfer is asked for once": """
        select scope || ' ' || idempotency_key from ledger_transfers group by scope, idempotency_key having count(*) > 1
        union all
        select t.id::text from ledger_transfers t left join ledger_requests r using (scope, idempotency_key)
         where r.outcome->>'transfer' is distinct from t.id::text""",
    "money that was asked for moved as it was asked": """
        select m.id::text from money_requests m join ledger_transfers t on t.id = m.transfer_id
         where t.amount <> abs(m.amount) or t.kind <> m.kind or m.wallet_id not in (t.debit_id, t.credit_id)""",
    "periods are settled without a gap": """
        select agreement_id::text from settlements group by agreement_id having max(period_no) + 1 <> count(*)
        union all
        select a.id::text from fee_agreements a
         where not exists (select from settlements where agreement_id = a.id and period_no = 0)""",
    "a settled fee is a claim of the same amount": """
        select s.agreement_id || '/' || s.period_no from settlements s
          left join fee_claims c
            on (c.agreement_id, c.period_no, c.kind) = (s.agreement_id, s.period_no, 'FEE_PERFORMANCE')
         where s.fee <> coalesce(c.amount, 0)""",
    "a claim is accrued whole, and collected by its transfers": """
        select c.id::text from fee_claims c
          left join (select claim_id, sum(amount) filter (where kind = 'ACCRUAL') as accrued,
                            sum(amount) filter (where kind in ('FEE_PERFORMANCE', 'FEE_SUBSCRIPTION')) as collected,
                            sum(amount) filter (where kind = 'PAYOUT') as paid
                       from ledger_transfers where claim_id is not null group by claim_id) t on t.claim_id = c.id
         where t.accrued is distinct from c.amount or coalesce(t.collected, 0) <> c.collected
            or (t.paid is not null) <> (c.paid_out_at is not null and c.provider_share > 0)""",
    "every key and trigger that holds the promise is in place and awake": """
        select wanted from unnest(array[
            'wallets.begins_empty', 'wallets.has_its_first_entry', 'wallets.moves_with_an_entry',
            'wallets.holds_what_is_pending', 'wallets.never_deleted', 'wallets.never_truncated',
            'ledger_entries.moves_the_balance', 'ledger_entries.append_only', 'ledger_entries.append_only_truncate',
            'ledger_transfers.append_only', 'ledger_transfers.append_only_truncate',
            'ledger_transfers.collects_its_claim',
            'ledger_requests.append_only', 'ledger_requests.append_only_truncate',
            'settlements.append_only', 'settlements.append_only_truncate',
            'fee_terms.append_only', 'fee_terms.append_only_truncate',
            'wallet_holds.moves_the_held', 'wallet_holds.never_deleted', 'wallet_holds.never_truncated',
            'money_requests.is_decided_once', 'money_requests.never_deleted', 'money_requests.never_truncated',
            'fee_agreements.never_deleted', 'fee_agreements.never_truncated',
            'fee_claims.keeps_what_is_owed', 'fee_claims.begins_owed', 'fee_claims.has_its_transfers',
            'fee_claims.never_deleted', 'fee_claims.never_truncated']) wanted
         where not exists (select from pg_trigger where tgenabled = 'A'
                              and tgrelid = split_part(wanted, '.', 1)::regclass
                              and tgname = split_part(wanted, '.', 2))
        union all
        select wanted from unnest(array[
            'wallets.wallet_is_not_overdrawn', 'wallets.wallet_balance_is_its_last_entrys',
            'wallets.wallet_amounts_are_numbers', 'wallets.wallet_held_is_not_negative',
            'ledger_entries.ledger_entries_pkey', 'ledger_entries.entry_adds_up',
            'ledger_entries.entry_follows_the_one_before', 'ledger_entries.entry_belongs_to_a_transfer',
            'ledger_entries.entry_is_one_side_of_its_transfer', 'ledger_entries.entry_says_what_its_transfer_says',
            'ledger_transfers.transfer_has_its_debit', 'ledger_transfers.transfer_has_its_credit',
            'ledger_transfers.transfer_was_asked_for', 'ledger_transfers.transfer_is_asked_for_once',
            'ledger_transfers.transfer_amount_is_positive', 'ledger_transfers.transfer_debits_its_currency',
            'ledger_transfers.transfer_credits_its_currency', 'wallet_holds.hold_is_resolved_whole',
            'wallet_holds.hold_was_posted_by_its_transfer',
            'money_requests.money_request_above_the_limit_has_two_people',
            'settlements.settlements_pkey', 'settlements.settlement_follows_from_its_base',
            'settlements.settlement_takes_the_mark_over', 'settlements.settlement_begins_where_the_last_ended',
            'wallets.wallet_is_a_persons_or_the_houses', 'ledger_entries.entry_amounts_are_numbers',
            'ledger_transfers.transfer_amount_is_a_number', 'wallet_holds.hold_amount_is_a_number',
            'money_requests.money_request_is_decided_whole', 'money_requests.money_request_amount_is_a_number',
            'fee_claims.fee_claim_amounts_are_numbers', 'settlements.settlement_amounts_are_numbers',
            'fee_claims.fee_is_claimed_once_a_period', 'fee_claims.fee_claim_amounts_are_within_it']) wanted
         where not exists (select from pg_constraint where convalidated
                              and conrelid = split_part(wanted, '.', 1)::regclass
                              and conname = split_part(wanted, '.', 2))
        union all
        select wanted from unnest(array[
            'claim_is_accrued_once', 'claim_is_paid_out_once', 'hold_is_the_only_one_of_its_purpose',
            'house_account_is_unique', 'wallet_is_the_only_one_in_its_currency']) wanted
         where not exists (select from pg_index where indexrelid = to_regclass(wanted) and indisunique and indisvalid)
        union all
        select distinct tgrelid::regclass || '.' || conname
          from pg_trigger join pg_constraint on pg_constraint.oid = tgconstraint
         where tgenabled not in ('O', 'A')
           and tgrelid = any(array['wallets', 'ledger_transfers', 'ledger_entries', 'ledger_requests', 'wallet_holds',
                                   'settlements', 'fee_claims', 'money_requests', 'fee_agreements']::regclass[])""",
}


def faults() -> list[Fault]:
    """The first offenders of every invariant that does not hold."""
    return invariants.faults(INVARIANTS)
