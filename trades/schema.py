"""The OpenAPI shapes of the bots' endpoints."""

from collections.abc import Callable
from typing import Any

from drf_spectacular.authentication import SessionScheme
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema

from core import paging
from trades.models import Reason, WhyNot

Schema = dict[str, Any]

AMOUNT: Schema = {"type": "string", "pattern": r"^-?[0-9]{1,12}(\.[0-9]{1,8})?$", "examples": ["1.10500000"]}
POSITIVE: Schema = {
    **AMOUNT,
    "pattern": r"^(?=.*[1-9])[0-9]{1,12}(\.[0-9]{1,8})?$",
    "description": "Above zero.",
}
NOT_NEGATIVE: Schema = {**AMOUNT, "pattern": r"^[0-9]{1,12}(\.[0-9]{1,8})?$"}
TICKET: Schema = {
    "type": "string",
    "pattern": "^[1-9][0-9]{0,18}$",
    "examples": ["987654"],
}
NAME: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
SIDE: Schema = {"type": "string", "enum": ["BUY", "SELL"]}
REASON: Schema = {
    "type": "string",
    "enum": ["TP", "SL", "MANUAL", "STOP_OUT", "RECONCILED", "STAFF", "TP_HIT", "SL_HIT"],
}
MOMENT: Schema = {"type": "string", "format": "date-time"}
TRADE_ID: Schema = {"type": "string", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"}
MS: Schema = {"type": "integer", "minimum": 10**12, "maximum": 10**13 - 1, "description": "By the desk's clock."}


def or_number(shape: Schema, **bounds: int) -> Schema:
    """As bots may write it: a JSON number of at most 8 decimals is read as well, digit by digit."""
    return {**shape, "type": ["string", "number"], **bounds}


def nullable(shape: Schema) -> Schema:
    return {"oneOf": [shape, {"type": "null"}]}


def obj(properties: Schema, required: list[str] | None = None, **more: Any) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        **more,
    }


TRADE = obj(
    {
        "trade_id": {"type": "string", "format": "uuid"},
        "role": {"type": "string", "enum": ["master", "copy"]},
        "strategy": nullable(NAME),
        "ticket_id": TICKET,
        "master_ticket": TICKET,
        "symbol": {"type": ["string", "null"]},
        "type": {"type": ["string", "null"], "enum": ["BUY", "SELL", None]},
        "volume": {"type": ["string", "null"]},
        "copy_volume": {"type": ["string", "null"], "description": "What the caller's own settings make of it."},
        "copy": {
            "type": ["object", "null"],
            "description": "What the caller's copy must be: symbol, type, volume, sl, tp; opens, or why_not.",
        },
        "copies": {"type": ["string", "null"], "description": "The trade_id that a copy copies."},
        "opened_volume": {"type": "string", "description": "Of an open trade: what its copies are sized by."},
        "opened_sl": {"type": ["string", "null"]},
        "open_price": {"type": ["string", "null"]},
        "sl": {"type": ["string", "null"]},
        "tp": {"type": ["string", "null"]},
        "opened_at": {"type": ["string", "null"]},
        "seq": {"type": "string"},
        "status": {"type": "string", "enum": ["OPEN", "CLOSED"]},
    },
    [
        "trade_id",
        "role",
        "strategy",
        "ticket_id",
        "master_ticket",
        "symbol",
        "type",
        "volume",
        "copy_volume",
        "open_price",
        "sl",
        "tp",
        "opened_at",
        "seq",
        "status",
    ],
)
SNAPSHOT = obj(
    {
        "stream_epoch": {"type": "string"},
        "as_of": {"type": "object", "additionalProperties": {"type": "string"}},
        "count": {"type": "integer"},
        "digest": {"type": "string", "description": "SHA-256 of the trades array as sent, hex."},
        "trades": {"type": "array", "items": TRADE},
    }
)
BARE_LIST: Schema = {
    "type": "array",
    "items": {**TRADE, "properties": {**TRADE["properties"], "ticket_id": {"type": "integer"}}},
}
TIME = obj({"server_time": {"type": "integer"}, "iso": {"type": "string"}})
DONE = obj(
    {
        "status": {"type": "string"},
        "ticket_id": TICKET,
        "seq": {"type": "string"},
        "trade": TRADE,
        "already": {"type": "boolean"},
        "ignored": {"type": "boolean"},
    },
    ["status"],
)
BROADCASTED = obj({"status": {"const": "broadcasted"}, "ticket": {"type": "integer"}})
CLOSED = obj(
    {"status": {"type": "string"}, "ticket": {"type": "integer"}, "already": {"type": "boolean"}}, ["status", "ticket"]
)
ORDER = obj(
    {
        "status": {"type": "string"},
        "order_id": {"type": "string"},
        "slippage_points": {"type": ["string", "null"], "description": "Above zero is worse than asked."},
        "slippage_bps": {"type": ["string", "null"]},
    }
)
AMOUNT_IN, POSITIVE_IN = or_number(AMOUNT), or_number(POSITIVE, exclusiveMinimum=0)
NOT_NEGATIVE_IN = or_number(NOT_NEGATIVE, minimum=0)
TICKET_IN = {**TICKET, "type": ["string", "integer"], "minimum": 1, "maximum": 10**19 - 1}

DEAL: Schema = {"type": ["string", "integer"], "pattern": r"^[A-Za-z0-9_.-]{1,64}$"}
OPEN = obj(
    {
        "ticket_id": TICKET_IN,
        "symbol": {"type": "string", "pattern": r"^[A-Za-z0-9._#/+&!@$^~-]{1,32}$"},
        "type": SIDE,
        "direction": {**SIDE, "description": "Read as type."},
        "volume": POSITIVE_IN,
        "open_price": POSITIVE_IN,
        "sl": nullable(POSITIVE_IN),
        "tp": nullable(POSITIVE_IN),
        "opened_at": nullable(MOMENT),
        "comment": nullable({"type": "string", "maxLength": 128}),
        "analysis": nullable({"type": "object", "description": "At most 2 KiB."}),
        "master_ticket": {**TICKET_IN, "description": "What a copy copies (copiers only)."},
        "trade_ref": {**TRADE_ID, "description": "The same by its trade_id."},
        "strategy": {**NAME, "description": "Whose it is (copiers only)."},
    },
    ["ticket_id", "symbol", "type", "volume", "open_price"],
)
MODIFY = obj({"sl": nullable(POSITIVE_IN), "tp": nullable(POSITIVE_IN), "master_time_ms": {"type": "integer"}}, [])
REDUCE = obj({"deal_id": DEAL, "volume": NOT_NEGATIVE_IN, "close_price": POSITIVE_IN, "profit": AMOUNT_IN})
CLOSE = obj(
    {"ticket_id": TICKET_IN, "close_price": POSITIVE_IN, "profit": AMOUNT_IN, "reason": REASON},
    ["ticket_id", "close_price", "profit"],
)
ORDER_REPORT = obj(
    {
        "strategy": NAME,
        "seq": {"type": "string", "pattern": "^[1-9][0-9]{0,18}$"},
        "master_ticket": TICKET_IN,
        "status": {"type": "string", "enum": ["pending", "executed", "failed", "cancelled"]},
        "requested_price": POSITIVE_IN,
        "executed_price": nullable(POSITIVE_IN),
        "volume": POSITIVE_IN,
        "latency_ms": {"type": ["integer", "null"], "minimum": 0},
        "failed_reason": {"type": ["string", "null"], "maxLength": 256},
        "trade_ref": {**TRADE_ID, "description": "In place of master_ticket."},
        "type": nullable({**SIDE, "description": "The copy's own side."}),
        "ticket_id": nullable({**TICKET_IN, "description": "The copy's own ticket."}),
        "heard_ms": nullable(MS),
        "sent_ms": nullable(MS),
        "filled_ms": nullable(MS),
    },
    ["strategy", "seq", "status", "requested_price", "volume"],
)
SKIP = obj(
    {
        "strategy": NAME,
        "trade_ref": TRADE_ID,
        "reason": {"type": "string", "enum": list(WhyNot.values)[:-1]},
        "detail": {"type": "string", "maxLength": 256},
    },
    ["strategy", "trade_ref", "reason"],
)
NOTED = obj({"status": {"type": "string"}})
ACCOUNT = obj({"balance": AMOUNT_IN, "equity": AMOUNT_IN})
BEAT = obj(
    {
        "instance": {"type": "string", "pattern": "^[A-Za-z0-9_-]{16,64}$"},
        "fence": nullable({"type": "string", "pattern": "^[1-9][0-9]{0,18}$"}),
        "ends": {"type": "boolean", "description": "An orderly stop: the lease is given back."},
        "balance": nullable(AMOUNT_IN),
        "equity": nullable(AMOUNT_IN),
        "subscriptions": {
            "type": "array",
            "maxItems": 100,
            "items": obj(
                {
                    "strategy": NAME,
                    "seq": {"type": "string", "pattern": "^[0-9]{1,19}$"},
                    "standing": {"type": "string", "enum": ["LIVE", "HOLD", "HALT"]},
                    "generation": {"type": "integer", "minimum": 0},
                    "digest": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                    "copies": nullable(
                        {"type": "array", "items": obj({"trade_ref": TRADE_ID, "volume": NOT_NEGATIVE_IN})}
                    ),
                },
                ["strategy", "seq", "standing", "generation", "digest"],
            ),
        },
    },
    ["instance", "subscriptions"],
)
BEAT_ANSWER = obj(
    {
        "fence": {"type": "string"},
        "lease_ms": {"type": "integer"},
        "may_open_in_ms": {"type": "integer"},
        "subscriptions": {
            "type": "array",
            "items": obj(
                {
                    "strategy": NAME,
                    "sub_id": {"type": "string"},
                    "status": {"type": "string"},
                    "generation": {"type": "integer"},
                    "as_of": {"type": "string"},
                    "sync": {"type": "string", "enum": ["in_sync", "behind", "differs"]},
                    "difference": {"type": ["object", "null"]},
                    "max_open_trades": {"type": ["integer", "null"]},
                    "max_slippage_bps": {"type": ["string", "null"]},
                    "max_open_age_ms": {"type": "integer"},
                }
            ),
        },
    }
)
BATCH = obj(
    {
        "operations": {
            "type": "array",
            "minItems": 1,
            "maxItems": 500,
            "items": obj(
                {
                    "idempotency_key": {"type": "string", "pattern": "^[A-Za-z0-9_-]{16,64}$"},
                    "action": {"type": "string", "enum": ["open", "modify", "reduce", "close"]},
                    "ticket_id": TICKET_IN,
                },
                description="And the fields of that action's own route.",
            ),
        }
    }
)
BATCH_RESULT = obj({"results": {"type": "array", "items": {"type": "object"}}})
PROBLEM = obj(
    {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "retry": {"type": "string", "enum": ["never", "new_seq", "same_key", "after", "rotate", "resync"]},
        "request_id": {"type": "string"},
        "server_time": {"type": "integer"},
        "retry_after_ms": {"type": "integer"},
        "fields": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}},
    },
    ["type", "title", "status", "detail", "code", "retry", "request_id"],
)


class SignedScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How bots sign, for readers of the schema."""

    target_class = "accounts.authentication.SignatureAuthentication"
    name = "CD1"

    def get_security_definition(self, auto_schema: Any) -> Schema:
        says = "v1=hex of the HMAC-SHA256 over eleven lines: see SECURITY.md and the other X-Cd headers."
        return {"type": "apiKey", "in": "header", "name": "X-Cd-Sig", "description": says}


class RefuseBotsScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Not a way to sign in: the class only refuses bots."""

    target_class = "accounts.authentication.RefuseBots"
    name: list[str] = []

    def get_security_definition(self, auto_schema: Any) -> list[Schema]:
        return []

    def get_security_requirement(self, auto_schema: Any) -> list[Schema]:
        return []


class SessionOfPeople(SessionScheme):
    target_class = "accounts.session_views.Session"


def header(name: str, pattern: str, says: str, *, required: bool = True) -> OpenApiParameter:
    shape = {"type": "string", "pattern": f"^{pattern}$"}
    return OpenApiParameter(name, shape, OpenApiParameter.HEADER, required=required, description=says)


SIGNED_HEADERS = [
    header("X-Cd-Key", r"ck_[0-9a-f]{16}\.[1-9][0-9]{0,5}", "Key and generation"),
    header("X-Cd-Time", "[1-9][0-9]{12}", "Milliseconds since 1970"),
    header(
        "X-Cd-Window", "[1-9][0-9]{0,4}", "How many milliseconds the request is valid; 5000 if absent", required=False
    ),
    header("X-Cd-Seq", "[1-9][0-9]{0,17}", "Strictly increasing per key generation"),
    header("X-Cd-Sig", "v1=[0-9a-f]{64}", "HMAC-SHA256 of the canonical request"),
]
IDEMPOTENCY = header("Idempotency-Key", "[A-Za-z0-9_-]{16,64}", "Names the effect; the same in every repeat")
CLOSE_QUERY = [
    OpenApiParameter("close_price", POSITIVE, required=True),
    OpenApiParameter("profit", AMOUNT, required=True),
    OpenApiParameter("reason", REASON),
]
ERRORS = {
    400: "request_malformed, idempotency_key_missing",
    401: "clock_outside_window, signature_invalid, key_revoked, key_expired, key_generation_retired",
    403: "https_required, ip_denied, scope_denied",
    404: "not_found, trade_unknown",
    405: "method_not_allowed",
    406: "not_acceptable",
    409: "seq_replayed, trade_closed, trade_exists_different, trade_closed_conflict, volume_increase, …",
    413: "body_too_large",
    422: "invalid, symbol_grammar, idempotency_conflict",
    429: "rate_limited",
    500: "internal: the outcome is unknown",
    503: "unavailable, key_unreadable: the outcome is unknown",
}


def good(shape: Schema, status: int = 200) -> dict[Any, Any]:
    return {status: OpenApiResponse(shape)}


def errors(codes: dict[int, str]) -> dict[tuple[int, str], OpenApiResponse]:
    return {(status, "application/problem+json"): OpenApiResponse(PROBLEM, says) for status, says in codes.items()}


def bots(
    operation_id: str,
    summary: str,
    responses: dict[int, Schema | None],
    request: Schema | None = None,
    *,
    query: list[OpenApiParameter] | None = None,
    deprecated: bool = False,
) -> Callable[[Any], Any]:
    """Describe a signed operation."""
    reads = request is None and query is None
    ticket = OpenApiParameter("ticket", TICKET, OpenApiParameter.PATH)
    in_path = [ticket] if operation_id in ("modify_trade", "close_trade", "reduce_trade") else []
    good: dict[Any, Any] = {
        status: OpenApiResponse(description="Unchanged") if shape is None else OpenApiResponse(shape)
        for status, shape in responses.items()
    }
    described: Callable[[Any], Any] = extend_schema(
        operation_id=operation_id,
        summary=summary,
        tags=["bots"],
        request={"application/json": request} if request else None,
        responses={**good, **errors(ERRORS)},
        parameters=[*SIGNED_HEADERS, *([] if reads else [IDEMPOTENCY]), *(query or []), *in_path],
        deprecated=deprecated,
    )
    return described


# --- people

LIMIT = OpenApiParameter("limit", {"type": "integer", "minimum": 1, "maximum": paging.MOST})
HISTORY_FILTERS = [
    OpenApiParameter("symbol", OpenApiTypes.STR),
    OpenApiParameter("account", OpenApiTypes.STR),
    OpenApiParameter("strategy", OpenApiTypes.STR),
    OpenApiParameter("type", SIDE),
    OpenApiParameter("reason", {"type": "string", "enum": Reason.values}),
    OpenApiParameter("closed_after", OpenApiTypes.DATETIME),
    OpenApiParameter("closed_before", OpenApiTypes.DATETIME),
]
PEOPLE_ERRORS = {
    400: "request_malformed",
    401: "not_authenticated; for whoever signs as a bot also what bots are told",
    403: "history_closed_to_bots, https_required",
    404: "not_found: there is no such format",
    405: "method_not_allowed",
    406: "not_acceptable",
    413: "body_too_large",
    422: "invalid",
    429: "rate_limited",
    500: "internal",
    503: "unavailable",
}
CLOSED_TRADE = obj(
    {
        "trade_id": {"type": "string", "format": "uuid"},
        "account": NAME,
        "strategy": nullable(NAME),
        "role": {"type": "string", "enum": ["master", "copy"]},
        "ticket_id": TICKET,
        "master_ticket": TICKET,
        "symbol": {"type": "string"},
        "type": SIDE,
        "volume": AMOUNT,
        "open_price": AMOUNT,
        "close_price": AMOUNT,
        "sl": nullable(AMOUNT),
        "tp": nullable(AMOUNT),
        "profit": {**AMOUNT, "description": "Of the whole trade, partial closes included."},
        "reason": {"type": "string", "enum": Reason.values},
        "opened_at": MOMENT,
        "closed_at": MOMENT,
    }
)
PAGE = obj(
    {
        "data": {"type": "array", "items": CLOSED_TRADE},
        "next": {"type": ["string", "null"], "description": "The cursor of the next page."},
        "has_more": {"type": "boolean"},
    }
)

HISTORY_PAGE: dict[Any, Any] = {200: OpenApiResponse(PAGE), **errors(PEOPLE_ERRORS)}
TIME_ANSWERS: dict[Any, Any] = {
    200: OpenApiResponse(TIME),
    **errors({400: "request_malformed", 404: "not_found: there is no such format", 405: "method_not_allowed",
              406: "not_acceptable", 500: "internal"}),
}  # fmt: skip
