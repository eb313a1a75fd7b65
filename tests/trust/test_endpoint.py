"""A bot's reliability: each event counts once, and the score recovers with time."""

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


def events(*rows: Any) -> list[Any]:
    return [Event(number, hours(at), reason) for number, (at, reason) in enumerate(rows)]


@pytest.mark.parametrize(
    ("rows", "now", "score"),
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
def test_matches_the_examples(rows: list[Any], now: int | float, score: int) -> None:
    assert fold(events(*rows), now=hours(now)).score == score


def test_a_repeated_calculation_gives_the_same_score() -> None:
    """The opposite mistake: to subtract one late signal again every five minutes."""
    late_signal = events((0, TTL))

    assert {fold(late_signal, now=hours(minute / 60)).score for minute in range(0, 120, 5)} == {95}


def test_unknown_reasons_do_not_count() -> None:
    assert fold(events((0, "STATE_LOCKED"), (1, "UNHEARD_OF")), now=hours(1)).score == 100


def test_one_move_of_the_market_counts_once() -> None:
    deviations = [Event(number, T0 + timedelta(seconds=number), DEVIATION, "EURUSD") for number in range(30)]
    other_symbol = Event(99, T0 + timedelta(seconds=5), DEVIATION, "XAUUSD")

    assert fold([*deviations, other_symbol], now=hours(1)).score == 94


def test_returns_the_events_that_counted() -> None:
    result = fold(events((0, REPLAY), (0.5, TTL)), now=hours(1))

    counted = [(event.id, event.reason, *rest) for event, *rest in result.counted]
    assert counted == [
        (0, REPLAY, 50, 50),
        (1, TTL, 5, 45),
    ]
    assert result.last_at == hours(0.5)
    assert fold([], now=hours(1)).last_at is None


def test_future_events_do_not_count_yet() -> None:
    assert fold(events((5, REPLAY)), now=hours(4)).score == 100


ANY = st.lists(
    st.builds(
        Event, st.integers(0, 50), st.integers(0, 400).map(hours), st.sampled_from([*WEIGHTS, "OTHER"]), st.just("X")
    )
)


@given(ANY, st.randoms(use_true_random=False))
def test_neither_order_nor_repetition_matters(rows: Any, rng: Any) -> None:
    unique = list({event.id: event for event in rows}.values())
    now = hours(500)
    shuffled = [*unique, *unique]
    rng.shuffle(shuffled)

    assert fold(shuffled, now=now) == fold(unique, now=now)


@given(ANY)
def test_a_score_is_within_bounds_and_recovers_in_ten_days(rows: Any) -> None:
    assert 0 <= fold(rows, now=hours(400)).score <= 100
    assert fold(rows, now=hours(400 + 240)).score == 100
