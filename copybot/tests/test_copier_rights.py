"""Who may open a trade and when; closes pass in every state."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from copybot.broker import Outcome, Quote, Result
from copybot.copier import instance_of
from copybot.desk_model import MASTER, SECRET, SUB_ID
from copybot.errors import KeyRefused, RateLimited
from copybot.lease import Lease
from copybot.state_store import GuardMode
from copybot.tests.copier_harness import HOUR, ME, NOON, SECOND, CopierHarness, raising

D = Decimal


# --- closes in every state


def lost(office: Any) -> None:
    office.desk.state.takeover_number += 1
    office.desk.state.instance = "another"
    office.step(31)


def unleased(office: Any) -> None:
    office.desk.lease_ms = 0
    office.step(31)


def silent(office: Any) -> None:
    office.line.silent = 1.0
    office.step(60)


def limited(office: Any) -> None:
    office.line.send = raising(RateLimited(429, {"code": "rate_limited", "retry": "after"}))
    office.step(60)


def revoked(office: Any) -> None:
    office.line.send = office.line.active = raising(KeyRefused(401, {"code": "key_revoked", "retry": "rotate"}))
    office.step(60)


def halted(office: Any) -> None:
    office.guard._stop(GuardMode.HALT, "two packets are numbered 7")


def out_of_touch(office: Any) -> None:
    office.copier.lost_touch()
    office.line.silent = 1.0


def with_terms(**terms: Any) -> Callable[..., Any]:
    def do(office: Any) -> None:
        office.desk.terms = terms
        office.step(31)

    return do


def paused_for(why: Any) -> Callable[..., Any]:
    def do(office: Any) -> None:
        office.desk.paused_for = why

    return do


def unquoted(office: Any) -> None:
    office.broker.quote = lambda symbol: None


def far_off(office: Any) -> None:
    office.desk.terms = {"max_slippage_bps": "0.00000000"}
    office.step(31)
    office.broker.quote = lambda symbol: Quote(D(2), D(3))


def penniless(office: Any) -> None:
    office.broker.open = lambda **order: Result(Outcome.REJECTED, 10019, "no_money")


def blind(office: Any) -> None:
    office.broker.account = raising(ConnectionError("the terminal is away"))
    office.broker.quote = raising(ConnectionError("the terminal is away"))


def late(office: Any) -> None:
    office.now += 2 * HOUR  # and what comes is as old


def restarted(office: Any) -> None:
    office.start()
    office.line.silent = 1.0


def rotated(office: Any) -> None:
    office.start(replace(ME, secrets={1: SECRET, 2: "cd" * 32}))
    office.line.silent = 1.0


def forged_at(office: Any) -> None:
    for _ in range(20):
        office.copier.on_message({"type": "trade.opened", "packet": {"sub_id": SUB_ID, "seq": "1"}})
    office.line.silent = 1.0
    office.step(60)


STATES: dict[str, Any] = {
    "lost": lost, "unleased": unleased, "silent": silent, "limited": limited, "revoked": revoked, "halted": halted,
    "out of touch": out_of_touch, "paused": paused_for("paused"), "trust": paused_for("trust"),
    "unpaid": paused_for("unpaid"), "drawdown": paused_for("drawdown"), "unquoted": unquoted,
    "far off": far_off, "penniless": penniless, "blind": blind, "late": late, "restarted": restarted,
    "rotated": rotated, "forged at": forged_at, "too many": with_terms(max_open_trades=0),
    "stale": with_terms(max_open_age_ms=1),
}  # fmt: skip
DEAF = {"silent", "revoked", "out of touch", "restarted", "rotated", "forged at"}  # the desk cannot be asked
OLD: dict[str, Any] = {"late": HOUR, "stale": SECOND}  # what comes, when it is heard


def hear_of(office: Any, state: Any, way: Any, act: Any) -> None:
    before = len(office.desk.sent)
    act()
    office.now += OLD.get(state, 0)
    office.heard = before
    if way == "packet":
        office.hear()
        office.step(2)
    else:
        office.copier.lost_touch()
        office.step(5)


WAYS = [(state, way) for state in STATES for way in ("packet", "snapshot") if way == "packet" or state not in DEAF]


@pytest.mark.parametrize("what", ["close", "reduce"])
@pytest.mark.parametrize(("state", "way"), WAYS)
def test_closes_and_reductions_pass_in_every_state(office: CopierHarness, state: Any, what: str, way: Any) -> None:
    """An open must not pass in these states, else the state tests nothing."""
    ticket = office.copied()
    office.step(2)
    STATES[state](office)
    acts = {"close": partial(office.close, ticket), "reduce": partial(office.reduce, ticket, "0.40000000")}
    hear_of(office, state, way, acts[what])
    left = [] if what == "close" else [D("0.20")]
    assert office.volumes == left

    hear_of(office, state, way, office.open)
    assert office.volumes == left


def test_nothing_is_done_while_the_desk_has_gone_back_in_time(office: CopierHarness) -> None:
    """The one exception, because the desk's statements are not true then."""
    ticket = office.copied()
    office.step(2)
    backup = office.desk.state.copy()
    other = office.copied()
    office.step(2)
    office.desk.state = backup
    office.step(31)
    assert office.guard.mode is GuardMode.HOLD

    office.close(ticket)
    office.hear()
    office.step(31)
    assert len(office.volumes) == 2

    office.desk.epoch = "2"
    office.step(31)
    assert office.guard.mode is GuardMode.LIVE
    assert office.volumes == []  # the second trade is none any more at this desk, the first was closed
    assert (MASTER, other) not in office.desk.state.rows
    assert office.copier.lease.is_live


# --- the lease


def test_no_trade_is_opened_before_the_lease_is_granted(office: CopierHarness, tmp_path: Path) -> None:
    office.start(folder=tmp_path / "new")
    office.line.silent = 1.0
    office.open()
    office.hear()
    office.step(3)

    assert office.volumes == []


def test_a_second_instance_waits_until_the_first_ones_lease_has_ended(office: CopierHarness, tmp_path: Path) -> None:
    first, office.copier = office.copier, None
    office.start(folder=tmp_path / "elsewhere")
    second = office.copier
    office.step()
    assert second.lease.takeover_number == "2"
    assert not second.lease.is_live

    office.now += 20 * SECOND
    first.step()
    assert first.lease.is_lost
    office.open()
    for message in office.desk.sent:
        first.on_message(message)
        second.on_message(message)
    assert office.volumes == []

    office.step(30)
    assert second.lease.is_live
    office.heard = len(office.desk.sent)
    office.copied()
    assert {copy.why for copy in first.followed[0].guard.copies()} == {"not_leased"}
    first.close()


def test_an_instance_without_the_lease_still_closes(office: CopierHarness, tmp_path: Path) -> None:
    ticket = office.copied()
    lost(office)
    assert office.copier.lease.is_lost
    office.close(ticket)
    office.hear()

    assert office.volumes == []


def test_the_same_place_opens_at_once_after_a_restart(office: CopierHarness) -> None:
    office.copied()
    office.start()
    office.step()
    office.heard = len(office.desk.sent)
    office.copied()

    assert office.copier.lease.takeover_number == "2"


def test_a_place_is_named_by_its_folder_and_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = instance_of(tmp_path / "state")
    assert here == instance_of(tmp_path / "state")
    assert 16 <= len(here) <= 64
    (tmp_path / "state").rename(tmp_path / "moved")
    assert instance_of(tmp_path / "moved") != here

    (tmp_path / "moved").rename(tmp_path / "state")
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    assert instance_of(tmp_path / "state") != here


def test_a_trade_from_before_the_lease_is_the_previous_holders_to_open() -> None:
    """Both instances may know the trade while it is young, but only one may open it."""
    answer = {"fence": "3", "lease_ms": 45_000, "may_open_in_ms": 0}
    ours, foreign = (Lease("a-place-of-ours-", lambda: 1_000, lambda: NOON, last) for last in (2, 1))
    assert ours.grant(answer, sent=(900, NOON))
    assert foreign.grant(answer, sent=(900, NOON))

    assert ours.covers(NOON - 1)
    assert not foreign.covers(NOON - 1)
    assert foreign.covers(NOON)

    again = Lease("a-place-of-ours-", lambda: 1_000, lambda: NOON + 5, foreign.last, foreign.since_ms)
    again.grant(answer | {"fence": "4"}, sent=(900, NOON))
    assert again.covers(NOON)
    assert not again.covers(NOON - 1)


def test_a_lease_is_counted_from_the_time_of_the_request() -> None:
    now = 1_000
    lease = Lease("a-place-of-ours-", lambda: now, lambda: NOON)
    lease.grant({"fence": "1", "lease_ms": 45_000, "may_open_in_ms": 500}, sent=(200, NOON))
    assert not lease.is_live

    now = 1_500
    assert lease.is_live
    now = 45_200
    assert not lease.is_live


def test_an_orderly_end_returns_the_lease(office: CopierHarness, tmp_path: Path) -> None:
    office.copier.stop()
    office.copier = None
    office.start(folder=tmp_path / "elsewhere")
    office.step(2)

    assert office.copier.lease.is_live
