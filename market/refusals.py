"""Why a candle file is not imported. A refusal of a line names the line."""

from core.errors import DomainError


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
    detail = "A bar begins before the bar before it ends, or differs from another bar of the same time."


class CandleInFuture(LineRefused):
    code = "candle_in_future"
    detail = "A bar begins in the future."


class CandlesZoneKnown(LineRefused):
    code = "candles_zone_told"
    detail = "The file states its own time zone, and a clock was given too."


class CandlesSymbolDiffers(LineRefused):
    code = "candles_symbol_differs"
    detail = "The file names another instrument than the one that its bars were to be imported for."


class CandlesLengthDiffers(LineRefused):
    code = "candles_length_differs"
    detail = "The bars of the file are not of the stated length."


class CandlesHoursDiffer(LineRefused):
    code = "candles_hours_differ"
    detail = "Bars of the file lie in hours in which the instrument does not trade: their clock is another."
