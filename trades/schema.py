"""The OpenAPI schemas of trades: bots' requests and responses, and the closed trades that people read."""

from core import shapes
from core.shapes import AMOUNT, MOMENT, UUID, Schema, array, described, nullable, obj, parameter, schema
from trades import parsers

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "integer"}
TICKET = schema("Ticket", {"type": "string", "pattern": "^[1-9][0-9]{0,18}$", "examples": ["987654"]})
NAME, SIDE, REASON, TRADE_ID = (
    field_type.shape for field_type in (parsers.STRATEGY, parsers.SIDE, parsers.REASON, parsers.TRADE_ID)
)
ROLE = schema("Role", {"type": "string", "enum": ["master", "copy"]})

# --- requests

OPEN = parsers.OPEN.published("Open", parsers.OPEN_COPY)
MODIFY = parsers.MODIFY.published("Modify")
REDUCE = parsers.REDUCE.published("Reduce")
CLOSE = parsers.CLOSE.published("Close")
ORDER_REPORT = parsers.ORDER.published("OrderReport")
SKIP = parsers.SKIP.published("Skip")
ACCOUNT = parsers.ACCOUNT.published("AccountReport")
ALARMS = parsers.ALARMS.published("Alarms")
HEARTBEAT = parsers.HEARTBEAT.published("Heartbeat")
BATCH = parsers.BATCH.published("Batch")
CLOSE_QUERY = [
    parameter(field.name, field.type.shape, required=field.required)
    for field in parsers.CLOSE.fields
    if field.name != "ticket_id"
]
TICKET_OF_PATH = parameter("ticket", TICKET, where="path")

# --- responses

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
            "why_not": {"type": "string", "description": "Why no copy opens. Empty if it opens."},
        },
        description="The copy that the caller must hold.",
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
    "copy_volume": {**nullable(AMOUNT), "description": "The copy's volume by the caller's settings."},
    "copy": nullable(COPY),
    "copies": {**nullable(UUID), "description": "The trade_id of the provider's trade that this copy copies."},
    "opened_volume": described(AMOUNT, "Of an open trade: the opened lots, by which its copies are sized."),
    "opened_sl": nullable(AMOUNT),
    "first_sl": described(
        nullable(AMOUNT), "The first stop loss that came within five seconds of an open without one."
    ),
    "brings_stop": {"type": "boolean", "description": "This modification brought the first stop loss."},
    "open_price": nullable(AMOUNT),
    "sl": nullable(AMOUNT),
    "tp": nullable(AMOUNT),
    "opened_at": nullable(MOMENT),
    "seq": TEXT,
    "status": {"type": "string", "enum": ["OPEN", "CLOSED"]},
    "close_price": described(AMOUNT, "Only closed trades have this field and those that follow."),
    "profit": nullable(AMOUNT),
    "closing_profit": nullable(AMOUNT),
    "reason": REASON,
    "closed_at": MOMENT,
}
_CLOSED_ONLY = ("close_price", "profit", "closing_profit", "reason", "closed_at")
TRADE = schema("Trade", obj(_TRADE, _ALWAYS))
_OPEN_ONLY = {name: shape for name, shape in _TRADE.items() if name not in _CLOSED_ONLY}
BARE_TRADE = schema("NumberedTrade", obj({**_OPEN_ONLY, "ticket_id": NUMBER}, _ALWAYS))
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
            "slippage_points": described(nullable(AMOUNT), "Above zero: worse than the requested price."),
            "slippage_bps": nullable(AMOUNT),
        }
    ),
)
NOTED = schema("Noted", obj({"status": TEXT}))
KNOWN_SYMBOL = schema(
    "KnownSymbol",
    obj(
        {
            "symbol": TEXT,
            "contract_size": nullable(AMOUNT),
            "strategy": nullable(NAME),
            "provider_symbol": nullable(TEXT),
            "provider_contract_size": nullable(AMOUNT),
        },
        description="A symbol that the next report should hold, and the contract sizes that are known.",
    ),
)
ACCOUNT_ANSWER = schema(
    "AccountAnswer",
    obj(
        {
            "status": TEXT,
            "currency": described(TEXT, "The registered currency; empty if none is."),
            "symbols": array(KNOWN_SYMBOL),
        }
    ),
)
DIFFERENCE = schema(
    "Difference",
    obj(
        {
            "orphans": array(described(TRADE_ID, "The copy is open although the provider's trade is closed.")),
            "missing": array(described(TRADE_ID, "The copy is not open, and no reason was reported.")),
            "volume": array(
                {
                    "type": "object",
                    "additionalProperties": TEXT,
                    "description": "Volumes that differ: trade_ref, the lots held (is), the lots planned (must).",
                }
            ),
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
COPIER_LEASE = schema(
    "CopierLease",
    obj(
        {
            "instance": TEXT,
            "heartbeat_at": MOMENT,
            "leased_until": described(MOMENT, "Until then another instance opens nothing."),
        }
    ),
)
BOT_SUBSCRIPTION = schema(
    "BotSubscription",
    obj(
        {
            "strategy": NAME,
            "sub_id": TEXT,
            "status": TEXT,
            "generation": NUMBER,
            "checks": {
                "type": "object",
                "additionalProperties": TEXT,
                "description": "By generation: a hash by which a bot checks its signal secret.",
            },
        }
    ),
)
BOT_ACCOUNT = schema(
    "BotAccount",
    obj(
        {
            "account": NAME,
            "currency": TEXT,
            "publishes": described(nullable(NAME), "The strategy that the account publishes."),
            "copier": nullable(COPIER_LEASE),
            "subscriptions": array(BOT_SUBSCRIPTION),
            "symbols": array(KNOWN_SYMBOL),
        }
    ),
)
RESULT = schema(
    "BatchResult",
    obj(
        {
            "idempotency_key": TEXT,
            "replayed": {"type": "boolean"},
            "status": described(NUMBER, "The HTTP status that a separate request would have."),
            "result": DONE,
            "problem": shapes.PROBLEM,
        },
        ["status"],
    ),
)
BATCH_RESULT = schema("BatchResults", obj({"results": array(RESULT)}))

# --- error codes of each operation, besides those of the protocol

OPENING = (
    "not_found", "trade_unknown", "trade_closed", "trade_exists_different", "strategy_missing", "strategy_close_only",
    "symbol_grammar", "stop_wrong_side", "volume_above_limit", "too_many_open",
)  # fmt: skip
MODIFYING = ("trade_unknown", "trade_closed", "stop_wrong_side")
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
            "corrected_close_price": described(nullable(AMOUNT), "By staff, beside the first figure; null if none is."),
            "corrected_profit": nullable(AMOUNT),
            "reason": REASON,
            "opened_at": MOMENT,
            "closed_at": MOMENT,
        }
    ),
)
HISTORY_PAGE = schema("HistoryPage", shapes.page(CLOSED_TRADE))
