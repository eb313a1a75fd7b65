"""Random histories of a subscriber, through the real verbs, against an oracle of exact fractions."""

import random
from decimal import ROUND_DOWN, Decimal
from fractions import Fraction
from typing import Any

import pytest

from accounts.models import TradingAccount
from core.money import UNIT
from tests.wallets.conftest import JUST_AFTER, balance, following, pay_in, usd
from wallets import services
from wallets.models import FeeClaim, Settlement, TransferKind
from wallets.services import settlement

MONTHS = 6


def money(rng: Any, least: Any, most: Any) -> str:
    return str(Decimal(rng.randint(least * 10**8, most * 10**8)).scaleb(-8))


@pytest.mark.dated
@pytest.mark.model
@pytest.mark.parametrize("seed", range(20))
def test_every_fee_is_exact_with_random_deposits_and_withdrawals(
    lena: TradingAccount, finn: TradingAccount, seed: int
) -> None:
    """Deposits and withdrawals never move the high-water mark; profit above it is charged once, rounded down."""
    rng = random.Random(seed)
    rate, platform = rng.randint(1, 5000), rng.randint(0, 10_000)
    follows = following(lena, finn, performance_bps=rate, platform_bps=platform)
    closed = Fraction(0)
    for ticket in range(rng.randint(0, 4)):
        profit = str(Decimal(rng.randint(-500_000, 900_000)).scaleb(-3))  # prices have 8 decimals, a lot 100,000 units
        follows.realise(str(100 + ticket), profit)
        closed += Fraction(profit)
    volume = max(Decimal(money(rng, 0, 1) if rng.random() < 0.8 else "0.01"), Decimal("0.01"))
    follows.copy("1", volume=str(volume), price="1.10000")
    lots = Fraction(volume.quantize(Decimal("0.01"), rounding=ROUND_DOWN))

    mark, paid_in, due = Fraction(0), Fraction(0), []
    for month in range(1, MONTHS + 1):
        amount = money(rng, 1, 400)
        pay_in(finn, amount)
        paid_in += Fraction(amount)
        if rng.random() < 0.5:
            withdrawn = (balance(finn) / 2).quantize(UNIT)
            services.debit_wallet(
                wallet=usd(finn),
                amount=withdrawn,
                kind=TransferKind.ADJUSTMENT,
                note="",
                idempotency_key=f"out-{month}",
            )
            paid_in -= Fraction(withdrawn)
        price = str(Decimal(rng.randint(105_000, 116_000)).scaleb(-5))
        follows.bar(price, month=month)
        settlement.sweep(now=follows.month_end(month) + JUST_AFTER)

        floating = (Fraction(price) - Fraction("1.1")) * lots * 100_000
        result = closed + (floating * 10**8).__floor__() / Fraction(10**8)
        due.append(max(Fraction(0), result - mark) * rate / 10_000)
        mark = max(mark, result)

    settled = Settlement.objects.filter(period_no__gt=0).order_by("period_no")
    assert [Fraction(period.high_water_mark) for period in settled][-1] == mark
    for period, exact in zip(settled, due, strict=True):
        assert 0 <= exact - Fraction(period.fee) < Fraction(UNIT)
    claims = list(FeeClaim.objects.all())
    assert sum(claim.amount for claim in claims) == sum(period.fee for period in settled)
    assert Fraction(balance(finn)) == paid_in - sum(Fraction(claim.collected) for claim in claims)
    for claim in claims:
        exact = Fraction(claim.amount) * (10_000 - platform) / 10_000
        assert 0 <= exact - Fraction(claim.provider_share) < Fraction(UNIT)
    assert all(settlement.recalculate(period).agrees for period in settled)
