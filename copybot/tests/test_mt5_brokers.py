"""MetaTrader servers of other characters: limits that change, largest orders, two-step stops, another price feed."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copybot.broker import Outcome, SymbolSpec
from copybot.guard import ExecutionGuard
from copybot.mt5 import MetaTrader
from copybot.position_targets import volume_to_close
from copybot.targets import Snapshot
from copybot.tests.fake_mt5 import FakeMT5, Fate, Refused
from copybot.tests.guard_fixtures import LIMITS, NOON, SECRET, SUB, Clock, packet
from copybot.tests.guard_harness import target
from copybot.tests.test_mt5 import held, order, refused

D = Decimal


@pytest.fixture
def fake() -> FakeMT5:
    return FakeMT5(balance=1e7)


@pytest.fixture
def terminal(fake: FakeMT5, clock: Clock) -> Any:
    terminal = MetaTrader.connect(login=5001, module=fake)
    terminal.clock_ms = clock
    return terminal


def volumes(fake: FakeMT5) -> list[float]:
    return [request["volume"] for request in fake.sent if request.get("position")]


def stops(terminal: Any) -> tuple[Any, Any]:
    (position,) = terminal.positions()
    return position.sl, position.tp


# --- limits for new orders are not limits for what is held


def test_a_larger_step_does_not_round_what_is_held(terminal: Any, fake: FakeMT5, clock: Clock) -> None:
    small, odd = held(terminal, volume="0.05"), held(terminal, volume="0.25")
    fake.symbols["EURUSD"].least = fake.symbols["EURUSD"].step = 0.1
    clock.now += 60_000
    assert [position.volume for position in terminal.positions()] == [D("0.05"), D("0.25")]
    assert [deal.volume for deal in terminal.deals(odd.id)] == [D("0.25")]
    assert terminal.spec("EURUSD").volume_step == D("0.1")

    assert terminal.close(odd, D("0.1")).outcome is Outcome.DONE
    assert terminal.close(odd, D("0.15")).outcome is Outcome.DONE
    assert terminal.close(small, small.volume).outcome is Outcome.DONE
    assert fake.positions == {}
    assert [str(deal.volume) for deal in terminal.deals(odd.id)] == ["0.25", "0.1", "0.15"]


@pytest.mark.parametrize("least", [0.0, 0.1])
def test_a_symbol_whose_step_is_not_loaded_yet_has_exact_orders(terminal: Any, fake: FakeMT5, least: float) -> None:
    fake.symbols["EURUSD"].step, fake.symbols["EURUSD"].least = 0.0, least
    spec = terminal.spec("EURUSD")
    assert spec.lots(D("0.25")) == D("0.25")
    assert volume_to_close(D("0.25"), D("0.10"), spec) == D("0.15")  # 0.2, by the smallest order, would be too many


def test_a_close_that_the_steps_forbid_is_not_rounded_to_another_volume(terminal: Any, fake: FakeMT5) -> None:
    position = held(terminal, volume="0.25")
    fake.symbols["EURUSD"].least = fake.symbols["EURUSD"].step = 0.1
    assert refused(terminal.close(position, D("0.05")), 10014)
    assert terminal.positions()[0].volume == D("0.25")


def test_a_position_above_the_largest_order_closes_in_pieces(terminal: Any, fake: FakeMT5) -> None:
    position = held(terminal, volume="3.00")
    fake.symbols["EURUSD"].most = 1.0
    assert terminal.close(position, D("3.00")).outcome is Outcome.DONE
    assert (volumes(fake), fake.positions) == ([1.0, 1.0, 1.0], {})


def test_a_part_above_the_largest_order_closes_exactly(terminal: Any, fake: FakeMT5) -> None:
    position = held(terminal, volume="3.00")
    fake.symbols["EURUSD"].most = 1.0
    terminal.close(position, D("2.50"))
    assert (volumes(fake), terminal.positions()[0].volume) == ([1.0, 1.0, 0.5], D("0.5"))


@pytest.mark.parametrize(
    ("fate", "outcome", "left"), [(10018, Outcome.DONE, "2"), (Fate.TIMEOUT, Outcome.UNKNOWN, "2"),
                                  (Fate.DEAF, Outcome.UNKNOWN, "1")],
)  # fmt: skip
def test_a_piece_that_is_not_done_ends_the_close(
    terminal: Any, fake: FakeMT5, fate: Any, outcome: Outcome, left: str
) -> None:
    """After a piece that was executed, no answer says that nothing was: books that are behind would show it again."""
    position = held(terminal, volume="3.00")
    fake.symbols["EURUSD"].most, fake.fates = 1.0, [None, fate]
    assert terminal.close(position, D(3)).outcome is outcome
    assert (len(volumes(fake)), terminal.positions()[0].volume) == (2, D(left))


def test_a_reduction_in_pieces_of_which_one_is_refused_takes_no_more_than_it_should(
    terminal: Any, fake: FakeMT5, clock: Clock, tmp_path: Path
) -> None:
    """The terminal's list of positions shows the first piece seconds after its answer."""
    guard = ExecutionGuard(tmp_path / "state", SUB, {1: SECRET}, 7, terminal, lambda: NOON + clock.now, LIMITS)
    big = target(volume="3.00", price=D("1.1"))
    guard.on_snapshot(Snapshot("1", 0, {}), asked_at=0)
    guard.on_packet(packet(1, NOON + clock.now, "OPEN", big))
    (ticket,) = fake.positions
    fake.symbols["EURUSD"].most, fake.fates = 1.0, [None, 10004]
    clock.now += 60_000

    shown = terminal.module.positions_get()
    fake.positions_get = lambda *args, **more: shown
    guard.on_packet(packet(2, NOON + clock.now, "REDUCE", target(volume="1.00")))
    clock.now += 1_000
    guard.tick()
    del fake.positions_get
    for _ in range(30):
        clock.now += 1_000
        guard.tick()
    assert fake.positions[ticket].volume == 1.0
    guard.close()


def test_no_piece_of_a_close_is_below_the_smallest_order() -> None:
    spec = SymbolSpec(D("0.1"), D("0.1"), D("0.1"), D(1), D(1))
    assert spec.parts(D("2.05")) == [D("1"), D("0.9"), D("0.15")]
    assert spec.parts(D("0.05")) == [D("0.05")]
    assert spec.parts(D("2")) == [D("1"), D("1")]
    assert all(sum(spec.parts(D(cents) / 100)) == D(cents) / 100 for cents in range(1, 700))


def test_the_conditions_follow_the_broker_within_seconds(terminal: Any, fake: FakeMT5, clock: Clock) -> None:
    assert terminal.spec("EURUSD").volume_max == 500
    fake.symbols["EURUSD"].most, fake.symbols["EURUSD"].contract = 1.0, 1_000.0
    clock.now += 3_000
    assert (terminal.spec("EURUSD").volume_max, terminal.spec("EURUSD").contract_size) == (1, 1_000)


@pytest.mark.parametrize(("mode", "buy", "sell"), [(1, 0, 10042), (2, 10043, 0), (3, 10044, 10044), (0, 10017, 10017)])
def test_the_trade_mode_forbids_opens_and_never_a_close(
    terminal: Any, fake: FakeMT5, clock: Clock, mode: int, buy: int, sell: int
) -> None:
    position, before = held(terminal), len(fake.sent)
    fake.symbols["EURUSD"].trade_mode = mode
    clock.now += 60_000
    for side, code in (("BUY", buy), ("SELL", sell)):
        assert refused(order(terminal, side=side), code) if code else order(terminal, side=side).outcome is Outcome.DONE
    assert terminal.spec("EURUSD").may_open is (mode in (1, 2))
    assert len(fake.sent) - before == (mode in (1, 2))
    terminal.close(position, position.volume)
    assert len(fake.sent) - before == (mode in (1, 2)) + 1  # sent, whatever the server answers


# --- stops in two steps


def test_a_server_that_takes_no_stops_with_an_open_gets_them_from_the_next_modify(terminal: Any, fake: FakeMT5) -> None:
    fake.two_steps = True
    position = held(terminal, sl="1.09", tp="1.12")
    assert (position.sl, position.tp) == (None, None)
    assert terminal.modify(position, sl=D("1.09"), tp=D("1.12")).outcome is Outcome.DONE
    assert stops(terminal) == (D("1.09"), D("1.12"))
    before = len(fake.sent)
    held(terminal, sl="1.09")
    assert len(fake.sent) == before + 1  # it is known now


def test_an_open_whose_stop_is_passed_between_two_steps_is_not_sent_without_it(terminal: Any, fake: FakeMT5) -> None:
    fake.two_steps, send = True, fake.order_send

    def moving(request: Any) -> Any:
        answer = send(request)
        fake.price("EURUSD", 1.08)
        return answer

    fake.order_send = moving
    assert refused(order(terminal, sl="1.09"), 10016, "stop_passed")
    assert fake.positions == {}


def test_an_open_without_stops_that_is_refused_for_them_is_not_repeated(terminal: Any, fake: FakeMT5) -> None:
    fake.fates = [10016]
    assert refused(order(terminal), 10016)
    assert len(fake.sent) == 1


# --- each stop by itself, on a feed of its own


def test_a_passed_target_is_set_beyond_the_price_and_does_not_block_the_stop(terminal: Any, fake: FakeMT5) -> None:
    position = held(terminal, sl="1.09")
    assert terminal.modify(position, sl=D("1.095"), tp=D("1.0990")).outcome is Outcome.DONE
    assert stops(terminal) == (D("1.095"), D("1.10001"))
    fake.price("EURUSD", 1.10002)
    assert fake.positions == {}  # the next move of the price reaches it


def test_a_passed_target_does_not_flee_from_the_price(terminal: Any, fake: FakeMT5) -> None:
    fake.symbols["EURUSD"].stops = 50
    position = held(terminal)
    terminal.modify(position, sl=None, tp=D("1.0990"))
    assert stops(terminal) == (None, D("1.1005"))
    fake.price("EURUSD", 1.1003)
    assert refused(terminal.modify(position, sl=None, tp=D("1.0990")), 10016, "stop_passed")
    assert stops(terminal) == (None, D("1.1005"))
    fake.price("EURUSD", 1.0995)
    assert terminal.modify(position, sl=None, tp=D("1.0990")).outcome is Outcome.DONE
    assert stops(terminal) == (None, D("1.1"))  # nearer to what is wanted


def test_a_passed_target_of_a_sell_lies_below_the_price(terminal: Any) -> None:
    position = held(terminal, side="SELL", tp="1.05")
    terminal.modify(position, sl=None, tp=D("1.2"))
    assert stops(terminal) == (None, D("1.10009"))


def test_a_passed_stop_loss_keeps_the_present_one_and_does_not_block_the_target(terminal: Any) -> None:
    position = held(terminal, sl="1.09")
    assert refused(terminal.modify(position, sl=D("1.1005"), tp=D("1.12")), 10016, "stop_passed")
    assert stops(terminal) == (D("1.09"), D("1.12"))
    assert refused(terminal.modify(position, sl=D("1.1005"), tp=D("1.12")), 10016, "stop_passed")


def test_a_stop_that_the_server_refuses_does_not_block_the_other(
    terminal: Any, fake: FakeMT5, monkeypatch: pytest.MonkeyPatch
) -> None:
    position, check = held(terminal, sl="1.09", tp="1.12"), fake._check_stops

    def refusing(request: Any, spec: Any, side: Any, owner: Any) -> None:
        if request.tp == 1.13:
            raise Refused(10016)
        check(request, spec, side, owner)

    monkeypatch.setattr(fake, "_check_stops", refusing)
    assert refused(terminal.modify(position, sl=D("1.095"), tp=D("1.13")), 10016)
    assert stops(terminal) == (D("1.095"), D("1.12"))


def test_a_lost_answer_for_one_stop_is_not_followed_by_another_order(terminal: Any, fake: FakeMT5) -> None:
    position = held(terminal, sl="1.09", tp="1.12")
    fake.fates = [10016, Fate.DEAF]
    assert terminal.modify(position, sl=D("1.095"), tp=D("1.13")).outcome is Outcome.UNKNOWN
    assert stops(terminal) == (D("1.095"), D("1.12"))
