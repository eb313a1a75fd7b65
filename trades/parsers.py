"""Request bodies about trades. Each is declared once and parsed strictly into the arguments of a database function.

Pure.
"""

import re
from typing import Any

from accounts import signing
from core import money, parsing, shapes
from core.bodies import Body, items, may, need
from core.errors import DomainError
from core.parsing import Fields, FieldType, Form
from market.symbols import SYMBOL
from trades import reasons
from trades.alarm_kinds import AlarmKind

Args = dict[str, Any]

_ANALYSIS_BYTES = 2048
_MOST_SUBSCRIPTIONS, _MOST_HOLDINGS, _MOST_OPERATIONS, _MOST_ALARMS, _MOST_SYMBOLS = 100, 500, 500, 200, 256


class SymbolGrammar(DomainError):
    code = "symbol_grammar"
    status = 422
    detail = "A symbol is 1 to 32 characters of A-Z a-z 0-9 . _ # / + & ! @ $ ^ ~ - and is never escaped."


def _ticket(value: Any) -> str:
    """A broker's ticket: 1 to 19 digits, from a string or an integer."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not re.fullmatch(r"[1-9][0-9]{0,18}", value):
        raise ValueError("must be 1 to 19 digits, not starting with 0")
    return value


def _symbol(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(SYMBOL, value):
        raise SymbolGrammar(fields={"symbol": ["is not a symbol"]})
    return value


def _deal(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value):
        raise ValueError("must be 1 to 64 of letters, digits, . _ -")
    return value


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= _MOST_OPERATIONS:
        raise ValueError(f"must be a list of 1 to {_MOST_OPERATIONS} operations")
    return value


# --- field types. Amounts go to the database as text.

AMOUNT, POSITIVE = parsing.amount.then(money.text), parsing.positive.then(money.text)
NOT_NEGATIVE = parsing.not_negative.then(money.text)
TICKET = FieldType(
    _ticket,
    {"type": ["string", "integer"], "pattern": "^[1-9][0-9]{0,18}$", "minimum": 1, "maximum": 10**19 - 1},
).named("TicketIn")
SYMBOL_NAME = FieldType(_symbol, shapes.pattern(SYMBOL))
DEAL = FieldType(_deal, {**shapes.pattern("[A-Za-z0-9_.-]{1,64}"), "type": ["string", "integer"]})
TRADE_ID = parsing.matching(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "must be a trade's id").named("TradeId")
STRATEGY = parsing.matching(r"[A-Za-z0-9_-]{1,64}", "must be a strategy's name").named("StrategyName")
SIDE = parsing.one_of(("BUY", "SELL")).named("Side")
REASON = parsing.one_of(
    ("TP", "SL", "MANUAL", "STOP_OUT", "RECONCILED", "STAFF"), {"TP_HIT": "TP", "SL_HIT": "SL"}
).named("CloseReason")
WHY_NOT = FieldType(parsing.text(64).read, {"type": "string", "maxLength": 64, "examples": reasons.REPORTED})
MILLISECONDS = parsing.whole(10**12, 10**13 - 1).named("Milliseconds")
NUMBER = parsing.whole(1, 2**63 - 1).named("Number")
IDEMPOTENCY_KEY = parsing.matching(signing.IDEMPOTENCY_KEY.pattern, "must be 16 to 64 of A-Z a-z 0-9 _ -")
ACTIONS = ("open", "modify", "reduce", "close")

# --- bodies

_TICKET_OF_PATH = need("ticket_id", TICKET, "The ticket of the path.", in_path=True)
_TICKET = need("ticket_id", TICKET, older=("ticket",))
_PRICE = need("close_price", AMOUNT, "Any exact price, zero and below included.", older=("price",))
_COPIED = (
    may("trade_ref", TRADE_ID, "The trade_id of the provider's trade that the copy copies."),
    need("master_ticket", TICKET, "The ticket of that trade, where trade_ref is absent.", unless="trade_ref"),
)
_ANY_OPEN = (
    _TICKET,
    need("symbol", SYMBOL_NAME),
    need("type", SIDE, also=("direction",)),
    need("volume", POSITIVE),
    need("open_price", AMOUNT, "Above zero; zero and below where the instrument allows it.", older=("price",)),
    may("sl", POSITIVE),
    may("tp", POSITIVE),
    may("comment", parsing.text(128), default=""),
    may("opened_at", parsing.moment),
    may("analysis", parsing.small_object(_ANALYSIS_BYTES)),
)
OPEN = Body(*_ANY_OPEN, may("master_ticket", TICKET), may("strategy", STRATEGY))
OPEN_COPY = Body(*_ANY_OPEN, need("strategy", STRATEGY, "The strategy that is copied (copiers only)."), *_COPIED)
MODIFY = Body(
    _TICKET_OF_PATH,
    may("sl", POSITIVE),
    may("tp", POSITIVE),
    may("master_time_ms", parsing.whole(1, 10**13)),
)
REDUCE = Body(
    _TICKET_OF_PATH,
    need("deal_id", DEAL),
    need("volume", NOT_NEGATIVE, "The lots that must remain open."),
    need("close_price", AMOUNT, "Any exact price, zero and below included."),
    need("profit", AMOUNT),
)
CLOSE = Body(_TICKET, _PRICE, need("profit", AMOUNT), may("reason", REASON, default="MANUAL"))
ORDER = Body(
    need("strategy", STRATEGY),
    need("seq", NUMBER),
    *_COPIED,
    need("status", parsing.one_of(("pending", "executed", "failed", "cancelled"))),
    need("requested_price", AMOUNT),
    may("executed_price", AMOUNT, "Required of an executed order."),
    need("volume", POSITIVE),
    may("latency_ms", parsing.whole(0, 2**31 - 1)),
    may("failed_reason", parsing.text(256), default=""),
    may("type", SIDE, "The copy's own side."),
    may("ticket_id", TICKET, "The copy's own ticket."),
    may("heard_ms", MILLISECONDS, "This time and the two that follow are by the desk's clock."),
    may("sent_ms", MILLISECONDS),
    may("filled_ms", MILLISECONDS),
)
SKIP = Body(
    need("strategy", STRATEGY),
    need("trade_ref", TRADE_ID),
    need("reason", WHY_NOT, "One of the list; any other is kept as `other`, with its name in the detail."),
    may("detail", parsing.text(256), default=""),
)
SYMBOL_SPEC = Body(
    need("symbol", SYMBOL_NAME, "By the account's own name."),
    need("contract_size", POSITIVE, "Units in one lot."),
    may("volume_min", POSITIVE),
    may("volume_step", POSITIVE),
    may("volume_max", POSITIVE),
)
ACCOUNT = Body(
    need("balance", AMOUNT),
    need("equity", AMOUNT),
    may("currency", parsing.matching(r"[A-Za-z0-9]{1,16}", "must be 1 to 16 letters or digits")),
    may("kind", parsing.one_of(("hedging", "netting", "fifo"))),
    may("login", parsing.text(64)),
    may("server", parsing.text(128)),
    may("symbols", items(SYMBOL_SPEC, SYMBOL_SPEC.published("SymbolSpec"), most=_MOST_SYMBOLS, noun="symbols")),
)
HOLDING = Body(need("trade_ref", TRADE_ID), need("volume", NOT_NEGATIVE))
_HOLDINGS = items(HOLDING, HOLDING.published("Holding"), most=_MOST_HOLDINGS, noun="copies")
SUBSCRIPTION = Body(
    need("strategy", STRATEGY),
    need("seq", parsing.whole(0, 2**63 - 1)),
    need("standing", parsing.one_of(("LIVE", "HOLD", "HALT"))),
    need("generation", parsing.whole(0, 10**9)),
    need("digest", parsing.matching(r"[0-9a-f]{64}", "must be 64 hex digits")),
    may("copies", _HOLDINGS.then(lambda copies: {copy["trade_ref"]: copy["volume"] for copy in copies})),
)
HEARTBEAT = Body(
    need("instance", parsing.matching(r"[A-Za-z0-9_-]{16,64}", "must be 16 to 64 of A-Z a-z 0-9 _ -")),
    may("fence", NUMBER),
    may("ends", parsing.flag, "The copier stops and gives its lease back.", default=False),
    may("balance", AMOUNT),
    may("equity", AMOUNT),
    need(
        "subscriptions",
        items(
            SUBSCRIPTION,
            SUBSCRIPTION.published("SubscriptionReport"),
            most=_MOST_SUBSCRIPTIONS,
            noun="subscriptions",
        ),
    ),
)
ALARM = Body(
    need("kind", parsing.one_of(kind.value for kind in AlarmKind)),
    may("ticket", TICKET, "The position at the broker.", default=""),
    may("strategy", STRATEGY, "The strategy that the account leads or follows."),
    may("trade_ref", TRADE_ID, "The trade_id of the provider's trade."),
    may("detail", parsing.text(300), default=""),
)
ALARMS = Body(
    need(
        "alarms",
        items(ALARM, ALARM.published("Alarm"), most=_MOST_ALARMS, noun="alarms"),
        "All that are present now: an alarm that is missing here is cleared.",
    )
)
OPERATION = Body(
    need("idempotency_key", IDEMPOTENCY_KEY),
    need("action", parsing.one_of(ACTIONS, {action.upper(): action for action in ACTIONS})),
)
_OPERATION = OPERATION.published("BatchOperation", more="Add the fields of the action's own route, and ticket_id.")
BATCH = Body(need("operations", FieldType(_listed, shapes.array(_OPERATION, minItems=1, maxItems=_MOST_OPERATIONS))))


# --- arguments


def opening(fields: Fields, *, copy: bool, strict: bool = True) -> Args:
    """Arguments of trade_open. A copier names the provider's trade by `strategy` and `trade_ref` or `master_ticket`."""
    args = (OPEN_COPY if copy else OPEN).read(fields, strict=strict).done()
    strategy, copied = args.pop("strategy"), _copied(args)
    if copy:
        args["copies"] = {"strategy": strategy, **copied}
    opened_at, analysis = args.pop("opened_at"), args.pop("analysis")
    if opened_at is not None:
        args["opened_at"] = opened_at.isoformat()
    if analysis is not None:
        args["analysis"] = analysis
    return args


def _copied(args: Args) -> Args:
    """Take the reference to the provider's trade out of the arguments: its id if given, otherwise its ticket."""
    master_ticket, trade_ref = args.pop("master_ticket"), args.pop("trade_ref", None)
    return {"master_ticket": master_ticket} if trade_ref is None else {"trade_ref": trade_ref}


def _read_with_ticket(body: Body, fields: Fields, ticket_id: Any) -> Form:
    """Read a request whose path names the trade. Its body may repeat the same ticket, but not name another."""
    differs = str(fields.get("ticket_id", ticket_id)) != str(ticket_id)
    faults = {"ticket_id": ["is not the ticket of the path"]} if differs else None
    return body.read({**fields, "ticket_id": ticket_id}, faults=faults)


def modification(fields: Fields, ticket_id: Any) -> Args:
    """Arguments of trade_modify. A stop that is present is set, null removes it, and an absent one stays as it is."""
    form = _read_with_ticket(MODIFY, fields, ticket_id)
    named = fields.keys() & {"sl", "tp"}
    if not named:
        form.fault("sl", "name sl, tp or both")
    args = form.done()
    for name in {"sl", "tp"} - named:
        del args[name]
    if args["master_time_ms"] is None:
        del args["master_time_ms"]
    return args


def reduction(fields: Fields, ticket_id: Any) -> Args:
    """Arguments of trade_reduce. `volume` is the lots that must remain open."""
    return _read_with_ticket(REDUCE, fields, ticket_id).done()


def closing(fields: Fields, *, strict: bool = True) -> Args:
    """Arguments of trade_close."""
    return CLOSE.read(fields, strict=strict).done()


def order(fields: Fields) -> Args:
    """Arguments of order_report."""
    form = ORDER.read(fields)
    if form.values["status"] == "executed" and form.values["executed_price"] is None:
        form.fault("executed_price", "is required of an executed order")
    args = form.done()
    copied = _copied(args)
    return {**args, **copied}


def skip(fields: Fields) -> Args:
    """Arguments of copy_skip. A reason that the desk does not know, of a newer bot say, is detail of `other`."""
    args = SKIP.read(fields).done()
    args["reason"] = reasons.READ_AS.get(args["reason"], args["reason"])
    if args["reason"] in reasons.REPORTED:
        return args
    detail = ": ".join(filter(None, (args["reason"], args["detail"])))
    return {**args, "reason": reasons.SkipReason.OTHER.value, "detail": detail[:256]}


def account(fields: Fields) -> Args:
    """Arguments of account_tell: those that were sent."""
    return {name: value for name, value in ACCOUNT.read(fields).done().items() if value is not None}


def alarms(fields: Fields) -> Args:
    """Arguments of account_alarms."""
    return ALARMS.read(fields).done()


def heartbeat(fields: Fields) -> Args:
    """Arguments of copier_beat, and the report of each subscription (`subscriptions`)."""
    return HEARTBEAT.read(fields).done()


def operation(fields: Fields) -> tuple[str, str, Args]:
    """The idempotency key, the action, and the action's own fields of one operation of a batch."""
    head = OPERATION.read(fields, strict=False).done()
    action_fields = {name: value for name, value in fields.items() if name not in head}
    return head["idempotency_key"], head["action"], action_fields
