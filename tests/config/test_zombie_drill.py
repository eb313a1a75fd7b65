"""The zombie drill against a real web process, and copiers with planted bugs: each is found out by its own rules."""

import io
import sys
from decimal import Decimal

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from accounts.models import BotKey, User
from audit import services as audit
from audit.models import AuditLog
from config import drill, drill_rules, drill_stage
from tests import ports
from trades.models import ActiveTrade

ROGUE = (sys.executable, "-m", "tests.config.rogues")
REPLAYS = ["replayed", "disordered", "late_open", "killed_before", "killed_after", "restarted", "state_lost"]


def made(web, command=drill_rules.COMMAND):
    return drill_rules.run(actor=audit.SYSTEM, by="a test", url=web.url, command=command)


def commanded(url):
    """What the command printed, and how it ended."""
    printed = io.StringIO()
    try:
        call_command("zombie_drill", url=url, stdout=printed, no_color=True)
    except CommandError as no:
        return printed.getvalue(), str(no)
    return printed.getvalue(), ""


def killed_run(web):
    """What a run leaves that was killed: an open trade, keys, and a lease that nobody gave back."""
    stage = drill_stage.set_up()
    leader, copier = stage.client(web.url, "leader"), stage.client(web.url, "first")
    leader.open(ticket_id="7", symbol="EURUSD", type="BUY", volume=Decimal("0.1"), open_price=Decimal("1.1"))
    copier.beat(instance="killed-0123456789", fence=None, balance=None, equity=None, subscriptions=[])
    for client in (leader, copier):
        client.hang_up()


def test_every_rule_holds_also_after_a_run_that_was_killed(web):
    killed_run(web)

    printed, fault = commanded(web.url)

    assert (fault, printed.count("✓"), printed.count("✗")) == ("", len(drill.RULES), 0), printed
    (report,) = drill.latest()
    assert (report.passed, report.by, [one.rule for one in report.findings]) == (True, "the command", [*drill.RULES])
    assert report.took_ms < 25_000
    assert not ActiveTrade.objects.exists()
    assert not BotKey.objects.filter(label=drill_stage.LABEL, revoked_at=None).exists()
    assert not User.objects.get(username=drill_stage.USER).has_usable_password()
    assert not drill.is_running()


@pytest.mark.parametrize(
    "bugs",
    [
        {"takes_replays": REPLAYS, "believes_answers": ["emptied"]},
        {"opens_again": ["killed_after", "restarted"], "believes_packets": ["altered"]},
        {"believes_snapshots": ["emptied"], "ignores_the_lease": ["second"], "opens_what_is_old": ["state_lost"]},
    ],
    ids=" and ".join,
)
def test_finds_out_a_copier_that(bugs, web):
    report = made(web, (*ROGUE, *bugs))

    assert {one.rule: one.seen for one in report.broken}.keys() == {rule for broken in bugs.values() for rule in broken}
    assert not ActiveTrade.objects.exists()


def test_a_copier_that_does_not_start_fails_every_rule_in_words(web):
    report = made(web, (sys.executable, "-c", "raise SystemExit('out of paper')"))

    assert [one.rule for one in report.broken] == [*drill.RULES]
    assert "the copier's process ended: out of paper" in report.broken[0].seen


def test_a_desk_that_is_not_reached_fails_every_rule_in_words(desk_db):
    printed, fault = commanded(f"http://127.0.0.1:{ports.free()}")

    assert printed.count("✗") == len(drill.RULES)
    assert "The drill could not be made: no answer to" in printed
    assert fault == f"{len(drill.RULES)} of {len(drill.RULES)} rules did not hold."
    assert not drill.latest()[0].passed


def test_one_runs_at_a_time(desk_db):
    with connections["bot"].cursor() as other:
        other.execute("select pg_advisory_lock(%s, %s)", drill._LOCK)

        printed, fault = commanded("http://127.0.0.1:1")

        assert drill.is_running()
        other.execute("select pg_advisory_unlock(%s, %s)", drill._LOCK)
    assert (printed, fault) == ("", drill.AlreadyRunning.detail)
    assert not drill.is_running()
    assert not AuditLog.objects.filter(action=drill.FINISHED).exists()


def test_takes_no_name_that_is_somebodys(desk_db):
    User.objects.create_user(drill_stage.USER, password="a person's own")

    (first, *_) = drill_rules.run(actor=audit.SYSTEM, by="a test", url="http://127.0.0.1:1").findings

    assert "is somebody's" in first.seen
    assert User.objects.get(username=drill_stage.USER).has_usable_password()


def test_every_rule_has_its_check():
    assert list(drill_rules.CHECKS) == list(drill.RULES)
