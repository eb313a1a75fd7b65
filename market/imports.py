"""Reads the bars of a candle file. What the file says of itself is compared with what its importer says of it.

Prices become Decimals exactly as written, unless they are to be rounded to the instrument's point, and times become
UTC. A line that cannot be read is refused by its number; nothing is corrected silently.
"""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from itertools import chain, islice
from typing import NamedTuple, TextIO

from core import money
from market.clocks import IN_UTC, Clock, ImpossibleTime, at_offset, clock_of
from market.files import DAMAGED, damaged_file
from market.formats import AMBIGUOUS, MOST_ABOVE, PRICE_NAMES, TIMES, minutes_of, quoted, same_ticker, shape_of
from market.gaps import WEEK, gap
from market.hours import Hours
from market.refusals import (
    CandleInFuture,
    CandleMalformed,
    CandleOutsideRange,
    CandlesHoursDiffer,
    CandlesLengthDiffers,
    CandlesSymbolDiffers,
    CandlesUnreadable,
    CandlesZoneKnown,
    CandleUnordered,
)

LONGEST_LINE = 1000
EARLIEST_YEAR = 1800  # trading hours cannot be calculated back to the first year
MOST_UNSORTED = 500_000  # lines of a file out of order, which are held in memory: about 400 bytes each
MOST_CLOSED = 2, 1000  # bars in closed hours that are tolerated: brokers quote on for a minute here and there
_AHEAD = timedelta(days=8)
_MOST_EDGES = 2000


class Unsorted(Exception):
    """A line is earlier than the line before it: the file is to be read with `sort`."""


class Bar(NamedTuple):
    opened_at: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal


@dataclass(frozen=True, slots=True)
class Reading:
    """What the importer says of a file, and what the desk knows of its instrument.

    `clock`: of times without a zone; None if the importer named none. `ticker`: the instrument's name in the file.
    `point`: round prices to it; None leaves them as written. `columns`: names in place of a header. `is_sparse`: no two
    neighbouring bars need to be in the file.
    """

    symbol: str
    minutes: int
    now: datetime
    clock: Clock | None = None
    ticker: str = ""
    hours: Hours | None = None
    point: Decimal | None = None
    columns: Sequence[str] = ()
    is_sparse: bool = False
    allows_nonpositive: bool = False


class _Line(NamedTuple):
    """A line with prices: `shown` is its time, naive unless the file states the zone in each line."""

    shown: datetime
    number: int
    prices: str
    """Open, high, low and close, separated by commas."""
    volume: str


class Reader:
    """Iterates over the bars of a text, which must be in order unless `sort`.

    After the iteration `line` is the number of the last line, and the counters say what was left out: `unfinished` bars
    that had not ended at `now` and will still change; `doubled` lines equal to another; lines `without_prices`; and
    `idle` bars without a trade in hours in which the instrument does not trade.
    """

    def __init__(self, text: TextIO, reading: Reading, *, sort: bool = False) -> None:
        self.line = self.bars = self.unfinished = self.doubled = self.without_prices = self.idle = 0
        self.sort = sort
        self._text, self._reading, self._read = text, reading, 0
        self._step = timedelta(minutes=reading.minutes)
        # Months differ in length.
        self._distance = self._step if self._step <= WEEK else self._step * 9 // 10
        head = [line for line in (self._read_line() for _ in range(MOST_ABOVE + 3)) if line]
        if not head or not head[0].strip():
            raise CandlesUnreadable(1, "the file is empty")
        self.shape = shape_of(head, reading.columns)
        self._lines = chain(head[self.shape.above :], iter(self._read_line, ""))
        self.line = self.shape.above
        self._set_clock()
        self._check_ticker(self.shape.stated_ticker, max(self.shape.above - 1, 1))
        # A bar that lies wholly in this interval needs no look at the hours.
        self._open = datetime.max.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
        self._closed, self._first_closed = 0, 0
        self._edges: list[datetime] = []
        self._last_shown = datetime.min.replace(tzinfo=UTC)
        self._has_neighbours, self._least_distance = False, timedelta.max

    def _set_clock(self) -> None:
        clock, offset = self._reading.clock, self.shape.offset
        if clock is not None and offset == timedelta():
            raise CandlesZoneKnown(1, "the file says that the times are UTC: omit the clock")
        self.assumes_utc = clock is None and offset is None
        self.clock = clock or (at_offset(offset) if offset else IN_UTC)

    def _read_line(self) -> str:
        try:
            line = self._text.readline(LONGEST_LINE)
        except DAMAGED as damaged:
            raise damaged_file(self._read + 1, damaged) from damaged
        self._read += bool(line)
        if len(line) == LONGEST_LINE:
            raise CandleMalformed(self._read, f"longer than {LONGEST_LINE} characters")
        return line

    def _counted(self) -> Iterator[str]:
        for line in self._lines:
            self.line += 1
            yield line

    def __iter__(self) -> Iterator[Bar]:
        latest_finished = self._reading.now - self._step
        for at, line in self._in_order():
            bar = self._bar(at, line)
            if self._reading.hours is not None and self._is_closed(at, bar, line):
                self.idle += 1
            elif at <= latest_finished:
                self.bars += 1
                yield bar
            else:
                self.unfinished += 1
        if not (self.bars or self.unfinished or self.idle):
            raise CandlesUnreadable(self.line, "there is no bar after the header")
        self._check_length()
        self._check_hours()

    # --- lines in order, at their UTC times

    def _in_order(self) -> Iterator[tuple[datetime, _Line]]:
        """The lines by time, each time once."""
        before: datetime | None = None
        earliest: datetime | None = None
        last: _Line | None = None
        for at, line in self._sorted() if self.sort else self._as_written():
            if before is not None and last is not None and at < (earliest or at):
                if at == before:
                    if line[2:] != last[2:]:
                        raise CandleUnordered(line.number, f"differs from line {last.number}, which has the same time")
                    self.doubled += 1
                    continue
                if at < before:
                    raise Unsorted
                raise CandleUnordered(line.number, self._overlap(at, before))
            if at > self._reading.now:
                raise CandleInFuture(line.number, f"{at:%Y-%m-%d %H:%M} UTC is in the future")
            if before is not None and at != earliest:
                self._see_gap(before, at, line.shown)
            self._has_neighbours |= at == earliest
            self._last_shown = line.shown
            if before is None:
                self._see_edges(line.shown)
            before, earliest, last = at, at + self._distance, line
            if line.prices:
                yield at, line
            else:
                self.without_prices += 1

    def _overlap(self, at: datetime, before: datetime) -> str:
        minutes = (at - before) // timedelta(minutes=1)
        return (
            f"the bar of {before:%Y-%m-%d %H:%M} UTC has not ended at {at:%H:%M}: "
            f"the bars are of {minutes} minutes, not of {self._reading.minutes}"
        )

    def _as_written(self) -> Iterator[tuple[datetime, _Line]]:
        before: datetime | None = None
        for line in self._table():
            at = before = self._utc(line, before)
            yield at, line

    def _sorted(self) -> Iterator[tuple[datetime, _Line]]:
        lines = list(islice(self._table(), MOST_UNSORTED + 1))
        if len(lines) > MOST_UNSORTED:
            raise CandleUnordered(self.line, f"more than {MOST_UNSORTED:,} lines out of order: sort the file first")
        if len(lines) > 1 and lines[0].shown > lines[-1].shown:
            lines.reverse()
        lines.sort(key=lambda line: line.shown)
        timed: list[tuple[datetime, _Line]] = []
        for line in lines:
            # Of an hour that the clock showed twice, the earlier line is of the first time.
            is_second = timed and timed[-1][1].shown == line.shown
            timed.append((self._utc(line, timed[-1][0] if is_second else None), line))
        timed.sort(key=lambda pair: pair[0])
        return iter(timed)

    def _utc(self, line: _Line, after: datetime | None) -> datetime:
        try:
            at = self.clock.utc(line.shown, after) if line.shown.tzinfo is None else line.shown.astimezone(UTC)
        except ImpossibleTime as impossible:
            raise CandleMalformed(line.number, str(impossible)) from impossible
        except OverflowError as fault:
            raise CandleMalformed(line.number, f"the time {line.shown} cannot be parsed") from fault
        if at.year < EARLIEST_YEAR:
            raise CandleMalformed(line.number, f"the time {line.shown} is before {EARLIEST_YEAR}")
        if at.second or at.microsecond:
            raise CandleMalformed(line.number, f"the time {line.shown:%Y-%m-%d %H:%M:%S} is not a whole minute")
        return at

    # --- the table

    def _table(self) -> Iterator[_Line]:
        columns, shape = self.shape.columns, self.shape
        try:
            for row in csv.reader(self._counted(), delimiter=shape.delimiter, strict=True, skipinitialspace=True):
                # Some writers end each line with a delimiter.
                if len(row) != columns and not (len(row) == columns + 1 and not row[-1].strip()):
                    if not any(row):
                        continue
                    raise CandleMalformed(self.line, f"{len(row)} columns instead of {columns} as in the first line")
                if shape.ticker is not None:
                    self._check_ticker(row[shape.ticker], self.line)
                if shape.length is not None:
                    self._check_stated_length(row[shape.length])
                prices = ",".join([row[column] for column in shape.prices])
                volume = "" if shape.volume is None else row[shape.volume]
                yield _Line(self._shown(row), self.line, "" if _NO_PRICES.fullmatch(prices) else prices, volume)
        except csv.Error as fault:
            raise CandleMalformed(self.line, str(fault)) from fault

    _time_of: Callable[[str], datetime] | None = None

    def _shown(self, row: Sequence[str]) -> datetime:
        text = " ".join([row[column] for column in self.shape.time])
        try:
            if self._time_of is None:
                self._time_of = _parser_of(text)
            shown = self._time_of(text)
        except (ValueError, IndexError, OverflowError) as fault:
            if AMBIGUOUS.fullmatch(text):
                wrong = f"the date {quoted(text)} may begin with the day or with the month: write it as 2024-01-31"
                raise CandleMalformed(self.line, wrong) from fault
            raise CandleMalformed(self.line, f"the time {quoted(text)} cannot be parsed") from fault
        if shown.tzinfo is not None:
            if self._reading.clock is not None:
                raise CandlesZoneKnown(self.line, f"{quoted(text)} states its time zone: omit the clock")
            self.assumes_utc = False
        return shown

    # --- bars

    def _bar(self, at: datetime, line: _Line) -> Bar:
        text = line.prices
        if self._reading.point is None and _PRICES.fullmatch(text):
            open_, high, low, close = map(Decimal, text.split(","))
        else:
            open_, high, low, close = self._prices(text.split(","), line.number)
        if not (low <= open_ <= high and low <= close <= high) or (low <= 0 and not self._reading.allows_nonpositive):
            above = "" if self._reading.allows_nonpositive else " above zero"
            raise CandleOutsideRange(
                line.number, f"open {open_}, high {high}, low {low}, close {close} do not lie within a range{above}"
            )
        return Bar(at, open_, high, low, close, self._volume(line))

    def _prices(self, texts: Sequence[str], number: int) -> list[Decimal]:
        if len(texts) != len(PRICE_NAMES):
            raise CandleMalformed(number, f"{quoted(','.join(texts))} are not four prices with decimal points")
        return [self._price(text, number) for text in texts]

    def _price(self, text: str, number: int) -> Decimal:
        """A price that is not written as plain digits, such as 1.1e-05, or one to be rounded."""
        point = self._reading.point
        try:
            price = Decimal(text) if _NUMBER.fullmatch(text) else None
            if price is not None and point is not None:
                price = (price / point).quantize(Decimal(1), ROUND_HALF_EVEN) * point
        except InvalidOperation:
            price = None
        if price is None or abs(price) >= _TOO_LARGE:
            raise CandleMalformed(number, f"the price {quoted(text)} is not a number of at most 12 digits")
        if price != (exact := price.quantize(money.UNIT)):
            wrong = f"the price {quoted(text)} has more than 8 decimals: ask for prices rounded to the point"
            raise CandleMalformed(number, wrong)
        return exact

    def _volume(self, line: _Line) -> Decimal:
        text = line.volume
        if _PRICE.fullmatch(text):
            return Decimal(text)
        if _NO_PRICE.fullmatch(text.strip()):
            return _NOTHING
        if not _NUMBER.fullmatch(text) or not 0 <= (volume := Decimal(text)) < _TOO_LARGE:
            raise CandleMalformed(line.number, f"the volume {quoted(text)} is not a number")
        # Some sources sum lots as binary floats and write out the rounding error: 8.100000381469727.
        return volume.quantize(money.UNIT)

    # --- what the file says of itself

    _seen_ticker = _seen_length = ""

    def _check_ticker(self, given: str, number: int) -> None:
        if given and given != self._seen_ticker:
            wanted = self._reading.ticker or self._reading.symbol
            if not same_ticker(given, wanted):
                raise CandlesSymbolDiffers(
                    number, f"{quoted(given)} is not {wanted}: name the ticker if it is the same"
                )
            self._seen_ticker = given

    def _check_stated_length(self, given: str) -> None:
        if given != self._seen_length:
            minutes = minutes_of(given)
            if minutes is None:
                raise CandleMalformed(self.line, f"the length {quoted(given)} cannot be parsed")
            if minutes != self._reading.minutes:
                wrong = f"the line is of {minutes} minutes ({quoted(given)}), not of {self._reading.minutes}"
                raise CandlesLengthDiffers(self.line, wrong)
            self._seen_length = given

    def _see_gap(self, before: datetime, at: datetime, shown: datetime) -> None:
        """Remember what two bars that do not follow each other say of the file's length and clock."""
        if not self._has_neighbours:
            self._least_distance = min(self._least_distance, at - before)
            between = gap(before + self._step, at, self._step, self._reading.hours)
            self._has_neighbours = between is None or between.is_closure
        self._see_edges(shown - (at - before), shown)

    def _see_edges(self, *shown: datetime) -> None:
        """Remember times beside hours without bars, by which another clock can be tried."""
        if shown[0].tzinfo is None and len(self._edges) < _MOST_EDGES:
            self._edges += shown

    def _check_length(self) -> None:
        if self._has_neighbours or self._reading.is_sparse or self._least_distance == timedelta.max:
            return
        least = self._least_distance // timedelta(minutes=1)
        wrong = f"no two bars are less than {least} minutes apart, so they are not of {self._reading.minutes}"
        raise CandlesLengthDiffers(self.line, f"{wrong}; if they are, and only rare, say that the file is sparse")

    def _is_closed(self, at: datetime, bar: Bar, line: _Line) -> bool:
        """Whether the bar only fills closed hours. A bar with a trade in them is counted against the clock."""
        end = at + self._step
        if self._open[0] <= at and end <= self._open[1]:
            return False
        assert self._reading.hours is not None
        opens = next(self._reading.hours.open_intervals(at, max(end, at + _AHEAD)), None)
        if opens is not None and opens[0] < end:
            self._open = opens
            return False
        if bar.low == bar.high and not bar.volume:
            return True
        self._closed += 1
        self._first_closed = self._first_closed or line.number
        return False

    def _check_hours(self) -> None:
        most, of = MOST_CLOSED
        if self._closed * of <= most * self.bars:
            return
        self._see_edges(self._last_shown)
        wrong = f"{self._closed:,} of {self.bars:,} bars lie in hours in which {self._reading.symbol} does not trade"
        fitting = " or ".join(self._fitting_clocks())
        hint = f"their clock may be {fitting}" if fitting else "their clock or the instrument's hours are wrong"
        raise CandlesHoursDiffer(self._first_closed, f"{wrong} (this is the first): {hint}")

    def _fitting_clocks(self) -> list[str]:
        """The clocks by which every bar beside a gap lies in trading hours."""
        assert self._reading.hours is not None
        candidates = [clock_of(name) for name in ("America/New_York+7", "EET", "America/New_York")]
        candidates += [at_offset(timedelta(hours=hour)) for hour in (2, 3, 0, 1, -5, -4, -6, 8, 9)]
        return [clock.name for clock in candidates if clock != self.clock and self._fits(clock)][:3]

    def _fits(self, clock: Clock) -> bool:
        hours = self._reading.hours
        assert hours is not None
        try:
            times = [clock.utc(shown) for shown in self._edges]
        except ImpossibleTime:
            return False
        return bool(times) and all(hours.open_time(at, at + self._step) for at in times)


def _parser_of(text: str) -> Callable[[str], datetime]:
    """The first known way to read a time that can read this one; ValueError if there is none."""
    for pattern, parse in TIMES:
        if re.fullmatch(pattern, text, re.ASCII):
            try:
                parse(text)
            except (ValueError, IndexError, OverflowError):
                continue
            return parse
    raise ValueError(text)


_NOTHING = Decimal(0)
_TOO_LARGE = Decimal(10) ** (money.DIGITS - money.PLACES)
_PRICE = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,8}0*)?")
_PRICES = re.compile(",".join([_PRICE.pattern] * 4))
_NUMBER = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{0,40})?(?:[eE][+-]?[0-9]{1,2})?")
_NO_PRICE = re.compile(r"|null|nan|none|n/a|-", re.IGNORECASE)
_NO_PRICES = re.compile(",".join([f"(?:{_NO_PRICE.pattern})"] * 4), re.IGNORECASE)
