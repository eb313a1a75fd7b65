"""A worked example of fee terms: three months, calculated by the formulas that charge. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from wallets import fees

MONTHS = tuple(map(Decimal, (1000, -400, 700)))  # the result of each: a profit, a loss, and a recovery with new profit


@dataclass(frozen=True, slots=True)
class Month:
    """One month of the example. `result` is its P/L, of which `new_profit` lies above the high-water mark."""

    number: int
    result: Decimal
    new_profit: Decimal
    performance_fee: Decimal
    monthly_fee: Decimal

    @property
    def loss(self) -> Decimal:
        return max(-self.result, Decimal(0))

    @property
    def recovered(self) -> Decimal:
        """The part of the profit that only makes up for an earlier loss."""
        return max(self.result, Decimal(0)) - self.new_profit

    @property
    def total(self) -> Decimal:
        return self.performance_fee + self.monthly_fee


def months(*, rate_bps: int, monthly_fee: Decimal) -> Iterator[Month]:
    """The fees of the three months, for somebody who begins with nothing earned."""
    cumulative = mark = Decimal(0)
    for number, result in enumerate(MONTHS, 1):
        cumulative += result
        due = fees.performance(cumulative_pnl=cumulative, high_water_mark=mark, rate_bps=rate_bps)
        yield Month(number, result, due.high_water_mark - mark, due.fee, monthly_fee)
        mark = due.high_water_mark
