"""From a released version with data of every kind to today's, and back to serving, without a lost trade."""

import difflib
import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone

from copybot.client import ACTIVE
from copybot.errors import DeskError
from core import catalogue
from core.sessions import stored_key
from strategies.models import Subscription
from tests import databases
from tests.conftest import Template
from tests.upgrades.conftest import Desk, Upgraded, columns, pointed_at, program, psql
from trades import checks as trades
from trades.models import ActiveTrade, TradeHistory
from trust import checks as trust
from wallets import checks as wallets
from wallets.models import FeeAgreement, FeeClaim, WalletHold
from wallets.services import agreements, settlement

# Django's lists of models and permissions, which grow with the code.
LISTS = ("auth_permission.", "django_content_type.", "django_migrations.")
# An upgrade adds rows: subscriptions without a largest copy get new terms, and the limits that begin to hold are
# recorded. The rows from before come first.
ADDED_TO = ("subscription_terms.", "audit_log.")


def opening(ticket: str) -> dict[str, str]:
    return {"ticket_id": ticket, "symbol": "EURUSD", "type": "BUY", "volume": "0.10", "open_price": "1.105"}


def schema(database: str) -> list[str]:
    """Return `pg_dump --schema-only` with owners and grants, in a form that is stable over dump and restore."""
    dump = program("pg_dump", "--schema-only", "--dbname", databases.url(database))
    # PostgreSQL writes `kind in ('A', 'B')` anew each time it reads it, until it is ARRAY[('A')::text, ('B')::text].
    dump = re.sub(r"\(ARRAY\[([^\]]*)\]\)::text\[\]", lambda listed: f"ARRAY[{each_as_text(listed[1])}]", dump)
    return [line for line in dump.splitlines() if line and not re.match(r"--|\\(un)?restrict ", line)]


def each_as_text(values: str) -> str:
    return ", ".join(f"({value})::text" for value in values.split(", "))


SESSIONS = "django_session.session_key"  # stored under its hash from 0.2.0 on


def difference(actual: list[str], expected: list[str]) -> str:
    return "\n".join(difflib.unified_diff(expected, actual, "a fresh desk", "the upgraded desk", lineterm="", n=6))


def test_the_frozen_database_is_complete(upgraded: Upgraded) -> None:
    counts = {name: len(values) for name, values in columns(upgraded.before).items()}

    assert {name.partition(".")[0]: count for name, count in counts.items()} == upgraded.release.facts["rows"]


def test_every_row_is_unchanged(upgraded: Upgraded) -> None:
    before, after = dict(columns(upgraded.before)), dict(columns(upgraded.name))

    before[SESSIONS] = [stored_key(key) for key in before[SESSIONS]]
    for name in after:
        if name.startswith(ADDED_TO):
            assert len(after[name]) > len(before.get(name, []))
            after[name] = after[name][: len(before.get(name, []))]
    changed = [name for name, values in before.items() if not name.startswith(LISTS) and after.get(name) != values]
    assert changed == []


def test_the_schema_is_that_of_a_fresh_desk(upgraded: Upgraded, template: Template) -> None:
    fresh, upgraded_schema = schema(template.name), schema(upgraded.name)

    if fresh != upgraded_schema:
        pytest.fail(difference(upgraded_schema, fresh))


def test_control_the_comparisons_detect_a_loss(upgraded: Upgraded, template: Template, desk_db: str) -> None:
    """A trigger that is no longer ALWAYS and one changed price are detected."""
    psql(
        desk_db,
        "alter table trade_history enable trigger append_only;"
        "update candles set low = low - 0.1 where opened_at = (select min(opened_at) from candles);",
    )

    assert "ENABLE ALWAYS TRIGGER append_only;" in difference(schema(desk_db), schema(template.name))
    after = columns(desk_db)
    assert [name for name, values in columns(upgraded.name).items() if after[name] != values] == ["candles.low"]


def test_every_check_finds_nothing(desk_db: str) -> None:
    assert [*trades.faults(), *wallets.faults(), *trust.faults()] == []
    assert catalogue.differences() == []


ACCEPTED = """
insert into audit_log (at, actor_kind, actor, request_id, action, subject, outcome, code, detail)
select now() - interval '1 day', 'user', case when id = (select min(id) from fee_agreements)
                                              then subscriber_id::text else 'somebody else' end,
       '', 'fee.terms_accepted', 'agreement:' || id, 'ok', '', '{}' from fee_agreements
"""


def test_of_the_agreements_from_before_those_bind_whose_subscribers_accepted(
    upgraded: Upgraded, django_db_blocker: Any
) -> None:
    """The version before agreed for its subscribers. What they accepted themselves is in the audit log."""
    name = databases.copy(upgraded.before)
    psql(name, ACCEPTED)
    with pointed_at(name, django_db_blocker):
        call_command("migrate", verbosity=0)
        first, *others = FeeAgreement.objects.order_by("pk")
        accepted = first.next_binding_terms
    databases.drop(name)

    assert accepted == first.next_terms
    assert first.acceptance_id is None or first.terms_id == first.next_terms_id
    assert others
    assert {(row.acceptance_id, row.next_acceptance_id) for row in others} == {(None, None)}


def test_agreements_that_nobody_accepted_charge_nothing_and_end_with_a_notice(desk_db: str) -> None:
    now, claims = timezone.now(), FeeClaim.objects.count()
    unanswered = Subscription.objects.live().filter(strategy__fee_terms__isnull=False).distinct().count()
    assert claims and unanswered > 1

    given = agreements.keep_notices(now=now)["given"]
    settlement.reserve_all(now=now)
    settlement.sweep(now=now + timedelta(days=20))
    stopped = agreements.keep_notices(now=now + timedelta(days=30))["stopped"]

    assert (given, stopped) == (unanswered, unanswered)
    assert FeeClaim.objects.count() == claims
    assert not WalletHold.objects.filter(state="PENDING", purpose__startswith="performance:").exists()
    assert [*wallets.faults()] == []


def test_no_trade_is_lost_on_the_way_back_to_serving(desk: Desk) -> None:
    facts, lena, finn = desk.release.facts, desk.bot_of("lena master"), desk.bot_of("finn copier")
    opened = {tuple(trade) for trade in facts["open"]}

    shown = {trade["ticket_id"] for trade in lena.active()["trades"]}
    lena.modify("1002", sl="1.10200")
    lena.close("1001", close_price="1.11000", profit="50", reason="TP")
    copies = {trade["ticket_id"] for trade in finn.active()["trades"] if trade["role"] == "copy"}
    finn.close("91001", close_price="1.11000", profit="25", reason="TP")

    assert shown == {ticket for account, ticket in opened if account == "lena-mt5"}
    assert copies == {ticket for account, ticket in opened if account == "finn-mt5"}
    for ticket in ("1001", facts["closed"], facts["tombstone"]):
        with pytest.raises(DeskError) as zombie:
            lena.open(**opening(ticket))
        assert zombie.value.code == "trade_closed"
    active = {(trade.account.name, trade.ticket_id) for trade in ActiveTrade.objects.select_related("account")}
    closed = {(trade.account.name, trade.ticket_id) for trade in TradeHistory.objects.select_related("account")}
    assert opened - active == {("lena-mt5", "1001"), ("finn-mt5", "91001")}
    assert opened - active <= closed
    assert [*trades.faults(), *wallets.faults()] == []


def test_an_effect_from_before_the_upgrade_is_not_repeated(desk: Desk) -> None:
    request, lena = desk.release.facts["kept"], desk.bot_of("lena master")
    lena.modify(request["ticket"], sl="1.10250")

    repeated = lena.modify(request["ticket"], idempotency_key=request["idempotency_key"], sl=request["sl"])

    assert repeated == request["answer"]
    assert str(ActiveTrade.objects.get(ticket_id=request["ticket"]).sl) == "1.10250000"


def test_a_sequence_number_used_before_the_upgrade_is_refused(desk: Desk) -> None:
    lena, copy = desk.bot_of("lena master"), desk.bot_of("sam copier")
    lena.modify("1003", sl="1.10100")
    copy.key, copy.secret, copy.seq = lena.key, lena.secret, lena.seq - 1

    answer = copy.once("PATCH", f"{ACTIVE}/1003", "", b'{"sl": "1.10400"}', "another-effect-0001")

    assert answer.json()["code"] == "seq_replayed"


def test_a_revoked_key_stays_revoked(desk: Desk) -> None:
    with pytest.raises(DeskError) as refusal:
        desk.bot_of("sam revoked").active()

    assert refusal.value.code == "key_revoked"


def test_a_signed_in_person_stays_signed_in(desk: Desk) -> None:
    status, page = desk.get("/wallet/", Cookie=f"sessionid={desk.release.facts['session']}")

    assert status == 200
    assert "Bank transfer" in page


def test_the_desk_is_ready(desk: Desk) -> None:
    status, state = desk.get("/readyz")

    assert (status, json.loads(state)["status"]) == (200, "ready")
