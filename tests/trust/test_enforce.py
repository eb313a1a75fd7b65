"""The restrictions of scores; a close always passes."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction

from accounts.models import TradingAccount, User
from audit import services as audit
from strategies.models import Strategy, Subscription
from tests.trust.factories import NOW, make_closed_trade, set_score, subscribe_again
from trades import services as trades
from trust import restrictions, services
from trust.models import ScoreKind, TrustHold, TrustScore


def test_below_fifty_a_strategy_is_close_only(user: User, lena: TradingAccount) -> None:
    set_score(user, ScoreKind.FLOW, "49.99")
    services.enforce()

    strategy = Strategy.objects.get(account=lena)
    assert (strategy.status, strategy.frozen_for) == ("CLOSE_ONLY", "TRUST")


def test_closes_always_pass(user: User, lena: TradingAccount) -> None:
    with transaction.atomic():
        trades.open_trade(
            account=lena, ticket_id="1", symbol="EURUSD", type="BUY", volume=Decimal(1), open_price=Decimal("1.1")
        )
    set_score(user, ScoreKind.FLOW, "0")
    services.enforce()

    with transaction.atomic():
        trades.close_trade(account=lena, ticket_id="1", close_price=Decimal(1), profit=Decimal(0), reason="SL")
    with pytest.raises(trades.StrategyCloseOnly):
        make_closed_trade(lena, 2)


def test_an_unreliable_bot_copies_no_new_trades(finn: TradingAccount) -> None:
    set_score(finn.owner, ScoreKind.ENDPOINT, "10")
    services.enforce()

    assert Subscription.objects.get(account=finn).paused_for == "TRUST"


def test_below_seventy_a_strategy_accepts_no_new_subscribers_and_keeps_the_present_ones(
    user: User, lena: TradingAccount, sam: TradingAccount, finn: TradingAccount
) -> None:
    from strategies.services import TakesNoSubscribers

    set_score(user, ScoreKind.FLOW, "69.99")
    services.enforce()

    with pytest.raises(TakesNoSubscribers):
        subscribe_again(sam, lena.strategy)
    assert Strategy.objects.get(account=lena).status == "ACTIVE"
    assert subscribe_again(finn, lena.strategy).status == "ACTIVE"


def test_a_strategy_accepts_subscribers_again_from_seventy_five_on(
    user: User, lena: TradingAccount, sam: TradingAccount
) -> None:
    for score, takes in (("60", False), ("74.99", False), ("75", True), ("70", True), ("69", False)):
        set_score(user, ScoreKind.FLOW, score)
        services.enforce()
        assert Strategy.objects.get(account=lena).takes_subscribers is takes, score

    strategy = Strategy.objects.get(account=lena)
    set_score(user, ScoreKind.FLOW, "90")
    services.enforce()
    assert subscribe_again(sam, strategy).status == "ACTIVE"


def test_a_strategy_frozen_by_staff_stays_frozen(user: User, lena: TradingAccount) -> None:
    from strategies import services as strategies

    strategies.freeze(strategy=lena.strategy, actor=audit.SYSTEM, reason="by hand")
    services.enforce()

    assert Strategy.objects.get(account=lena).frozen_for == "HAND"


@pytest.mark.parametrize(
    ("scores", "restricted"),
    [
        ([(0, 49)], True),
        ([(0, 50)], False),
        ([(0, 49), (1, 69)], True),
        ([(0, 49), (1, 70)], True),
        ([(0, 49), (1, 70), (24, 70)], True),
        ([(0, 49), (1, 70), (25, 70)], False),
        ([(0, 49), (1, 70), (20, 69), (30, 90)], True),
        ([(0, 49), (1, 70), (20, 69), (30, 90), (54, 90)], False),
        ([(0, 60), (1, 51), (2, 50)], False),
    ],
)
def test_a_restriction_begins_at_once_and_ends_after_a_clean_day(scores: list[Any], restricted: bool) -> None:
    restriction = restrictions.Restriction()
    for hours, score in scores:
        restriction = restrictions.next_restriction(Decimal(score), restriction, now=NOW + timedelta(hours=hours))

    assert bool(restriction.restricted_at) is restricted


def test_a_decision_of_staff_outranks_a_score(user: User, lena: TradingAccount, finn: TradingAccount) -> None:
    from strategies import services as strategies

    set_score(user, ScoreKind.FLOW, "10")
    set_score(finn.owner, ScoreKind.ENDPOINT, "10")
    services.enforce()
    subscription = Subscription.objects.get(account=finn)
    strategies.freeze(strategy=lena.strategy, actor=audit.SYSTEM, reason="an inquiry")
    strategies.pause(subscription=subscription, actor=audit.SYSTEM)
    TrustScore.objects.using("owner").update(restricted_at=None)
    services.enforce()

    assert Strategy.objects.get(account=lena).frozen_for == "HAND"
    assert Subscription.objects.get(account=finn).paused_for == "HAND"


def test_subscribing_again_does_not_end_a_pause_by_the_desk(lena: TradingAccount, finn: TradingAccount) -> None:
    set_score(finn.owner, ScoreKind.ENDPOINT, "10")
    services.enforce()

    assert subscribe_again(finn, lena.strategy).paused_for == "TRUST"


def test_a_low_relationship_score_restricts_nothing(user: User, lena: TradingAccount) -> None:
    set_score(user, ScoreKind.RELATIONSHIP, "5")
    services.enforce()

    strategy = Strategy.objects.get(account=lena)
    assert (strategy.status, strategy.takes_subscribers) == ("ACTIVE", True)


def test_the_demo_strategy_is_never_restricted(cast: dict[str, Any]) -> None:
    from config import demo_data

    demo_data.make_demo()
    for _ in range(2):
        demo_data.hold_demo_scores()
    strategy = Strategy.objects.get(name=demo_data.DEMO_STRATEGY)
    set_score(strategy.owner, ScoreKind.FLOW, "3")
    services.enforce()
    strategy.refresh_from_db()

    assert (strategy.status, strategy.takes_subscribers) == ("ACTIVE", True)
    assert TrustHold.objects.count() == 1
