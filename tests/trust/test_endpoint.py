"""A bot's behaviour: each event counts once, and time heals."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trust.endpoint import WEIGHTS, Event, fold

T0 = datetime(2026, 1, 5, tzinfo=UTC)
TTL, GAP, REPLAY, DEVIATION = "TTL_EXPIRED", "SEQUENCE_GAP", "REPLAY_ATTACK", "PRICE_DEVIATION"


def hours(count: Any) -> Any:
    return T0 + timedelta(hours=count)


def events(*told: Any) -> list[Any]:
    return [Event(number, hours(at), reason) for number, (at, reason) in enumerate(told)]


@pytest.mark.parametrize(
    ("told", "now", "score"),
    [
        ([], 0, 100),
        ([(0, TTL)], 0.1, 95),
        ([(0, TTL)], 24, 100),
        ([(0, TTL), (1, TTL), (2, TTL), (3, GAP)], 4, 65),
        ([(0, REPLAY), (0.5, TTL)], 1, 45),
        ([(0, REPLAY), (0.5, TTL)], 48.5, 65),
        ([(0, REPLAY), (1, REPLAY), (2, REPLAY)], 2.5, 0),
        ([(0, GAP), (49, DEVIATION)], 49, 97),
    ],
)
def test_the_examples_come_out(told: list[Any], now: int | float, score: int) -> None:
    assert fold(events(*told), now=hours(now)).score == score


def test_reading_it_again_changes_nothing() -> None:
    """What the documents' own code did: one late signal, taken off again every five minutes."""
    one = events((0, TTL))

    assert {fold(one, now=hours(minute / 60)).score for minute in range(0, 120, 5)} == {95}


def test_being_locked_is_no_fault() -> None:
    assert fold(events((0, "STATE_LOCKED"), (1, "UNHEARD_OF")), now=hours(1)).score == 100


def test_one_move_of_the_market_counts_once() -> None:
    moved = [Event(number, T0 + timedelta(seconds=number), DEVIATION, "EURUSD") for number in range(30)]
    beside = Event(99, T0 + timedelta(seconds=5), DEVIATION, "XAUUSD")

    assert fold([*moved, beside], now=hours(1)).score == 94


def test_says_what_it_counted() -> None:
    found = fold(events((0, REPLAY), (0.5, TTL)), now=hours(1))

    assert [(event.id, event.reason, *rest) for event, *rest in found.counted] == [(0, REPLAY, 50, 50), (1, TTL, 5, 45)]
    assert found.last_at == hours(0.5)
    assert fold([], now=hours(1)).last_at is None


def test_what_lies_ahead_does_not_count_yet() -> None:
    assert fold(events((5, REPLAY)), now=hours(4)).score == 100


ANY = st.lists(
    st.builds(
        Event, st.integers(0, 50), st.integers(0, 400).map(hours), st.sampled_from([*WEIGHTS, "OTHER"]), st.just("X")
    )
)


@given(ANY, st.randoms(use_true_random=False))
def test_neither_order_nor_repetition_matters(told: Any, rng: Any) -> None:
    told = list({event.id: event for event in told}.values())
    now = hours(500)
    shuffled = [*told, *told]
    rng.shuffle(shuffled)

    assert fold(shuffled, now=now) == fold(told, now=now)


@given(ANY)
def test_a_score_is_within_bounds_and_heals_in_ten_days(told: Any) -> None:
    assert 0 <= fold(told, now=hours(400)).score <= 100
    assert fold(told, now=hours(400 + 240)).score == 100
