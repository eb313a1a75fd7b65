"""Instruments, the hours in which they trade, and their historical prices with the imports that brought them."""

import functools
from datetime import time

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models

from core.fields import amount
from market.hours import Hours, sessions_of, zone_of
from market.symbols import SYMBOL


def validate_zone(name: str) -> None:
    try:
        zone_of(name)
    except ValueError as fault:
        raise ValidationError(str(fault)) from fault


def validate_sessions(text: str) -> None:
    try:
        sessions_of(text)
    except ValueError as fault:
        raise ValidationError(str(fault)) from fault


class TradingCalendar(models.Model):
    """The weekly sessions and the holidays that several instruments have in common."""

    name = models.CharField(max_length=32, unique=True)
    zone = models.CharField(
        "time zone", max_length=64, validators=[validate_zone], help_text="Such as America/New_York."
    )
    sessions = models.CharField(
        max_length=200,
        validators=[validate_sessions],
        help_text="DAYS OPEN-CLOSE in that zone, separated by commas: Mon-Fri 09:30-16:00. A close at or before the "
        "open is on the next day: Sun-Thu 17:00-17:00 is the week of currencies.",
    )

    class Meta:
        db_table = "trading_calendars"

    def __str__(self) -> str:
        return self.name

    @functools.cached_property
    def hours(self) -> Hours:
        """Sessions and holidays as the pure functions take them."""
        dated: dict[object, time | None] = {}
        yearly: dict[tuple[int, int], time | None] = {}
        for holiday in self.holidays.all():
            if holiday.is_yearly:
                yearly[holiday.date.month, holiday.date.day] = holiday.closes_at
            else:
                dated[holiday.date] = holiday.closes_at
        return Hours(zone_of(self.zone), sessions_of(self.sessions), dated, yearly)  # type: ignore[arg-type]


class Holiday(models.Model):
    """A trading date without a session, or with an early close. A session's trading date is the date it closes on."""

    calendar = models.ForeignKey(TradingCalendar, models.CASCADE, related_name="holidays")
    date = models.DateField(help_text="The date on which the session would have closed.")
    is_yearly = models.BooleanField("every year", default=False)
    closes_at = models.TimeField(null=True, blank=True, help_text="An early close. Empty: closed all day.")
    description = models.CharField(max_length=64, blank=True)

    class Meta:
        db_table = "trading_holidays"
        constraints = [models.UniqueConstraint(fields=["calendar", "date"], name="holiday_is_stated_once")]

    def __str__(self) -> str:
        return f"{self.date} {self.description}".strip()


class AssetClass(models.TextChoices):
    FOREX = "FOREX", "currencies"
    CRYPTO = "CRYPTO", "crypto currencies"
    STOCK = "STOCK", "stock"
    INDEX = "INDEX", "index"
    METAL = "METAL", "metal"
    ENERGY = "ENERGY", "energy"
    OTHER = "OTHER", "other"


class Instrument(models.Model):
    """The facts of a symbol. A trade may have a symbol that is not listed here, because brokers' spellings vary."""

    symbol = models.CharField(max_length=32, primary_key=True, validators=[RegexValidator(SYMBOL)])
    description = models.CharField(max_length=64, blank=True)
    asset_class = models.CharField(
        "class", max_length=8, choices=AssetClass, default=AssetClass.OTHER, db_default=AssetClass.OTHER
    )
    calendar = models.ForeignKey(
        TradingCalendar,
        models.PROTECT,
        null=True,
        blank=True,
        verbose_name="trading hours",
        related_name="instruments",
        help_text="Tells a weekend from a gap, and a wrong clock in a file of bars. Empty: not known.",
    )
    point = amount(help_text="The smallest price step.")
    contract_size = amount(help_text="Units of the base currency or commodity in one lot.")
    min_volume = amount("smallest volume", default="0.01", db_default="0.01", help_text="In lots.")
    volume_step = amount(default="0.01", db_default="0.01", help_text="In lots.")
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
    metadata = models.JSONField(default=dict, blank=True, db_default={}, help_text="Facts of your own, as JSON.")

    class Meta:
        db_table = "instruments"
        constraints = [
            models.CheckConstraint(condition=models.Q(point__gt=0), name="instrument_point_is_positive"),
            models.CheckConstraint(condition=models.Q(contract_size__gt=0), name="instrument_contract_is_positive"),
            models.CheckConstraint(condition=models.Q(max_volume__gt=0), name="instrument_largest_volume_is_positive"),
            models.CheckConstraint(
                condition=models.Q(min_volume__gt=0, volume_step__gt=0), name="instrument_volume_steps_are_positive"
            ),
            models.CheckConstraint(
                condition=models.Q(asset_class__in=AssetClass.values), name="instrument_class_is_known"
            ),
        ]

    def __str__(self) -> str:
        return self.symbol

    @property
    def hours(self) -> Hours | None:
        """None if the hours are not known."""
        return self.calendar.hours if self.calendar is not None else None


class ImportState(models.TextChoices):
    UPLOADED = "uploaded", "waiting to be read"
    LOOKED = "looked", "waiting for confirmation"
    WAITING = "waiting", "waiting to be stored"
    RUNNING = "running", "being stored"
    STORED = "stored", "stored"
    REFUSED = "refused", "refused"
    TAKEN_BACK = "taken_back", "taken back"


class CandleImport(models.Model):
    """One file of bars on its way into the candles. It can be taken back whole."""

    instrument = models.ForeignKey(Instrument, models.PROTECT, related_name="imports")
    minutes = models.PositiveIntegerField(help_text="The length of the bars.")
    file = models.CharField(max_length=200, help_text="The file's name.")
    sha256 = models.CharField(max_length=64)
    options = models.JSONField(help_text="How the file is to be read: market.services.candles.Source.")
    state = models.CharField(max_length=12, choices=ImportState)
    started_at = models.DateTimeField("started")
    progressed_at = models.DateTimeField(null=True, help_text="When a worker last read on in an uploaded file.")
    finished_at = models.DateTimeField("finished", null=True)
    actor = models.CharField(max_length=64)
    read_bytes = models.BigIntegerField(default=0)
    all_bytes = models.BigIntegerField(default=0)
    bars = models.BigIntegerField(default=0)
    added = models.BigIntegerField(default=0)
    report = models.JSONField(default=dict, help_text="What was found: market.services.candles.Report.")
    refusal = models.TextField(blank=True)

    class Meta:
        db_table = "candle_imports"
        verbose_name, verbose_name_plural = "import of bars", "imports of bars"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(state__in=ImportState.values), name="candle_import_state_is_known"
            ),
        ]
        indexes = [models.Index(fields=["sha256"], name="candle_imports_by_file")]

    def __str__(self) -> str:
        return f"{self.file} ({self.pk})"


class CandleUpload(models.Model):
    """The content of an uploaded file, until its import is finished: web and worker may run on different machines."""

    of = models.OneToOneField(CandleImport, models.CASCADE, primary_key=True, related_name="upload")
    content = models.BinaryField()

    class Meta:
        db_table = "candle_uploads"


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
    batch = models.ForeignKey(
        CandleImport,
        models.PROTECT,
        null=True,
        db_index=False,
        related_name="candles",
        help_text="The import that brought it. None: before imports were kept.",
    )

    class Meta:
        db_table = "candles"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(low__lte=models.F("open"), high__gte=models.F("open"))
                & models.Q(low__lte=models.F("close"), high__gte=models.F("close"), volume__gte=0),
                name="candle_lies_within_its_range",
            )
        ]
