"""The formats of candle files, and the lines that are refused."""

import gzip
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from market import clocks, refusals
from market.files import text_of
from market.imports import Bar, Reader, Reading
from tests.market.conftest import BAR, HEADER, MONDAY, NOW, hours, line


def bar(*at: Any) -> Bar:
    return Bar(datetime(*at, tzinfo=UTC), *map(Decimal, BAR.split(",")))


def read(*lines: Any, packed: bool = False, encoding: str = "utf-8", **more: Any) -> Any:
    raw = "\n".join(lines).encode(encoding)
    return read_bytes(gzip.compress(raw) if packed else raw, **more)


def read_bytes(
    raw: Any, minutes: int = 60, now: Any = NOW, symbol: str = "EURUSD", sort: bool = False, **more: Any
) -> Any:
    with text_of(io.BufferedReader(io.BytesIO(raw))) as text:
        reader = Reader(text, Reading(symbol, minutes, now, **more), sort=sort)
        return reader, list(reader)


SHAPES: dict[str, Any] = {
    "header": [HEADER, f"2024-01-08T09:00:00Z,{BAR}"],
    "header, its columns in another order": ["Close;Volume;Low;High;Open;Date", "1.15;7;1.0;1.2;1.1;2024-01-08 09:00"],
    "header, quoted": ['"timestamp","open","high","low","close","volume"', f'"2024-01-08T09:00:00+00:00",{BAR}'],
    "header, seconds": ["timestamp,open,high,low,close,volume", f"1704704400,{BAR}"],
    "header, milliseconds": ["timestamp,open,high,low,close,volume", f"1704704400000,{BAR}"],
    "header, a zone in the time": [HEADER, f"2024-01-08T11:00:00+02:00,{BAR}"],
    "header, day and time apart": ["Date,Time,Open,High,Low,Close,Volume", f"2024-01-08,09:00,{BAR}"],
    "MetaTrader 5": [
        "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>",
        "2024.01.08\t09:00:00\t1.1\t1.2\t1.0\t1.15\t7\t0\t3",
    ],
    "MetaTrader 4": [f"2024.01.08,09:00,{BAR}"],
    "Dukascopy": ["Gmt time,Open,High,Low,Close,Volume", f"08.01.2024 09:00:00.000,{BAR}"],
    "Dukascopy, local": ["Local time,Open,High,Low,Close,Volume", f"08.01.2024 10:00:00.000 GMT+0100,{BAR}"],
    "Dukascopy, newer": ["UTC,Open,High,Low,Close,Volume", f"08.01.2024 09:00:00.000 UTC,{BAR}"],
    "Dukascopy, from JForex": ["Time (UTC),Open,High,Low,Close,Volume", f"2024.01.08 09:00:00,{BAR}"],
    "HistData": ["20240108 040000;1.1;1.2;1.0;1.15;7"],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_recognises_a_format_by_its_first_line(shape: str) -> None:
    reader, bars = read(*SHAPES[shape])

    assert reader.shape.name == shape.split(",")[0]
    assert bars == [bar(2024, 1, 8, 9)]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_format_may_be_compressed(shape: str) -> None:
    assert read(*SHAPES[shape], packed=True)[1] == [bar(2024, 1, 8, 9)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_not_part_of_the_header(encoding: str) -> None:
    assert read(*SHAPES["MetaTrader 5"], encoding=encoding)[1] == [bar(2024, 1, 8, 9)]


def test_accepts_windows_line_ends_and_skips_blank_lines() -> None:
    raw = "\r\n".join([*SHAPES["header"], "", line(MONDAY.replace(hour=10)), ""]).encode()

    assert read_bytes(raw)[1] == [bar(2024, 1, 8, 9), bar(2024, 1, 8, 10)]


def test_daily_bars_need_no_time() -> None:
    lines = ["<DATE>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>", "2024.01.08\t1.1\t1.2\t1.0\t1.15"]

    assert read(*lines, minutes=1440)[1] == [bar(2024, 1, 8)._replace(volume=Decimal(0))]


def test_reads_prices_exactly_as_written() -> None:
    _, bars = read(HEADER, "2024-01-08T09:00:00Z,0.10000001,0.3,0.1,0.20000000000,8.100000381469727")

    assert bars[0][1:] == tuple(map(Decimal, ("0.10000001", "0.3", "0.1", "0.2", "8.10000038")))


# --- offsets


@pytest.mark.parametrize(("offset", "hour"), [("+02:00", 7), ("-05:00", 14), ("+3", 6), ("Z", 9)])
@pytest.mark.parametrize("shape", ["MetaTrader 5", "MetaTrader 4", "header, seconds", "header, day and time apart"])
def test_converts_a_brokers_time_to_utc(shape: str, offset: str, hour: int) -> None:
    reader, bars = read(*SHAPES[shape], clock=clocks.clock_of(offset))

    assert bars == [bar(2024, 1, 8, hour)]
    assert not reader.assumes_utc


def test_reports_that_times_without_a_zone_are_taken_as_utc() -> None:
    assert read(*SHAPES["MetaTrader 5"])[0].assumes_utc
    assert not read(*SHAPES["header"])[0].assumes_utc
    assert not read(*SHAPES["Dukascopy"])[0].assumes_utc


def test_histdata_is_five_hours_behind_utc_unless_an_offset_is_given() -> None:
    assert read(*SHAPES["HistData"], clock=clocks.IN_UTC)[1] == [bar(2024, 1, 8, 4)]


@pytest.mark.parametrize("shape", ["header", "Dukascopy", "Dukascopy, local", "header, a zone in the time"])
def test_refuses_an_offset_if_the_file_states_its_zone(shape: str) -> None:
    with pytest.raises(refusals.CandlesZoneKnown):
        read(*SHAPES[shape], clock=clocks.clock_of("+02:00"))


@pytest.mark.parametrize("text", ["", "2", "+2h", "+25:00", "+02:60", "Europe/Athens", "+٢"])
def test_refuses_a_malformed_offset(text: str) -> None:
    with pytest.raises(ValueError, match="is not an offset"):
        clocks.offset_of(text)


# --- refusals

REFUSED = {
    "nothing at all": ("candles_unreadable", 1, [""]),
    "prose": ("candles_unreadable", 1, ["Dear desk"]),
    "a header without a close": ("candles_unreadable", 1, ["time,open,high,low", "x"]),
    "a header without a time": ("candles_unreadable", 1, ["open,high,low,close"]),
    "a column twice": ("candles_unreadable", 1, ["time,open,high,low,close,open"]),
    "figures without a shape": ("candles_unreadable", 1, ["1,2,3"]),
    "no bar after the header": ("candles_unreadable", 1, [HEADER]),
    "a column too few": ("candle_malformed", 3, [HEADER, *hours(1), "2024-01-08T09:00:00Z,1,1"]),
    "a word for a price": ("candle_malformed", 2, [HEADER, line(MONDAY, "1.1,high,1,1,1")]),
    "a power too large": ("candle_malformed", 2, [HEADER, line(MONDAY, "1e12,1,1,1,1")]),
    "one price that is none": ("candle_malformed", 2, [HEADER, line(MONDAY, "NaN,1,1,1,1")]),
    "no bar but lines without prices": ("candles_unreadable", 2, [HEADER, line(MONDAY, "NaN,NaN,NaN,NaN,1")]),
    "a comma for a point": ("candle_malformed", 2, [HEADER.replace(",", ";"), "2024-01-08;1,1;1,1;1,1;1,1;1"]),
    "a price too fine": ("candle_malformed", 2, [HEADER, line(MONDAY, "1.123456789,2,1,1,1")]),
    "a price too large": ("candle_malformed", 2, [HEADER, line(MONDAY, "1,1234567890123,1,1,1")]),
    "digits of another script": ("candle_malformed", 2, [HEADER, line(MONDAY, "١,1,1,1,1")]),
    "a negative volume": ("candle_malformed", 2, [HEADER, line(MONDAY, "1,1,1,1,-1")]),
    "a day that is none": ("candle_malformed", 2, [HEADER, f"2024-02-30,{BAR}"]),
    "a time in another way than the first": ("candle_malformed", 3, [HEADER, *hours(1), f"1704704400,{BAR}"]),
    "a time with seconds": ("candle_malformed", 2, [HEADER, f"2024-01-08T09:00:01Z,{BAR}"]),
    "an endless line": ("candle_malformed", 2, [HEADER, "1" * 5000]),
    "a quote that is not closed": ("candle_malformed", 2, [HEADER, f'"2024-01-08,{BAR}']),
    "a high below the close": ("candle_outside_range", 3, [HEADER, *hours(1), "2024-01-08T01:00:00Z,1,1,1,2,1"]),
    "a low above the open": ("candle_outside_range", 2, [HEADER, line(MONDAY, "1,3,2,2,1")]),
    "a price of nothing": ("candle_outside_range", 2, [HEADER, line(MONDAY, "1,1,0,1,1")]),
    "two bars of one time": ("candle_unordered", 3, [HEADER, *hours(1), line(MONDAY, "1.1,1.3,1.0,1.15,7")]),
    "a date of two meanings": ("candle_malformed", 2, [HEADER, f"01/02/2024,{BAR}"]),
    "another instrument": (
        "candles_symbol_differs",
        3,
        ["symbol,time,open,high,low,close,volume", *[f"EUR/USD,{hours(1)[0]}", f"GBPUSD,{hours(2)[1]}"]],
    ),
    "another length": (
        "candles_length_differs",
        2,
        ["<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>", f"EURUSD,D,20240108,000000,{BAR}"],
    ),
    "bars of a day for hours": (
        "candles_length_differs",
        4,
        [HEADER, *(f"2024-01-{day:02},{BAR}" for day in (8, 9, 10))],
    ),
    "bars of half an hour for hours": ("candle_unordered", 3, [HEADER, *hours(1), f"2024-01-08T00:30:00Z,{BAR}"]),
    "the future": ("candle_in_future", 2, [HEADER, line(NOW + timedelta(hours=1))]),
    "the far future": ("candle_in_future", 2, [HEADER, f"9999-12-31T23:00:00Z,{BAR}"]),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_refuses_an_invalid_bar_by_its_line(fault: str) -> None:
    code, number, lines = REFUSED[fault]

    with pytest.raises(refusals.LineRefused) as refusal:
        read(*lines)

    assert (refusal.value.code, refusal.value.extra["line"]) == (code, number)
    assert refusal.value.message.startswith(f"line {number}: ")


def test_refuses_a_truncated_compressed_file() -> None:
    packed = gzip.compress("\n".join([HEADER, *hours(50)]).encode())

    for cut in (packed[:-20], packed[:5], packed[:10]):
        with pytest.raises(refusals.CandlesUnreadable, match="damaged or truncated"):
            read_bytes(cut)


def test_refuses_bytes_that_are_not_text() -> None:
    with pytest.raises(refusals.CandlesUnreadable):
        read_bytes(bytes(range(128, 256)) * 4)
    with pytest.raises(refusals.CandleMalformed, match="line 3"):
        read_bytes("\n".join([HEADER, *hours(1)]).encode() + b"\n2024-01-08T01:00:00Z,\xff,1,1,1,1\n")


def test_leaves_out_an_unfinished_bar() -> None:
    reader, bars = read(HEADER, *hours(3), now=MONDAY + timedelta(hours=2, minutes=59))

    assert (len(bars), reader.unfinished) == (2, 1)


def test_accepts_months_of_different_length() -> None:
    lines = [f"2024-{month:02}-01,{BAR}" for month in range(1, 13)]

    assert len(read(HEADER, *lines, minutes=43200)[1]) == 12
