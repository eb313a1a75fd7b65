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
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from types import MappingProxyType
from typing import Any

from copybot.broker import Account, Deal, Entry, Outcome, Position, Quote, Result, SymbolSpec, Trace

_EPOCH = datetime(1970, 1, 2, tzinfo=UTC)
_DONE = frozenset({10009, 10010})
_NO_CHANGES = 10025
# These codes are clear refusals. All others mean UNKNOWN: placed, error, timeout, locked, no connection, a close in
# progress, and any code that this list does not name may have been executed, or may still be.
_REFUSED = frozenset(
    {10004, 10006, 10007, *range(10013, 10025), 10026, 10027, 10029, 10030, *range(10032, 10039), *range(10040, 10047)}
)
_WHY = MappingProxyType(
    {10004: "slippage", 10018: "market_closed", 10019: "no_money", 10020: "slippage", 10040: "too_many_open"}
)
_INVALID_STOPS, _OFF_QUOTES, _FROZEN, _INVALID_FILL, _POSITION_CLOSED = 10016, 10021, 10029, 10030, 10036
_FILLING_FOK, _FILLING_IOC = 1, 2  # bits of a symbol's filling_mode; the package does not name them
_REASONS = MappingProxyType({4: "SL", 5: "TP", 6: "STOP_OUT"})
_COMMENT = "copydesk"  # with more than 31 characters, order_send returns None


class OtherAccount(ConnectionError):
    """The terminal is logged in to another account, whose books would look as if all positions had been closed."""


@dataclass(frozen=True, slots=True)
class _Spec:
    """A symbol's properties. `stops_level`, `freeze_level`: distances in price. `worth`: see `MetaTrader.worth`."""

    digits: int
    tick: Decimal
    volume_min: Decimal
    volume_max: Decimal
    volume_step: Decimal
    stops_level: Decimal
    freeze_level: Decimal
    fillings: tuple[int, ...]
    worth: Decimal
    contract_size: Decimal
    may_open: bool

    @property
    def conditions(self) -> SymbolSpec:
        return SymbolSpec(
            self.tick, self.volume_min, self.volume_step, self.volume_max, self.contract_size, self.may_open
        )

    def price(self, value: float | Decimal, rounding: str = ROUND_HALF_EVEN) -> Decimal:
        ticks = (Decimal(str(value)) / self.tick).to_integral_value(rounding)
        return (ticks * self.tick).quantize(Decimal(1).scaleb(-self.digits))

    def volume(self, value: float) -> Decimal:
        return Decimal(str(value)).quantize(self.volume_step)


_FINE = Decimal("1e-8")
_UNLISTED = _Spec(8, _FINE, _FINE, _FINE, _FINE, Decimal(0), Decimal(0), (), Decimal(0), Decimal(0), False)


@dataclass
class MetaTrader:
    """A Terminal. `connect` makes one; one thread at a time may use it.

    A stop that is closer to the price than the symbol allows is set at the closest allowed price, so that a new
    position always has one. `modify` does so only if the position has no stop yet; otherwise the present stop stays
    until the wanted one is allowed. A stop on the wrong side of the price is refused, and so is the open with it: the
    price has passed the provider's own stop.

    `deviation`: points by which an instant execution may be worse. `look_ms`: how long the history must stay unchanged
    before it counts as complete.
    """

    module: Any
    login: int
    deviation: int = 20
    look_ms: int = 5_000
    clock_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000
    _specs: dict[str, _Spec] = field(default_factory=dict, init=False, repr=False)
    _look: "tuple[tuple[int, int], int] | None" = field(default=None, init=False, repr=False)

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
        return [self._position(row) for row in self._ask("positions_get")]

    def deals(self, position: str) -> list[Deal]:
        self._check_account()
        return list(_split(self._deals(self._ask("history_deals_get", position=int(position)))))

    def history(self) -> list[Deal]:
        """All deals of the account, oldest first. A deal that reversed a netting position is one OUT here."""
        self._check_account()
        return [deal for deal, _ in self._deals(self._ask("history_deals_get", *_ever()))]

    def position_under(self, magic: int) -> str:
        return next((deal.position for deal in self.history() if deal.magic == magic), "")

    def trace(self, magic: int) -> Trace:
        """An order that was rejected, expired or cancelled unfilled leaves no trace. PENDING also means that the deals
        opened a position and did not close it: then the position list is behind."""
        account = self._check_account()
        deals = [deal for deal in self._ask("history_deals_get", *_ever()) if deal.magic == magic]
        if deals:
            is_hedging = account.margin_mode == self.module.ACCOUNT_MARGIN_MODE_RETAIL_HEDGING
            is_open = is_hedging and any(self._is_open(number) for number in {deal.position_id for deal in deals})
            return Trace.PENDING if is_open else Trace.DONE
        if any(order.magic == magic for order in self._ask("orders_get")):
            return Trace.PENDING
        orders = self._ask("history_orders_get", *_ever())
        filled = (order for order in orders if order.magic == magic and self._may_be_filled(order))
        return Trace.PENDING if any(filled) else Trace.NONE  # a filled order's deal is still to come

    def is_settled(self) -> bool:
        """Whether the terminal is connected and its history has been stable for `look_ms`. After a connection the
        history loads gradually, and the terminal does not say when it is complete."""
        if not self._ask("terminal_info").connected:
            self._look = None
            return False
        self._check_account()
        totals = self._ask("history_deals_total", *_ever()), self._ask("history_orders_total", *_ever())
        now = self.clock_ms()
        if self._look is None or self._look[0] != totals:
            self._look = totals, now
        return now - self._look[1] >= self.look_ms

    def quote(self, symbol: str) -> Quote | None:
        """The last price; at a weekend, Friday's."""
        spec = self._spec(symbol)
        return None if spec is None else self._tick(symbol, spec)

    def worth(self, symbol: str) -> Decimal:
        """What one lot gains, in the account's currency, when the price rises by one."""
        spec = self._spec(symbol, fresh=True)
        return Decimal(0) if spec is None else spec.worth

    def account(self) -> Account:
        info, terminal = self._check_account(), self._ask("terminal_info")
        may_trade = info.trade_allowed and info.trade_expert and terminal.connected and terminal.trade_allowed
        cent = Decimal(1).scaleb(-info.currency_digits)
        balance, equity = (Decimal(str(amount)).quantize(cent) for amount in (info.balance, info.equity))
        is_hedging = info.margin_mode == self.module.ACCOUNT_MARGIN_MODE_RETAIL_HEDGING
        allowed = bool(may_trade and not terminal.tradeapi_disabled)
        return Account(
            str(info.login), info.server, info.currency, balance, equity, is_hedging, allowed,
            is_connected=bool(terminal.connected),
        )  # fmt: skip

    def spec(self, symbol: str) -> SymbolSpec | None:
        spec = self._spec(symbol)
        return None if spec is None else spec.conditions

    # --- orders

    def open(
        self, *, magic: int, symbol: str, side: str, volume: Decimal, sl: Decimal | None, tp: Decimal | None
    ) -> Result:
        self._check_account()
        spec = self._spec(symbol, fresh=True)
        if spec is None:
            return Result(Outcome.REJECTED, 10013, "symbol_unknown")
        if volume < spec.volume_min:
            return Result(Outcome.REJECTED, 10014, "volume_too_small")
        tick = self._tick(symbol, spec)
        if tick is None:
            return Result(Outcome.REJECTED, _OFF_QUOTES, "rejected")
        price = tick.of(_other(side))
        if _is_wrong(side, price, sl, tp):
            return Result(Outcome.REJECTED, _INVALID_STOPS, "rejected")
        sl, tp = (_moved_out(spec, price, stop) for stop in (sl, tp))
        return self._deal(
            spec, tick, symbol=symbol, side=side, volume=volume, magic=magic, sl=_float(sl), tp=_float(tp)
        )

    def close(self, position: Position, volume: Decimal) -> Result:
        self._check_account()
        held, spec = self._live(position), self._spec(position.symbol, fresh=True)
        if held is None:
            return Result(Outcome.REJECTED, _POSITION_CLOSED, "rejected")
        if spec is None:
            return Result(Outcome.REJECTED, 10013, "symbol_unknown")
        whole = spec.volume(held.volume)
        part = min(volume, whole) if volume >= whole else spec.conditions.lots(volume)
        if not part:
            return Result(Outcome.REJECTED, 10014, "volume_too_small")
        tick = self._tick(position.symbol, spec)
        if tick is None:
            return Result(Outcome.REJECTED, _OFF_QUOTES, "rejected")
        side = _other(_side(held.type))
        return self._deal(
            spec, tick, symbol=position.symbol, side=side, volume=part, magic=held.magic, position=held.ticket
        )

    def modify(self, position: Position, *, sl: Decimal | None, tp: Decimal | None) -> Result:
        self._check_account()
        held, spec = self._live(position), self._spec(position.symbol, fresh=True)
        tick = None if spec is None else self._tick(position.symbol, spec)
        if held is None:
            return Result(Outcome.REJECTED, _POSITION_CLOSED, "rejected")
        if spec is None or tick is None:
            return Result(Outcome.REJECTED, _OFF_QUOTES, "rejected")
        price, now = tick.of(_other(_side(held.type))), (_stop(spec, held.sl), _stop(spec, held.tp))
        if any(stop is not None and abs(price - stop) < spec.freeze_level for stop in now):
            return Result(Outcome.REJECTED, _FROZEN, "rejected")
        if (sl, tp) == now:
            return Result(Outcome.DONE, _NO_CHANGES)
        if _is_wrong(_side(held.type), price, sl, tp):
            return Result(Outcome.REJECTED, _INVALID_STOPS, "rejected")
        wanted = tuple(_kept(spec, price, stop, there) for stop, there in zip((sl, tp), now, strict=True))
        if wanted == now:
            return Result(Outcome.REJECTED, _INVALID_STOPS, "rejected")
        return self._sent(
            action=self.module.TRADE_ACTION_SLTP, symbol=position.symbol, position=held.ticket, magic=held.magic,
            sl=_float(wanted[0]), tp=_float(wanted[1]),
        )  # fmt: skip

    def cancel(self, magic: int) -> Result:
        """Remove the pending orders with this magic."""
        self._check_account()
        answers = [
            self._sent(action=self.module.TRADE_ACTION_REMOVE, order=order.ticket)
            for order in self._ask("orders_get")
            if order.magic == magic
        ]
        refused = (answer for answer in answers if answer.outcome is not Outcome.DONE)
        return next(refused, answers[0] if answers else Result(Outcome.REJECTED, 10013, "rejected"))

    def _deal(self, spec: _Spec, tick: Quote, *, side: str, volume: Decimal, **more: Any) -> Result:
        """Buy or sell at market. A refused filling mode is a clear refusal, so the next mode is tried."""
        answer = Result(Outcome.REJECTED, _INVALID_FILL, "rejected")
        for filling in spec.fillings:
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
            raise OtherAccount(f"the terminal is logged in to {info.login}, not to {self.login}")
        return info

    def _spec(self, symbol: str, *, fresh: bool = False) -> _Spec | None:
        """The symbol's properties; None if the broker has no such symbol. Raises if the terminal does not answer."""
        if fresh or symbol not in self._specs:
            info = self.module.symbol_info(symbol)
            if info is None:
                code, text = self.module.last_error()
                if code <= self.module.RES_E_INTERNAL_FAIL or code == self.module.RES_E_AUTH_FAILED:
                    raise ConnectionError(f"symbol_info: {code} {text}")
                return None
            if not info.visible:
                self.module.symbol_select(symbol, True)  # a symbol that is not selected has no prices
            self._specs[symbol] = self._read(info)
        return self._specs[symbol]

    def _read(self, info: Any) -> _Spec:
        point = Decimal(1).scaleb(-info.digits)
        tick = Decimal(str(info.trade_tick_size)) or point
        market = self.module
        named = ((_FILLING_FOK, market.ORDER_FILLING_FOK), (_FILLING_IOC, market.ORDER_FILLING_IOC))
        fillings = [filling for bit, filling in named if info.filling_mode & bit]
        if info.trade_exemode != market.SYMBOL_TRADE_EXECUTION_MARKET:
            fillings.append(market.ORDER_FILLING_RETURN)
        rest = [filling for _, filling in named if filling not in fillings]
        least, most, step = (Decimal(str(lots)) for lots in (info.volume_min, info.volume_max, info.volume_step))
        return _Spec(
            info.digits, tick, least, most, step, info.trade_stops_level * point, info.trade_freeze_level * point,
            (*fillings, *rest), Decimal(str(info.trade_tick_value)) / tick,
            Decimal(str(info.trade_contract_size)), info.trade_mode == market.SYMBOL_TRADE_MODE_FULL,
        )  # fmt: skip

    def _tick(self, symbol: str, spec: _Spec) -> Quote | None:
        tick = self.module.symbol_info_tick(symbol)
        return Quote(spec.price(tick.bid), spec.price(tick.ask)) if tick and tick.bid and tick.ask else None

    def _live(self, position: Position) -> Any:
        """The position as it is now. A swap by re-opening changes its ticket, but not its identifier."""
        rows = self._ask("positions_get", symbol=position.symbol)
        return next((row for row in rows if str(row.identifier) == position.id), None)

    def _position(self, row: Any) -> Position:
        spec = self._spec(row.symbol) or _UNLISTED
        profit = Decimal(str(row.profit)) + Decimal(str(row.swap))
        return Position(
            str(row.identifier), row.magic, row.symbol, _side(row.type), spec.volume(row.volume), _stop(spec, row.sl),
            _stop(spec, row.tp), _fine(row.price_open), row.time_msc, profit.quantize(Decimal("0.01")),
        )  # fmt: skip

    def _deals(self, rows: Any) -> Iterator[tuple[Deal, bool]]:
        """The trades among the rows (no balance operations), oldest first, and whether each reversed a netting
        position."""
        module = self.module
        trades = (row for row in rows if row.type in (module.DEAL_TYPE_BUY, module.DEAL_TYPE_SELL))
        for row in sorted(trades, key=lambda row: (row.time_msc, row.ticket)):
            spec = self._spec(row.symbol) or _UNLISTED
            costs = sum((Decimal(str(part)) for part in (row.swap, row.commission, row.fee)), Decimal(0))
            deal = Deal(
                str(row.ticket), str(row.order), str(row.position_id),
                Entry.IN if row.entry == module.DEAL_ENTRY_IN else Entry.OUT, row.magic, row.symbol, _side(row.type),
                spec.volume(row.volume), _fine(row.price), Decimal(str(row.profit)) + costs, row.time_msc,
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


def _is_wrong(side: str, price: Decimal, sl: Decimal | None, tp: Decimal | None) -> bool:
    sign = 1 if side == "BUY" else -1
    return (sl is not None and (price - sl) * sign <= 0) or (tp is not None and (tp - price) * sign <= 0)


def _moved_out(spec: _Spec, price: Decimal, stop: Decimal | None) -> Decimal | None:
    if stop is None or abs(price - stop) >= spec.stops_level:
        return stop
    if stop < price:
        return spec.price(price - spec.stops_level, ROUND_FLOOR)
    return spec.price(price + spec.stops_level, ROUND_CEILING)


def _kept(spec: _Spec, price: Decimal, stop: Decimal | None, there: Decimal | None) -> Decimal | None:
    moved = _moved_out(spec, price, stop)
    return there if moved != stop and there is not None else moved


def _stop(spec: _Spec, value: float) -> Decimal | None:
    return spec.price(value) if value else None


def _float(stop: Decimal | None) -> float:
    return 0.0 if stop is None else float(stop)


def _fine(price: float) -> Decimal:
    """An open or deal price, which may lie between two ticks if the order was filled in parts."""
    return Decimal(str(price)).quantize(_FINE)


def _side(kind: int) -> str:
    return "SELL" if kind else "BUY"


def _type(side: str) -> int:
    return 0 if side == "BUY" else 1


def _other(side: str) -> str:
    return "SELL" if side == "BUY" else "BUY"
