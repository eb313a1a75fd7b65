"""A score is recalculated from all evidence, under the user's lock, and leaves an assessment."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from accounts.models import TradingAccount, User
from tests.signed import Bot
from tests.trust import flows
from tests.trust.factories import add_refusals, make_closed_trade, score_of, second_strategy_of, set_hold
from tests.trust.flows import flow
from trust import checks, detector, evidence, explanations, services
from trust.models import ScoreKind, TrustAssessment, TrustHold, TrustScore


def test_a_provider_has_three_scores_and_a_copier_one(lena: TradingAccount, finn: TradingAccount) -> None:
    services.recalculate(user_id=lena.owner.pk)
    services.recalculate(user_id=finn.owner.pk)

    assert set(TrustScore.objects.filter(user=lena.owner).values_list("kind", flat=True)) == set(ScoreKind.values)
    assert list(TrustScore.objects.filter(user=finn.owner).values_list("kind", flat=True)) == [ScoreKind.ENDPOINT]


def test_each_calculation_leaves_an_assessment_on_top_of_the_last(user: User) -> None:
    for _ in range(3):
        services.recalculate(user_id=user.pk, always=True)

    versions = TrustAssessment.objects.filter(user=user, kind=ScoreKind.FLOW).order_by("version")
    assert [(row.version, row.prev_version) for row in versions] == [(1, None), (2, 1), (3, 2)]
    assert score_of(user).version == 3
    assert checks.faults() == []


def test_without_changes_no_assessment_is_written(user: User, lena: TradingAccount, lena_bot: Bot) -> None:
    add_refusals(lena_bot.key, "trade_closed", [0])
    for ticket in range(1, 40):
        make_closed_trade(lena, ticket)
    now = timezone.now()
    for hours in range(4):
        services.recalculate(user_id=user.pk, now=now + timedelta(hours=hours))
    assert set(TrustAssessment.objects.filter(user=user).values_list("version", flat=True)) == {1}
    assert score_of(user).calculated_at == now + timedelta(hours=3)

    make_closed_trade(lena, 40)
    services.recalculate(user_id=user.pk)
    assert [score_of(user, kind).version for kind in (ScoreKind.ENDPOINT, ScoreKind.FLOW)] == [1, 2]


@pytest.mark.parametrize("kind", [*flows.HONEST, *flows.TOXIC])
def test_the_same_flow_gives_the_same_assessment(
    user: User, lena: TradingAccount, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    facts = flows.flow(kind, 3)
    monkeypatch.setattr(evidence, "of_provider", lambda strategy, now: facts)
    for _ in range(2):
        services.recalculate(user_id=user.pk, now=facts.until)

    assert TrustAssessment.objects.filter(user=user, kind=ScoreKind.FLOW).count() == 1


def test_a_change_of_the_restriction_is_an_assessment(user: User, lena: TradingAccount, staff: User) -> None:
    services.recalculate(user_id=user.pk)
    set_hold(user, staff, TrustHold.Effect.CLOSE_ONLY)

    assert score_of(user).version == 2


def test_the_score_is_the_detectors(user: User, lena: TradingAccount) -> None:
    for ticket in range(1, 6):
        make_closed_trade(lena, ticket)
    now = timezone.now()
    services.recalculate(user_id=user.pk, now=now)

    assessment = detector.assess(evidence.of_provider(lena.strategy, now=now), now=now)
    assert score_of(user).score == assessment.score
    assert TrustAssessment.objects.get(user=user, kind=ScoreKind.FLOW).inputs["deals"] == 5


def test_strategies_are_assessed_separately_and_the_worst_counts(
    user: User, lena: TradingAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    flows_of = {lena.strategy: flow("trend", 3), second_strategy_of(lena): flow("martingale", 7)}
    monkeypatch.setattr(evidence, "of_provider", lambda strategy, now: flows_of[strategy])
    now = timezone.now()
    services.recalculate(user_id=user.pk, now=now)

    calm, harmful = (detector.assess(facts, now=now).score for facts in flows_of.values())
    assert calm > harmful == score_of(user).score
    assert TrustAssessment.objects.get(user=user, kind=ScoreKind.FLOW).inputs["strategy"] == "second"
    (explanation,) = [row for row in explanations.explain(user) if row.score.kind == ScoreKind.FLOW]
    assert explanation.strategy == "second"


def test_of_equal_strategies_the_one_with_the_most_deals_counts(user: User, lena: TradingAccount) -> None:
    second_strategy_of(lena)
    make_closed_trade(lena, 1)
    services.recalculate(user_id=user.pk)

    assert TrustAssessment.objects.get(user=user, kind=ScoreKind.FLOW).inputs["strategy"] == "lena-eurusd"


INTO = (
    "insert into trust_assessments (user_id, kind, version, prev_version, prev_score, score, features, inputs, as_of)"
)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("update trust_scores set score = 99", "CD006"),
        ("update trust_scores set version = version + 2", "CD006"),
        ("update trust_scores set version = version + 1, score = 99", "trust_score_is_its_last_assessments"),
        ("delete from trust_scores", "CD002"),
        ("update trust_assessments set score = 99", "CD002"),
        ("delete from trust_assessments", "CD002"),
        ("truncate trust_assessments cascade", "CD002"),
        (
            f"{INTO}"
            " select user_id, kind, version, prev_version, prev_score, 55, '[]', '{}', '' from trust_assessments",
            "trust_assessments_pkey",
        ),
        (
            f"{INTO}"
            " select user_id, kind, version + 1, version, score - 1, 55, '[]', '{}', '' from trust_assessments",
            "trust_assessment_builds_on_the_last",
        ),
        (
            f"{INTO} select user_id, kind, version + 2, version, score, 55, '[]', '{{}}', '' from trust_assessments",
            "trust_assessment_follows_the_one_before",
        ),
    ],
)
def test_the_tables_owner_is_refused(user: User, statement: str, expected: str) -> None:
    from tests.trades.test_hostile_callers import attempt, of, refusal

    services.recalculate(user_id=user.pk)

    assert refusal(attempt(of("owner"), {}, [statement])) == expected


def test_the_check_passes_with_all_guards(user: User) -> None:
    from django.core.management import call_command

    services.recalculate(user_id=user.pk)
    call_command("trust_check")


@pytest.mark.parametrize(
    "planted", ["update trust_scores set score = 1", "delete from trust_assessments where version = 1"]
)
def test_the_check_finds_planted_faults(user: User, planted: str) -> None:
    for _ in range(2):
        services.recalculate(user_id=user.pk, always=True)
    with connections["owner"].cursor() as cursor:
        for table in ("trust_scores", "trust_assessments"):
            cursor.execute(f"alter table {table} disable trigger user")
            cursor.execute("select conname from pg_constraint where conrelid = %s::regclass and contype = 'f'", [table])
            for (name,) in cursor.fetchall():
                cursor.execute(f'alter table {table} drop constraint "{name}"')
        cursor.execute(planted)

    assert len({fault.invariant for fault in checks.faults()}) > 1
