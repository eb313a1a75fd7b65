"""The zombie drill against a real web process, and copiers with planted bugs: each bug breaks its own rules."""

import io
import sys
import time
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import Client
from pytest_django import Settings

from accounts.models import BotKey, User
from audit import services as audit
from audit.models import AuditLog
from config import tasks
from config.celery import app
from config.drill import environment, reports, rules, runner
from tests import browsers, ports
from tests.conftest import Serving
from trades.models import ActiveTrade

ROGUE = (sys.executable, "-m", "tests.config.rogue_copier")
REPLAYS = ["replayed", "disordered", "late_open", "killed_before", "killed_after", "restarted", "state_lost"]


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine nothing is given up early. What must not happen is waited for each time, so not for long."""
    monkeypatch.setattr(rules, "DEADLINE_S", 600)
    monkeypatch.setattr(runner, "PATIENCE_S", 12)
    monkeypatch.setattr(environment, "START_S", 120)
    monkeypatch.setattr(environment, "REPLY_S", 60)


def run_drill(web: Serving, command: Any = rules.COMMAND) -> Any:
    return rules.run(actor=audit.SYSTEM, by="a test", url=web.url, command=command)


def commanded(url: Any) -> Any:
    """The output of the command, and its error."""
    printed = io.StringIO()
    try:
        call_command("zombie_drill", url=url, stdout=printed, no_color=True)
    except CommandError as error:
        return printed.getvalue(), str(error)
    return printed.getvalue(), ""


def killed_run(web: Serving) -> None:
    """Leave what a killed run leaves: an open trade, keys, and a lease that was not given back."""
    stage = environment.set_up()
    leader, copier = stage.client(web.url, "provider"), stage.client(web.url, "first")
    leader.open(ticket_id="7", symbol="EURUSD", type="BUY", volume=Decimal("0.1"), open_price=Decimal("1.1"))
    heartbeat(copier, stage.instance)
    for client in (leader, copier):
        client.hang_up()


def heartbeat(copier: Any, instance: Any) -> None:
    copier.heartbeat(instance=instance, fence=None, balance=None, equity=None, subscriptions=[])


def test_all_rules_pass_also_after_a_killed_run(web: Serving) -> None:
    killed_run(web)

    began = time.monotonic()
    printed, fault = commanded(web.url)
    lasted_ms = (time.monotonic() - began) * 1000

    assert (fault, printed.count("✓"), printed.count("✗")) == ("", len(reports.RULES), 0), printed
    (report,) = reports.latest()
    assert (report.passed, report.by, [finding.rule for finding in report.findings]) == (
        True,
        "command line",
        [*reports.RULES],
    )
    assert 0 < report.took_ms <= lasted_ms
    assert not ActiveTrade.objects.exists()
    assert not BotKey.objects.filter(label=environment.LABEL, revoked_at=None).exists()
    assert not User.objects.get(username=environment.USER).has_usable_password()
    assert not reports.is_running()


@pytest.mark.parametrize(
    "bugs",
    [
        {"takes_replays": REPLAYS, "believes_answers": ["emptied"]},
        {"opens_again": ["killed_after", "restarted"], "believes_packets": ["altered"]},
        {"believes_snapshots": ["emptied"], "ignores_the_lease": ["second"], "opens_what_is_old": ["state_lost"]},
    ],
    ids=" and ".join,
)
def test_control_a_planted_bug_breaks_its_rules(bugs: dict[str, Any], web: Serving) -> None:
    report = run_drill(web, (*ROGUE, *bugs))

    assert {finding.rule: finding.seen for finding in report.broken}.keys() == {
        rule for broken in bugs.values() for rule in broken
    }
    assert not ActiveTrade.objects.exists()


def test_a_copier_that_does_not_start_fails_every_rule_in_words(web: Serving) -> None:
    report = run_drill(web, (sys.executable, "-c", "raise SystemExit('out of paper')"))

    assert [finding.rule for finding in report.broken] == [*reports.RULES]
    assert "the copier's process ended: out of paper" in report.broken[0].seen


def test_a_desk_that_is_not_reached_fails_every_rule_in_words(desk_db: str) -> None:
    printed, fault = commanded(f"http://127.0.0.1:{ports.free()}")

    assert printed.count("✗") == len(reports.RULES)
    assert "The drill could not be run: no answer to" in printed
    assert fault == f"{len(reports.RULES)} of {len(reports.RULES)} rules failed."
    assert not reports.latest()[0].passed


def test_a_second_run_at_the_same_time_is_refused(desk_db: str) -> None:
    with connections["bot"].cursor() as other:
        other.execute("select pg_advisory_lock(%s, %s)", reports._LOCK)

        printed, fault = commanded("http://127.0.0.1:1")

        assert reports.is_running()
        other.execute("select pg_advisory_unlock(%s, %s)", reports._LOCK)
    assert (printed, fault) == ("", reports.AlreadyRunning.detail)
    assert not reports.is_running()
    assert not AuditLog.objects.filter(action=reports.FINISHED).exists()


def test_refuses_to_use_the_account_of_a_person(desk_db: str) -> None:
    User.objects.create_user(environment.USER, password="a person's own")

    (first, *_) = rules.run(actor=audit.SYSTEM, by="a test", url="http://127.0.0.1:1").findings

    assert "belongs to a person" in first.seen
    assert User.objects.get(username=environment.USER).has_usable_password()


def test_a_run_does_not_wait_for_the_lease_of_the_previous_run(web: Serving) -> None:
    stage = environment.set_up()
    copier = stage.client(web.url, "first")
    heartbeat(copier, stage.instance)
    copier.hang_up()
    stage = environment.set_up()
    assert stage.copier_account.name == "drill-copier-1"  # the same instance does not wait for its own lease

    copier = stage.client(web.url, "second")
    heartbeat(copier, "another-place-0123")
    copier.hang_up()
    assert environment.set_up().copier_account.name == "drill-copier-2"


def test_every_rule_has_its_check() -> None:
    assert list(rules.CHECKS) == list(reports.RULES)


# --- the page

PAGE = "/admin/zombie-drill/"


def recorded(*broken: Any, by: str = "schedule") -> Any:
    """Record a run, and return its report."""
    findings = tuple(reports.Finding(rule, rule not in broken, "<b>seen</b>") for rule in reports.RULES)
    reports.record(reports.Report(findings, 9_500, by), audit.SYSTEM)
    return reports.latest()[0]


def queued() -> Any:
    """The task that the next worker will run."""
    with app.connection_for_read() as broker, broker.SimpleQueue("celery") as queue:
        message = queue.get(timeout=60)
        message.ack()
        return message.headers["task"], message.payload[1]


@pytest.fixture
def closer(desk_db: str) -> Any:
    return browsers.of_staff("clara", "change_activetrade")


def test_the_page_needs_the_permission_to_close_trades(
    client: Client, desk_db: str, staff: User, closer: Any, cast: dict[str, Any]
) -> None:
    client.force_login(staff)
    assert client.get(PAGE).status_code == closer.get(PAGE).status_code == 200

    clerk = browsers.of_staff("vera", "view_activetrade", "view_tradehistory")
    assert clerk.get(PAGE).status_code == clerk.post(PAGE).status_code == 403
    assert "zombie-drill" in closer.get("/admin/").content.decode()
    assert "zombie-drill" not in clerk.get("/admin/").content.decode()

    client.force_login(User.objects.get(username="finn"))
    assert client.get(PAGE).status_code == client.post(PAGE).status_code == 302  # to the staff's login
    client.logout()
    assert client.get(PAGE).status_code == 302
    assert not AuditLog.objects.filter(action=reports.ASKED).exists()


def test_the_page_shows_the_latest_run_rule_by_rule(closer: Any) -> None:
    assert "never run" in closer.get("/admin/").content.decode()
    first, last = recorded("altered", "flat", by="finn"), recorded()

    page = closer.get(PAGE).content.decode()
    assert (page.count('<li class="passed">'), page.count('<li class="failed">')) == (len(reports.RULES), 0)
    assert "1 of 2 passed" in page
    assert "&lt;b&gt;seen" in page
    assert f'href="?run={last.pk}" aria-current="true"' in page
    earlier = closer.get(PAGE, {"run": first.pk}).content.decode()
    assert (earlier.count('<li class="passed">'), earlier.count('<li class="failed">')) == (len(reports.RULES) - 2, 2)
    assert closer.get(PAGE, {"run": "x"}).status_code == 200
    assert "all rules passed" in closer.get("/admin/").content.decode()


def test_the_button_starts_one_run_and_the_page_follows_it(closer: Any) -> None:
    assert closer.post(PAGE).status_code == 302

    clara = User.objects.get(username="clara")
    assert queued() == ("config.tasks.zombie_drill", {"user_id": str(clara.pk)})
    entry = AuditLog.objects.get(action=reports.ASKED)
    assert (entry.actor_kind, entry.actor) == ("staff", str(clara.pk))
    page = closer.get(PAGE).content.decode()
    assert "waiting for a worker" in page
    assert 'http-equiv="refresh"' in page
    assert "is already running" in closer.post(PAGE, follow=True).content.decode()
    assert AuditLog.objects.filter(action=reports.ASKED).count() == 1

    with reports.exclusive_run():
        assert "running…" in closer.get(PAGE).content.decode()
    recorded()
    assert "Run the drill now" in closer.get(PAGE).content.decode()


def test_shows_that_no_worker_started_a_requested_run(closer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    closer.post(PAGE)
    queued()
    monkeypatch.setattr(reports, "PICKUP_LIMIT", timedelta(0))

    page = closer.get(PAGE).content.decode()

    assert "Check that a worker is running" in page
    assert "Run the drill now" in page


def test_the_task_records_who_started_it(closer: Any, settings: Settings) -> None:
    settings.DESK_URL = f"http://127.0.0.1:{ports.free()}"
    clara = User.objects.get(username="clara")

    assert tasks.zombie_drill(user_id=str(clara.pk)) is False
    assert tasks.zombie_drill() is False

    assert [report.by for report in reports.latest(2)] == ["schedule", "clara"]
    assert AuditLog.objects.filter(action=reports.FINISHED).earliest("id").actor == str(clara.pk)


def test_the_latest_run_is_among_the_metrics(desk_db: str, client: Client) -> None:
    def metrics() -> Any:
        lines = client.get("/metrics").content.decode().splitlines()
        return dict(line.rsplit(" ", 1) for line in lines if line.startswith("copydesk_drill_"))

    assert metrics() == {"copydesk_drill_rules_broken": "NaN", "copydesk_drill_ended_seconds": "NaN"}
    run = recorded("altered", "flat")

    assert metrics()["copydesk_drill_rules_broken"] == "2.0"
    assert float(metrics()["copydesk_drill_ended_seconds"]) == pytest.approx(run.at.timestamp())
