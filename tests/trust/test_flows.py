"""Harmful flows are told from honest ones, over real prices, with seeds that nothing was tuned on."""

import os
from functools import cache
from typing import Any

import pytest

from tests.trust import flows
from trust import detector, restrictions

SEEDS = min(200, max(60, int(os.environ.get("COPYDESK_EXAMPLES", "60"))))
FIRST = 100_000


@cache
def scores(kind: Any) -> list[Any]:
    """What staff see: the worse of the two questions that a provider is judged by."""
    found = []
    for seed in range(FIRST, FIRST + SEEDS):
        evidence = flows.flow(kind, seed)
        judged = detector.assess(evidence, now=evidence.until), detector.relate(evidence)
        found.append(min(one.score for one in judged))
    return found


def under_the_curve(better: Any, worse: Any) -> Any:
    """How often one of the first has a higher score than one of the second; a tie is half."""
    pairs = [(one > other) + 0.5 * (one == other) for one in better for other in worse]
    return sum(pairs) / len(pairs)


@pytest.mark.model
@pytest.mark.parametrize("toxic", flows.TOXIC)
@pytest.mark.parametrize("honest", flows.HONEST)
def test_a_harmful_flow_ranks_below_an_honest_one(honest: Any, toxic: Any) -> None:
    assert under_the_curve(scores(honest), scores(toxic)) >= 0.95


@pytest.mark.model
@pytest.mark.parametrize("honest", flows.HONEST)
def test_honest_flows_are_left_alone(honest: Any) -> None:
    """Losing or lucky, large or small: hardly one in fifty is closed."""
    assert sum(score < restrictions.CLOSE_BELOW for score in scores(honest)) <= SEEDS / 50


@pytest.mark.model
@pytest.mark.parametrize("toxic", flows.TOXIC)
def test_harmful_flows_are_closed(toxic: Any) -> None:
    assert sum(score < restrictions.CLOSE_BELOW for score in scores(toxic)) >= 0.9 * SEEDS


def test_honest_ones_win_and_lose() -> None:
    """The control: it is not profit that is rewarded."""
    for kind in flows.HONEST:
        results = [sum(deal.profit for deal in flows.flow(kind, seed).deals) for seed in range(FIRST, FIRST + 40)]
        assert 5 <= sum(result > 0 for result in results) <= 35, kind


@pytest.mark.parametrize("kind", [*flows.HONEST, *flows.TOXIC])
def test_a_flow_is_the_same_each_time_and_another_with_each_seed(kind: Any) -> None:
    assert flows.flow(kind, 1).deals == flows.flow(kind, 1).deals != flows.flow(kind, 2).deals


def test_a_ranking_by_chance_would_show() -> None:
    """The control: honest against honest is a coin."""
    assert 0.3 < under_the_curve(scores("trend"), scores("trend")) < 0.7
