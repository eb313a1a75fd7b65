"""Files as exchanges, brokers and libraries write them, and what they say of themselves."""

import gzip
import io
import zipfile
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from market import clocks, refusals
from market.hours import Hours, sessions_of, zone_of
from market.imports import Unsorted
from tests.market.conftest import BAR, HEADER, MONDAY, hours, line
from tests.market.test_shapes import bar, read, read_bytes

D = Decimal
CURRENCIES = Hours(zone_of("America/New_York"), sessions_of("Sun-Thu 17:00-17:00"))
METALS = Hours(zone_of("America/New_York"), sessions_of("Sun-Thu 18:00-17:00"))
HOUR = timedelta(hours=1)


def zipped(method: int = zipfile.ZIP_DEFLATED, **files: str) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", method) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return raw.getvalue()


# Each is one bar of 2024-01-08 09:00, open 1.1, high 1.2, low 1.0, close 1.15, volume 7.
FILES: dict[str, tuple[str, list[str]]] = {
    "Binance": ("EURUSD", [f"1704704400000,{BAR},1704707999999,8.05,112,3.5,4.02,0"]),
    "Binance, microseconds": ("EURUSD", [f"1704704400000000,{BAR},1704707999999999,8.05,112,3.5,4.02,0"]),
    "header, of Binance's futures": (
        "EURUSD",
        ["open_time,open,high,low,close,volume,close_time,quote,count", f"1704704400000,{BAR},1704707999999,8,11"],
    ),
    "Kraken": ("EURUSD", [f"1704704400,{BAR},12"]),
    "header, of CryptoDataDownload": (
        "BTCUSD",
        [
            "https://www.example.com", "unix,date,symbol,open,high,low,close,Volume BTC,Volume USD",
            "1704704400,2024-01-08 09:00:00,BTC/USD,1.1,1.2,1.0,1.15,7,8.05",
        ],
    ),
    "header, of Kaggle": (
        "BTCUSD",
        ["Timestamp,Open,High,Low,Close,Volume_(BTC),Volume_(Currency),Weighted_Price", f"1704704400,{BAR},8,1.13"],
    ),
    "header, of pandas": ("EURUSD", [",open,high,low,close,volume", f"2024-01-08 09:00:00+00:00,{BAR}"]),
    "header, nanoseconds": ("EURUSD", ["time,open,high,low,close,volume", f"1704704400000000000,{BAR}"]),
    "header, slashes": ("EURUSD", ["Date,Time,Open,High,Low,Close,Volume", f"2024/01/08,09:00,{BAR}"]),
    "header, UTC behind the time": ("EURUSD", [HEADER, f"2024-01-08 09:00:00 UTC,{BAR}"]),
    "MetaTrader 5, of Forex Tester": (
        "EURUSD", ["<TICKER>,<DTYYYYMMDD>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>", f"EURUSD,20240108,090000,{BAR}"],
    ),
    "MetaTrader 5, of Stooq": (
        "EURUSD",
        [
            "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>",
            f"EURUSD,60,20240108,090000,{BAR},0",
        ],
    ),
    "yfinance": (
        "EURUSD",
        [
            "Price,Open,High,Low,Close,Volume", "Ticker,EURUSD=X,EURUSD=X,EURUSD=X,EURUSD=X,EURUSD=X", "Datetime,,,,,",
            f"2024-01-08 09:00:00+00:00,{BAR}",
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_reads_a_file_as_its_maker_writes_it(name: str) -> None:
    symbol, lines = FILES[name]

    reader, bars = read(*lines, symbol=symbol)

    assert reader.shape.name == name.split(",")[0]
    assert bars == [bar(2024, 1, 8, 9)]


@pytest.mark.parametrize("name", FILES)
def test_reads_it_from_an_archive_and_in_utf_16_without_a_mark(name: str) -> None:
    symbol, lines = FILES[name]
    text = "\r\n".join([*lines, ""])

    for raw in (
        zipped(**{"bars.csv": text, "report.txt": "1 bar"}),
        text.encode("utf-16-le"),
        text.encode("utf-16-be"),
    ):
        assert read_bytes(raw, symbol=symbol)[1] == [bar(2024, 1, 8, 9)]


@pytest.mark.parametrize("hours_", [None, CURRENCIES])
def test_a_time_before_all_markets_is_refused(hours_: Hours | None) -> None:
    with pytest.raises(refusals.CandleMalformed, match="is before 1800"):
        read(HEADER, f"0001-01-01 00:00:00,{BAR}", hours=hours_)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_archive_is_refused_by_each_method(method: int) -> None:
    raw = bytearray(zipped(method, **{"a.csv": "\n".join([HEADER, *hours(500)])}))
    raw[60:300] = bytes(byte ^ 0xFF for byte in raw[60:300])

    with pytest.raises(refusals.CandlesUnreadable, match="damaged or truncated"):
        read_bytes(bytes(raw))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (zipped(**{"a.csv": "", "b.csv": ""}), "2 tables (a.csv, b.csv)"),
        (zipped(), "no file"),
        (zipped(**{"a.csv": HEADER * 100})[:-30], "damaged or truncated"),
    ],
)
def test_an_archive_that_is_not_one_table_is_refused_as_such(raw: bytes, says: str) -> None:
    with pytest.raises(refusals.CandlesUnreadable) as refusal:
        read_bytes(raw)

    assert says in refusal.value.message


def test_columns_may_be_named_for_a_table_without_a_header() -> None:
    lines = ["7|2024-01-08 09:00|x|1.1|1.15|1.2|1.0"]

    with pytest.raises(refusals.CandlesUnreadable, match="name its columns"):
        read(*lines)
    _, bars = read(*lines, columns=("volume", "time", "-", "open", "close", "high", "low"))

    assert bars == [bar(2024, 1, 8, 9)]


# --- numbers


def test_reads_prices_with_an_exponent_exactly() -> None:
    _, bars = read(HEADER, line(MONDAY, "1.1e-05,1.2e-05,1e-05,1.1E-5,3.4e9"))

    assert bars[0][1:] == (D("0.000011"), D("0.000012"), D("0.00001"), D("0.000011"), D("3400000000"))


def test_rounds_prices_to_the_point_only_if_asked() -> None:
    noisy = line(MONDAY, "1.1044851541519165,1.1044900000000001,1.1,1.10448499,0")

    with pytest.raises(refusals.CandleMalformed, match="more than 8 decimals"):
        read(HEADER, noisy)
    _, bars = read(HEADER, noisy, point=D("0.00001"))

    assert bars[0][1:5] == (D("1.10449"), D("1.10449"), D("1.1"), D("1.10448"))
    assert read(HEADER, line(MONDAY, "4510.37,4510.40,4510.1,4510.12,0"), point=D("0.25"))[1][0][1:5] == (
        D("4510.25"), D("4510.5"), D("4510"), D("4510"),
    )  # fmt: skip


def test_prices_at_or_below_zero_need_an_instrument_that_allows_them() -> None:
    negative = line(MONDAY, "-37.63,0,-40.32,-37.63,9")

    with pytest.raises(refusals.CandleOutsideRange):
        read(HEADER, negative)
    assert read(HEADER, negative, allows_nonpositive=True)[1][0].low == D("-40.32")


# --- lines that are left out, or out of order


def test_leaves_out_lines_without_prices_and_counts_them() -> None:
    lines = ["Date,Open,High,Low,Close,Adj Close,Volume", "2024-01-08,1.1,1.2,1.0,1.15,1.15,7"]

    reader, bars = read(*lines, "2024-01-09,null,null,null,null,null,null", "2024-01-10,1,1,1,1,1,0", minutes=1440)

    assert ([one.opened_at.day for one in bars], reader.without_prices) == ([8, 10], 1)


def test_a_delimiter_at_the_end_of_each_line_is_no_column() -> None:
    assert read(HEADER, *(f"{one}," for one in hours(2)))[1] == read(HEADER, *hours(2))[1]


def test_a_file_with_the_newest_bar_first_is_sorted() -> None:
    lines = [HEADER, *hours(5)[::-1]]

    with pytest.raises(Unsorted):
        read(*lines)
    assert read(*lines, sort=True)[1] == read(HEADER, *hours(5))[1]


def test_a_line_that_is_there_twice_counts_once() -> None:
    reader, bars = read(HEADER, *hours(2), hours(2)[1], *hours(3)[2:])

    assert (len(bars), reader.doubled) == (3, 1)
    assert len(read(HEADER, *hours(3), *hours(2), sort=True)[1]) == 3


def test_two_lines_of_a_time_that_differ_are_refused_also_when_sorted() -> None:
    lines = [HEADER, *hours(3), line(MONDAY, "1.1,1.3,1.0,1.15,7")]

    with pytest.raises(refusals.CandleUnordered, match="differs from line"):
        read(*lines, sort=True)


# --- clocks


def mt5(*times: str) -> list[str]:
    header = "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>"
    return [header, *("\t".join([*at.split(" "), "1.1", "1.2", "1.0", "1.15", "7"]) for at in times)]


def shown(*days: datetime) -> list[str]:
    return [f"{day:%Y.%m.%d %H:%M:%S}" for day in days]


@pytest.mark.parametrize(
    ("zone", "winter", "summer"),
    [("EET", 7, 6), ("America/New_York+7", 7, 6), ("Asia/Tokyo", 0, 0), ("Etc/GMT-2", 7, 7)],
)
def test_a_servers_clock_has_its_summer_time(zone: str, winter: int, summer: int) -> None:
    _, bars = read(*mt5("2024.01.08 09:00:00", "2024.07.08 09:00:00"), clock=clocks.clock_of(zone), is_sparse=True)

    assert [one.opened_at.hour for one in bars] == [winter, summer]


def test_new_york_and_europe_change_their_clocks_on_different_days() -> None:
    """From 10 to 31 March 2024 a server seven hours ahead of New York is an hour ahead of one in Athens."""
    eet, new_york = (clocks.clock_of(name) for name in ("EET", "America/New_York+7"))

    noon = datetime(2024, 3, 20, 12)  # noqa: DTZ001 - what a server's clock shows
    assert eet.utc(noon) - new_york.utc(noon) == HOUR


def test_the_hour_that_is_shown_twice_is_read_in_order() -> None:
    """In Athens, 27 October 2024, the clock shows 03:00 to 04:00 twice: 00:00 and 01:00 UTC."""
    day = datetime(2024, 10, 27, tzinfo=UTC)
    times = shown(*(day.replace(hour=hour) for hour in (2, 3, 3, 4)))
    lines = mt5(*times)
    lines[3] = lines[3].replace("1.15", "1.16")

    _, bars = read(*lines, clock=clocks.clock_of("EET"))
    expected = [day - HOUR, day, day + HOUR, day + 2 * HOUR]

    assert [one.opened_at for one in bars] == expected
    assert [one.opened_at for one in read(*lines, clock=clocks.clock_of("EET"), sort=True)[1]] == expected


def test_a_time_that_the_clock_never_showed_is_refused() -> None:
    with pytest.raises(refusals.CandleMalformed, match="EET never showed 2024-03-31 03:00"):
        read(*mt5("2024.03.31 03:00:00"), clock=clocks.clock_of("EET"))


@pytest.mark.parametrize("text", ["", "Athens", "America/New_York+99", "../../etc/passwd", "EET+x"])
def test_refuses_an_unknown_clock(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no name of a time zone|is not an offset"):
        clocks.clock_of(text)


# --- what a file says of itself


def week(hours_: Hours, step: timedelta = HOUR) -> list[datetime]:
    """The times of a week's bars, in UTC."""
    start = datetime(2024, 1, 7, tzinfo=UTC)
    times = (start + number * step for number in range(int(timedelta(days=7) / step)))
    return [at for at in times if hours_.open_time(at, at + step)]


@pytest.mark.parametrize("hours_", [CURRENCIES, METALS])
def test_a_clock_that_puts_bars_into_closed_hours_is_refused_and_the_right_one_is_named(hours_: Hours) -> None:
    lines = mt5(*shown(*(at + 2 * HOUR for at in week(hours_))))

    with pytest.raises(refusals.CandlesHoursDiffer, match=r"America/New_York\+7 or EET") as refusal:
        read(*lines, hours=hours_)
    reader, bars = read(*lines, hours=hours_, clock=clocks.clock_of("EET"))

    assert refusal.value.extra["line"] > 1
    assert [one.opened_at for one in bars] == week(hours_)
    assert reader.idle == 0


def test_bars_that_fill_closed_hours_without_a_trade_are_left_out() -> None:
    """As Dukascopy writes weekends, if asked."""
    saturday = MONDAY - timedelta(days=2)
    fillers = [line(saturday + number * HOUR, "1.1,1.1,1.1,1.1,0") for number in range(5)]

    reader, bars = read(HEADER, *fillers, *hours(5), hours=CURRENCIES)

    assert (len(bars), reader.idle) == (5, 5)


def test_bars_at_the_length_of_others_are_refused_unless_they_are_said_to_be_rare() -> None:
    with pytest.raises(refusals.CandlesLengthDiffers, match="no two bars are less than 60 minutes apart"):
        read(HEADER, *hours(48), minutes=1)
    assert len(read(HEADER, *hours(48), minutes=1, is_sparse=True)[1]) == 48


def test_a_weekend_between_two_bars_does_not_make_them_rare() -> None:
    friday, monday = datetime(2024, 1, 12, tzinfo=UTC), datetime(2024, 1, 15, tzinfo=UTC)

    assert len(read(HEADER, line(friday), line(monday), minutes=1440, hours=CURRENCIES)[1]) == 2


def test_hourly_bars_are_not_taken_for_months() -> None:
    with pytest.raises(refusals.CandleUnordered):
        read(HEADER, *hours(3), minutes=43200)


@pytest.mark.parametrize(
    ("length", "minutes"),
    [
        ("60", 60),
        ("H1", 60),
        ("1h", 60),
        ("D", 1440),
        ("M15", 15),
        ("15m", 15),
        ("5min", 5),
        ("W", 10080),
        ("MN", 43200),
    ],
)
def test_compares_the_length_that_the_file_states(length: str, minutes: int) -> None:
    header = "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>"
    bar_ = f"EURUSD,{length},20240108,000000,{BAR}"

    assert len(read(header, bar_, minutes=minutes)[1]) == 1
    with pytest.raises(refusals.CandlesLengthDiffers, match=f"of {minutes} minutes"):
        read(header, bar_, minutes=30)


@pytest.mark.parametrize("name", ["EURUSD", "EUR/USD", "eur-usd", "EURUSD=X", "C:EURUSD"])
def test_accepts_the_usual_spellings_of_an_instrument(name: str) -> None:
    assert len(read("symbol,time,open,high,low,close,volume", f"{name},{hours(1)[0]}")[1]) == 1


def test_the_name_in_the_file_may_be_stated() -> None:
    lines = ["symbol,time,open,high,low,close,volume", f"GOLD,{hours(1)[0]}"]

    with pytest.raises(refusals.CandlesSymbolDiffers, match="line 2: 'GOLD' is not XAUUSD"):
        read(*lines, symbol="XAUUSD")
    assert len(read(*lines, symbol="XAUUSD", ticker="gold")[1]) == 1


def test_yfinance_names_the_ticker_above_the_bars() -> None:
    with pytest.raises(refusals.CandlesSymbolDiffers, match="line 2"):
        read(*FILES["yfinance"][1], symbol="GBPUSD")


def test_epochs_of_exchanges_are_utc_and_need_no_clock() -> None:
    assert not read(*FILES["Kraken"][1])[0].assumes_utc
    with pytest.raises(refusals.CandlesZoneKnown):
        read(*FILES["Kraken"][1], clock=clocks.clock_of("EET"))


def test_a_compressed_file_that_unpacks_to_an_endless_line_is_refused_without_reading_it_all() -> None:
    with pytest.raises(refusals.CandleMalformed, match="longer than"):
        read_bytes(gzip.compress(b"1" * 50_000_000))
