"""Parses candle files. The format is recognised by the first line, and an unreadable line is refused by its number.

Prices become Decimals exactly as written, times become UTC, and no value is corrected.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import BinaryIO, NamedTuple, TextIO, cast

from core import money
from core.errors import DomainError

LONGEST_LINE = 1000
MOST_QUOTED = 40  # characters of an unreadable text that a refusal quotes
WEEK = 7 * 24 * 60
GZIP, UTF_16 = b"\x1f\x8b", (b"\xff\xfe", b"\xfe\xff")
# HistData.com: "Eastern Standard Time (EST) time-zone WITHOUT Day Light Savings adjustments".
EASTERN = timedelta(hours=-5)


class LineRefused(DomainError):
    """A refusal that names a line of the file."""

    status = 422

    def __init__(self, line: int, wrong: str) -> None:
        super().__init__(f"line {line}: {wrong}", line=line)


class CandlesUnreadable(LineRefused):
    code = "candles_unreadable"
    detail = "The file has none of the known formats, or it is damaged."


class CandleMalformed(LineRefused):
    code = "candle_malformed"
    detail = "A line of the file cannot be parsed."


class CandleOutsideRange(LineRefused):
    code = "candle_outside_range"
    detail = "A bar's open or close lies outside its low and high, or a price is not above zero."


class CandleUnordered(LineRefused):
    code = "candle_unordered"
    detail = "A bar does not follow the bar before it, or begins before that bar ends."


class CandleInFuture(LineRefused):
    code = "candle_in_future"
    detail = "A bar begins in the future."


class CandlesZoneKnown(LineRefused):
    code = "candles_zone_told"
    detail = "The file states its own time zone, and a UTC offset was given too."


class Bar(NamedTuple):
    opened_at: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal


@dataclass(frozen=True, slots=True)
class Shape:
    """The columns of a file format. `offset`: the documented UTC offset of its times; None if there is none."""

    name: str
    delimiter: str
    columns: int
    time: tuple[int, ...]
    prices: tuple[int, ...]
    volume: int | None
    offset: timedelta | None = None
    has_header: bool = True


# --- times: the first bar determines the format of all times in the file


def _iso(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _dotted(text: str) -> datetime:
    return datetime.fromisoformat(text.replace(".", "-", 2))


def _day_first(text: str) -> datetime:
    if text[2] != "." or text[5] != ".":
        raise ValueError
    clock, _, zone = text[11:].partition(" ")
    zone = {"UTC": "Z", "GMT": "Z"}.get(zone) or zone.removeprefix("GMT")
    return datetime.fromisoformat(f"{text[6:10]}-{text[3:5]}-{text[:2]}T{clock}{zone}")


def _compact(text: str) -> datetime:
    return datetime.fromisoformat(text.replace(" ", "T"))


def _seconds(text: str) -> datetime:
    whole, _, rest = text.partition(".")
    return datetime(1970, 1, 1) + timedelta(seconds=_count(whole, rest))  # noqa: DTZ001 - the zone is set later


def _milliseconds(text: str) -> datetime:
    whole, _, rest = text.partition(".")
    return datetime(1970, 1, 1) + timedelta(milliseconds=_count(whole, rest))  # noqa: DTZ001


def _count(whole: str, rest: str) -> int:
    if rest.strip("0"):
        raise ValueError
    return int(whole)


_TIMES: list[tuple[str, Callable[[str], datetime]]] = [
    (r"\d{4}-\d\d-\d\d([T ].*)?", _iso),
    (r"\d{4}\.\d\d\.\d\d( .*)?", _dotted),
    (r"\d\d\.\d\d\.\d{4} .*", _day_first),
    (r"\d{8} \d{6}", _compact),
    (r"\d{9,10}(\.0*)?", _seconds),
    (r"\d{12,13}(\.0*)?", _milliseconds),
]


# --- file formats

_UTC_NAMES = ("gmt time", "utc", "time (utc)", "time (gmt)")
_DUKASCOPY_NAMES = (*_UTC_NAMES, "local time", "eet time", "time (eet)")
_TIME_NAMES = ("time", "timestamp", "datetime", "date", "date time", *_DUKASCOPY_NAMES)
_VOLUME_NAMES = ("tickvol", "tick_volume", "tick volume", "volume", "vol")
_PRICE_NAMES = ("open", "high", "low", "close")


def shape_of(first: str) -> Shape:
    """The format of a file that begins with this line."""
    text = first.strip("\r\n")
    delimiter = next((mark for mark in "\t;,|" if mark in text), None)
    if delimiter is None:
        raise CandlesUnreadable(1, f"{quoted(text)} is not the beginning of a table")
    fields = [field.strip().strip('"').lower() for field in text.split(delimiter)]
    return _headless(text, delimiter, fields) if fields[0][:1].isdigit() else _headed(delimiter, fields)


def _headless(text: str, delimiter: str, fields: Sequence[str]) -> Shape:
    count = len(fields)
    if re.fullmatch(r"\d{4}\.\d\d\.\d\d", fields[0]) and count in (6, 7):
        return Shape(
            "MetaTrader 4", delimiter, count, (0, 1), (2, 3, 4, 5), 6 if count == 7 else None, has_header=False
        )
    if re.fullmatch(r"\d{8} \d{6}", fields[0]) and count in (5, 6):
        volume = 5 if count == 6 else None
        return Shape("HistData", delimiter, count, (0,), (1, 2, 3, 4), volume, EASTERN, has_header=False)
    raise CandlesUnreadable(1, f"{quoted(text)} is neither a header nor a bar of a known format")


def _headed(delimiter: str, fields: Sequence[str]) -> Shape:
    names = [field.strip("<>") for field in fields]
    missing = [name for name in _PRICE_NAMES if name not in names]
    times = tuple(names.index(name) for name in _TIME_NAMES if name in names)
    if {"date", "time"} <= set(names):
        times = (names.index("date"), names.index("time"))
    if missing or not times:
        raise CandlesUnreadable(1, f"the header has no column {', '.join(missing) or 'time, timestamp or date'}")
    if twice := next((name for name in names if name in (*_PRICE_NAMES, *_TIME_NAMES) and names.count(name) > 1), None):
        raise CandlesUnreadable(1, f"the header has the column {twice} twice")
    offset, name = None, "header"
    if names[times[0]] in _DUKASCOPY_NAMES:
        name, offset = "Dukascopy", timedelta() if names[times[0]] in _UTC_NAMES else None
    elif fields[times[0]].startswith("<"):
        name = "MetaTrader 5"
    volume = next((names.index(column) for column in _VOLUME_NAMES if column in names), None)
    prices = tuple(names.index(column) for column in _PRICE_NAMES)
    return Shape(name, delimiter, len(names), times if len(times) == 2 else times[:1], prices, volume, offset)


# --- bars

_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)


def text_of(raw: BinaryIO) -> TextIO:
    """Open the bytes as text: gzip is unpacked; the encoding is UTF-8, or UTF-16 after a byte order mark.

    Bytes in another encoding become replacement characters, and the line that contains them is refused.
    """
    buffered = cast(io.BufferedReader, raw)
    try:
        if buffered.peek(2)[:2] == GZIP:
            buffered = io.BufferedReader(gzip.GzipFile(fileobj=raw))
        encoding = "utf-16" if buffered.peek(2)[:2] in UTF_16 else "utf-8-sig"
    except _DAMAGED as damaged:
        raise CandlesUnreadable(1, f"the compressed file is damaged or truncated: {damaged}") from damaged
    return io.TextIOWrapper(buffered, encoding=encoding, errors="replace", newline="")


class Reader:
    """Iterates over the bars of a text.

    Afterwards `line` is the number of the last line, and `unfinished` counts the bars that had not ended at `now`.
    Those are left out, because they will still change.
    """

    def __init__(self, text: TextIO, *, minutes: int, now: datetime, utc_offset: timedelta | None = None) -> None:
        self.line = self.unfinished = 0
        self._text, self._now = text, now
        self._step = timedelta(minutes=minutes)
        # Months differ in length, so for longer bars only the order is checked.
        self._distance = self._step if minutes <= WEEK else timedelta()
        first = self._read_line()
        if not first.strip():
            raise CandlesUnreadable(1, "the file is empty")
        self.shape = shape_of(first)
        self._lines: Iterator[str] = iter(self._read_line, "")
        if not self.shape.has_header:
            self.line, self._lines = 0, self._lines_from(first)
        if utc_offset is not None and self.shape.offset == timedelta():
            raise CandlesZoneKnown(1, "the header says that the times are UTC: omit the offset")
        self.assumes_utc = utc_offset is None and self.shape.offset is None
        offset = self.shape.offset if utc_offset is None else utc_offset
        self._has_offset = utc_offset is not None
        self._zone = timezone(offset) if offset else UTC

    def _lines_from(self, first: str) -> Iterator[str]:
        self.line = 1
        yield first
        yield from iter(self._read_line, "")

    def _read_line(self) -> str:
        try:
            line = self._text.readline(LONGEST_LINE)
        except _DAMAGED as damaged:
            raise CandlesUnreadable(
                self.line + 1, f"the compressed file is damaged or truncated: {damaged}"
            ) from damaged
        self.line += 1 if line else 0
        if len(line) == LONGEST_LINE:
            raise CandleMalformed(self.line, f"longer than {LONGEST_LINE} characters")
        return line

    def __iter__(self) -> Iterator[Bar]:
        columns = self.shape.columns
        earliest: datetime | None = None
        latest_finished = self._now - self._step
        at_of = self._at
        try:
            for row in csv.reader(self._lines, delimiter=self.shape.delimiter, strict=True, skipinitialspace=True):
                if len(row) != columns:
                    if not any(row):
                        continue
                    raise CandleMalformed(self.line, f"{len(row)} columns instead of {columns} as in the first line")
                at = at_of(row)
                if at > self._now:
                    raise CandleInFuture(self.line, f"{at:%Y-%m-%d %H:%M} UTC is in the future")
                if earliest is not None and at < earliest:
                    raise CandleUnordered(self.line, self._out_of_order(at, earliest))
                earliest = at + (self._distance or timedelta(seconds=1))
                bar = self._bar(at, row)
                if at <= latest_finished:
                    yield bar
                else:
                    self.unfinished += 1
        except csv.Error as fault:
            raise CandleMalformed(self.line, str(fault)) from fault
        if self.line <= self.shape.has_header:
            raise CandlesUnreadable(self.line, "there is no bar after the header")

    def _out_of_order(self, at: datetime, earliest: datetime) -> str:
        before = earliest - (self._distance or timedelta(seconds=1))
        if at > before:
            return f"the bar of {before:%Y-%m-%d %H:%M} UTC has not ended at {at:%H:%M}: check --minutes"
        return f"{at:%Y-%m-%d %H:%M} UTC is not after {before:%Y-%m-%d %H:%M}"

    def _at(self, row: Sequence[str]) -> datetime:
        text = " ".join(row[column] for column in self.shape.time)
        try:
            if self._time_of is None:
                self._time_of = next(parse for pattern, parse in _TIMES if re.fullmatch(pattern, text, re.ASCII))
            at = self._time_of(text)
            if at.tzinfo is None:
                at = at.replace(tzinfo=self._zone)
            elif self._has_offset:
                raise CandlesZoneKnown(self.line, f"{quoted(text)} states its time zone: omit the offset")
            else:
                self.assumes_utc = False
            if self._zone is not UTC or at.tzinfo is not UTC:
                at = at.astimezone(UTC)
        except (ValueError, IndexError, OverflowError, StopIteration) as fault:
            raise CandleMalformed(self.line, f"the time {quoted(text)} cannot be parsed") from fault
        if at.second or at.microsecond:
            raise CandleMalformed(self.line, f"the time {quoted(text)} is not a whole minute")
        return at

    _time_of: Callable[[str], datetime] | None = None

    def _bar(self, at: datetime, row: Sequence[str]) -> Bar:
        prices = [row[column] for column in self.shape.prices]
        if not _PRICES.fullmatch(",".join(prices)):
            name, text = next((n, p) for n, p in zip(_PRICE_NAMES, prices, strict=True) if not _PRICE.fullmatch(p))
            raise CandleMalformed(
                self.line, f"the {name} {quoted(text)} is not a price (12 digits, 8 decimals at most)"
            )
        open_, high, low, close = map(Decimal, prices)
        if not (0 < low <= open_ <= high and low <= close <= high):
            raise CandleOutsideRange(
                self.line, f"open {open_}, high {high}, low {low}, close {close} do not lie within a range above zero"
            )
        volume = _NOTHING if self.shape.volume is None else self._volume(row[self.shape.volume])
        return Bar(at, open_, high, low, close, volume)

    def _volume(self, text: str) -> Decimal:
        if _PRICE.fullmatch(text):
            return Decimal(text)
        if not text.strip():
            return _NOTHING
        if not _VOLUME.fullmatch(text):
            raise CandleMalformed(self.line, f"the volume {quoted(text)} is not a number")
        # Some sources sum lots as binary floats and write out the rounding error: 8.100000381469727.
        return Decimal(text).quantize(money.UNIT)


_NOTHING = Decimal(0)
_PRICE = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,8}0*)?")
_PRICES = re.compile(",".join([_PRICE.pattern] * 4))
_VOLUME = re.compile(r"[0-9]{1,12}\.[0-9]{1,40}")


def quoted(text: str) -> str:
    return repr(text if len(text) <= MOST_QUOTED else f"{text[:MOST_QUOTED]}…")


def offset_of(text: str) -> timedelta:
    """The time east of Greenwich that `+02:00`, `-5` or `Z` means; ValueError for anything else."""
    if text in ("Z", "UTC"):
        return timedelta()
    match = re.fullmatch(r"([+-])(\d{1,2})(?::?([0-5]\d))?", text, re.ASCII)
    if match is None or int(match[2]) > 14:
        raise ValueError(f"{quoted(text)} is not an offset such as +02:00")
    east = timedelta(hours=int(match[2]), minutes=int(match[3] or 0))
    return -east if match[1] == "-" else east
