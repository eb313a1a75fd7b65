"""The formats of candle files, recognised by their first lines."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from market.refusals import CandlesUnreadable

MOST_QUOTED = 40  # characters of an unreadable text that a refusal quotes
# HistData.com: "Eastern Standard Time (EST) time-zone WITHOUT Day Light Savings adjustments".
EASTERN = timedelta(hours=-5)


@dataclass(frozen=True, slots=True)
class Shape:
    """The columns of a file format. `offset`: the documented UTC offset of its times; None if there is none.

    `above`: the number of lines above the bars. `ticker` and `length`: the columns that name the instrument and the
    length of the bar in each line. `stated_ticker`: the instrument that the header names.
    """

    name: str
    delimiter: str
    columns: int
    time: tuple[int, ...]
    prices: tuple[int, ...]
    volume: int | None
    offset: timedelta | None = None
    above: int = 0
    ticker: int | None = None
    length: int | None = None
    stated_ticker: str = ""


# --- times: the first bar determines the format of all times in the file

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - the zone is set by the reader
# "2024-01-08 09:00:00 UTC", "… GMT", "… GMT+0100"
_ZONE = re.compile(r" (?:UTC|GMT)([+-]\d\d:?\d\d)?$")


def _zoned(text: str) -> datetime:
    return datetime.fromisoformat(_ZONE.sub(lambda match: match[1] or "Z", text))


def _dotted(text: str) -> datetime:
    return _zoned(text.replace(text[4], "-", 2))


def _day_first(text: str) -> datetime:
    return _zoned(f"{text[6:10]}-{text[3:5]}-{text[:2]}{text[10:]}")


def _compact(text: str) -> datetime:
    return datetime.fromisoformat(text.replace(" ", "T"))


def _since_epoch(unit: timedelta, divisor: int = 1) -> Callable[[str], datetime]:
    def parse(text: str) -> datetime:
        whole, _, rest = text.partition(".")
        count, more = divmod(int(whole), divisor)
        if rest.strip("0") or more:
            raise ValueError
        return _EPOCH + count * unit

    return parse


TIMES: list[tuple[str, Callable[[str], datetime]]] = [
    (r"\d{4}-\d\d-\d\d([T ].*)?", datetime.fromisoformat),
    (r"\d{4}-\d\d-\d\d .*", _zoned),
    (r"\d{4}[./]\d\d[./]\d\d( .*)?", _dotted),
    (r"\d\d\.\d\d\.\d{4}( .*)?", _day_first),
    (r"\d{8}( (\d{4}|\d{6}))?", _compact),
    (r"\d{9,10}(\.0*)?", _since_epoch(timedelta(seconds=1))),
    (r"\d{12,13}(\.0*)?", _since_epoch(timedelta(milliseconds=1))),
    (r"\d{15,16}(\.0*)?", _since_epoch(timedelta(microseconds=1))),
    (r"\d{18,19}(\.0*)?", _since_epoch(timedelta(microseconds=1), 1000)),  # nanoseconds, as pandas writes integers
]
AMBIGUOUS = re.compile(r"\d{1,2}[/-]\d{1,2}[/-]\d{4}.*", re.ASCII)


# --- formats

_DUKASCOPY_UTC = ("gmt time", "utc", "time (utc)", "time (gmt)")
_UTC_NAMES = (*_DUKASCOPY_UTC, "unix", "unix timestamp", "date (utc)", "timestamp (utc)", "datetime (utc)")
_LOCAL_NAMES = ("local time", "eet time", "time (eet)")
# A count since 1970 comes before a text of the same time.
_TIME_NAMES = (
    "unix", "unix timestamp", "open_time", "open time", "opentime", "time", "timestamp", "datetime", "date",
    "date time", "dtyyyymmdd", "t", *_UTC_NAMES, *_LOCAL_NAMES,
)  # fmt: skip
_DATE_NAMES = ("date", "dtyyyymmdd")
_VOLUME_NAMES = ("tickvol", "tick_volume", "tick volume", "volume", "vol", "v")
PRICE_NAMES = ("open", "high", "low", "close")
_TICKER_NAMES = ("ticker", "symbol", "pair", "instrument")
_LENGTH_NAMES = ("per", "period", "timeframe", "interval")
MOST_ABOVE = 5  # lines above a header, such as an address or a remark


def shape_of(head: Sequence[str], columns: Sequence[str] = ()) -> Shape:
    """The format of a file that begins with these lines (`MOST_ABOVE` + 2 or more, where the file has them).

    A header may have a few lines above it, such as an address; a table without a header begins with its first bar.
    `columns` names the columns of a table in place of its header, "-" one that has no meaning here.
    """
    delimiter, fields = _split(head[0])
    if columns:
        if len(columns) != len(fields):
            raise CandlesUnreadable(1, f"{len(fields)} columns, but {len(columns)} names for them")
        return _headed(delimiter, columns, above=0 if fields[0][:1].isdigit() else 1)
    if fields[0][:1].isdigit() and len(fields) > 1:
        return _headless(head[0], delimiter, fields)
    refusal = None
    for above, line in enumerate(head[: MOST_ABOVE + 1]):
        try:
            delimiter, fields = _split(line)
            shape = _headed(delimiter, fields, above=above + 1)
            return _yfinance(shape, head) if fields[0] == "price" else shape
        except CandlesUnreadable as unreadable:
            refusal = refusal or unreadable
    assert refusal is not None
    raise refusal


def _split(line: str) -> tuple[str, list[str]]:
    text = line.strip("\r\n")
    delimiter = next((mark for mark in "\t;,|" if mark in text), "")
    fields = text.split(delimiter) if delimiter else [text]
    return delimiter, [field.strip().strip('"').lower() for field in fields]


def _headless(line: str, delimiter: str, fields: Sequence[str]) -> Shape:
    count = len(fields)

    def shape(name: str, time: tuple[int, ...], volume: int | None, offset: timedelta | None = None) -> Shape:
        first = time[-1] + 1
        return Shape(name, delimiter, count, time, (first, first + 1, first + 2, first + 3), volume, offset)

    if re.fullmatch(r"\d{4}\.\d\d\.\d\d", fields[0]) and count in (6, 7):
        return shape("MetaTrader 4", (0, 1), 6 if count == 7 else None)
    if re.fullmatch(r"\d{8} \d{6}", fields[0]) and count in (5, 6):
        return shape("HistData", (0,), 5 if count == 6 else None, EASTERN)
    if re.fullmatch(r"\d{13}|\d{16}", fields[0]) and count in (11, 12):
        return shape("Binance", (0,), 5, timedelta())
    if re.fullmatch(r"\d{9,10}", fields[0]) and count == 7:
        return shape("Kraken", (0,), 5, timedelta())
    raise CandlesUnreadable(
        1, f"{quoted(line.strip())} is neither a header nor a bar of a known format: name its columns"
    )


def _headed(delimiter: str, fields: Sequence[str], above: int) -> Shape:
    if not delimiter:
        raise CandlesUnreadable(1, f"{quoted(','.join(fields))} is not the beginning of a table")
    names = [field.strip("<>") for field in fields]
    missing = [name for name in PRICE_NAMES if name not in names]
    times = _time_columns(names)
    if missing or not times:
        raise CandlesUnreadable(1, f"the header has no column {', '.join(missing) or 'time, timestamp or date'}")
    if twice := next((name for name in names if name in (*PRICE_NAMES, *_TIME_NAMES) and names.count(name) > 1), None):
        raise CandlesUnreadable(1, f"the header has the column {twice} twice")
    name, offset = "header", timedelta() if names[times[0]] in _UTC_NAMES else None
    if names[times[0]] in (*_DUKASCOPY_UTC, *_LOCAL_NAMES):
        name = "Dukascopy"
    elif fields[times[0]].startswith("<"):
        name = "MetaTrader 5"
    elif names[0] == "price":
        name = "yfinance"
    prices = tuple(names.index(column) for column in PRICE_NAMES)
    return Shape(
        name, delimiter, len(names), times, prices, _volume_column(names), offset, above,
        ticker=_first_of(_TICKER_NAMES, names), length=_first_of(_LENGTH_NAMES, names),
    )  # fmt: skip


def _time_columns(names: Sequence[str]) -> tuple[int, ...]:
    date = _first_of(_DATE_NAMES, names)
    if date is not None and "time" in names:
        return date, names.index("time")
    if (column := _first_of(_TIME_NAMES, names)) is not None:
        return (column,)
    # pandas leaves the name of the index empty, yfinance writes "Price" there.
    return (0,) if names[0] in ("", "price") else ()


def _volume_column(names: Sequence[str]) -> int | None:
    if (exact := _first_of(_VOLUME_NAMES, names)) is not None:
        return exact
    # "Volume BTC" beside "Volume USD", "Volume_(BTC)" beside "Volume_(Currency)": the first is in units of the base.
    return next((column for column, name in enumerate(names) if re.match(r"volume[ _(]", name)), None)


def _first_of(wanted: Sequence[str], names: Sequence[str]) -> int | None:
    return next((names.index(name) for name in wanted if name in names), None)


def _yfinance(shape: Shape, head: Sequence[str]) -> Shape:
    """The shape with the two more lines that yfinance writes below its header: the ticker, and the index's name."""
    below = [_split(line)[1] for line in head[shape.above : shape.above + 2]]
    if len(below) < 2 or below[0][0] != "ticker" or below[1][0] not in ("date", "datetime"):
        raise CandlesUnreadable(shape.above, "a header of yfinance without its lines Ticker and Date")
    return replace(shape, above=shape.above + 2, stated_ticker=below[0][shape.prices[0]])


# --- what a file says of itself


def same_ticker(given: str, symbol: str) -> bool:
    """Whether a file's name of an instrument is the desk's: EUR/USD, eurusd, C:EUR-USD and EURUSD=X are EURUSD."""
    plain = re.sub(r"^[A-Z]{1,10}:|=X$", "", given.strip().upper())
    return _letters(plain) == _letters(symbol.upper())


def _letters(text: str) -> str:
    return re.sub(r"[^A-Z0-9.]", "", text)


_UNITS = {"M": 1, "MIN": 1, "T": 1, "H": 60, "D": 1440, "W": 10080, "MN": 43200, "MO": 43200}


def minutes_of(text: str) -> int | None:
    """The minutes that a length such as D, 60, H1, 5m, 1h or MN means; None if it is not one. A bare M is a month."""
    plain = text.strip().upper()
    if plain == "M":
        return _UNITS["MN"]
    match = re.fullmatch(r"(\d*)([A-Z]*)|([A-Z]+)(\d+)", plain, re.ASCII)
    if match is None or not plain:
        return None
    count, unit = match[1] or match[4] or "1", match[2] or match[3] or "M"
    return int(count) * _UNITS[unit] if unit in _UNITS else None


def quoted(text: str) -> str:
    return repr(text if len(text) <= MOST_QUOTED else f"{text[:MOST_QUOTED]}…")
