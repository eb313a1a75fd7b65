"""A MetaTrader 5 terminal as a broker, over the `MetaTrader5` package, which talks to a terminal on the same Windows.

The package's floats become Decimals here, by the symbol's digits and steps. An order without a clear answer is UNKNOWN,
a query without an answer raises, and a terminal that is logged in to another account is refused. Times are the trade
server's own, in an unknown time zone, so queries of the history use a wide range.
"""

import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from copybot.broker import DONE_PARTIAL, Account, Deal, Entry, Outcome, Position, Quote, Result, SymbolSpec, Trace
from copybot.mt5_symbols import UNLISTED, Symbol, fine, is_passed, lots_of, symbol_of

_EPOCH = datetime(1970, 1, 2, tzinfo=UTC)
_DONE = frozenset({10009, DONE_PARTIAL})
_NO_CHANGES = 10025
# These codes are clear refusals. All others mean UNKNOWN: placed, error, timeout, locked, no connection, a close in
# progress, and any code that this list does not name may have been executed, or may still be.
_REFUSED = frozenset(
    {10004, 10006, 10007, *range(10013, 10025), 10026, 10027, 10029, 10030, *range(10032, 10037), 10038,
     *range(10040, 10047)}
)  # fmt: skip
_WHY = MappingProxyType(
    {10004: "slippage", 10018: "market_closed", 10019: "no_money", 10020: "slippage", 10040: "too_many_open"}
)
_INVALID, _INVALID_VOLUME, _INVALID_STOPS, _OFF_QUOTES, _FROZEN = 10013, 10014, 10016, 10021, 10029
_INVALID_FILL, _POSITION_CLOSED = 10030, 10036
# 7: rollover, 8: variation margin, 9: split, 10: corporate action, which the package does not name
_REASONS = MappingProxyType({4: "SL", 5: "TP", 6: "STOP_OUT", 7: "ROLLOVER", 8: "ROLLOVER", 9: "SPLIT", 10: "SPLIT"})
_COMMENT = "copydesk"  # with more than 31 characters, order_send returns None
_FRESH_MS = 3_000


class OtherAccount(ConnectionError):
    """The terminal is logged in to another account, whose books would look as if all positions had been closed."""


@dataclass(frozen=True, slots=True)
class Loading:
    """How the history has loaded since a connection. Times in ms. `changed_ms`: when its `totals` changed last."""

    since_ms: int
    changed_ms: int
    looked_ms: int
    totals: tuple[int, int] = (0, 0)
    is_complete: bool = False

    def seen(self, totals: tuple[int, int], now: int) -> "Loading":
        if any(new < old for new, old in zip(totals, self.totals, strict=True)):  # another server or account
            return Loading(now, now, now, totals)
        return replace(self, totals=totals, changed_ms=self.changed_ms if totals == self.totals else now)


@dataclass
class MetaTrader:
    """An account as its server books it: `Rebooked` makes a Terminal of it, for copies `Netting` or `Fifo` where the
    account is of that kind. `connect` makes one; one thread at a time may use it.

    Stops. One that is closer to the price than the symbol allows is set at the closest allowed price, so that a new
    position always has one. `modify` does so only if the position has no stop yet; otherwise the present stop stays
    until the wanted one is allowed. Prices differ between brokers, so this price may have passed a stop that the
    provider's has not reached. An open with such a stop or target is refused (`stop_passed`). `modify` judges each by
    itself: a target that was passed is set at the closest allowed price beyond it; a stop loss that was passed is not
    set, the present one stays, and the answer is `stop_passed`. Some servers accept no stops with an open. There the
    open is sent without, and a `modify` must follow.

    `deviation`: points by which an instant execution may be worse. `look_ms`, `load_ms`: see `is_settled`.
    """

    module: Any
    login: int
    deviation: int = 20
    look_ms: int = 5_000
    load_ms: int = 60_000
    clock_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000
    _symbols: dict[str, tuple[Symbol, int]] = field(default_factory=dict, init=False, repr=False)
    _without_stops: set[str] = field(default_factory=set, init=False, repr=False)
    _loading: "Loading | None" = field(default=None, init=False, repr=False)

    @classmethod
    def connect(
        cls, *, login: int, path: str = "", deviation: int = 20, module: Any = None, **more: Any
    ) -> "MetaTrader":
        """Start the terminal or connect to it. `more`: password, server, timeout, portable. Raises ConnectionError."""
        module = importlib.import_module("MetaTrader5") if module is None else module
        where = (path,) if path else ()
        if not module.initialize(*where, login=login, **more):
            raise ConnectionError(f"no terminal: {module.last_error()}")
        terminal = cls(module, login, deviation)
        terminal.account()
        return terminal

    # --- positions, deals, prices

    def positions(self) -> list[Position]:
        self._check_account()
        self._note_connection()
        return [self._position(row) for row in self._ask("positions_get")]

    def deals(self, position: str) -> list[Deal]:
        self._check_account()
        return list(_split(self._deals(self._ask("history_deals_get", position=int(position)))))

    def history(self) -> list[Deal]:
        """All deals of the account, oldest first. A deal that reversed a netting position is one OUT here."""
        self._check_account()
        return [deal for deal, _ in self._deals(self._ask("history_deals_get", *_ever()))]

    def was_cancelled(self, position: str) -> bool:
        module, rows = self.module, self._ask("history_deals_get", position=int(position))
        kinds = {row.type for row in rows} - {module.DEAL_TYPE_BALANCE}
        return bool(kinds) and kinds <= {module.DEAL_TYPE_BUY_CANCELED, module.DEAL_TYPE_SELL_CANCELED}

    def position_under(self, magic: int) -> str:
        return next((deal.position for deal in self.history() if deal.magic == magic), "")

    def trace(self, magic: int) -> Trace:
        """An order that was rejected, expired or cancelled unfilled leaves no trace. PENDING means that an order's deal
        is still to come, or that the deals opened a position and did not close it: then the books are behind."""
        account = self._check_account()
        if any(order.magic == magic for order in self._ask("orders_get")):
            return Trace.WAITING
        deals = [deal for deal in self._ask("history_deals_get", *_ever()) if deal.magic == magic]
        filled, known = self._ask("history_orders_get", *_ever()), {deal.order for deal in deals}
        if any(order.magic == magic and order.ticket not in known and self._may_be_filled(order) for order in filled):
            return Trace.PENDING
        is_hedging = account.margin_mode == self.module.ACCOUNT_MARGIN_MODE_RETAIL_HEDGING and not account.fifo_close
        if is_hedging and any(self._is_open(number) for number in {deal.position_id for deal in deals}):
            return Trace.PENDING
        return Trace.DONE if deals else Trace.NONE

    def is_settled(self) -> bool:
        """Whether the history has been loaded since the terminal connected, so that nothing old is missing from it.

        After a connection the history arrives in portions, and the terminal does not say when it is complete. It counts
        as complete once it has not changed for `look_ms`, or the connection has stood for `load_ms`: on a busy account
        new deals change it for ever, and loading takes seconds. It then stays so until the connection breaks, the
        account changes or the history shrinks, because from then on the server sends each new deal as it happens. Such
        a deal may still arrive seconds after the position list changed. A caller that concludes something from the
        absence of one deal therefore asks `trace` or `deals` again for a time of its own (`settle_ms`, say).
        """
        self._check_account()
        if not self._note_connection() or self._loading is None:
            return False
        totals = self._ask("history_deals_total", *_ever()), self._ask("history_orders_total", *_ever())
        now, loading = self.clock_ms(), self._loading.seen(totals, self.clock_ms())
        if now - loading.changed_ms >= self.look_ms or now - loading.since_ms >= self.load_ms:
            loading = replace(loading, is_complete=True)
        self._loading = loading
        return loading.is_complete

    def _note_connection(self) -> bool:
        """Whether the terminal is connected. While nobody looks, the connection may break and come back, so after a gap
        of `look_ms` a complete history is watched anew."""
        now, loading = self.clock_ms(), self._loading
        if not self._ask("terminal_info").connected:
            self._loading = None
            return False
        longest = self.look_ms if loading is not None and loading.is_complete else self.load_ms
        if loading is None or now - loading.looked_ms > longest:
            loading = Loading(now, now, now)
        self._loading = replace(loading, looked_ms=now)
        return True

    def quote(self, symbol: str) -> Quote | None:
        """The last price; at a weekend, Friday's."""
        known = self._symbol(symbol)
        return None if known is None else self._tick(symbol, known)

    def worth(self, symbol: str) -> Decimal:
        """What one lot gains, in the account's currency, when the price rises by one."""
        known = self._symbol(symbol)
        return Decimal(0) if known is None else known.worth

    def account(self) -> Account:
        info, terminal = self._check_account(), self._ask("terminal_info")
        may_trade = info.trade_allowed and info.trade_expert and terminal.connected and terminal.trade_allowed
        cent = Decimal(1).scaleb(-info.currency_digits)
        balance, equity = (Decimal(str(amount)).quantize(cent) for amount in (info.balance, info.equity))
        is_hedging = info.margin_mode == self.module.ACCOUNT_MARGIN_MODE_RETAIL_HEDGING
        allowed = bool(may_trade and not terminal.tradeapi_disabled)
        return Account(
            str(info.login), info.server, info.currency, balance, equity, is_hedging, allowed,
            bool(info.fifo_close), bool(terminal.connected),
        )  # fmt: skip

    def spec(self, symbol: str) -> SymbolSpec | None:
        """As the broker stated it at most a few seconds ago."""
        known = self._symbol(symbol)
        return None if known is None else known.spec

    # --- orders

    def open(
        self, *, magic: int, symbol: str, side: str, volume: Decimal, sl: Decimal | None, tp: Decimal | None
    ) -> Result:
        self._check_account()
        known = self._symbol(symbol, fresh=True)
        if known is None:
            return Result(Outcome.REJECTED, _INVALID, "symbol_unknown")
        if code := known.refusal(side):
            return Result(Outcome.REJECTED, code, "rejected")
        if volume < known.volume_min:
            return Result(Outcome.REJECTED, _INVALID_VOLUME, "volume_too_small")
        order = {"symbol": symbol, "side": side, "volume": volume, "magic": magic}
        if symbol not in self._without_stops:
            answer = self._open(known, order, sl, tp, with_stops=True)
            if answer.code != _INVALID_STOPS or answer.why == "stop_passed" or (sl, tp) == (None, None):
                return answer
        # Both stops were valid and the server refuses them: it takes stops only from an open position.
        answer = self._open(known, order, sl, tp, with_stops=False)
        if answer.outcome is Outcome.DONE:
            self._without_stops.add(symbol)
        return answer

    def _open(
        self, known: Symbol, order: dict[str, Any], sl: Decimal | None, tp: Decimal | None, *, with_stops: bool
    ) -> Result:
        tick = self._tick(order["symbol"], known)
        if tick is None:
            return Result(Outcome.REJECTED, _OFF_QUOTES, "rejected")
        side, price = order["side"], tick.of(_other(order["side"]))
        if is_passed(side, price, sl, target=False) or is_passed(side, price, tp, target=True):
            return Result(Outcome.REJECTED, _INVALID_STOPS, "stop_passed")
        stops = [_float(known.allowed(price, stop) if with_stops else None) for stop in (sl, tp)]
        return self._deal(known, tick, **order, sl=stops[0], tp=stops[1])

    def close(self, position: Position, volume: Decimal) -> Result:
        """Close exactly this volume, at most all of it, whatever the present smallest order and step are. A volume
        above the largest order takes several. The first that is not done ends the rest, and its answer counts; a
        refusal after one that was done counts as done in part."""
        return self.take_off(position, volume)

    def take_off(self, position: Position, volume: Decimal, *, magic: int | None = None) -> Result:
        """As `close`, with a magic number on the closing orders; by default the position's own."""
        self._check_account()
        held, known = self._live(position), self._symbol(position.symbol, fresh=True)
        if held is None:
            return Result(Outcome.REJECTED, _POSITION_CLOSED, "rejected")
        if known is None:
            return Result(Outcome.REJECTED, _INVALID, "symbol_unknown")
        is_begun, answer = False, Result(Outcome.REJECTED, _INVALID_VOLUME, "volume_too_small")
        for part in known.spec.parts(min(volume, lots_of(held.volume))):
            tick = self._tick(position.symbol, known)
            if tick is None:
                answer = Result(Outcome.REJECTED, _OFF_QUOTES, "rejected")
            elif part > 0:
                answer = self._deal(
                    known, tick, symbol=position.symbol, side=_other(_side(held.type)), volume=part,
                    magic=held.magic if magic is None else magic, position=held.ticket,
                )  # fmt: skip
            if answer.outcome is not Outcome.DONE:
                break
            is_begun = True
        return answer.of_several(is_begun=is_begun)

    def modify(self, position: Position, *, sl: Decimal | None, tp: Decimal | None) -> Result:
        self._check_account()
        held, known = self._live(position), self._symbol(position.symbol, fresh=True)
        tick = None if known is None else self._tick(position.symbol, known)
        if held is None:
            return Result(Outcome.REJECTED, _POSITION_CLOSED, "rejected")
        if known is None or tick is None:
            return Result(Outcome.REJECTED, _OFF_QUOTES, "rejected")
        side, now = _side(held.type), (known.stop(held.sl), known.stop(held.tp))
        price = tick.of(_other(side))
        if any(stop is not None and abs(price - stop) < known.freeze_level for stop in now):
            return Result(Outcome.REJECTED, _FROZEN, "rejected")
        if (sl, tp) == now:
            return Result(Outcome.DONE, _NO_CHANGES)
        passed = is_passed(side, price, sl, target=False)
        wanted = now[0] if passed else _kept(known, price, sl, now[0]), _target(known, side, price, tp, now[1])
        why = "stop_passed" if passed or is_passed(side, price, tp, target=True) else "rejected"
        if wanted == now:
            return Result(Outcome.REJECTED, _INVALID_STOPS, why)
        answer = self._set_stops(held, now, wanted)
        if passed and answer.outcome is Outcome.DONE:
            return Result(Outcome.REJECTED, _INVALID_STOPS, why)
        return answer

    def _set_stops(
        self, held: Any, now: tuple[Decimal | None, Decimal | None], wanted: tuple[Decimal | None, Decimal | None]
    ) -> Result:
        """Set both stops, or each by itself if the server refuses the two together."""
        answer = self._set(held, *wanted)
        if answer.code != _INVALID_STOPS or now[0] == wanted[0] or now[1] == wanted[1]:
            return answer
        first = self._set(held, wanted[0], now[1])
        if first.outcome is Outcome.UNKNOWN:
            return first
        second = self._set(held, wanted[0] if first.outcome is Outcome.DONE else now[0], wanted[1])
        return second if first.outcome is Outcome.DONE else first

    def _set(self, held: Any, sl: Decimal | None, tp: Decimal | None) -> Result:
        return self._sent(
            action=self.module.TRADE_ACTION_SLTP, symbol=held.symbol, position=held.ticket, magic=held.magic,
            sl=_float(sl), tp=_float(tp),
        )  # fmt: skip

    def cancel(self, magic: int) -> Result:
        """Remove the orders with this magic that wait to open something; a close that waits is left alone.

        REJECTED if there is none: it was filled or removed meanwhile, which `positions` and `trace` show. An order may
        be filled in part before it is removed. UNKNOWN if a removal has no clear answer, or is under way.
        """
        self._check_account()
        module, answers = self.module, list[Result]()
        for order in self._ask("orders_get"):
            if order.magic != magic or order.position_id:
                continue
            is_going = order.state == module.ORDER_STATE_REQUEST_CANCEL
            remove = {"action": module.TRADE_ACTION_REMOVE, "order": order.ticket, "magic": magic}
            answers.append(Result(Outcome.UNKNOWN) if is_going else self._sent(**remove))
        for outcome in (Outcome.UNKNOWN, Outcome.REJECTED, Outcome.DONE):
            for answer in answers:
                if answer.outcome is outcome:
                    return answer
        return Result(Outcome.REJECTED, _INVALID, "rejected")

    def _deal(self, known: Symbol, tick: Quote, *, side: str, volume: Decimal, **more: Any) -> Result:
        """Buy or sell at market. A refused filling mode is a clear refusal, so the next mode is tried."""
        answer = Result(Outcome.REJECTED, _INVALID_FILL, "rejected")
        for filling in known.fillings:
            answer = self._sent(
                action=self.module.TRADE_ACTION_DEAL, type=_type(side), volume=float(volume),
                price=float(tick.of(side)), deviation=self.deviation, type_filling=filling,
                type_time=self.module.ORDER_TIME_GTC, comment=_COMMENT, **more,
            )  # fmt: skip
            if answer.code != _INVALID_FILL:
                return answer
        return answer

    def _sent(self, **request: Any) -> Result:
        answer = self.module.order_send(request)
        if answer is None:
            return Result(Outcome.UNKNOWN)
        code = int(answer.retcode)
        if code in _DONE or (code == _NO_CHANGES and request["action"] == self.module.TRADE_ACTION_SLTP):
            return Result(Outcome.DONE, code)
        if code in _REFUSED:
            return Result(Outcome.REJECTED, code, _WHY.get(code, "rejected"))
        return Result(Outcome.UNKNOWN, code)

    # --- reading the terminal

    def _ask(self, name: str, *args: Any, **more: Any) -> Any:
        """Query the terminal. An answer of None is an error and never means "none"."""
        answer = getattr(self.module, name)(*args, **more)
        if answer is None:
            raise ConnectionError(f"{name}: {self.module.last_error()}")
        return answer

    def _check_account(self) -> Any:
        info = self._ask("account_info")
        if info.login != self.login:
            self._loading = None
            raise OtherAccount(f"the terminal is logged in to {info.login}, not to {self.login}")
        return info

    def _symbol(self, symbol: str, *, fresh: bool = False) -> Symbol | None:
        """The symbol's properties; None if the broker has no such symbol. Raises if the terminal does not answer."""
        known, read_ms = self._symbols.get(symbol, (None, 0))
        if known is not None and not fresh and self.clock_ms() - read_ms < _FRESH_MS:
            return known
        info = self.module.symbol_info(symbol)
        if info is None:
            code, text = self.module.last_error()
            if code <= self.module.RES_E_INTERNAL_FAIL or code == self.module.RES_E_AUTH_FAILED:
                raise ConnectionError(f"symbol_info: {code} {text}")
            return None
        if not info.visible:
            self.module.symbol_select(symbol, True)  # a symbol that is not selected has no prices
        known = symbol_of(info, self.module)
        self._symbols[symbol] = known, self.clock_ms()
        return known

    def _tick(self, symbol: str, known: Symbol) -> Quote | None:
        tick = self.module.symbol_info_tick(symbol)
        return Quote(known.price(tick.bid), known.price(tick.ask)) if tick and tick.bid and tick.ask else None

    def _live(self, position: Position) -> Any:
        """The position as it is now. A swap by re-opening changes its ticket, but not its identifier."""
        rows = self._ask("positions_get", symbol=position.symbol)
        return next((row for row in rows if str(row.identifier) == position.id), None)

    def _position(self, row: Any) -> Position:
        known = self._symbol(row.symbol) or UNLISTED
        profit = Decimal(str(row.profit)) + Decimal(str(row.swap))
        return Position(
            str(row.identifier), row.magic, row.symbol, _side(row.type), lots_of(row.volume), known.stop(row.sl),
            known.stop(row.tp), fine(row.price_open), row.time_msc, profit.quantize(Decimal("0.01")),
        )  # fmt: skip

    def _deals(self, rows: Any) -> Iterator[tuple[Deal, bool]]:
        """The trades among the rows (no balance operations), oldest first, and whether each reversed a netting
        position."""
        module = self.module
        trades = (row for row in rows if row.type in (module.DEAL_TYPE_BUY, module.DEAL_TYPE_SELL))
        for row in sorted(trades, key=lambda row: (row.time_msc, row.ticket)):
            costs = sum((Decimal(str(part)) for part in (row.swap, row.commission, row.fee)), Decimal(0))
            deal = Deal(
                str(row.ticket), str(row.order), str(row.position_id),
                Entry.IN if row.entry == module.DEAL_ENTRY_IN else Entry.OUT, row.magic, row.symbol, _side(row.type),
                lots_of(row.volume), fine(row.price), Decimal(str(row.profit)) + costs, row.time_msc,
                _REASONS.get(row.reason, "MANUAL"), costs,
            )  # fmt: skip
            yield deal, row.entry == module.DEAL_ENTRY_INOUT

    def _is_open(self, position: int) -> bool:
        deals = self._deals(self._ask("history_deals_get", position=position))
        return sum(deal.volume if deal.entry is Entry.IN else -deal.volume for deal, _ in deals) > 0

    def _may_be_filled(self, order: Any) -> bool:
        module = self.module
        is_over = order.state in (module.ORDER_STATE_CANCELED, module.ORDER_STATE_REJECTED, module.ORDER_STATE_EXPIRED)
        return not is_over or order.volume_current != order.volume_initial


def _ever() -> tuple[datetime, datetime]:
    """A range that covers all of the history, although servers use time zones up to half a day off."""
    return _EPOCH, datetime.now(UTC) + timedelta(days=2)


def _split(deals: Iterator[tuple[Deal, bool]]) -> Iterator[Deal]:
    """Split a deal that reversed a netting position in two: one closes the old volume, one opens the rest."""
    volume = Decimal(0)
    for deal, turns in deals:
        if not turns:
            volume += deal.volume if deal.entry is Entry.IN else -deal.volume
            yield deal
            continue
        rest = deal.volume - volume
        yield replace(deal, volume=volume)
        yield replace(deal, entry=Entry.IN, volume=rest, profit=Decimal(0), costs=Decimal(0))
        volume = rest


def _kept(known: Symbol, price: Decimal, stop: Decimal | None, there: Decimal | None) -> Decimal | None:
    allowed = known.allowed(price, stop)
    return there if allowed != stop and there is not None else allowed


def _target(known: Symbol, side: str, price: Decimal, target: Decimal | None, there: Decimal | None) -> Decimal | None:
    """The target to set. One that the price has passed lies as close beyond the price as allowed, and never moves away
    from it again, so that the price can reach it."""
    if not is_passed(side, price, target, target=True):
        return _kept(known, price, target, there)
    nearest = known.nearest(price, below=side == "SELL")
    is_nearer = there is not None and not is_passed(side, nearest, there, target=False)
    return there if is_nearer and not is_passed(side, price, there, target=True) else nearest


def _float(stop: Decimal | None) -> float:
    return 0.0 if stop is None else float(stop)


def _side(kind: int) -> str:
    return "SELL" if kind else "BUY"


def _type(side: str) -> int:
    return 0 if side == "BUY" else 1


def _other(side: str) -> str:
    return "SELL" if side == "BUY" else "BUY"
