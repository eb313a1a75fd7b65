"""What bots send about trades, read strictly into the arguments of the database's verbs. Pure."""

import re
from typing import Any

from core import money, parsing
from core.errors import DomainError
from core.parsing import Fields, Form
from market.symbols import SYMBOL

Args = dict[str, Any]

_REASONS = ("TP", "SL", "MANUAL", "STOP_OUT", "RECONCILED", "STAFF")
_ANALYSIS_BYTES = 2048
_MOST_SUBSCRIPTIONS, _MOST_HOLDINGS = 100, 500
_WHY_NOT = (
    "missed", "slippage", "symbol_unknown", "market_closed", "no_money", "volume_too_small", "too_many_open",
    "rejected", "lost", "new_install", "halted", "magic_taken", "closed", "not_leased", "paused", "unpaid", "trust",
    "drawdown", "symbol_not_allowed", "not_sizable",
)  # fmt: skip


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


def _trade_id(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", value):
        raise ValueError("must be a trade's id")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


_ms = parsing.whole(10**12, 10**13 - 1)
_strategy = parsing.matching(r"[A-Za-z0-9_-]{1,64}", "must be a strategy's name")
_reason = parsing.one_of(_REASONS, {"TP_HIT": "TP", "SL_HIT": "SL"})
_side = parsing.one_of(("BUY", "SELL"))


def opening(fields: Fields, *, copy: bool, strict: bool = True) -> Args:
    """Arguments of trade_open. A copier names what it copies: `strategy` and `master_ticket`."""
    form = Form(fields, strict=strict)
    args = {
        "ticket_id": form.need("ticket_id", ticket, *(() if strict else ("ticket",))),
        "symbol": form.need("symbol", _symbol),
        "type": form.need("type", _side, "direction"),
        "volume": _text(form.need("volume", parsing.positive)),
        "open_price": _text(form.need("open_price", parsing.positive, *(() if strict else ("price",)))),
        "sl": _text(form.may("sl", parsing.positive)),
        "tp": _text(form.may("tp", parsing.positive)),
        "comment": form.may("comment", parsing.text(128), default=""),
    }
    opened_at = form.may("opened_at", parsing.moment)
    analysis = form.may("analysis", parsing.small_object(_ANALYSIS_BYTES))
    if copy:
        args["copies"] = {"strategy": form.need("strategy", _strategy), **_copied(form)}
    else:
        form.may("master_ticket", ticket)
        form.may("strategy", _strategy)
    form.done()
    if opened_at is not None:
        args["opened_at"] = opened_at.isoformat()
    if analysis is not None:
        args["analysis"] = analysis
    return args


def _copied(form: Form) -> Args:
    """What a copy copies: the master's trade by its id or by its ticket."""
    ref = form.may("trade_ref", _trade_id)
    if ref is not None:
        form.may("master_ticket", ticket)
        return {"trade_ref": ref}
    return {"master_ticket": form.need("master_ticket", ticket)}


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
        value = form.may(name, parsing.positive)
        if form.has(name):
            args[name] = _text(value)
    told = form.may("master_time_ms", parsing.whole(1, 10**13))
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
        "volume": _text(form.need("volume", parsing.not_negative)),
        "close_price": _text(form.need("close_price", parsing.positive)),
        "profit": _text(form.need("profit", parsing.amount)),
    }
    form.done()
    return args


def closing(fields: Fields, *, strict: bool = True) -> Args:
    """Arguments of trade_close."""
    form = Form(fields, strict=strict)
    args = {
        "ticket_id": form.need("ticket_id", ticket, *(() if strict else ("ticket",))),
        "close_price": _text(form.need("close_price", parsing.positive, *(() if strict else ("price",)))),
        "profit": _text(form.need("profit", parsing.amount)),
        "reason": form.may("reason", _reason, default="MANUAL"),
    }
    form.done()
    return args


def order(fields: Fields) -> Args:
    """Arguments of order_report."""
    form = Form(fields)
    args = {
        "strategy": form.need("strategy", _strategy),
        "seq": form.need("seq", parsing.whole(1, 2**63 - 1)),
        **_copied(form),
        "status": form.need("status", parsing.one_of(("pending", "executed", "failed", "cancelled"))),
        "requested_price": _text(form.need("requested_price", parsing.positive)),
        "executed_price": _text(form.may("executed_price", parsing.positive)),
        "volume": _text(form.need("volume", parsing.positive)),
        "latency_ms": form.may("latency_ms", parsing.whole(0, 2**31 - 1)),
        "failed_reason": form.may("failed_reason", parsing.text(256), default=""),
        "type": form.may("type", _side),
        "ticket_id": form.may("ticket_id", ticket),
        **{name: form.may(name, _ms) for name in ("heard_ms", "sent_ms", "filled_ms")},
    }
    if args["status"] == "executed" and args["executed_price"] is None:
        form.faults.setdefault("executed_price", []).append("is required of an executed order")
    form.done()
    return args


def skip(fields: Fields) -> Args:
    """Arguments of copy_skip."""
    form = Form(fields)
    args = {
        "strategy": form.need("strategy", _strategy),
        "trade_ref": form.need("trade_ref", _trade_id),
        "reason": form.need("reason", parsing.one_of(_WHY_NOT)),
        "detail": form.may("detail", parsing.text(256), default=""),
    }
    form.done()
    return args


def account(fields: Fields) -> Args:
    """Arguments of account_tell."""
    form = Form(fields)
    args = {name: _text(form.need(name, parsing.amount)) for name in ("balance", "equity")}
    form.done()
    return args


def heartbeat(fields: Fields) -> Args:
    """Arguments of copier_beat, and what it says of each subscription."""
    form = Form(fields)
    args = {
        "instance": form.need(
            "instance", parsing.matching(r"[A-Za-z0-9_-]{16,64}", "must be 16 to 64 of A-Z a-z 0-9 _ -")
        ),
        "fence": form.may("fence", parsing.whole(1, 2**63 - 1)),
        "ends": form.may("ends", _flag, default=False),
        "balance": _text(form.may("balance", parsing.amount)),
        "equity": _text(form.may("equity", parsing.amount)),
        "subscriptions": form.need("subscriptions", _subscriptions),
    }
    form.done()
    return args


def _subscriptions(value: Any) -> list[Args]:
    if not isinstance(value, list) or len(value) > _MOST_SUBSCRIPTIONS:
        raise ValueError(f"must be a list of at most {_MOST_SUBSCRIPTIONS} subscriptions")
    return [_standing(one) for one in value]


def _standing(value: Any) -> Args:
    if not isinstance(value, dict):
        raise ValueError("each must be a JSON object")
    form = Form(value)
    args = {
        "strategy": form.need("strategy", _strategy),
        "seq": form.need("seq", parsing.whole(0, 2**63 - 1)),
        "standing": form.need("standing", parsing.one_of(("LIVE", "HOLD", "HALT"))),
        "generation": form.need("generation", parsing.whole(0, 10**9)),
        "digest": form.need("digest", parsing.matching(r"[0-9a-f]{64}", "must be 64 hex digits")),
        "copies": form.may("copies", _holdings),
    }
    form.done()
    return args


def _holdings(value: Any) -> dict[str, str]:
    if not isinstance(value, list) or len(value) > _MOST_HOLDINGS:
        raise ValueError(f"must be a list of at most {_MOST_HOLDINGS} copies")
    held: dict[str, str] = {}
    for one in value:
        if not isinstance(one, dict):
            raise ValueError("each must be a JSON object")
        form = Form(one)
        ref, lots = form.need("trade_ref", _trade_id), form.need("volume", parsing.not_negative)
        form.done()
        held[ref] = money.text(lots)
    return held


def _text(value: Any) -> str | None:
    return None if value is None else money.text(value)
