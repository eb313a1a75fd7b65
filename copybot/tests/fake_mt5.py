"""The `MetaTrader5` package without a terminal: its names, tuples, floats and errors, and the behaviour of its servers.

An instance stands for the module. `fates`: what happens to the next orders, one each; see `Fate`. Times are the trade
server's, three hours ahead. None means an error, which last_error() names.
"""

import time
from collections import namedtuple
from datetime import UTC
from enum import StrEnum
from types import SimpleNamespace
from typing import Any

TradePosition = namedtuple(
    "TradePosition",
    "ticket time time_msc time_update time_update_msc type magic identifier reason volume price_open sl tp"
    " price_current swap profit symbol comment external_id",
)
TradeOrder = namedtuple(
    "TradeOrder",
    "ticket time_setup time_setup_msc time_done time_done_msc time_expiration type type_time type_filling state magic"
    " position_id position_by_id reason volume_initial volume_current price_open sl tp price_current price_stoplimit"
    " symbol comment external_id",
)
TradeDeal = namedtuple(
    "TradeDeal",
    "ticket order time time_msc type entry magic position_id reason volume price commission swap profit fee symbol"
    " comment external_id",
)
TradeRequest = namedtuple(
    "TradeRequest",
    "action magic order symbol volume price stoplimit sl tp deviation type type_filling type_time expiration comment"
    " position position_by",
    defaults=(0, 0, 0, "", 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0, 0, 0, 0, "", 0, 0),
)
OrderSendResult = namedtuple(
    "OrderSendResult", "retcode deal order volume price bid ask comment request_id retcode_external request"
)
Tick = namedtuple("Tick", "time bid ask last volume time_msc flags volume_real")
AccountInfo = namedtuple(
    "AccountInfo",
    "login trade_mode leverage limit_orders margin_so_mode trade_allowed trade_expert margin_mode currency_digits"
    " fifo_close balance credit profit equity margin margin_free margin_level margin_so_call margin_so_so"
    " margin_initial margin_maintenance assets liabilities commission_blocked name server currency company",
)
TerminalInfo = namedtuple(
    "TerminalInfo",
    "community_account community_connection connected dlls_allowed trade_allowed tradeapi_disabled email_enabled"
    " ftp_enabled notifications_enabled mqid build maxbars codepage ping_last community_balance retransmission company"
    " name language path data_path commondata_path",
)
SymbolInfo = namedtuple(
    "SymbolInfo",
    "custom chart_mode select visible session_deals session_buy_orders session_sell_orders volume volumehigh volumelow"
    " time digits spread spread_float ticks_bookdepth trade_calc_mode trade_mode start_time expiration_time"
    " trade_stops_level trade_freeze_level trade_exemode swap_mode swap_rollover3days margin_hedged_use_leg"
    " expiration_mode filling_mode order_mode order_gtc_mode option_mode option_right bid bidhigh bidlow ask askhigh"
    " asklow last lasthigh lastlow volume_real volumehigh_real volumelow_real option_strike point trade_tick_value"
    " trade_tick_value_profit trade_tick_value_loss trade_tick_size trade_contract_size trade_accrued_interest"
    " trade_face_value trade_liquidity_rate volume_min volume_max volume_step volume_limit swap_long swap_short"
    " margin_initial margin_maintenance session_volume session_turnover session_interest session_buy_orders_volume"
    " session_sell_orders_volume session_open session_close session_aw session_price_settlement"
    " session_price_limit_min session_price_limit_max margin_hedged price_change price_volatility price_theoretical"
    " price_greeks_delta price_greeks_theta price_greeks_gamma price_greeks_vega price_greeks_rho price_greeks_omega"
    " price_sensitivity basis category currency_base currency_profit currency_margin bank description exchange formula"
    " isin name page path",
)
AHEAD_MS = 3 * 3_600_000


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


class FakeMT5:
    ACCOUNT_MARGIN_MODE_RETAIL_NETTING, ACCOUNT_MARGIN_MODE_EXCHANGE, ACCOUNT_MARGIN_MODE_RETAIL_HEDGING = 0, 1, 2
    DEAL_TYPE_BUY, DEAL_TYPE_SELL, DEAL_TYPE_BALANCE = 0, 1, 2
    DEAL_ENTRY_IN, DEAL_ENTRY_OUT, DEAL_ENTRY_INOUT, DEAL_ENTRY_OUT_BY = 0, 1, 2, 3
    DEAL_REASON_CLIENT, DEAL_REASON_EXPERT, DEAL_REASON_SL, DEAL_REASON_TP, DEAL_REASON_SO = 0, 3, 4, 5, 6
    ORDER_TYPE_BUY, ORDER_TYPE_SELL = 0, 1
    ORDER_FILLING_FOK, ORDER_FILLING_IOC, ORDER_FILLING_RETURN = 0, 1, 2
    ORDER_TIME_GTC = 0
    ORDER_STATE_STARTED, ORDER_STATE_PLACED, ORDER_STATE_CANCELED, ORDER_STATE_PARTIAL = 0, 1, 2, 3
    ORDER_STATE_FILLED, ORDER_STATE_REJECTED, ORDER_STATE_EXPIRED = 4, 5, 6
    TRADE_ACTION_DEAL, TRADE_ACTION_SLTP = 1, 6
    SYMBOL_TRADE_EXECUTION_REQUEST, SYMBOL_TRADE_EXECUTION_INSTANT = 0, 1
    SYMBOL_TRADE_EXECUTION_MARKET, SYMBOL_TRADE_EXECUTION_EXCHANGE = 2, 3
    SYMBOL_TRADE_MODE_DISABLED, SYMBOL_TRADE_MODE_FULL = 0, 4
    RES_S_OK, RES_E_INVALID_PARAMS, RES_E_NOT_FOUND, RES_E_AUTH_FAILED = 1, -2, -4, -6
    RES_E_INTERNAL_FAIL, RES_E_INTERNAL_FAIL_TIMEOUT = -10000, -10005

    def __init__(self, *, hedging: bool = True, balance: float = 10_000.0, login: int = 5001) -> None:
        self.login_is, self.hedging, self.balance = login, hedging, balance
        self.connected = self.trade_allowed = self.trade_expert = self.autotrading = True
        self.is_up, self.market_open, self.hidden = True, True, 0
        self.symbols, self.selected = {}, set()
        self.positions, self.orders, self.deals, self.done_orders = {}, [], [], []
        self.fates, self.later, self.sent = [], [], []
        self.tickets, self.error = 1_000, (1, "Success")
        self.add("EURUSD", bid=1.1, digits=5, spread=10)
        self.add("GER40", bid=18_250.0, digits=1, spread=10, tick=0.5, contract=1.0, step=0.1, least=0.1)
        self._deal(SimpleNamespace(type=2, symbol="", magic=0), 0, 0, 0, 0.0, 0.0, balance)

    def add(
        self, name: str, *, bid: float, digits: int, spread: int, tick: float | None = None,
        contract: float = 100_000.0, step: float = 0.01, least: float = 0.01, filling: int = 1, exe: int = 2,
        stops: int = 0, freeze: int = 0, trade_mode: int = 4,
    ) -> None:  # fmt: skip
        tick = tick or 10**-digits
        self.symbols[name] = SimpleNamespace(**{field: value for field, value in locals().items() if field != "self"})

    # --- the module's functions

    def initialize(
        self,
        path: str = "",
        *,
        login: int = 0,
        password: str = "",
        server: str = "",
        timeout: int = 60_000,
        portable: bool = False,
    ) -> bool:
        if not self.is_up:
            self.error = (-10003, "IPC initialize failed, MetaTrader 5 x64 not found")
            return False
        return True

    def shutdown(self) -> None:
        self.is_up = False

    def last_error(self) -> Any:
        return self.error

    def account_info(self) -> Any:
        if not self._is_up():
            return None
        floating = sum(self._profit(position) for position in self.positions.values())
        margin, equity = self._margin(), self.balance + floating
        return AccountInfo(
            self.login_is, 0, 100, 200, 0, self.trade_allowed, self.trade_expert, 2 if self.hedging else 0, 2, False,
            noisy(self.balance), 0.0, floating, equity, margin, equity - margin, 0.0, 50.0, 30.0, 0.0, 0.0, 0.0, 0.0,
            0.0, "Finn", "Fake-Demo", "USD", "Fake Ltd",
        )  # fmt: skip

    def terminal_info(self) -> Any:
        if not self._is_up():
            return None
        return TerminalInfo(
            False, False, self.connected, False, self.autotrading, False, False, False, False, False, 4424, 100_000, 0,
            42_000, 0.0, 0.0, "Fake Ltd", "MetaTrader 5", "English", "C:\\MT5", "C:\\MT5", "C:\\Common",
        )  # fmt: skip

    def symbol_info(self, symbol: Any) -> Any:
        spec = self.symbols.get(symbol)
        if not self._is_up():
            return None
        if spec is None:
            return self._fail(-4, "Terminal: Not found")
        fields = dict.fromkeys(SymbolInfo._fields, 0) | {
            "visible": symbol in self.selected, "select": symbol in self.selected, "digits": spec.digits,
            "spread": spec.spread, "trade_mode": spec.trade_mode, "trade_stops_level": spec.stops,
            "trade_freeze_level": spec.freeze, "trade_exemode": spec.exe, "filling_mode": spec.filling,
            "point": 10**-spec.digits, "trade_tick_size": spec.tick, "trade_tick_value": spec.contract * spec.tick,
            "trade_contract_size": spec.contract, "volume_min": spec.least, "volume_max": 500.0,
            "volume_step": spec.step, "name": symbol, "bid": spec.bid, "ask": self._ask(spec),
        }  # fmt: skip
        self.error = (1, "Success")
        return SymbolInfo(**fields)

    def symbol_select(self, symbol: Any, enable: bool = True) -> Any:
        if symbol not in self.symbols:
            return self._fail(-1, "Terminal: Call failed", False)
        self.selected.add(symbol)
        return True

    def symbol_info_tick(self, symbol: Any) -> Any:
        if not self._is_up() or symbol not in self.selected:
            return self._fail(-4, "Terminal: Not found")
        spec, now = self.symbols[symbol], self._now_ms()
        return Tick(now // 1000, noisy(spec.bid), noisy(self._ask(spec)), 0.0, 0, now, 6, 0.0)

    def positions_get(self, *, symbol: Any = None, group: Any = None, ticket: Any = None) -> Any:
        if not self._is_up():
            return None
        positions = [self._shown(position) for position in self.positions.values() if symbol in (None, position.symbol)]
        return tuple(position for position in positions if ticket in (None, position.ticket))

    def orders_get(self, *, symbol: Any = None, group: Any = None, ticket: Any = None) -> Any:
        return tuple(self.orders) if self._is_up() else None

    def history_deals_get(self, *dates: Any, group: Any = None, ticket: Any = None, position: Any = None) -> Any:
        return self._history(self._seen(self.deals), dates, "time_msc", ticket, position)

    def history_orders_get(self, *dates: Any, group: Any = None, ticket: Any = None, position: Any = None) -> Any:
        return self._history(self.done_orders, dates, "time_done_msc", ticket, position)

    def history_deals_total(self, date_from: Any, date_to: Any) -> Any:
        history = self.history_deals_get(date_from, date_to)
        return None if history is None else len(history)

    def history_orders_total(self, date_from: Any, date_to: Any) -> Any:
        history = self.history_orders_get(date_from, date_to)
        return None if history is None else len(history)

    def order_send(self, request: Any) -> Any:
        self.sent.append(request)
        for name in request:
            if name not in TradeRequest._fields:
                return self._fail(-2, f'Invalid "{name}" argument')
        for name in ("volume", "price", "sl", "tp"):
            if not isinstance(request.get(name, 0.0), float):
                return self._fail(-2, f'Invalid "{name}" argument')
        if len(request.get("comment", "")) > 31:
            return self._fail(-2, 'Invalid "comment" argument')
        if not self._is_up():
            return None
        order = TradeRequest(**request)
        try:
            return self._meets(order, self.fates.pop(0) if self.fates else None)
        except Refused as refused:
            return self._answer(order, refused.code)

    # --- the market and the server

    def settle(self) -> None:
        """Execute the delayed orders."""
        self.orders = []
        for order in self.later:
            self._execute(order, order.volume)
        self.later = []

    def rollover(self) -> None:
        """Charge swaps by re-opening: each position keeps its identifier and gets a new ticket."""
        for position in self.positions.values():
            position.ticket, position.swap = self._ticket(), position.swap - 0.7

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
        self._check(order)
        if fate is None:
            return self._execute(order, order.volume)
        if fate in (Fate.TIMEOUT_DONE, Fate.DEAF, Fate.RAISES):
            self._execute(order, order.volume)
        elif fate == Fate.PARTIAL:
            return self._execute(order, round(order.volume / 2, 2))._replace(retcode=10010)
        elif fate != Fate.TIMEOUT:
            self.later.append(order)
        if fate == Fate.RAISES:
            raise OSError("the pipe is broken")
        if fate == Fate.DEAF:
            return self._fail(-10005, "IPC timeout")
        if fate == Fate.PLACED:
            self.orders.append(self._order(order, self._ticket(), self.ORDER_STATE_PLACED, order.volume))
            return self._answer(order, 10008)
        return self._answer(order, 10012)

    def _check(self, order: Any) -> None:
        spec = self.symbols.get(order.symbol)
        if spec is None:
            raise Refused(10013)
        if spec.trade_mode == 0:
            raise Refused(10017)
        if not self.market_open:
            raise Refused(10018)
        held = next((held for held in self.positions.values() if held.ticket == order.position), None)
        if order.position and held is None:
            raise Refused(10036)
        side = held.type if order.action == 6 else order.type
        self._check_stops(order, spec, side, held)
        if order.action == 6:
            return
        steps = order.volume / spec.step
        if order.volume < spec.least or abs(steps - round(steps)) > 1e-6:
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
        if held is not None and order.volume > held.volume + 1e-9:
            raise Refused(10038)
        free = self.balance - self._margin()
        if held is None and order.volume * spec.contract * spec.bid / 100 > free:
            raise Refused(10019)

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

    def _execute(self, order: Any, volume: Any) -> Any:
        spec, ticket = self.symbols[order.symbol], self._ticket()
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
            ticket, now // 1000, now, now // 1000, now, 0, order.type, 0, order.type_filling, state, order.magic, 0, 0,
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
