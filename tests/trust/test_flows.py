"""The detector separates harmful flows from honest ones, over real prices, with seeds that it was not tuned on."""

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
    """The lower of a provider's two scores, for each seed."""
    lower_scores = []
    for seed in range(FIRST, FIRST + SEEDS):
        evidence = flows.flow(kind, seed)
        assessments = detector.assess(evidence, now=evidence.until), detector.assess_relationship(evidence)
        lower_scores.append(min(assessment.score for assessment in assessments))
    return lower_scores


def under_the_curve(better: Any, worse: Any) -> Any:
    """The share of pairs in which the first score is higher than the second; a tie counts a half."""
    pairs = [(high > low) + 0.5 * (high == low) for high in better for low in worse]
    return sum(pairs) / len(pairs)


@pytest.mark.model
@pytest.mark.parametrize("toxic", flows.TOXIC)
@pytest.mark.parametrize("honest", flows.HONEST)
def test_a_harmful_flow_ranks_below_an_honest_one(honest: Any, toxic: Any) -> None:
    assert under_the_curve(scores(honest), scores(toxic)) >= 0.95


@pytest.mark.model
@pytest.mark.parametrize("honest", flows.HONEST)
def test_honest_flows_are_not_restricted(honest: Any) -> None:
    """At most one in fifty is restricted, whatever its result and volume."""
    assert sum(score < restrictions.CLOSE_BELOW for score in scores(honest)) <= SEEDS / 50


@pytest.mark.model
@pytest.mark.parametrize("toxic", flows.TOXIC)
def test_harmful_flows_are_restricted(toxic: Any) -> None:
    assert sum(score < restrictions.CLOSE_BELOW for score in scores(toxic)) >= 0.9 * SEEDS


def test_control_honest_flows_win_and_lose() -> None:
    """The detector does not reward profit: about as many honest flows lose as win."""
    for kind in flows.HONEST:
        results = [sum(deal.profit for deal in flows.flow(kind, seed).deals) for seed in range(FIRST, FIRST + 40)]
        assert 5 <= sum(result > 0 for result in results) <= 35, kind


@pytest.mark.parametrize("kind", [*flows.HONEST, *flows.TOXIC])
def test_a_flow_depends_only_on_its_seed(kind: Any) -> None:
    assert flows.flow(kind, 1).deals == flows.flow(kind, 1).deals != flows.flow(kind, 2).deals


def test_control_a_ranking_by_chance_is_near_one_half() -> None:
    assert 0.3 < under_the_curve(scores("trend"), scores("trend")) < 0.7
