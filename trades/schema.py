"""The OpenAPI shapes of trades: what bots send and are answered, and what people read of closed trades."""

from core import openapi
from core.openapi import (
    AMOUNT,
    AMOUNT_IN,
    MOMENT,
    NOT_NEGATIVE_IN,
    POSITIVE,
    POSITIVE_IN,
    UUID,
    Schema,
    array,
    described,
    nullable,
    obj,
    parameter,
    schema,
)
from trades.models import Reason, Side, WhyNot

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "integer"}
TICKET = schema("Ticket", {"type": "string", "pattern": "^[1-9][0-9]{0,18}$", "examples": ["987654"]})
NAME = schema("StrategyName", {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$", "examples": ["lena-eurusd"]})
SIDE = schema("Side", {"type": "string", "enum": Side.values})
ROLE = schema("Role", {"type": "string", "enum": ["master", "copy"]})
REASON = schema("CloseReason", {"type": "string", "enum": Reason.values})
TRADE_ID = schema("TradeId", {"type": "string", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"})
MS = schema(
    "Milliseconds", {"type": "integer", "minimum": 10**12, "maximum": 10**13 - 1, "description": "By the desk's clock."}
)


# --- what is sent

TICKET_IN = schema(
    "TicketIn",
    {"type": ["string", "integer"], "pattern": "^[1-9][0-9]{0,18}$", "minimum": 1, "maximum": 10**19 - 1},
)
REASON_IN = schema("CloseReasonIn", {"type": "string", "enum": [*Reason.values, "TP_HIT", "SL_HIT"]})
DEAL: Schema = {"type": ["string", "integer"], "pattern": r"^[A-Za-z0-9_.-]{1,64}$"}
OPEN = schema(
    "Open",
    obj(
        {
            "ticket_id": TICKET_IN,
            "symbol": {"type": "string", "pattern": r"^[A-Za-z0-9._#/+&!@$^~-]{1,32}$"},
            "type": SIDE,
            "direction": described(SIDE, "Read as type."),
            "volume": POSITIVE_IN,
            "open_price": POSITIVE_IN,
            "sl": nullable(POSITIVE_IN),
            "tp": nullable(POSITIVE_IN),
            "opened_at": nullable(MOMENT),
            "comment": nullable({"type": "string", "maxLength": 128}),
            "analysis": nullable({"type": "object", "description": "At most 2 KiB."}),
            "master_ticket": described(TICKET_IN, "What a copy copies (copiers only)."),
            "trade_ref": described(TRADE_ID, "The same by its trade_id."),
            "strategy": described(NAME, "Whose it is (copiers only)."),
        },
        ["ticket_id", "symbol", "type", "volume", "open_price"],
    ),
)
MODIFY = schema("Modify", obj({"sl": nullable(POSITIVE_IN), "tp": nullable(POSITIVE_IN), "master_time_ms": NUMBER}, []))
REDUCE = schema(
    "Reduce",
    obj({"deal_id": DEAL, "volume": NOT_NEGATIVE_IN, "close_price": POSITIVE_IN, "profit": AMOUNT_IN}),
)
CLOSE = schema(
    "Close",
    obj(
        {"ticket_id": TICKET_IN, "close_price": POSITIVE_IN, "profit": AMOUNT_IN, "reason": REASON_IN},
        ["ticket_id", "close_price", "profit"],
    ),
)
ORDER_REPORT = schema(
    "OrderReport",
    obj(
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
            "trade_ref": described(TRADE_ID, "In place of master_ticket."),
            "type": nullable(described(SIDE, "The copy's own side.")),
            "ticket_id": nullable(described(TICKET_IN, "The copy's own ticket.")),
            "heard_ms": nullable(MS),
            "sent_ms": nullable(MS),
            "filled_ms": nullable(MS),
        },
        ["strategy", "seq", "status", "requested_price", "volume"],
    ),
)
SKIP = schema(
    "Skip",
    obj(
        {
            "strategy": NAME,
            "trade_ref": TRADE_ID,
            "reason": {"type": "string", "enum": list(WhyNot.values)[:-1]},
            "detail": {"type": "string", "maxLength": 256},
        },
        ["strategy", "trade_ref", "reason"],
    ),
)
ACCOUNT = schema("AccountReport", obj({"balance": AMOUNT_IN, "equity": AMOUNT_IN}))
HOLDING = schema("Holding", obj({"trade_ref": TRADE_ID, "volume": NOT_NEGATIVE_IN}))
STANDING = schema(
    "SubscriptionReport",
    obj(
        {
            "strategy": NAME,
            "seq": {"type": "string", "pattern": "^[0-9]{1,19}$"},
            "standing": {"type": "string", "enum": ["LIVE", "HOLD", "HALT"]},
            "generation": {"type": "integer", "minimum": 0},
            "digest": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
            "copies": nullable(array(HOLDING)),
        },
        ["strategy", "seq", "standing", "generation", "digest"],
    ),
)
HEARTBEAT = schema(
    "Heartbeat",
    obj(
        {
            "instance": {"type": "string", "pattern": "^[A-Za-z0-9_-]{16,64}$"},
            "fence": nullable({"type": "string", "pattern": "^[1-9][0-9]{0,18}$"}),
            "ends": {"type": "boolean", "description": "An orderly stop: the lease is given back."},
            "balance": nullable(AMOUNT_IN),
            "equity": nullable(AMOUNT_IN),
            "subscriptions": array(STANDING, maxItems=100),
        },
        ["instance", "subscriptions"],
    ),
)
OPERATION = schema(
    "BatchOperation",
    obj(
        {
            "idempotency_key": {"type": "string", "pattern": "^[A-Za-z0-9_-]{16,64}$"},
            "action": {"type": "string", "enum": ["open", "modify", "reduce", "close"]},
            "ticket_id": TICKET_IN,
        },
        description="And the fields of that action's own route.",
    ),
)
BATCH = schema("Batch", obj({"operations": array(OPERATION, minItems=1, maxItems=500)}))
CLOSE_QUERY = (
    parameter("close_price", POSITIVE, required=True),
    parameter("profit", AMOUNT, required=True),
    parameter("reason", REASON_IN),
)
TICKET_OF_PATH = parameter("ticket", TICKET, where="path")

# --- what is answered

COPY = schema(
    "CopyPlan",
    obj(
        {
            "symbol": TEXT,
            "type": SIDE,
            "volume": AMOUNT,
            "sl": nullable(AMOUNT),
            "tp": nullable(AMOUNT),
            "opens": {"type": "boolean"},
            "why_not": {"type": "string", "description": "Empty where the copy opens."},
        },
        description="What the caller's copy must be.",
    ),
)
_ALWAYS = (
    "trade_id", "role", "strategy", "ticket_id", "master_ticket", "symbol", "type", "volume", "copy_volume",
    "open_price", "sl", "tp", "opened_at", "seq", "status",
)  # fmt: skip
_TRADE: Schema = {
    "trade_id": UUID,
    "role": ROLE,
    "strategy": nullable(NAME),
    "ticket_id": TICKET,
    "master_ticket": TICKET,
    "symbol": nullable(TEXT),
    "type": nullable(SIDE),
    "volume": nullable(AMOUNT),
    "copy_volume": {**nullable(AMOUNT), "description": "What the caller's own settings make of it."},
    "copy": nullable(COPY),
    "copies": {**nullable(UUID), "description": "The trade_id that a copy copies."},
    "opened_volume": described(AMOUNT, "Of an open trade: what its copies are sized by."),
    "opened_sl": nullable(AMOUNT),
    "open_price": nullable(AMOUNT),
    "sl": nullable(AMOUNT),
    "tp": nullable(AMOUNT),
    "opened_at": nullable(MOMENT),
    "seq": TEXT,
    "status": {"type": "string", "enum": ["OPEN", "CLOSED"]},
    "close_price": described(AMOUNT, "This and the following: of a closed trade."),
    "profit": nullable(AMOUNT),
    "closing_profit": nullable(AMOUNT),
    "reason": REASON,
    "closed_at": MOMENT,
}
TRADE = schema("Trade", obj(_TRADE, _ALWAYS))
BARE_TRADE = schema("NumberedTrade", obj({**_TRADE, "ticket_id": NUMBER}, _ALWAYS))
BARE_LIST = array(BARE_TRADE)
SNAPSHOT = schema(
    "Snapshot",
    obj(
        {
            "stream_epoch": TEXT,
            "as_of": {
                "type": "object",
                "additionalProperties": TEXT,
                "description": "The number of each strategy's latest event.",
            },
            "count": NUMBER,
            "digest": {"type": "string", "description": "SHA-256 of the trades array as sent, hex."},
            "trades": array(TRADE),
        }
    ),
)
TIME = schema("Time", obj({"server_time": NUMBER, "iso": TEXT}))
DONE = schema(
    "Done",
    obj(
        {
            "status": TEXT,
            "ticket_id": TICKET,
            "seq": TEXT,
            "trade": TRADE,
            "already": {"type": "boolean"},
            "ignored": {"type": "boolean"},
        },
        ["status"],
    ),
)
BROADCASTED = schema("Broadcasted", obj({"status": {"const": "broadcasted"}, "ticket": NUMBER}))
CLOSED = schema("Closed", obj({"status": TEXT, "ticket": NUMBER, "already": {"type": "boolean"}}, ["status", "ticket"]))
ORDER = schema(
    "Order",
    obj(
        {
            "status": TEXT,
            "order_id": TEXT,
            "slippage_points": described(nullable(AMOUNT), "Above zero is worse than asked."),
            "slippage_bps": nullable(AMOUNT),
        }
    ),
)
NOTED = schema("Noted", obj({"status": TEXT}))
DIFFERENCE = schema(
    "Difference",
    obj(
        {
            "orphans": array(described(TRADE_ID, "Held, though the provider's trade is closed.")),
            "missing": array(described(TRADE_ID, "Not held, and not explained.")),
            "volume": array({"type": "object", "additionalProperties": TEXT, "description": "trade_ref, is, must."}),
        }
    ),
)
SYNC = schema(
    "SubscriptionState",
    obj(
        {
            "strategy": NAME,
            "sub_id": TEXT,
            "status": TEXT,
            "generation": NUMBER,
            "as_of": TEXT,
            "sync": {"type": "string", "enum": ["in_sync", "behind", "differs"]},
            "difference": nullable(DIFFERENCE),
            "max_open_trades": {"type": ["integer", "null"]},
            "max_slippage_bps": nullable(AMOUNT),
            "max_open_age_ms": NUMBER,
        }
    ),
)
HEARTBEAT_ANSWER = schema(
    "Lease", obj({"fence": TEXT, "lease_ms": NUMBER, "may_open_in_ms": NUMBER, "subscriptions": array(SYNC)})
)
RESULT = schema(
    "BatchResult",
    obj(
        {
            "idempotency_key": TEXT,
            "replayed": {"type": "boolean"},
            "status": described(NUMBER, "As of a request of its own."),
            "result": DONE,
            "problem": openapi.PROBLEM,
        },
        ["status"],
    ),
)
BATCH_RESULT = schema("BatchResults", obj({"results": array(RESULT)}))

# --- the refusals of each verb, beside those of the protocol

OPENING = (
    "not_found", "trade_unknown", "trade_closed", "trade_exists_different", "strategy_missing", "strategy_close_only",
    "symbol_grammar",
)  # fmt: skip
MODIFYING = ("trade_unknown", "trade_closed")
REDUCING = ("trade_unknown", "trade_closed", "trade_closed_conflict", "deal_exists_different", "volume_increase")
CLOSING = ("trade_closed_conflict",)
REPORTING = ("not_found", "trade_unknown")

# --- people

HISTORY_FILTERS = (
    parameter("symbol", TEXT),
    parameter("account", TEXT),
    parameter("strategy", TEXT),
    parameter("type", SIDE),
    parameter("reason", REASON, component="reason-filter"),
    parameter("closed_after", MOMENT),
    parameter("closed_before", MOMENT),
)
CLOSED_TRADE = schema(
    "ClosedTrade",
    obj(
        {
            "trade_id": UUID,
            "account": NAME,
            "strategy": nullable(NAME),
            "role": ROLE,
            "ticket_id": TICKET,
            "master_ticket": TICKET,
            "symbol": TEXT,
            "type": SIDE,
            "volume": AMOUNT,
            "open_price": AMOUNT,
            "close_price": AMOUNT,
            "sl": nullable(AMOUNT),
            "tp": nullable(AMOUNT),
            "profit": described(AMOUNT, "Of the whole trade, partial closes included."),
            "reason": REASON,
            "opened_at": MOMENT,
            "closed_at": MOMENT,
        }
    ),
)
HISTORY_PAGE = schema("HistoryPage", openapi.page(CLOSED_TRADE))
