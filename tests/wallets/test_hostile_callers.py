# ruff: noqa: E501 - the tricks are a table
"""SQL that bypasses the ledger's verbs. Keys and triggers refuse the tables' owner; privileges refuse the application."""

from decimal import Decimal
from typing import Any

import psycopg
import pytest
from django.db import connections

from accounts.models import TradingAccount, User
from audit import services as audit
from tests.trades.test_hostile_callers import attempt, filled, of, refusal, run
from tests.wallets.conftest import following, pay_in, usd
from wallets import services
from wallets.models import LedgerTransfer, TransferKind, Wallet
from wallets.services import settlement

NEW, NEWER = "00000000-0000-7000-8000-000000000001", "00000000-0000-7000-8000-000000000002"
FOR_EVER, APPEND_ONLY, MOVES, STALE, SECOND, FORBIDDEN = "CD001", "CD002", "CD003", "CD006", "CD008", "42501"
TABLES = (
    "wallets", "ledger_requests", "ledger_transfers", "ledger_entries", "wallet_holds", "money_requests", "settlements",
    "fee_claims", "fee_agreements",
)  # fmt: skip


@pytest.fixture
def scene(lena: TradingAccount, finn: TradingAccount, staff: User) -> dict[str, Any]:
    """finn has 1000, paid a fee of 300, withdrew and returned 50, has 50 on hold and one settled month; lena has nothing. Ids by name, as text."""
    pay_in(finn, "1000")
    wallet, other = usd(finn), usd(lena)
    fee = services.debit_wallet(
        wallet=wallet, amount=Decimal(300), kind="FEE_PERFORMANCE", note="", idempotency_key="fee"
    )
    fifty = services.debit_wallet(
        wallet=wallet, amount=Decimal(50), kind="ADJUSTMENT", note="", idempotency_key="fifty"
    )
    services.deposit(wallet=wallet, amount=Decimal(50), note="", idempotency_key="back")
    held = services.hold(wallet=wallet, amount=Decimal(50), purpose="p", idempotency_key="hold")
    spent = services.hold(wallet=wallet, amount=Decimal(10), purpose="q", idempotency_key="spent")
    services.void(hold_id=spent)
    follows = following(lena, finn)
    follows.realise("1", "100")
    follows.settle()
    euro = Wallet.objects.create(owner=lena.owner, currency="EUR")
    house = LedgerTransfer.objects.get(pk=fee.transfer_id).credit
    return {
        "w": str(wallet.pk), "h": str(house.pk), "other": str(other.pk), "euro": str(euro.pk), "fee": str(fee.transfer_id),
        "held": str(held), "spent": str(spent), "finn": str(finn.owner_id), "desk": str(staff.pk),
        "fifty": str(fifty.transfer_id), "agreement": str(follows.agreement.pk), "claim": str(follows.agreement.claims.get().pk),
        "end": follows.month_end().isoformat(), "next": follows.month_end(2).isoformat(),
        "later": follows.month_end(3).isoformat(),
    }  # fmt: skip


def books() -> Any:
    rows = " union all ".join(f"select '{table}', to_jsonb(t)::text from {table} t" for table in TABLES)
    return of("owner").execute(f"{rows} order by 1, 2").fetchall()


# --- the tricks. finn's wallet is at version 4 with 700, the house account at version 2 with 320.


def transfer_rows(
    id: Any = NEW,
    debit: str = "<w>",
    credit: str = "<h>",
    amount: str = "100",
    currency: str = "USD",
    key: str = "new",
    kind: str = "FEE_PERFORMANCE",
) -> list[Any]:
    """The request and the transfer."""
    return [
        f"insert into ledger_requests (scope, idempotency_key, fingerprint, outcome) values ('s', '{key}', '', '{{}}')",
        "insert into ledger_transfers (id, kind, currency, debit_id, credit_id, amount, note, scope, idempotency_key)"
        f" values ('{id}', '{kind}', '{currency}', {debit}, {credit}, {amount}, '', 's', '{key}')",
    ]


def entry(
    wallet: Any,
    version: Any,
    before: Any,
    side: Any,
    amount: str = "100",
    *,
    transfer: Any = NEW,
    after: Any = None,
    prev: Any = None,
) -> str:
    after = f"{before} + {side} * {amount}" if after is None else after
    prev = version - 1 if prev is None else prev
    return (
        "insert into ledger_entries (wallet_id, version, prev_version, prev_balance, transfer_id, side, amount, balance_after)"
        f" values ({wallet}, {version}, {prev}, {before}, '{transfer}', {side}, {amount}, {after})"
    )


OUT, IN = entry("<w>", 5, 700, -1), entry("<h>", 3, 320, 1)
HONEST = [*transfer_rows(), OUT, IN]
HOLD = "insert into wallet_holds (id, wallet_id, amount, purpose, state) values "
WALLET = "insert into wallets (owner_id, currency, kind, shard, balance, held, version) values "
ASK = (
    "insert into money_requests (id, kind, wallet_id, amount, reason, idempotency_key, requested_by_id, needs_second, state, "
    f"decided_by_id, transfer_id) values ('{NEW}', "
)
SETTLED = (
    "insert into settlements (agreement_id, period_no, prev_no, starts_at, ends_at, closed_result, floating_result, base,"
    " mark_before, mark, rate_bps, fee, trades, marks) values (<agreement>, {no}, {prev}, '{starts}', '{ends}', {base}, 0,"
    " {base}, {before}, {mark}, {bps}, {fee}, 0, '[]')"
)


def settled(
    no: int = 2,
    prev: int = 1,
    starts: str = "<end>",
    ends: str = "<next>",
    base: int = 150,
    before: int = 100,
    mark: int = 150,
    bps: int = 2000,
    fee: int = 10,
) -> list[Any]:
    return [SETTLED.format(**locals())]


MONEY = [
    ("a transfer without entries", transfer_rows(), "transfer_has_its_debit"),
    ("a debit alone", [*transfer_rows(), OUT], "transfer_has_its_credit"),
    ("a credit alone: money from nothing", [*transfer_rows(), IN], "transfer_has_its_debit"),
    (
        "two transfers, entries of only one",
        [*HONEST, *transfer_rows(NEWER, key="newer")],
        "transfer_has_its_debit",
    ),
    (
        "a credit above its debit",
        [*transfer_rows(), OUT, entry("<h>", 3, 320, 1, "150")],
        "transfer_has_its_credit",
    ),
    (
        "a credit to another wallet",
        [*transfer_rows(), OUT, entry("<other>", 1, 0, 1)],
        "transfer_has_its_credit",
    ),
    ("an entry without its transfer", [OUT], "entry_belongs_to_a_transfer"),
    (
        "an entry of another transfer",
        [entry("<other>", 1, 0, 1, "300", transfer="<fee>")],
        "entry_is_one_side_of_its_transfer",
    ),
    ("built on an older state", [*transfer_rows(), entry("<w>", 2, 1000, -1), IN], "ledger_entries_pkey"),
    (
        "built on a state that never existed",
        [*transfer_rows(), entry("<w>", 5, 1000, -1), IN],
        "entry_follows_the_one_before",
    ),
    ("a version left out", [*transfer_rows(), entry("<w>", 6, 700, -1), IN], "entry_follows_the_one_before"),
    (
        "a version left out, with a correct predecessor",
        [*transfer_rows(), entry("<w>", 6, 700, -1, prev=4), IN],
        "entry_adds_up",
    ),
    ("a balance that does not add up", [*transfer_rows(), entry("<w>", 5, 700, -1, after="650"), IN], "entry_adds_up"),
    ("an entry that starts a second chain", [*transfer_rows(), entry("<w>", 0, 0, 1, prev=0), IN], "entry_adds_up"),
    (
        "more than the balance",
        [*transfer_rows(amount="800"), entry("<w>", 5, 700, -1, "800"), entry("<h>", 3, 320, 1, "800")],
        "wallet_is_not_overdrawn",
    ),
    (
        "money on hold",
        [*transfer_rows(amount="680"), entry("<w>", 5, 700, -1, "680"), entry("<h>", 3, 320, 1, "680")],
        "wallet_is_not_overdrawn",
    ),
    (
        "a negative amount",
        [*transfer_rows(amount="-5"), entry("<w>", 5, 700, -1, "-5"), entry("<h>", 3, 320, 1, "-5")],
        "transfer_amount_is_positive",
    ),
    ("nothing", transfer_rows(amount="0"), "transfer_amount_is_positive"),
    ("not a number", transfer_rows(amount="'NaN'"), "transfer_amount_is_a_number"),
    ("from a wallet to itself", transfer_rows(credit="<w>"), "transfer_is_between_two_wallets"),
    ("across currencies", transfer_rows(credit="<euro>"), "transfer_credits_its_currency"),
    ("across currencies, the other way", transfer_rows(debit="<euro>"), "transfer_debits_its_currency"),
    ("in a currency that neither has", transfer_rows(currency="GBP"), "transfer_debits_its_currency"),
    (
        "the same key again",
        [transfer_rows(key="k")[0], *transfer_rows(key="k")],
        "ledger_requests_pkey",
    ),
    ("two transfers under one key", [*transfer_rows(), transfer_rows(NEWER)[1]], "transfer_is_asked_for_once"),
    ("a transfer without a request", [transfer_rows()[1], OUT, IN], "transfer_was_asked_for"),
    ("of a kind of its own", transfer_rows(kind="GIFT"), "transfer_kind_is_known"),
    ("a balance set", ["update wallets set balance = balance + 1 where id = <w>"], MOVES),
    (
        "a balance and its version set",
        ["update wallets set balance = 701, version = 5 where id = <w>"],
        "wallet_balance_is_its_last_entrys",
    ),
    ("two versions at once", ["update wallets set version = version + 2 where id = <w>"], MOVES),
    ("a wallet given to another", ["update wallets set owner_id = '<desk>' where id = <w>"], MOVES),
    ("a wallet that may go negative", ["update wallets set kind = 'CASH_IN', owner_id = null where id = <w>"], MOVES),
    ("an entry changed", ["update ledger_entries set amount = 1 where wallet_id = <w> and version = 1"], APPEND_ONLY),
    ("an entry deleted", ["delete from ledger_entries where wallet_id = <w> and version = 2"], APPEND_ONLY),
    ("the journal emptied", ["truncate ledger_entries cascade"], APPEND_ONLY),
    ("a transfer deleted", ["delete from ledger_transfers where id = '<fee>'"], APPEND_ONLY),
    ("a request deleted", ["delete from ledger_requests"], APPEND_ONLY),
    ("a wallet deleted", ["delete from wallets where id = <w>"], APPEND_ONLY),
    (
        "an entry replaced by ON CONFLICT",
        [f"{entry('<w>', 2, 1000, -1, transfer='<fee>')} on conflict (wallet_id, version) do update set amount = 9999"],
        APPEND_ONLY,
    ),
    ("a wallet created with a balance", [f"{WALLET} ('<desk>', 'USD', 'PERSON', 0, 100, 0, 0)"], MOVES),
    ("a wallet created with a version", [f"{WALLET} ('<desk>', 'USD', 'PERSON', 0, 0, 0, 5)"], MOVES),
    (
        "a second wallet",
        [f"{WALLET} ('<finn>', 'USD', 'PERSON', 0, 0, 0, 0)"],
        "wallet_is_the_only_one_in_its_currency",
    ),
    (
        "a person's wallet without limits",
        [f"{WALLET} ('<desk>', 'USD', 'CASH_IN', 0, 0, 0, 0)"],
        "wallet_is_a_persons_or_the_houses",
    ),
    ("a currency of its own", [f"{WALLET} ('<desk>', 'usd', 'PERSON', 0, 0, 0, 0)"], "wallet_currency_is_well_formed"),
]

HOLDS = [
    ("held money released by an update", ["update wallets set held = 0 where id = <w>"], MOVES),
    ("more held than pending", ["update wallets set held = held + 1 where id = <w>"], MOVES),
    ("more held than the balance", [f"{HOLD} ('{NEW}', <w>, 651, 'x', 'PENDING')"], "wallet_is_not_overdrawn"),
    ("a hold of zero", [f"{HOLD} ('{NEW}', <w>, 0, 'x', 'PENDING')"], "hold_amount_is_positive"),
    ("a hold created as voided", [f"{HOLD} ('{NEW}', <w>, 1, 'x', 'VOIDED')"], "hold_is_resolved_whole"),
    ("a second hold for the same", [f"{HOLD} ('{NEW}', <w>, 1, 'p', 'PENDING')"], "hold_is_the_only_one_of_its_purpose"),
    ("a hold made smaller", ["update wallet_holds set amount = 1 where id = '<held>'"], MOVES),
    ("a hold deleted", ["delete from wallet_holds where id = '<held>'"], APPEND_ONLY),
    ("a resolved hold made pending again", ["update wallet_holds set state = 'PENDING', resolved_at = null where id = '<spent>'"], FOR_EVER),
    (
        "a hold spent without a transfer",
        [f"update wallet_holds set state = 'POSTED', posted = 50, transfer_id = '{NEW}', resolved_at = now() where id = '<held>'"],
        MOVES,
    ),
    (
        "a hold spent by an older transfer",
        ["update wallet_holds set state = 'POSTED', posted = 50, transfer_id = '<fee>', resolved_at = now() where id = '<held>'"],
        MOVES,
    ),
    (
        "a hold spent by an older transfer of its amount",
        ["update wallet_holds set state = 'POSTED', posted = 50, transfer_id = '<fifty>', resolved_at = now() where id = '<held>'"],
        MOVES,
    ),
    (
        "more spent than was held",
        ["update wallet_holds set state = 'POSTED', posted = 300, transfer_id = '<fee>', resolved_at = now() where id = '<held>'"],
        "hold_is_resolved_whole",
    ),
    ("a large request done at once", [f"{ASK} 'DEPOSIT', <w>, 9, '', 'k', '<desk>', true, 'DONE', '<desk>', '<fee>')"], SECOND),
    ("one's own large request approved", [f"{ASK} 'DEPOSIT', <w>, 9, '', 'k', '<desk>', true, 'PENDING', null, null)", "update money_requests set state = 'DONE', decided_by_id = '<desk>', decided_at = now(), transfer_id = '<fee>'"], "money_request_above_the_limit_has_two_people"),
    ("a large request approved by its customer", [f"{ASK} 'ADJUSTMENT', <w>, 5000, '', 'k', '<desk>', false, 'PENDING', null, null)", "update money_requests set state = 'DONE', decided_by_id = '<finn>', decided_at = now(), transfer_id = (select (ledger_move('{}', '{\"scope\": \"s\", \"key\": \"n\", \"kind\": \"ADJUSTMENT\", \"amount\": \"5000\", \"credit\": <w>, \"debit_house\": \"ADJUSTMENTS\"}')->>'transfer')::uuid)"], SECOND),
    ("money from before as a request's", [f"{ASK} 'DEPOSIT', <w>, 50, '', 'k', '<desk>', false, 'DONE', '<desk>', '<fifty>')"], MOVES),
    ("a request done without a decision", [f"{ASK} 'DEPOSIT', <w>, 9, '', 'k', '<desk>', false, 'DONE', null, '<fee>')"], "money_request_is_decided_whole"),
    ("a request done without money", [f"{ASK} 'DEPOSIT', <w>, 9, '', 'k', '<desk>', false, 'DONE', '<desk>', null)"], "money_request_is_decided_whole"),
    ("a negative deposit", [f"{ASK} 'DEPOSIT', <w>, -9, '', 'k', '<desk>', false, 'PENDING', null, null)"], "money_request_amount_fits_its_kind"),
]  # fmt: skip

FEES = [
    ("a period settled twice", settled(no=1, prev=0, starts="<end>"), "settlements_pkey"),
    ("a gap in time", settled(starts="<next>", ends="<later>"), "settlement_begins_where_the_last_ended"),
    ("an overlap", settled(starts="2020-01-01"), "settlement_begins_where_the_last_ended"),
    ("a period left out", settled(no=3, prev=2), "settlement_takes_the_mark_over"),
    ("a period left out, with a correct predecessor", settled(no=3, prev=1), "settlement_follows_from_its_base"),
    ("old profit charged again", settled(before=0, fee=30), "settlement_takes_the_mark_over"),
    ("a mark that falls", settled(base=90, mark=90, fee=0), "settlement_follows_from_its_base"),
    ("a fee below the mark", settled(base=90, mark=100, fee=5), "settlement_follows_from_its_base"),
    ("a fee too high by the last unit", settled(fee="10.00000001"), "settlement_follows_from_its_base"),
    ("a fee too low by the last unit", settled(fee="9.99999999"), "settlement_follows_from_its_base"),
    ("a fee rounded up", settled(base="100.00000003", mark="100.00000003", fee="0.00000001"), "settlement_follows_from_its_base"),
    ("a period that ends before it begins", settled(ends="2020-01-01"), "settlement_follows_from_its_base"),
    ("a settlement changed", ["update settlements set fee = 0"], APPEND_ONLY),
    ("a settlement deleted", ["delete from settlements"], APPEND_ONLY),
    ("terms changed", ["update fee_terms set performance_bps = 5000"], APPEND_ONLY),
    ("a fee claimed twice", ["insert into fee_claims (agreement_id, kind, period_no, payer_id, payee_id, amount, provider_share, collected, detail) select agreement_id, kind, period_no, payer_id, payee_id, amount, provider_share, 0, detail from fee_claims"], "fee_is_claimed_once_a_period"),
    ("a claim made larger", ["update fee_claims set amount = 1000"], MOVES),
    ("a claim marked as collected", ["update fee_claims set collected = amount, collected_at = now()"], MOVES),
    ("a claim marked as partly collected", ["update fee_claims set collected = collected + 1"], MOVES),
    ("a claim created as collected", ["insert into fee_claims (agreement_id, kind, period_no, payer_id, payee_id, amount, provider_share, collected, collected_at, detail) values (<agreement>, 'FEE_SUBSCRIPTION', 202601, <w>, <other>, 10, 7.5, 10, now(), '{}')"], MOVES),
    ("more collected than is owed", ["update fee_claims set collected = amount + 1, collected_at = now()"], "fee_claim_amounts_are_within_it"),
    ("paid out before it was collected", ["update fee_claims set paid_out_at = now()"], "fee_claim_is_collected_before_it_is_paid_out"),
    ("a claim deleted", ["delete from fee_claims"], APPEND_ONLY),
    ("an agreement ended", ["delete from fee_agreements"], APPEND_ONLY),
    ("a second agreement", ["insert into fee_agreements (subscriber_id, strategy_id, currency, terms_id, next_terms_id, started_at, due_at, postponed) select subscriber_id, strategy_id, currency, terms_id, next_terms_id, now(), due_at, '' from fee_agreements"], "fee_agreement_is_for_ever"),
]  # fmt: skip
TRICKS = [*MONEY, *HOLDS, *FEES]


@pytest.mark.breaks_the_books
def test_control_correct_statements_are_accepted(scene: dict[str, Any]) -> None:
    """The statements of the tricks, in their correct form."""
    assert attempt(of("owner"), scene, HONEST) is None
    assert attempt(of("owner"), scene, settled()[:1]) is None
    claim = [
        "insert into fee_claims (agreement_id, kind, period_no, payer_id, payee_id, amount, provider_share, collected, detail)"
        " values (<agreement>, 'FEE_PERFORMANCE', 2, <w>, <other>, 10, 7.5, 0, '{}')"
    ]
    assert attempt(of("owner"), scene, claim) is None


def test_the_tables_owner_is_refused_by_keys_and_triggers(scene: dict[str, Any]) -> None:
    before, passed = books(), []
    for name, statements, expected in TRICKS:
        error = attempt(of("owner"), scene, statements)
        if error is None or refusal(error) != expected:
            passed.append((name, error and refusal(error), expected))

    assert passed == []
    assert books() == before


def test_the_application_is_refused_by_its_role(scene: dict[str, Any]) -> None:
    """It may open a wallet, request and settle; money moves only through the functions."""
    allowed = {
        "insert into wallets ",
        "insert into money_requests ",
        "insert into settlements ",
        "insert into fee_claims ",
    }
    allowed |= {"insert into fee_agreements "}
    before = books()
    for name, statements, expected in TRICKS:
        if any(statements[0].startswith(prefix) for prefix in allowed):
            assert refusal(attempt(of("default"), scene, statements)) in (expected, FORBIDDEN), name
        else:
            assert refusal(attempt(of("default"), scene, statements)) == FORBIDDEN, name

    assert books() == before


def test_bots_have_no_way_to_money(scene: dict[str, Any]) -> None:
    for function in ("ledger_move", "ledger_hold", "ledger_release"):
        assert refusal(attempt(of("bot"), scene, [f"select {function}('{{}}', '{{}}')"])) == FORBIDDEN


def test_a_superuser_without_keys_meets_the_triggers(scene: dict[str, Any], superuser: Any) -> None:
    before = books()
    asleep = {APPEND_ONLY, FOR_EVER}
    for name, statements, expected in TRICKS:
        if expected in asleep:
            assert refusal(attempt(superuser, scene, statements)) == expected, name

    assert books() == before


@pytest.mark.breaks_the_books
def test_two_writers_of_the_same_state_cannot_both_commit(scene: dict[str, Any]) -> None:
    """A lost update without any lock: the chain accepts one of the two."""
    first, second = (psycopg.connect(**_owner(), autocommit=False) for _ in range(2))
    try:
        for statement in HONEST:
            run(first, filled(statement, scene))
        first.commit()
        rival = [
            *transfer_rows(NEWER, key="newer"),
            entry("<w>", 5, 700, -1, transfer=NEWER),
            entry("<h>", 4, 420, 1, transfer=NEWER),
        ]
        with pytest.raises(psycopg.errors.UniqueViolation):
            for statement in rival:
                run(second, filled(statement, scene))
    finally:
        first.close()
        second.close()
    assert usd_balance(scene) == 600


def _owner() -> dict[str, Any]:
    connections["owner"].ensure_connection()
    info = connections["owner"].connection.info
    return {
        "host": info.host, "port": info.port, "user": info.user, "password": info.password, "dbname": info.dbname,
    }  # fmt: skip


def usd_balance(scene: Any) -> Any:
    return Wallet.objects.get(pk=scene["w"]).balance


def test_a_claim_is_collected_only_from_its_payer_and_by_its_kind(scene: dict[str, Any]) -> None:
    claim = settlement.FeeClaim.objects.get(pk=scene["claim"])
    for more in ({"debit": int(scene["other"])}, {"kind": TransferKind.FEE_SUBSCRIPTION}):
        args = {
            "scope": "s", "key": str(more), "kind": TransferKind.FEE_PERFORMANCE, "amount": "1", "debit": claim.payer_id,
            "credit_house": "RECEIVABLE", "claim": claim.pk,
        } | more  # fmt: skip
        pay = services.wallet_of(owner=claim.payee.owner, currency="USD")
        if not pay.balance:
            services.deposit(wallet=pay, amount=Decimal(5), note="", idempotency_key="five")
        with pytest.raises(Exception, match="this is no fee of claim"):
            services.call_ledger("ledger_move", audit.SYSTEM, args)
