"""A bot's reliability: each event counts once, and the score recovers with time."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trust.endpoint import WEIGHTS, Event, fold

T0 = datetime(2026, 1, 5, tzinfo=UTC)
FUNDS, REPLAY = "INSUFFICIENT_FUNDS", "REPLAY_ATTACK"
# Those of the table that no bot produces, or that the desk cannot prove to be the bot's own fault.
WITHOUT_PRODUCER = [
    "INVALID_SIGNATURE", "DUPLICATE_SEQ", "SEQUENCE_GAP", "RATE_LIMIT_EXCEEDED", "TTL_EXPIRED", "PRICE_DEVIATION",
]  # fmt: skip


def hours(count: Any) -> Any:
    return T0 + timedelta(hours=count)


def events(*rows: Any) -> list[Any]:
    return [Event(number, hours(at), reason) for number, (at, reason) in enumerate(rows)]


@pytest.mark.parametrize(
    ("rows", "now", "score"),
    [
        ([], 0, 100),
        ([(0, FUNDS)], 0.1, 90),
        ([(0, FUNDS)], 24, 100),
        ([(0, FUNDS), (1, FUNDS), (2, FUNDS), (3, REPLAY)], 4, 20),
        ([(0, REPLAY), (0.5, FUNDS)], 1, 40),
        ([(0, REPLAY), (0.5, FUNDS)], 48.5, 60),
        ([(0, REPLAY), (1, REPLAY), (2, REPLAY)], 2.5, 0),
        ([(0, REPLAY), (49, FUNDS)], 49, 60),
    ],
)
def test_matches_the_examples(rows: list[Any], now: int | float, score: int) -> None:
    assert fold(events(*rows), now=hours(now)).score == score


def test_a_repeated_calculation_gives_the_same_score() -> None:
    """The opposite mistake: to subtract one failure again every five minutes."""
    failure = events((0, FUNDS))

    assert {fold(failure, now=hours(minute / 60)).score for minute in range(0, 120, 5)} == {90}


def test_unknown_reasons_do_not_count() -> None:
    assert fold(events((0, "STATE_LOCKED"), (1, "UNHEARD_OF")), now=hours(1)).score == 100


@pytest.mark.parametrize("reason", WITHOUT_PRODUCER)
def test_what_no_bot_produces_has_no_weight(reason: str) -> None:
    assert reason not in WEIGHTS
    assert fold(events((0, reason)), now=hours(1)).score == 100


def test_returns_the_events_that_counted() -> None:
    result = fold(events((0, REPLAY), (0.5, FUNDS)), now=hours(1))

    counted = [(event.id, event.reason, *rest) for event, *rest in result.counted]
    assert counted == [
        (0, REPLAY, 50, 50),
        (1, FUNDS, 10, 40),
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
