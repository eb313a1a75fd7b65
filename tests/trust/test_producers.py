"""Each weight of a bot's reliability has a producer: the shipped bots make the fault, and the desk counts it."""

from pathlib import Path
from typing import Any

import pytest

from accounts.models import TradingAccount
from copybot import errors
from copybot.tests.guard_process import PRICE
from strategies.models import Subscription
from tests.conftest import Serving
from tests.signed import opening
from tests.trades.test_paused import subscription
from tests.trades.test_paused_copier import copying, wait_for
from tests.trust.factories import score_of
from trades.models import CopySkip
from trust import services
from trust.endpoint import WEIGHTS
from trust.models import ScoreKind, TrustAssessment

__all__ = ["subscription"]


def reasons_of(account: Any) -> list[str]:
    services.recalculate(user_id=account.owner.pk)
    assessment = TrustAssessment.objects.filter(user=account.owner, kind=ScoreKind.ENDPOINT).latest("pk")
    reasons = [incident["reason"] for incident in assessment.features]
    assert score_of(account.owner, ScoreKind.ENDPOINT).score == max(0, 100 - sum(WEIGHTS[reason] for reason in reasons))
    return reasons


def test_a_bot_on_the_shipped_client_that_opens_a_closed_trade_again(web: Serving, lena: TradingAccount) -> None:
    """The shipped publisher asks first. A bot that is built on the client and replays its own records does not."""
    client = web.bot("lena", "master")
    client.open(**opening("1"))
    client.close("1", close_price="1.1", profit="5")

    with pytest.raises(errors.TradeClosed):
        client.open(**opening("1"))

    assert reasons_of(lena) == ["REPLAY_ATTACK"]


def test_a_copier_without_money(web: Serving, finn: TradingAccount, subscription: Subscription, tmp_path: Path) -> None:
    provider = web.bot("lena", "master")
    with copying(web, subscription, tmp_path, deposit=1) as paper:
        provider.open(**opening("1", open_price=str(PRICE), sl=None, tp=None))
        wait_for(CopySkip.objects.exists)
        assert paper.positions() == []

    assert CopySkip.objects.get().reason == "no_money"
    assert reasons_of(finn) == ["INSUFFICIENT_FUNDS"]


def test_there_is_a_test_for_each_weight() -> None:
    assert sorted(WEIGHTS) == ["INSUFFICIENT_FUNDS", "REPLAY_ATTACK", "REPORT_DIFFERS"]


@pytest.mark.parametrize("reason", ["DUPLICATE_SEQ", "TTL_EXPIRED", "PRICE_DEVIATION"])
def test_an_earlier_assessment_is_still_explained(reason: str) -> None:
    from trust import explanations

    events = [{"reason": reason, "points": 5}]
    (explained,) = explanations._incident_reasons(events, most=5.0)

    assert explained.remedy and "on one occasion" in explained.says
