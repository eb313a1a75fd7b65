"""What bots send about trades, read strictly into the arguments of the database's verbs. Pure."""

import re
from typing import Any

from core import money, wire
from core.errors import DomainError
from core.wire import Fields, Form
from market.models import SYMBOL

Args = dict[str, Any]

_REASONS = ("TP", "SL", "MANUAL", "STOP_OUT", "RECONCILED", "STAFF")
_ANALYSIS_BYTES = 2048


class SymbolGrammar(DomainError):
    code = "symbol_grammar"
    status = 422
    detail = "A symbol is 1 to 32 of A-Z a-z 0-9 . _ # / + & ! @ $ ^ ~ - and is never escaped."


def ticket(value: Any) -> str:
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


_strategy = wire.matching(r"[A-Za-z0-9_-]{1,64}", "must be a strategy's name")
_reason = wire.one_of(_REASONS, {"TP_HIT": "TP", "SL_HIT": "SL"})
_side = wire.one_of(("BUY", "SELL"))


def opening(fields: Fields, *, copy: bool, strict: bool = True) -> Args:
    """Arguments of trade_open. A copier names what it copies: `strategy` and `master_ticket`."""
    form = Form(fields, strict=strict)
    args = {
        "ticket_id": form.need("ticket_id", ticket, *(() if strict else ("ticket",))),
        "symbol": form.need("symbol", _symbol),
        "type": form.need("type", _side, "direction"),
        "volume": _text(form.need("volume", wire.positive)),
        "open_price": _text(form.need("open_price", wire.positive, *(() if strict else ("price",)))),
        "sl": _text(form.may("sl", wire.positive)),
        "tp": _text(form.may("tp", wire.positive)),
        "comment": form.may("comment", wire.text(128), default=""),
    }
    opened_at = form.may("opened_at", wire.moment)
    analysis = form.may("analysis", wire.small_object(_ANALYSIS_BYTES))
    if copy:
        master_ticket, strategy = form.need("master_ticket", ticket), form.need("strategy", _strategy)
        args["copies"] = {"strategy": strategy, "master_ticket": master_ticket}
    else:
        form.may("master_ticket", ticket)
        form.may("strategy", _strategy)
    form.done()
    if opened_at is not None:
        args["opened_at"] = opened_at.isoformat()
    if analysis is not None:
        args["analysis"] = analysis
    return args


def _of_path(fields: Fields, ticket_id: Any) -> Form:
    """The form of a request whose path names the trade: its body may name the same one, but no other."""
    form = Form({**fields, "ticket_id": ticket_id})
    if str(fields.get("ticket_id", ticket_id)) != str(ticket_id):
        form.faults["ticket_id"] = ["is not the ticket of the path"]
    return form


def modification(fields: Fields, ticket_id: Any) -> Args:
    """Arguments of trade_modify: what is named is set, null removes, what is absent stays."""
    form = _of_path(fields, ticket_id)
    args: Args = {"ticket_id": form.need("ticket_id", ticket)}
    for name in ("sl", "tp"):
        value = form.may(name, wire.positive)
        if form.has(name):
            args[name] = _text(value)
    told = form.may("master_time_ms", wire.whole(1, 10**13))
    if told is not None:
        args["master_time_ms"] = told
    if not args.keys() & {"sl", "tp"}:
        form.faults["sl"] = ["name sl, tp or both"]
    form.done()
    return args


def reduction(fields: Fields, ticket_id: Any) -> Args:
    """Arguments of trade_reduce: `volume` is what must remain."""
    form = _of_path(fields, ticket_id)
    args = {
        "ticket_id": form.need("ticket_id", ticket),
        "deal_id": form.need("deal_id", _deal),
        "volume": _text(form.need("volume", wire.not_negative)),
        "close_price": _text(form.need("close_price", wire.positive)),
        "profit": _text(form.need("profit", wire.amount)),
    }
    form.done()
    return args


def closing(fields: Fields, *, strict: bool = True) -> Args:
    """Arguments of trade_close."""
    form = Form(fields, strict=strict)
    args = {
        "ticket_id": form.need("ticket_id", ticket, *(() if strict else ("ticket",))),
        "close_price": _text(form.need("close_price", wire.positive, *(() if strict else ("price",)))),
        "profit": _text(form.need("profit", wire.amount)),
        "reason": form.may("reason", _reason, default="MANUAL"),
    }
    form.done()
    return args


def order(fields: Fields) -> Args:
    """Arguments of order_report."""
    form = Form(fields)
    args = {
        "strategy": form.need("strategy", _strategy),
        "seq": form.need("seq", wire.whole(1, 2**63 - 1)),
        "master_ticket": form.need("master_ticket", ticket),
        "status": form.need("status", wire.one_of(("pending", "executed", "failed", "cancelled"))),
        "requested_price": _text(form.need("requested_price", wire.positive)),
        "executed_price": _text(form.may("executed_price", wire.positive)),
        "volume": _text(form.need("volume", wire.positive)),
        "latency_ms": form.may("latency_ms", wire.whole(0, 2**31 - 1)),
        "failed_reason": form.may("failed_reason", wire.text(256), default=""),
    }
    if args["status"] == "executed" and args["executed_price"] is None:
        form.faults.setdefault("executed_price", []).append("is required of an executed order")
    form.done()
    return args


def _text(value: Any) -> str | None:
    return None if value is None else money.text(value)
