"""Fixtures for money: finn copies lena, whose strategy costs 20 % of new profit."""

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connections, transaction
from django.utils import timezone

from accounts.models import TradingAccount, User
from audit import services as audit
from config import demo_data
from market.models import Candle
from strategies import services as strategies
from strategies.models import Strategy, Subscription
from tests.people import colleague
from tests.transactions import committed
from trades import services as trades
from wallets import fees, limits, services
from wallets.models import FeeAgreement, FeeTerms, MoneyRequest, Wallet
from wallets.services import agreements, second_person, settlement

JUST_AFTER = timedelta(minutes=10)


def usd(account: Any) -> Wallet:
    return services.wallet_of(owner=account.owner, currency="USD")


def pay_in(account: Any, amount: str, key: str = "") -> None:
    """Credit the account owner's wallet; above the limit two members of staff do it."""
    key = key or f"pay-in-{amount}-{timezone.now().isoformat()}"
    try:
        services.deposit(wallet=usd(account), amount=Decimal(amount), note="", idempotency_key=key)
    except services.SecondPersonNeeded:
        fund(usd(account), amount, key)


def fund(wallet: Wallet, amount: str, key: str = "fund") -> None:
    """Two members of staff credit a wallet: it uses up no sum of one person."""
    tellers = [User.objects.filter(username=name).first() or colleague(name) for name in ("tina", "theo")]
    request = MoneyRequest.objects.create(
        wallet=wallet, kind="DEPOSIT", amount=Decimal(amount), reason="", idempotency_key=key, requested_by=tellers[0],
        needs_second=True,
    )  # fmt: skip
    services.approve(request=request, by=tellers[1], actor=audit.SYSTEM)


def set_limits(above: str = "1000", sums: str = "1000000,1000000,1000000") -> None:
    """Let these limits hold in the test's database, as `manage.py migrate` would write them."""
    second_person.write(limits.parse(above, sums).rows(), using="owner")


def balance(account: Any) -> Decimal:
    wallet = usd(account)
    return wallet.balance


class Later:
    """Lets time pass for the limits: it dates what was moved so far back, with the triggers off meanwhile."""

    def hours(self, number: int) -> None:
        with connections["owner"].cursor() as cursor, transaction.atomic("owner"):
            for table, column, triggers in (
                ("ledger_transfers", "at", ["append_only"]),
                ("money_requests", "decided_at", ["is_decided_once", "is_decided_properly"]),
            ):
                _alter(cursor, table, "disable trigger", triggers)
                cursor.execute(f"update {table} set {column} = {column} - make_interval(hours => %s)", [number])
                cursor.execute("set constraints all immediate")
                _alter(cursor, table, "enable always trigger", triggers)


def _alter(cursor: Any, table: str, action: str, triggers: list[str]) -> None:
    cursor.execute(f"alter table {table} {', '.join(f'{action} {trigger}' for trigger in triggers)}")


def accept(account: Any, terms: FeeTerms | None = None, *, now: datetime | None = None) -> FeeAgreement:
    """The account's owner accepts these fee terms (None: the latest of the one strategy with fees that it follows)."""
    terms = terms or FeeTerms.objects.latest("pk")
    subscription = Subscription.objects.get(account=account, strategy=terms.strategy)
    actor = audit.Actor("user", str(account.owner_id))
    return agreements.accept(subscription=subscription, terms=terms, actor=actor, now=now or timezone.now())


def priced(strategy: Strategy, bps: int = 2000, monthly: str = "15") -> FeeTerms:
    return FeeTerms.objects.create(strategy=strategy, performance_bps=bps, subscription_fee=Decimal(monthly))


def subscription_of(account: TradingAccount) -> Subscription:
    return Subscription.objects.get(account=account)


def state(account: TradingAccount) -> tuple[str, str]:
    subscription = subscription_of(account)
    return subscription.status, subscription.paused_for


def subscribe(account: TradingAccount, strategy: Strategy) -> Subscription:
    return committed(strategies.subscribe, account=account, strategy=strategy, actor=audit.SYSTEM)


@dataclass
class Following:
    """finn's agreement, and shortcuts for its periods. Closes happen today; bars set the prices at later month ends."""

    lena: Any
    finn: Any
    agreement: FeeAgreement

    def month_end(self, number: int = 1) -> datetime:
        """The end of the agreement's n-th period."""
        end = self.agreement.started_at
        for _ in range(number):
            end = fees.month_after(end)
        return end

    def copy(self, ticket: str, volume: str = "1", price: str = "1.10000", called: str = "EURUSD") -> None:
        """lena opens a trade and finn copies it under ticket 9…; `called`: the symbol of finn's broker."""
        opening = {"symbol": "EURUSD", "type": "BUY", "volume": Decimal(volume), "open_price": Decimal(price)}
        with transaction.atomic():
            trades.open_trade(account=self.lena, ticket_id=ticket, **opening)
            trades.open_trade(
                account=self.finn,
                ticket_id=f"9{ticket}",
                copies=(self.agreement.strategy.name, ticket),
                **{**opening, "symbol": called},
            )

    def close(self, ticket: str, profit: str) -> None:
        """lena closes her lot of EURUSD, opened at 1.1, at the price that makes this profit; finn's copy follows."""
        price = Decimal("1.1") + Decimal(profit) / 100_000
        with transaction.atomic():
            for account, own in ((self.lena, ticket), (self.finn, f"9{ticket}")):
                trades.close_trade(
                    account=account, ticket_id=own, close_price=price, profit=Decimal(profit), reason="MANUAL"
                )

    def realise(self, ticket: str, profit: str) -> None:
        """Open a copy of one lot and close it with this profit."""
        self.copy(ticket)
        self.close(ticket, profit)

    def bar(self, price: str, *, month: int = 1) -> None:
        """Set the last price of that month, by a bar of its last minute: no trade of a test lies in it."""
        at = self.month_end(month) - timedelta(minutes=1)
        amounts = dict.fromkeys(("open", "high", "low", "close"), Decimal(price))
        Candle.objects.create(instrument_id="EURUSD", minutes=1, opened_at=at, volume=1, **amounts)

    def settle(self, month: int = 1) -> Any:
        now = self.month_end(month) + JUST_AFTER
        return settlement.settle(agreement_id=self.agreement.pk, now=now)


@pytest.fixture
def follows(lena: Any, finn: Any) -> Following:
    return following(lena, finn)


def following(lena: Any, finn: Any, **terms: Any) -> Following:
    strategy = Strategy.objects.get(account=lena)
    FeeTerms.objects.create(
        strategy=strategy, **{"performance_bps": 2000, "platform_bps": 2500, "subscription_fee": 0, **terms}
    )
    return Following(lena, finn, accept(finn, now=_early_in_the_period()))


def _early_in_the_period() -> datetime:
    """A second ago, in the month of the test's closes. In the last minute of a month it waits for the next one."""
    now = timezone.now()
    left = (fees.month_after(now) - now).total_seconds()
    if left < 60:
        time.sleep(left)
        now = timezone.now()
    return max(now - timedelta(seconds=1), fees.month_of(now))


@pytest.fixture
def strategy(lena: TradingAccount) -> Strategy:
    return Strategy.objects.get(account=lena)


@pytest.fixture
def ella(cast: dict[str, Any]) -> TradingAccount:
    """An account that follows nothing yet."""
    return demo_data.account(demo_data.user("ella"), "ella-mt5")
