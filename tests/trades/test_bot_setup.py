"""What a bot can ask of its own setup: the account, the lease and the subscriptions. It changes nothing."""

import hashlib
import hmac
from typing import Any

import pytest

from accounts.models import TradingAccount
from audit import services as audit
from audit.models import AuditLog
from strategies import services as strategies
from strategies.models import Subscription
from tests.conftest import key_of
from tests.signed import Bot
from tests.trades.test_heartbeat import ONE, heartbeat
from trades.models import Copier

ACCOUNT = "/api/v2/account"


@pytest.fixture
def subscription(finn: TradingAccount) -> Subscription:
    return Subscription.objects.get(account=finn)


def ask(bot: Bot) -> Any:
    answer = bot.send("GET", ACCOUNT)
    assert answer.status_code == 200, answer.content
    return answer.json()


def check_of(secret: str, sub_id: str, generation: int) -> str:
    """As docs/copier.md says."""
    derived = hmac.new(secret.encode(), b"copydesk/packet/v1", hashlib.sha256).hexdigest()
    return hmac.new(derived.encode(), f"CP1|CHECK|{sub_id}|{generation}".encode(), hashlib.sha256).hexdigest()


def test_a_copier_learns_its_subscriptions_and_can_check_its_signal_secret(
    finn_bot: Bot, subscription: Subscription, cast: dict[str, Any]
) -> None:
    answer = ask(finn_bot)

    (row,) = answer["subscriptions"]
    assert (answer["account"], answer["currency"], answer["publishes"]) == ("finn-mt5", "USD", None)
    assert (row["strategy"], row["sub_id"], row["status"]) == ("lena-eurusd", subscription.sub_id, "ACTIVE")
    secret = cast["subscriptions"][0]["packet_secret"]
    assert row["checks"] == {"1": check_of(secret, subscription.sub_id, 1)}


def test_the_next_secret_can_be_checked_before_it_is_in_use(finn_bot: Bot, subscription: Subscription) -> None:
    secret = strategies.rotate_packet_secret(subscription=subscription, actor=audit.SYSTEM)

    (row,) = ask(finn_bot)["subscriptions"]
    assert row["generation"] == 1
    assert row["checks"]["2"] == check_of(secret, subscription.sub_id, 2)


def test_no_secret_is_in_the_answer(finn_bot: Bot, cast: dict[str, Any]) -> None:
    text = finn_bot.send("GET", ACCOUNT).content.decode()

    assert cast["subscriptions"][0]["packet_secret"] not in text
    assert key_of(cast, "finn", "copier")["secret"] not in text


def test_an_ended_subscription_is_not_listed(finn_bot: Bot, subscription: Subscription) -> None:
    strategies.end(subscription=subscription, actor=audit.SYSTEM)

    assert ask(finn_bot)["subscriptions"] == []


def test_a_provider_learns_its_strategy_and_nothing_of_its_followers(lena_bot: Bot) -> None:
    answer = ask(lena_bot)

    assert (answer["publishes"], answer["subscriptions"], answer["copier"]) == ("lena-eurusd", [], None)


def test_the_lease_of_another_instance_is_seen_and_not_taken(finn_bot: Bot) -> None:
    assert ask(finn_bot)["copier"] is None
    heartbeat(finn_bot)
    before = list(Copier.objects.values())
    facts = AuditLog.objects.count()
    lease = ask(finn_bot)["copier"]

    assert lease["instance"] == ONE
    assert lease["leased_until"] > lease["heartbeat_at"]
    assert (list(Copier.objects.values()), AuditLog.objects.count()) == (before, facts)
    heartbeat(finn_bot, fence="1", ends=True)
    lease = ask(finn_bot)["copier"]
    assert lease["leased_until"] <= lease["heartbeat_at"]


def test_the_contract_sizes_of_both_sides_are_answered(lena_bot: Bot, finn_bot: Bot) -> None:
    funds = {"balance": "1", "equity": "1"}
    size = {"symbol": "US30", "contract_size": "1", "volume_min": "0.1", "volume_step": "0.1", "volume_max": "50"}
    for bot, contract_size in ((lena_bot, "1"), (finn_bot, "25")):
        report = {**funds, "symbols": [{**size, "contract_size": contract_size}]}
        assert bot.send("POST", ACCOUNT, report).status_code == 200

    (symbol,) = ask(finn_bot)["symbols"]
    assert (symbol["symbol"], symbol["contract_size"]) == ("US30", "25.00000000")
    assert (symbol["strategy"], symbol["provider_contract_size"]) == ("lena-eurusd", "1.00000000")


def test_a_question_cannot_be_replayed(finn_bot: Bot) -> None:
    request = finn_bot.request("GET", ACCOUNT)
    assert request.send().status_code == 200

    assert request.send().json()["code"] == "seq_replayed"
