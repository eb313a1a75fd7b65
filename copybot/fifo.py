"""Many copies on a hedging account whose broker closes the positions of a symbol in the order of their opening (FIFO).

A copy that is not the oldest cannot be closed by its own position: the broker refuses that for ever. So the account is
used like a netting account. An order first closes the oldest positions of the other side, as far as there are any, and
opens a position with the rest. Then all positions of a symbol are on one side (such brokers also forbid opposite ones),
and each close is in its turn. The deals carry the magic number of the copy that the order was for, and say how much of
it is open, whichever position was closed for it. `netting` says what follows from that; above all, copies have no
stops: a stop at the broker would close the position that it belongs to, out of its turn, for a copy that may be gone.

Other positions on the account (by hand, say) take part in the order. If one is older than a copy, the copy's close
closes it, and the copy's position stays in its place, without the stops that it had. So the account is for copies
alone, and the bot does not start on one with other positions while no copy is open.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial

from copybot.broker import Entry, Outcome, Position, Result, SymbolSpec
from copybot.netting import Netting, Virtual

_OUT_OF_TURN = 10045


@dataclass
class Fifo(Netting):
    """A Terminal over a hedging account with the FIFO rule. A virtual position's id is its magic number."""

    _by_number: bool = field(default=False, init=False, repr=False)
    _is_begun: bool = field(default=False, init=False, repr=False)

    def is_alone(self) -> bool:
        """Whether a copy is open, or the account has no position at all. A terminal that has just connected may show a
        copy's position before its deals."""
        rows = self.terminal.positions()
        return not rows or any(self.is_ours(row.magic) for row in rows) or bool(self.positions())

    def open(
        self, *, magic: int, symbol: str, side: str, volume: Decimal, sl: Decimal | None, tp: Decimal | None
    ) -> Result:
        """As a broker's fill in part if only a part of the orders is done."""
        return self._in_turn(lambda: self._open(magic, symbol, side, volume))

    def close(self, position: Position, volume: Decimal) -> Result:
        return self._in_turn(lambda: super(Fifo, self).close(position, volume))

    def _in_turn(self, do: Callable[[], Result]) -> Result:
        """Try the other order of positions if the broker refuses the first one, and nothing has been executed.

        Neither times nor numbers are sure to be in the order of the openings: a server's clock goes back once a year,
        and an order that waited has a lower number than positions that opened before it was executed.
        """
        self._is_begun = False
        answer = do()
        if answer.outcome is Outcome.REJECTED and answer.code == _OUT_OF_TURN and not self._is_begun:
            self._by_number = not self._by_number
            answer = do()
        return answer

    def _open(self, magic: int, symbol: str, side: str, volume: Decimal) -> Result:
        spec = self.terminal.spec(symbol)
        is_plain = spec is None or all(row.side == side for row in self._oldest_first(symbol))
        if spec is None or is_plain or volume < spec.volume_min or not self.is_ours(magic):
            return super().open(magic=magic, symbol=symbol, side=side, volume=volume, sl=None, tp=None)
        is_begun, answer = False, Result(Outcome.UNKNOWN)
        for named, part in self._orders(symbol, side, volume, spec):
            lots, send = part if side == "BUY" else -part, partial(self._send, magic, symbol, side, named, part)
            answer = self._tell_order(magic, symbol, lots, Entry.IN, send)
            if answer.outcome is not Outcome.DONE:
                break
            is_begun = True
        return answer.of_several(is_begun=is_begun)

    def _closings(self, held: Virtual, lots: Decimal, spec: SymbolSpec) -> list[tuple[Position | None, Decimal]]:
        return self._orders(held.symbol, "SELL" if held.volume > 0 else "BUY", lots, spec)

    def _whole_net(self, held: Virtual, lots: Decimal) -> Position | None:
        return None  # each order names its position already, or opens one

    def _send_close(self, held: Virtual, position: Position | None, lots: Decimal) -> Result:
        return self._send(held.magic, held.symbol, "SELL" if held.volume > 0 else "BUY", position, lots)

    def _send(self, magic: int, symbol: str, side: str, position: Position | None, lots: Decimal) -> Result:
        if position is not None:
            answer = self.terminal.take_off(position, lots, magic=magic)
        else:
            answer = self.terminal.open(magic=magic, symbol=symbol, side=side, volume=lots, sl=None, tp=None)
        self._is_begun |= answer.outcome is Outcome.DONE
        return answer

    def _orders(self, symbol: str, side: str, lots: Decimal, spec: SymbolSpec) -> list[tuple[Position | None, Decimal]]:
        """The orders that buy or sell `lots`: each closes a part of the position it names, or opens one."""
        orders, left = list[tuple[Position | None, Decimal]](), lots
        for row in self._oldest_first(symbol):
            if row.side != side and left:
                orders += [(row, part) for part in spec.parts(min(left, row.volume))]
                left -= min(left, row.volume)
        return orders + [(None, part) for part in spec.parts(left) if part]

    def _oldest_first(self, symbol: str) -> list[Position]:
        rows = [row for row in self.terminal.positions() if row.symbol == symbol]
        return sorted(rows, key=lambda row: (0 if self._by_number else row.opened_ms, int(row.id)))
