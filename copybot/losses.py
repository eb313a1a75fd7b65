"""What a user would lose in a simulation: counted as it happens, and when everything is at rest."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from copybot.broker import Position
from copybot.copier import Copier
from copybot.desk_model import COPIER, LEADER, MASTER, DeskModel
from copybot.faulty_broker import FaultyBroker
from copybot.magic import magic_of
from copybot.targets import born_ms

CLOSE_BOUND, ROW_BOUND, PUBLISH_BOUND, CANCEL_BOUND = 6, 4, 3, 3  # ticks in which nothing stood in the way
MISSING_DEALS = 7  # ticks until a trade's end is reported without its deals
LONGEST_WAIT = 15  # ticks until an order is sent again that was refused both before and after an hour
SETTLING = 6  # ticks after which a copy that two closes have turned round is closed again
NO = Decimal(0)

Row = Mapping[str, Any]


@dataclass
class Losses:
    """Compares the desk with the provider's and the copier's broker.

    `index`: of the subscription. `is_exempt`: the schedule restores the desk, runs two instances, or executes orders
    later than the guard waits (`is_late`); then a copy may miss volume, or a limit may be exceeded.
    """

    desk: DeskModel
    master: FaultyBroker
    market: FaultyBroker
    index: int
    is_exempt: bool
    is_restoring: bool
    is_late: bool = False
    max_age_ms: int | None = None
    counts: Counter[str] = field(default_factory=Counter)
    longest: Counter[str] = field(default_factory=Counter)
    _waited: Counter[tuple[str, str]] = field(default_factory=Counter)
    _refs: dict[int, str] = field(default_factory=dict)

    def ref_of(self, magic: int) -> str:
        if magic not in self._refs:
            self._refs = {magic_of(self.index, ref): ref for ref in self.desk.refs}
        return self._refs.get(magic, "")

    def active_trades(self) -> dict[str, Row]:
        return {row["trade_id"]: row for (owner, _), row in self.desk.state.rows.items() if owner == MASTER}

    # --- as it happens

    def begin_anew(self, kind: str) -> None:
        """A process starts, and with it its waits for missing deals."""
        for key in [key for key in self._waited if key[0] == kind]:
            del self._waited[key]

    def note_open(self, magic: int) -> None:
        """A copy is about to be opened. Copies whose trades are active count towards the subscriber's limit."""
        most, active = self.market.character.most_open, self.active_trades()
        if most and not self.is_exempt and self.max_age_ms is None:  # in the hour that passes, late orders are filled
            held = sum(self.ref_of(position.magic) in active for position in self.market.truly_held().values())
            self.counts["too_many"] += held >= most and self.ref_of(magic) in active  # an order filled late may be over

    def note_less(self, position: Position, rest: Decimal) -> None:
        """An order took volume off a position: not more than its trade demands, as far as the copier could see.

        If the broker filled a part of a close only, the close has reached it, and the bound of the next begins.
        """
        if rest:
            self._waited.pop(("late_close", position.id), None)
        trade = self.active_trades().get(self.ref_of(position.magic))
        is_exempt = self.is_exempt or self._is_net or self.market.has_unseen_stop_out
        if position.magic and trade is not None and not is_exempt:
            least = min(self.market.filled[position.magic], _half(trade))
            self.counts["unasked"] += not rest or rest + self._step <= least

    def forgive(self) -> None:
        """An order whose answer was lost is waited for before the next one, and the bound begins anew."""
        for position in self.market.truly_held().values() if self.market.unanswered else ():
            if position.magic in self.market.unanswered:
                self._waited.pop(("late_close", position.id), None)

    def note_waits_of_publisher(self) -> None:
        """In this tick the publisher could have reported each end."""
        slow = _slowness(self.master)
        ended = self._rows(MASTER).keys() - self.master.truly_held().keys()
        self._note("late_publish", ended, PUBLISH_BOUND + slow)

    def note_waits_of_copier(self) -> None:
        """In this tick the copier could have closed each copy whose trade has ended, and reported it."""
        active, held = self.active_trades(), self.market.truly_held()
        slow, lag = _slowness(self.market), max(self.market.character.lag, self.market.character.deal_lag)
        over = (number for number, position in held.items() if self._is_over(position.magic, active))
        after_hour = LONGEST_WAIT if self.master.character.hour_at else 0
        if not self._is_net:  # there a late close is a late row
            self._note("late_close", over, CLOSE_BOUND + lag + after_hour)
        if not self.is_exempt:
            self._note("late_row", self._late_rows(held, active), ROW_BOUND + slow)

    def _late_rows(self, held: Mapping[str, Position], active: Mapping[str, Row]) -> set[str]:
        rows = self._rows(COPIER)
        if self._is_net:
            return {number for number, row in rows.items() if row["copies"] not in active}
        return rows.keys() - held.keys()

    def note_waits_in_queue(self) -> None:
        """In this tick the copier could have cancelled each queued open whose trade has ended."""
        if self.market.character.cancels and not self.is_exempt:
            active = self.active_trades()
            opens = {order.magic for order in self.market.queue} - self.market.filled.keys()
            self._note(
                "late_cancel", map(str, (magic for magic in opens if self._is_over(magic, active))), CANCEL_BOUND
            )

    def _is_over(self, magic: int, active: Mapping[str, Row]) -> bool:
        ref = self.ref_of(magic)
        return ref in self.desk.closes and ref not in active

    def _note(self, kind: str, names: Iterable[str], bound: int) -> None:
        for name in names:
            self._waited[kind, name] += 1
            self.counts[kind] += self._waited[kind, name] == bound + 1
            self.longest[kind] = max(self.longest[kind], self._waited[kind, name])

    # --- at rest

    def at_rest(self, copier: Copier | None) -> Counter[str]:
        active, market = self.active_trades(), self.market
        pairs = [
            (position, active.get(self.ref_of(position.magic)))
            for position in market.truly_held().values()
            if position.magic
        ]
        held = [(position, trade) for position, trade in pairs if trade is not None]
        return Counter(
            doubles=0 if self._is_disputed else sum(count - 1 for count in market.opens.values()),
            orphans=len(pairs) - len(held) if not self._is_net else 0 if self._is_disputed else self._apart_in_net(),
            large=0 if self._is_net else sum(
                position.volume - _half(trade) > 2 * self._step for position, trade in held
            ),
            short=0 if self.is_exempt or market.character.is_shared else sum(
                position.volume + self._step <= min(market.filled[position.magic], _half(trade))
                for position, trade in held
            ),
            stops=sum(self._lack_of_stops(position, trade) for position, trade in held),
            unpublished=self._apart(MASTER, self.master),
            untold=0 if self._is_disputed or self._is_net else self._apart(COPIER, market),
            own_unpublished=self._apart(LEADER, market) if market.character.leads else 0,
            echoed=sum(self._is_copy(ticket) for owner, _, ticket in map(_parts, self.desk.opened) if owner == LEADER),
            unexplained=0 if self._is_disputed else self._unexplained(copier),
            published_twice=0 if self.is_restoring else sum(count - 1 for count in self.desk.opened.values()),
            contradicted=0 if self.is_exempt else sum(
                reason == "lost" and ref in self.desk.executed for ref, reason in self.desk.state.skips.items()
            ),
            late_open=self._late_opens(),
        )  # fmt: skip

    @property
    def _is_disputed(self) -> bool:
        """Whether it is not known what the copies have that share positions.

        A copy that a late order made larger keeps its smaller row, which an alarm tells. Where deals are hidden and two
        instances close, each of them concludes from the net position which copy the other one's order has closed. They
        may conclude differently: then one reports the end of a copy that the other one still manages.
        """
        shares_positions = self.market.character.is_shared
        return shares_positions and (self.is_late or (self.is_exempt and bool(self.market.character.hides)))

    @property
    def _is_net(self) -> bool:
        """Whether only the net of all copies counts. Where deals of shared positions are hidden, it is not known which
        copy an order closed that an earlier process sent, and to the user it makes no difference."""
        return self.market.character.is_shared and bool(self.market.character.hides)

    def _apart_in_net(self) -> int:
        """Whether the desk's rows do not add up to the positions, or one is of a trade that is over."""
        rows, active = self._rows(COPIER).values(), self.active_trades()
        told = sum(_signed(row["type"], Decimal(row["volume"])) for row in rows)
        held = sum(_signed(position.side, position.volume) for position in self.market.truly_held().values())
        return (told != held) + sum(row["copies"] not in active for row in rows)

    @property
    def _step(self) -> Decimal:
        """The broker's volume step, and its least volume: an order can come only so close to a target."""
        return self.market.lots

    def _lack_of_stops(self, position: Position, trade: Row) -> int:
        """The number of stops that differ from the trade's, although the broker would accept them."""
        if self.market.character.is_shared:
            return 0
        pairs = (("sl", position.sl), ("tp", position.tp))
        return sum(
            stop != (wanted := _price(trade[name])) and self.market.accepts(position.side, name, wanted)
            for name, stop in pairs
        )

    def _unexplained(self, copier: Copier | None) -> int:
        """The number of trades on which the desk and the copier disagree about whether, or with what volume, they are
        held."""
        held = {} if copier is None else {copy.ref: f"{copy.volume:.8f}" for copy in copier.followed[0].digest()[1]}
        return len({ref for ref, _ in held.items() ^ self.desk.must_hold().items()})

    def _apart(self, account: str, broker: FaultyBroker) -> int:
        """The number of rows and positions that do not agree."""
        rows = self._rows(account)
        held = {
            number: position
            for number, position in broker.truly_held().items()
            if account == MASTER or (account == COPIER) == bool(position.magic)
        }
        for number in [number for number in held if number not in rows and account != COPIER]:
            # A publisher that was away publishes no old trade, and none a trade that its deals contradict.
            is_new = self.is_restoring or f"{account} {number}" not in self.desk.opened
            if is_new and (self.max_age_ms is not None or broker.hides_deals_of(number)):
                del held[number]
        differ = sum(
            Decimal(rows[ticket]["volume"]) != held[ticket].volume
            or any(_price(rows[ticket][name]) != getattr(held[ticket], name) for name in ("sl", "tp"))
            for ticket in rows.keys() & held.keys()
        )
        return len(rows.keys() ^ held.keys()) + differ

    def _late_opens(self) -> int:
        """The number of trades that were published when they were no longer new."""
        if self.max_age_ms is None or self.is_restoring:
            return 0
        ages = (
            born_ms(ref) - self.master.born_ms[ticket]
            for ref, ticket in self.desk.state.refs.items()
            if ticket in self.master.born_ms
        )
        return sum(age > self.max_age_ms + 3_000 for age in ages)

    def _is_copy(self, ticket: str) -> bool:
        deals = self.market.books.get(ticket)
        return bool(deals and deals[0].magic)

    def _rows(self, account: str) -> dict[str, Row]:
        return {ticket: row for (owner, ticket), row in self.desk.state.rows.items() if owner == account}


def _slowness(broker: FaultyBroker) -> int:
    """By how many ticks a broker delays the end of a trade: until it shows it, or is known never to show it."""
    character = broker.character
    # After an order filled in part comes another one, and the deals of both may be hidden.
    settling = SETTLING * (2 if character.hides else 1) if character.is_shared else 0
    return max(character.lag, character.deal_lag) + (MISSING_DEALS if character.hides else 0) + settling


def _parts(name: str) -> tuple[str, str, str]:
    return name.partition(" ")


def _signed(side: str, volume: Decimal) -> Decimal:
    return volume if side == "BUY" else -volume


def _half(trade: Row) -> Decimal:
    return Decimal(trade["volume"]) / 2


def _price(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
