"""The limits above which money needs a second person, as the settings write them. The database decides by its copy."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any

from core import money

_CURRENCY = re.compile(r"[A-Z]{3}")
EVERY_OTHER = ""  # the currency of the limit for all currencies that have none of their own

# What one person moves alone is bounded by three sums, in multiples of the limit of one amount:
# - A day: once. With any more, an amount above the limit could be split into parts of which each passes.
# - A customer's 30 days: five times. Somebody who uses up each day's sum meets a second person in the first week.
# - 30 days of a member of staff: ten times, because one teller serves many customers. The day's sum stays at once, so
#   that a teller and several customers who work together move no more in a day than a teller and one customer.
DAY, THIRTY_DAYS, STAFF_THIRTY_DAYS = Decimal(1), Decimal(5), Decimal(10)
LONGEST_COOLING_H = 24 * 30


@dataclass(frozen=True, slots=True)
class Limits:
    """`above`: the limit of one amount by currency. The sums are multiples of it, so it is also the rate at which
    amounts in different currencies are added: half of one currency's limit and half of another's use up a sum.
    """

    above: Mapping[str, Decimal]
    day: Decimal = DAY
    thirty_days: Decimal = THIRTY_DAYS
    staff_thirty_days: Decimal = STAFF_THIRTY_DAYS
    destination_cooling_h: int = 0
    credentials_cooling_h: int = 0

    def rows(self) -> dict[tuple[str, str], Decimal]:
        """The rows of money_settings: (name, currency) → value."""
        sums = {name: getattr(self, name) for name in ("day", "thirty_days", "staff_thirty_days")}
        amounts = {("above", currency): amount for currency, amount in self.above.items()}
        sums |= {name: Decimal(getattr(self, name)) for name in ("destination_cooling_h", "credentials_cooling_h")}
        return amounts | {(name, EVERY_OTHER): value for name, value in sums.items()}


def of_settings(settings: Any) -> Limits:
    """The limits of these Django settings. ValueError where they make no sense; config.checks then stops the start."""
    limits = parse(settings.SECOND_PERSON_ABOVE, settings.SECOND_PERSON_SUMS)
    hours = {
        "destination_cooling_h": settings.DESTINATION_COOLING_H,
        "credentials_cooling_h": settings.CREDENTIALS_COOLING_H,
    }
    if any(not 0 <= number <= LONGEST_COOLING_H for number in hours.values()):
        raise ValueError(f"a cooling time is 0 to {LONGEST_COOLING_H} hours")
    return replace(limits, **hours)


def parse(above: str, sums: str = "") -> Limits:
    """Parse "1000,EUR=900" and "1,5,10"; raise ValueError with the reason where they make no sense."""
    amounts = dict(_amount(part) for part in above.split(",") if part.strip())
    if EVERY_OTHER not in amounts:
        raise ValueError("the limit for all other currencies is missing, as in 1000,EUR=900")
    if not sums:
        return Limits(amounts)
    multiples = [_number(part) for part in sums.split(",")]
    if len(multiples) != 3:
        raise ValueError("the sums are three multiples, as in 1,5,10: a day, 30 days, and 30 days of staff")
    day, thirty_days, staff = multiples
    if day < 1 or thirty_days < day or staff < day:
        raise ValueError("a day's sum is at least 1, and the sums of 30 days are not below it")
    return Limits(amounts, day, thirty_days, staff)


def _amount(part: str) -> tuple[str, Decimal]:
    currency, has_currency, amount = part.strip().rpartition("=")
    if has_currency and not _CURRENCY.fullmatch(currency):
        raise ValueError(f"{currency!r} is no currency such as EUR")
    return currency, _number(amount)


def _number(text: str) -> Decimal:
    try:
        value = money.exact(Decimal(text.strip()))
    except (InvalidOperation, ValueError):
        raise ValueError(f"{text.strip()!r} is no amount") from None
    if value <= 0:
        raise ValueError(f"{value.normalize():f} is not above zero; 0.00000001 sends every request to a second person")
    return value
