"""Instruments and their historical prices."""

from django.core.validators import RegexValidator
from django.db import models

from core.fields import amount
from market.symbols import SYMBOL


class Instrument(models.Model):
    """The facts of a symbol. A trade may have a symbol that is not listed here, because brokers' spellings vary."""

    symbol = models.CharField(max_length=32, primary_key=True, validators=[RegexValidator(SYMBOL)])
    description = models.CharField(max_length=64, blank=True)
    point = amount(help_text="The smallest price step.")
    contract_size = amount(help_text="Units of the base currency or commodity in one lot.")
    max_volume = amount(
        "largest volume",
        default=1000,
        db_default=1000,
        help_text="In lots. An open above it is refused; a close never.",
    )
    allows_nonpositive_prices = models.BooleanField(
        "opens at or below zero",
        default=False,
        db_default=False,
        help_text="Trades of this instrument may open at a price of zero or below. Closes may always.",
    )

    class Meta:
        db_table = "instruments"
        constraints = [
            models.CheckConstraint(condition=models.Q(point__gt=0), name="instrument_point_is_positive"),
            models.CheckConstraint(condition=models.Q(contract_size__gt=0), name="instrument_contract_is_positive"),
            models.CheckConstraint(condition=models.Q(max_volume__gt=0), name="instrument_largest_volume_is_positive"),
        ]

    def __str__(self) -> str:
        return self.symbol


class Candle(models.Model):
    """One bar of bid prices. Weekends, holidays and other gaps have no rows."""

    pk = models.CompositePrimaryKey("instrument_id", "minutes", "opened_at")
    instrument = models.ForeignKey(Instrument, models.PROTECT, related_name="candles", db_index=False)
    minutes = models.PositiveIntegerField(help_text="The length of the bar.")
    opened_at = models.DateTimeField()
    open = amount()
    high = amount()
    low = amount()
    close = amount()
    volume = amount(help_text="Ticks, or lots where the source has them.")

    class Meta:
        db_table = "candles"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(low__gt=0, low__lte=models.F("open"), high__gte=models.F("open"))
                & models.Q(low__lte=models.F("close"), high__gte=models.F("close"), volume__gte=0),
                name="candle_lies_within_its_range",
            )
        ]
