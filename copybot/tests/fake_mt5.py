"""The `MetaTrader5` package without a terminal: its names, tuples, floats and errors, and the behaviour of its servers.

An instance stands for the module. `fates`: what happens to the next orders, one each; see `Fate`. Times are the trade
server's, three hours ahead. None means an error, which last_error() names. `lag_ms`: how long after an order's answer
the positions, orders and deals still look as before it. `queues`: an order on a closed market waits for its opening.
`two_steps`: an open with stops is refused. `fifo`: the positions of a symbol close oldest first, and none opens on the
other side.
"""

from typing import Any

from copybot.tests.fake_mt5_server import AHEAD_MS, FakeServer, Fate, Refused, noisy
from copybot.tests.fake_mt5_structs import AccountInfo, SymbolInfo, TerminalInfo, Tick, TradeDeal, TradeRequest

__all__ = ["AHEAD_MS", "FakeMT5", "Fate", "Refused", "TradeDeal", "noisy"]


class FakeMT5(FakeServer):
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
            self.login_is, 0, 100, 200, 0, self.trade_allowed, self.trade_expert, 2 if self.hedging else 0, 2,
            self.fifo, noisy(self.balance), 0.0, floating, equity, margin, equity - margin, 0.0, 50.0, 30.0, 0.0, 0.0,
            0.0, 0.0, 0.0, "Finn", "Fake-Demo", "USD", "Fake Ltd",
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
            "trade_contract_size": spec.contract, "volume_min": spec.least, "volume_max": spec.most,
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
        positions = [self._shown(held) for held in self._books("positions").values() if symbol in (None, held.symbol)]
        return tuple(position for position in positions if ticket in (None, position.ticket))

    def orders_get(self, *, symbol: Any = None, group: Any = None, ticket: Any = None) -> Any:
        return tuple(self._books("orders")) if self._is_up() else None

    def history_deals_get(self, *dates: Any, group: Any = None, ticket: Any = None, position: Any = None) -> Any:
        return self._history(self._seen(self._books("deals")), dates, "time_msc", ticket, position)

    def history_orders_get(self, *dates: Any, group: Any = None, ticket: Any = None, position: Any = None) -> Any:
        return self._history(self._books("done_orders"), dates, "time_done_msc", ticket, position)

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
        before = (self._now_ms() + self.lag_ms, self._copied()) if self.lag_ms else None
        try:
            answer = self._meets(order, self.fates.pop(0) if self.fates else None)
        except Refused as refused:
            return self._answer(order, refused.code)
        if before is not None:
            self.unseen.append(before)
        return answer
