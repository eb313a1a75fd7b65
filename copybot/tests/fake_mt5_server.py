"""A MetaTrader server with one account: symbols, prices, orders, positions and deals, for the fake of the package."""

import time
from copy import copy
from datetime import UTC
from enum import StrEnum
from types import SimpleNamespace
from typing import Any

from copybot.tests.fake_mt5_structs import OrderSendResult, TradeDeal, TradeOrder, TradePosition

AHEAD_MS = 3 * 3_600_000


_LISTS = ("orders", "deals", "done_orders")


class Fate(StrEnum):
    """A script of answers: a number means a refusal with that code."""

    TIMEOUT = "10012, and nothing was done"
    TIMEOUT_DONE = "10012, and it was done"
    TIMEOUT_LATER = "10012, and it will be done on settle()"
    DEAF = "no answer at all, and it was done"
    PARTIAL = "10010, half of it"
    PLACED = "10008, and it waits until settle()"
    RAISES = "an exception, and it was done"


class Refused(Exception):
    def __init__(self, code: Any) -> None:
        self.code = code


def noisy(value: Any) -> Any:
    """A float like the real package's: 1.1669200000000002."""
    return value + value * 2.2e-16


class FakeServer:
    ACCOUNT_MARGIN_MODE_RETAIL_NETTING, ACCOUNT_MARGIN_MODE_EXCHANGE, ACCOUNT_MARGIN_MODE_RETAIL_HEDGING = 0, 1, 2
    DEAL_TYPE_BUY, DEAL_TYPE_SELL, DEAL_TYPE_BALANCE = 0, 1, 2
    DEAL_TYPE_BUY_CANCELED, DEAL_TYPE_SELL_CANCELED = 13, 14
    DEAL_ENTRY_IN, DEAL_ENTRY_OUT, DEAL_ENTRY_INOUT, DEAL_ENTRY_OUT_BY = 0, 1, 2, 3
    DEAL_REASON_CLIENT, DEAL_REASON_EXPERT, DEAL_REASON_SL, DEAL_REASON_TP, DEAL_REASON_SO = 0, 3, 4, 5, 6
    DEAL_REASON_ROLLOVER, DEAL_REASON_VMARGIN, DEAL_REASON_SPLIT = 7, 8, 9
    ORDER_TYPE_BUY, ORDER_TYPE_SELL = 0, 1
    ORDER_FILLING_FOK, ORDER_FILLING_IOC, ORDER_FILLING_RETURN = 0, 1, 2
    ORDER_TIME_GTC = 0
    ORDER_STATE_STARTED, ORDER_STATE_PLACED, ORDER_STATE_CANCELED, ORDER_STATE_PARTIAL = 0, 1, 2, 3
    ORDER_STATE_FILLED, ORDER_STATE_REJECTED, ORDER_STATE_EXPIRED, ORDER_STATE_REQUEST_CANCEL = 4, 5, 6, 9
    TRADE_ACTION_DEAL, TRADE_ACTION_SLTP, TRADE_ACTION_REMOVE = 1, 6, 8
    SYMBOL_TRADE_EXECUTION_REQUEST, SYMBOL_TRADE_EXECUTION_INSTANT = 0, 1
    SYMBOL_TRADE_EXECUTION_MARKET, SYMBOL_TRADE_EXECUTION_EXCHANGE = 2, 3
    SYMBOL_TRADE_MODE_DISABLED, SYMBOL_TRADE_MODE_LONGONLY, SYMBOL_TRADE_MODE_SHORTONLY = 0, 1, 2
    SYMBOL_TRADE_MODE_CLOSEONLY, SYMBOL_TRADE_MODE_FULL = 3, 4
    RES_S_OK, RES_E_INVALID_PARAMS, RES_E_NOT_FOUND, RES_E_AUTH_FAILED = 1, -2, -4, -6
    RES_E_INTERNAL_FAIL, RES_E_INTERNAL_FAIL_TIMEOUT = -10000, -10005

    def __init__(self, *, hedging: bool = True, balance: float = 10_000.0, login: int = 5001) -> None:
        self.login_is, self.hedging, self.balance = login, hedging, balance
        self.connected = self.trade_allowed = self.trade_expert = self.autotrading = True
        self.is_up, self.market_open, self.hidden, self.lag_ms, self.unseen = True, True, 0, 0, []
        self.queues = self.two_steps = self.fifo = False
        self.symbols, self.selected = {}, set()
        self.positions, self.orders, self.deals, self.done_orders = {}, [], [], []
        self.fates, self.later, self.sent = [], [], []
        self.tickets, self.error = 1_000, (1, "Success")
        self.add("EURUSD", bid=1.1, digits=5, spread=10)
        self.add("GER40", bid=18_250.0, digits=1, spread=10, tick=0.5, contract=1.0, step=0.1, least=0.1)
        self._deal(SimpleNamespace(type=2, symbol="", magic=0), 0, 0, 0, 0.0, 0.0, balance)

    def add(
        self, name: str, *, bid: float, digits: int, spread: int, tick: float | None = None,
        contract: float = 100_000.0, step: float = 0.01, least: float = 0.01, most: float = 500.0, filling: int = 1,
        exe: int = 2, stops: int = 0, freeze: int = 0, trade_mode: int = 4,
    ) -> None:  # fmt: skip
        tick = tick or 10**-digits
        self.symbols[name] = SimpleNamespace(**{field: value for field, value in locals().items() if field != "self"})

    # --- the market and the server

    def settle(self, share: float = 1.0) -> None:
        """Execute the delayed orders. `share`: of a waiting order's volume, whose rest goes on waiting."""
        later, self.later = self.later, []
        for order, ticket in later:
            volume = round(order.volume * share, 2)
            self._execute(order, volume, ticket)
            self.orders = [waiting for waiting in self.orders if waiting.ticket != ticket]
            if ticket and volume < order.volume:
                rest = round(order.volume - volume, 8)
                waiting = self._order(order, ticket, self.ORDER_STATE_PARTIAL, rest)
                self.orders.append(waiting)
                self.later.append((order._replace(volume=rest), ticket))

    def opens(self) -> None:
        """Open the market, and fill what waited for it."""
        self.market_open = True
        self.settle()

    def rollover(self) -> None:
        """Charge swaps by re-opening: each position keeps its identifier and gets a new ticket."""
        for position in self.positions.values():
            position.ticket, position.swap = self._ticket(), position.swap - 0.7

    def rollover_rebooked(self, *, new_ids: bool = False, keeps_magic: bool = True) -> None:
        """Roll over by two deals a position: out and in at the present price, under the same position or a new one."""
        for held in list(self.positions.values()):
            self._book_out(held, 7, keeps_magic=keeps_magic)
            self._book_in(held, 7, held.volume, self._ending(held), new_ids=new_ids, keeps_magic=keeps_magic)

    def split(self, symbol: str, factor: float, *, new_ids: bool = False) -> None:
        """Split a symbol: `factor` times the volume at a `factor`th of the price."""
        spec, there = self.symbols[symbol], [held for held in self.positions.values() if held.symbol == symbol]
        for held in there:
            self._book_out(held, 9)
        spec.bid = round(spec.bid / factor, spec.digits)
        for held in there:
            held.sl, held.tp = held.sl / factor, held.tp / factor
            self._book_in(held, 9, round(held.volume * factor, 8), self._ending(held), new_ids=new_ids)

    def _book_out(self, held: Any, reason: int, *, keeps_magic: bool = True) -> None:
        price, ticket = self._ending(held), self._ticket()
        profit, swap = self._gain(held, held.volume, price), held.swap
        self.balance += profit + swap
        order = SimpleNamespace(type=1 - held.type, symbol=held.symbol, magic=held.magic if keeps_magic else 0)
        self._deal(order, ticket, 1, held.identifier, held.volume, price, profit, reason, swap)
        del self.positions[held.identifier]

    def _book_in(
        self, held: Any, reason: int, volume: float, price: float, *, new_ids: bool, keeps_magic: bool = True
    ) -> None:
        ticket = self._ticket()
        held.ticket, held.identifier = ticket, ticket if new_ids else held.identifier
        held.volume, held.price_open, held.time_msc, held.swap = volume, price, self._now_ms(), 0.0
        held.magic = held.magic if keeps_magic else 0
        self.positions[held.identifier] = held
        self._deal(held, ticket, 0, held.identifier, volume, price, 0.0, reason)

    def price(self, symbol: Any, bid: Any) -> None:
        """Move the price and trigger stops and targets."""
        self.symbols[symbol].bid = bid
        for position in list(self.positions.values()):
            price, sign = self._ending(position), 1 if position.type == 0 else -1
            for level, reason, hit in (
                (position.sl, 4, (position.sl - price) * sign),
                (position.tp, 5, (price - position.tp) * sign),
            ):
                if level and hit >= 0:
                    self._take_off(position, position.volume, price, position.magic, self._ticket(), reason)
                    break

    def by_hand(self, position: Any, volume: Any = None) -> None:
        held = self.positions[position]
        self._take_off(held, volume or held.volume, self._ending(held), 0, self._ticket(), 0)

    # --- orders

    def _meets(self, order: Any, fate: Any) -> Any:
        if not self.connected:
            raise Refused(10031)
        if not self.autotrading:
            raise Refused(10027)
        if not self.trade_expert:
            raise Refused(10026)
        if isinstance(fate, int):
            raise Refused(fate)
        if order.action == self.TRADE_ACTION_REMOVE:
            return self._remove(order, fate)
        self._check(order)
        if not self.market_open:
            fate = Fate.PLACED
        if fate is None:
            return self._execute(order, order.volume)
        if fate in (Fate.TIMEOUT_DONE, Fate.DEAF, Fate.RAISES):
            self._execute(order, order.volume)
        elif fate == Fate.PARTIAL:
            return self._execute(order, round(order.volume / 2, 2))._replace(retcode=10010)
        elif fate == Fate.PLACED:
            return self._place(order)
        elif fate != Fate.TIMEOUT:
            self.later.append((order, 0))
        if fate == Fate.RAISES:
            raise OSError("the pipe is broken")
        if fate == Fate.DEAF:
            return self._fail(-10005, "IPC timeout")
        return self._answer(order, 10012)

    def _place(self, order: Any) -> Any:
        ticket = self._ticket()
        self.orders.append(self._order(order, ticket, self.ORDER_STATE_PLACED, order.volume))
        self.later.append((order, ticket))
        return self._answer(order, 10008)._replace(order=ticket)

    def _remove(self, order: Any, fate: Any) -> Any:
        waiting = next((waiting for waiting in self.orders if waiting.ticket == order.order), None)
        if waiting is None:
            raise Refused(10013)
        if fate != Fate.TIMEOUT:
            self.orders.remove(waiting)
            self.done_orders.append(waiting._replace(state=self.ORDER_STATE_CANCELED))
            self.later = [(late, ticket) for late, ticket in self.later if ticket != waiting.ticket]
        if fate == Fate.DEAF:
            return self._fail(-10005, "IPC timeout")
        return self._answer(order, 10009 if fate is None else 10012)

    def _check(self, order: Any) -> None:
        spec = self.symbols.get(order.symbol)
        if spec is None:
            raise Refused(10013)
        if spec.trade_mode == 0:
            raise Refused(10017)
        if not self.market_open and not (self.queues and order.action == 1):
            raise Refused(10018)
        held = next((held for held in self.positions.values() if held.ticket == order.position), None)
        if order.position and held is None:
            raise Refused(10036)
        side = held.type if order.action == 6 else order.type
        self._check_stops(order, spec, side, held)
        if order.action == 6:
            return
        self._check_mode(order, spec, held)
        if held is not None and order.volume > held.volume + 1e-9:
            raise Refused(10038)
        steps, is_all = order.volume / spec.step, held is not None and abs(order.volume - held.volume) < 1e-9
        is_off = order.volume < spec.least or abs(steps - round(steps)) > 1e-6
        if order.volume > spec.most or (is_off and not is_all):  # all of a position closes whatever the steps are
            raise Refused(10014)
        allowed = {0} if spec.filling & 1 else set()
        allowed |= {1} if spec.filling & 2 else set()
        if order.type_filling not in (allowed | ({2} if spec.exe != 2 else set())):
            raise Refused(10030)
        if (
            spec.exe < 2
            and abs(order.price - self._price(spec, order.type)) > order.deviation * 10**-spec.digits + 1e-9
        ):
            raise Refused(10004)
        free = self.balance - self._margin()
        if held is None and order.volume * spec.contract * spec.bid / 100 > free:
            raise Refused(10019)

    def _check_mode(self, order: Any, spec: Any, held: Any) -> None:
        """Refuse what the symbol's trade mode and the account's rule of closing forbid."""
        if held is None and (spec.trade_mode, order.type) in ((1, 1), (2, 0), (3, 0), (3, 1)):
            raise Refused({1: 10042, 2: 10043, 3: 10044}[spec.trade_mode])
        if held is None and self.two_steps and (order.sl or order.tp):
            raise Refused(10016)
        if self.fifo:
            same = [one for one in self.positions.values() if one.symbol == order.symbol]
            if held is None and any(one.type != order.type for one in same):
                raise Refused(10046)
            if held is not None and min(same, key=lambda one: (one.time_msc, one.identifier)) is not held:
                raise Refused(10045)

    def _check_stops(self, order: Any, spec: Any, side: Any, held: Any) -> None:
        price, sign, point = self._price(spec, 1 - side), 1 if side == 0 else -1, 10**-spec.digits
        level = spec.stops * point - 1e-9
        for stop, away in ((order.sl, (price - order.sl) * sign), (order.tp, (order.tp - price) * sign)):
            ticks = stop / spec.tick
            if stop and (away < max(level, 1e-9) or abs(ticks - round(ticks)) > 1e-4):
                raise Refused(10016)
        if order.action != 6:
            return
        if abs(held.sl - order.sl) + abs(held.tp - order.tp) < point / 10:
            raise Refused(10025)
        if any(stop and abs(price - stop) < spec.freeze * point for stop in (held.sl, held.tp)):
            raise Refused(10029)

    def _execute(self, order: Any, volume: Any, ticket: int = 0) -> Any:
        spec, ticket = self.symbols[order.symbol], ticket or self._ticket()
        held = next((held for held in self.positions.values() if held.ticket == order.position), None)
        if order.action == 6:
            held.sl, held.tp = noisy(order.sl), noisy(order.tp)
            return self._answer(order, 10009)
        if order.position and held is None:
            return self._answer(order, 10036)  # it was closed meanwhile
        price = self._price(spec, order.type)
        self.done_orders.append(self._order(order, ticket, self.ORDER_STATE_FILLED, 0.0))
        if held is None and not self.hedging:
            held = next((held for held in self.positions.values() if held.symbol == order.symbol), None)
        if held is None:
            self._opens(order, volume, price, ticket)
        elif held.type != order.type:
            self._turns(held, order, volume, price, ticket)
        else:
            whole = held.volume + volume
            held.price_open = (held.price_open * held.volume + price * volume) / whole
            held.volume = round(whole, 8)
            self._deal(order, ticket, 0, held.identifier, volume, price, 0.0)
        return self._answer(order, 10009)._replace(deal=self.deals[-1].ticket, order=ticket, volume=volume, price=price)

    def _opens(self, order: Any, volume: Any, price: Any, ticket: Any) -> None:
        self.positions[ticket] = SimpleNamespace(
            ticket=ticket, identifier=ticket, time_msc=self._now_ms(), type=order.type, magic=order.magic,
            volume=volume, price_open=price, sl=noisy(order.sl), tp=noisy(order.tp), swap=0.0, symbol=order.symbol,
            comment=order.comment,
        )  # fmt: skip
        self._deal(order, ticket, 0, ticket, volume, price, 0.0)

    def _turns(self, held: Any, order: Any, volume: Any, price: Any, ticket: Any) -> None:
        """Close a part or all; on a netting account the rest opens the other side, in the same deal."""
        rest = round(volume - held.volume, 8)
        if rest <= 0:
            self._take_off(held, volume, price, order.magic, ticket, 3)
            return
        profit = self._gain(held, held.volume, price)
        self.balance += profit
        held.type, held.volume, held.price_open, held.magic, held.ticket = order.type, rest, price, order.magic, ticket
        self._deal(order, ticket, 2, held.identifier, volume, price, profit)

    def _take_off(self, held: Any, volume: Any, price: Any, magic: Any, ticket: Any, reason: Any) -> None:
        profit = self._gain(held, volume, price)
        share = held.swap * volume / held.volume
        self.balance += profit + share
        held.swap, held.volume = held.swap - share, round(held.volume - volume, 8)
        order = SimpleNamespace(type=1 - held.type, symbol=held.symbol, magic=magic)
        self._deal(order, ticket, 1, held.identifier, volume, price, profit, reason, share)
        if not held.volume:
            del self.positions[held.identifier]

    def _deal(
        self,
        order: Any,
        ticket: Any,
        entry: Any,
        position: Any,
        volume: Any,
        price: Any,
        profit: Any,
        reason: int = 3,
        swap: float = 0.0,
    ) -> None:
        now = self._now_ms()
        self.deals.append(
            TradeDeal(
                self._ticket(), ticket, now // 1000, now, order.type, entry, order.magic, position, reason, volume,
                noisy(price), 0.0, swap, round(profit, 2), 0.0, order.symbol, "", "",
            )
        )  # fmt: skip

    # --- records and calculations

    def _order(self, order: Any, ticket: Any, state: Any, left: Any) -> Any:
        now = self._now_ms()
        return TradeOrder(
            ticket, now // 1000, now, now // 1000, now, 0, order.type, 0, order.type_filling, state, order.magic,
            order.position, 0,
            3, order.volume, left, order.price, order.sl, order.tp, order.price, 0.0, order.symbol, order.comment, "",
        )  # fmt: skip

    def _shown(self, held: Any) -> Any:
        return TradePosition(
            held.ticket, held.time_msc // 1000, held.time_msc, held.time_msc // 1000, held.time_msc, held.type,
            held.magic, held.identifier, 3, noisy(held.volume), noisy(held.price_open), held.sl, held.tp,
            self._ending(held), held.swap, self._profit(held), held.symbol, held.comment, "",
        )  # fmt: skip

    def _answer(self, order: Any, code: Any) -> Any:
        spec = self.symbols.get(order.symbol)
        bid, ask = (spec.bid, self._ask(spec)) if spec else (0.0, 0.0)
        return OrderSendResult(code, 0, 0, 0.0, 0.0, bid, ask, "", len(self.sent), 0, order)

    def _history(self, rows: Any, dates: Any, field: Any, ticket: Any, position: Any) -> Any:
        if not self._is_up():
            return None
        if position is not None:
            return tuple(row for row in rows if row.position_id == position)
        if ticket is not None:
            return tuple(row for row in rows if row.ticket == ticket)
        if len(dates) != 2:
            return self._fail(-2, "Invalid arguments")
        since, until = (date.replace(tzinfo=date.tzinfo or UTC).timestamp() * 1000 for date in dates)
        return tuple(row for row in rows if since <= getattr(row, field) <= until)

    def _copied(self) -> dict[str, Any]:
        """The books as they are; the positions are copied, because orders change them."""
        positions = {name: copy(held) for name, held in self.positions.items()}
        return {"positions": positions, **{name: list(getattr(self, name)) for name in _LISTS}}

    def _books(self, name: str) -> Any:
        """One of the books as the terminal shows it, which with `lag_ms` is behind the server's."""
        self.unseen = [(seen_ms, books) for seen_ms, books in self.unseen if seen_ms > self._now_ms()]
        return self.unseen[0][1][name] if self.unseen else getattr(self, name)

    def _seen(self, deals: Any) -> Any:
        return deals[: len(deals) - self.hidden]

    def _gain(self, held: Any, volume: Any, price: Any) -> Any:
        sign = 1 if held.type == 0 else -1
        return round((price - held.price_open) * sign * volume * self.symbols[held.symbol].contract, 2)

    def _profit(self, held: Any) -> Any:
        return self._gain(held, held.volume, self._ending(held))

    def _margin(self) -> Any:
        return sum(
            position.volume * self.symbols[position.symbol].contract * position.price_open / 100
            for position in self.positions.values()
        )

    def _ending(self, held: Any) -> Any:
        return self._price(self.symbols[held.symbol], 1 - held.type)

    def _price(self, spec: Any, kind: Any) -> Any:
        return self._ask(spec) if kind == 0 else spec.bid

    def _ask(self, spec: Any) -> Any:
        return round(spec.bid + spec.spread * 10**-spec.digits, spec.digits)

    def _ticket(self) -> Any:
        self.tickets += 1
        return self.tickets

    def _now_ms(self) -> Any:
        return time.time_ns() // 1_000_000 + AHEAD_MS

    def _is_up(self) -> bool:
        if self.is_up:
            self.error = (1, "Success")
            return True
        self.error = (-10004, "No IPC connection")
        return False

    def _fail(self, code: Any, text: Any, answer: Any = None) -> Any:
        if self.is_up:
            self.error = (code, text)
        return answer
