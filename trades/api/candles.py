"""The API of historical prices, for people. (accounts and market are siblings, so their meeting place is here.)"""

from datetime import datetime

from django.http.response import HttpResponseBase
from rest_framework.request import Request

from accounts import operations
from accounts.session_views import PeopleView
from core import money, paging, parsing, shapes
from core.errors import Invalid
from core.responses import iso, json_response
from core.shapes import AMOUNT, MOMENT, described, obj, parameter
from market import bars
from market.imports import Bar

LENGTH = {"type": "integer", "minimum": 1}
CANDLE = shapes.schema(
    "Candle",
    obj({"opened_at": MOMENT, "open": AMOUNT, "high": AMOUNT, "low": AMOUNT, "close": AMOUNT, "volume": AMOUNT}),
)
CANDLES = shapes.schema(
    "CandlesPage",
    obj(
        {
            "symbol": {"type": "string"},
            "minutes": LENGTH,
            "minutes_of_source": described(LENGTH, "The length of the stored bars that these follow from."),
            "data": shapes.array(CANDLE),
            "next": shapes.NEXT,
            "has_more": {"type": "boolean"},
        }
    ),
)
FILTERS = (
    parameter("minutes", LENGTH, required=True),
    parameter("after", MOMENT),
    parameter("before", MOMENT),
    shapes.CURSOR,
    shapes.LIMIT,
)
_KNOWN = {"minutes", "after", "before", "cursor", "limit", "format"}


class Candles(PeopleView):
    """Bars of an instrument, the oldest first."""

    @operations.personal(
        "candles", "Bars of an instrument, the oldest first", {200: CANDLES}, parameters=FILTERS,
        refuses=("not_found", "invalid"),
    )  # fmt: skip
    def get(self, request: Request, symbol: str) -> HttpResponseBase:
        given = request.GET
        if unknown := set(given) - _KNOWN:
            raise Invalid({name: ["is not a parameter of this list"] for name in unknown})
        moments = {name: _moment(name, given.get(name)) for name in ("after", "before", "cursor")}
        limit = paging.limit(given.get("limit"))
        page = bars.bars_of(
            symbol=symbol, minutes=_minutes(given.get("minutes")), after=moments["cursor"] or moments["after"],
            before=moments["before"], limit=limit,
        )  # fmt: skip
        following = iso(page.bars[-1].opened_at) if page.has_more else None
        return json_response(
            {
                "symbol": symbol, "minutes": int(given["minutes"]), "minutes_of_source": page.minutes_of_source,
                "data": [_row(bar) for bar in page.bars], "next": following, "has_more": page.has_more,
            }
        )  # fmt: skip


def _moment(name: str, text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        return parsing.moment.read(text)
    except ValueError as fault:
        raise Invalid({name: [str(fault)]}) from None


def _minutes(text: str | None) -> int:
    if text is None or not (text.isascii() and text.isdigit() and len(text) < 6):
        raise Invalid({"minutes": ["must be a whole number of minutes"]})
    return int(text)


def _row(bar: Bar) -> dict[str, object]:
    prices = {name: money.text(getattr(bar, name)) for name in ("open", "high", "low", "close", "volume")}
    return {"opened_at": iso(bar.opened_at), **prices}
