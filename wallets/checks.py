"""The invariants of the books as queries. Each returns the rows that break it; keys of the database prevent them."""

from core import invariants
from core.invariants import Fault

INVARIANTS = {
    "the balances of a currency add up to zero": """
        select currency || ' ' || sum(balance) from wallets group by currency having sum(balance) <> 0""",
    "a balance is the sum of its entries, without a gap": """
        select w.id::text from wallets w
          left join (select wallet_id, sum(side * amount) as moved, max(version) as latest, count(*) as known
                       from ledger_entries group by wallet_id) e on e.wallet_id = w.id
         where w.balance is distinct from e.moved or w.version is distinct from e.latest
            or e.known is distinct from w.version + 1""",
    "an entry continues from the balance before": """
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
    "the held amount equals the pending holds": """
        select w.id::text from wallets w
          left join (select wallet_id, sum(amount) as pending from wallet_holds where state = 'PENDING'
                      group by wallet_id) h on h.wallet_id = w.id
         where w.held <> coalesce(h.pending, 0)""",
    "a transfer has one request": """
        select scope || ' ' || idempotency_key from ledger_transfers group by scope, idempotency_key having count(*) > 1
        union all
        select t.id::text from ledger_transfers t left join ledger_requests r using (scope, idempotency_key)
         where r.outcome->>'transfer' is distinct from t.id::text""",
    "a money request moved its own amount": """
        select m.id::text from money_requests m join ledger_transfers t on t.id = m.transfer_id
         where t.amount <> abs(m.amount) or t.kind <> m.kind or m.wallet_id not in (t.debit_id, t.credit_id)""",
    "settled periods have no gap": """
        select agreement_id::text from settlements group by agreement_id having max(period_no) + 1 <> count(*)
        union all
        select a.id::text from fee_agreements a
         where not exists (select from settlements where agreement_id = a.id and period_no = 0)""",
    "a settled fee has a claim of the same amount": """
        select s.agreement_id || '/' || s.period_no from settlements s
          left join fee_claims c
            on (c.agreement_id, c.period_no, c.kind) = (s.agreement_id, s.period_no, 'FEE_PERFORMANCE')
         where s.fee <> coalesce(c.amount, 0)""",
    "a refund agrees with its transfers": """
        select r.id::text from fee_refunds r
          left join (select scope, sum(amount) filter (where idempotency_key = 'refund') as given,
                            sum(amount) filter (where idempotency_key <> 'refund') as recovered
                       from ledger_transfers where kind = 'REVERSAL' group by scope) t
            on t.scope = 'refund:' || r.agreement_id || '/' || r.period_no
         where t.given is distinct from r.amount or coalesce(t.recovered, 0) <> r.recovered""",
    "a claim agrees with its transfers": """
        select c.id::text from fee_claims c
          left join (select claim_id, sum(amount) filter (where kind = 'ACCRUAL') as accrued,
                            sum(amount) filter (where kind in ('FEE_PERFORMANCE', 'FEE_SUBSCRIPTION')) as collected,
                            sum(amount) filter (where kind = 'PAYOUT') as paid
                       from ledger_transfers where claim_id is not null group by claim_id) t on t.claim_id = c.id
         where t.accrued is distinct from c.amount or coalesce(t.collected, 0) <> c.collected
            or (t.paid is not null) <> (c.paid_out_at is not null and c.provider_share > 0)""",
}
APPS = ("wallets",)


def faults() -> list[Fault]:
    """The first rows that break each invariant, and the constraints and triggers that are missing."""
    return invariants.faults(INVARIANTS) + invariants.structural_faults(APPS)
