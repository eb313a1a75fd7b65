"""A trade's life against a small model: desk and model agree whatever messages arrive, in whatever order.

`COPYDESK_EXAMPLES` sets the number of lives, `COPYDESK_STEPS` their largest length.
"""

import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection, connections
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from accounts import credentials
from accounts import services as accounts
from accounts.models import TradingAccount, User
from accounts.protocol import SignedCall
from accounts.signing import Signable
from audit import services as audit
from core import money
from strategies.models import Strategy
from tests.transactions import committed
from trades import services, snapshot

pytestmark = pytest.mark.model

SIZE = settings(
    max_examples=int(os.environ.get("COPYDESK_EXAMPLES", "100")),
    stateful_step_count=int(os.environ.get("COPYDESK_STEPS", "30")),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


OPEN_PRICE = Decimal("1.1")  # of a BUY, as all trades here


# --- the model: one account's trades, and its stream's number


@dataclass
class Life:
    """One ticket, from its first message on."""

    opening: tuple | None  # none for a tombstone
    volume: Decimal = Decimal(0)
    stops: tuple = (None, None)
    reported_ms: int = 0
    seq: int = 0
    deals: dict = field(default_factory=dict)
    closed: tuple | None = None
    profit: Decimal | None = None


class Model:
    def __init__(self) -> None:
        self.lives, self.seq = {}, 0

    def number(self, life: Any) -> None:
        self.seq += 1
        life.seq = self.seq

    def deals(self) -> Any:
        return ((ticket, name, *deal) for ticket, life in self.lives.items() for name, deal in life.deals.items())

    def open(self, ticket: Any, volume: Any, stops: Any) -> Any:
        life = self.lives.get(ticket)
        if life is None:
            if stops[0] is not None and stops[0] >= OPEN_PRICE:
                return "stop_wrong_side"
            self.lives[ticket] = life = Life((volume, stops), volume, stops)
            self.number(life)
            return "opened"
        if life.closed:
            return "trade_closed"
        return "open_already" if life.opening == (volume, stops) else "trade_exists_different"

    def modify(self, ticket: Any, named: Any, reported_ms: Any) -> Any:
        life = self.lives.get(ticket)
        if life is None or life.closed:
            return "trade_closed" if life else "trade_unknown"
        if reported_ms and reported_ms < life.reported_ms:
            return "ignored"
        stops = (named.get("sl", life.stops[0]), named.get("tp", life.stops[1]))
        if stops != life.stops and None not in stops and stops[0] >= stops[1]:
            return "stop_wrong_side"
        life.reported_ms = reported_ms or life.reported_ms
        if stops == life.stops:
            return "unchanged"
        life.stops = stops
        self.number(life)
        return "modified"

    def reduce(self, ticket: Any, deal: Any, remaining: Any, price: Any, profit: Any) -> Any:
        life = self.lives.get(ticket)
        if life is None and remaining:
            return "trade_unknown"
        recorded = life and life.deals.get(deal)
        if recorded and recorded != (remaining, price, profit):
            return "deal_exists_different"
        if life and life.closed and (recorded or remaining):
            return "unchanged" if recorded else "trade_closed"
        if not remaining:
            return self.close(ticket, price, profit, "MANUAL")
        if recorded or remaining == life.volume:
            return "unchanged"
        if remaining > life.volume:
            return "volume_increase"
        life.deals[deal], life.volume = (remaining, price, profit), remaining
        self.number(life)
        return "reduced"

    def close(self, ticket: Any, price: Any, profit: Any, reason: Any) -> Any:
        life = self.lives.get(ticket)
        if life is None:
            self.lives[ticket] = Life(None, closed=(price, reason))
            return "tombstoned"
        if life.closed:
            return "closed_already" if life.closed == (price, reason) else "trade_closed_conflict"
        life.closed, life.profit = (price, reason), profit + sum(part for _, _, part in life.deals.values())
        self.number(life)
        return "closed"


# --- the desk


class Desk:
    """One account with its key, called as the signed protocol calls."""

    _numbers = itertools.count(1)

    def __init__(self) -> None:
        name = f"model-{next(self._numbers)}"
        self.owner = User.objects.create(username=name)
        self.account = TradingAccount.objects.create(name=name, owner=self.owner, broker="b", server="s", login=name)
        self.strategy = Strategy.objects.create(name=name, owner=self.owner, account=self.account)
        self.key = committed(accounts.create_key, account=self.account, kind="master", actor=audit.SYSTEM)[1].key
        self.seq, self.model, self.last = 0, Model(), None

    def send(self, verb: Any, args: Any, key: Any = None) -> Any:
        self.seq += 1
        operation = services.Operation(key or f"{self.key}-{self.seq}", "00", verb, args)
        signable = Signable("POST", "h", "/", "", self.key, time.time_ns() // 10**6, 5000, self.seq, "", "00")
        call = SignedCall(credentials.credential_of(self.key), signable, "00", "127.0.0.1", "")
        (outcome,) = services.run_signed(call, [operation])
        self.last = operation, outcome
        return outcome

    def expected(self) -> Iterator[Any]:
        for ticket, life in self.model.lives.items():
            reported_ms = 0 if life.closed else life.reported_ms
            yield ticket, life.volume, *life.stops, reported_ms, life.seq, *(life.closed or (None, None)), life.profit


LIVES = """
    select account_id, ticket_id, volume, sl, tp, coalesce(told_ms, 0), seq, null, null, null
      from active_trades where account_id = any(%(accounts)s)
    union all
    select account_id, ticket_id, coalesce(closed_volume, 0), sl, tp, 0, seq, close_price, reason, profit
      from trade_history where account_id = any(%(accounts)s)"""
DEALS = """
    select account_id, ticket_id, deal_id, remaining, close_price, profit
      from trade_reductions join trades on trades.id = trade_id where account_id = any(%(accounts)s)"""


def rows(accounts: Any) -> Iterator[Any]:
    """All rows of these accounts, in the terms of the model."""
    with connection.cursor() as cursor:
        for query in (LIVES, DEALS):
            cursor.execute(query, {"accounts": accounts})
            rows_of_account = cursor.fetchall()
            assert len(set(rows_of_account)) == len(rows_of_account)
            yield set(rows_of_account)


TICKETS = st.sampled_from(["1", "2", "3", "4"])
VOLUMES = st.sampled_from([Decimal("0.1"), Decimal("0.3")])
PRICES = st.sampled_from([Decimal("1.1"), Decimal("1.2")])
STOPS = st.sampled_from([None, Decimal("1.05"), Decimal("1.06")])
MOMENTS = st.integers(0, 9)  # of the master's own clock; 0: not told
DESKS = st.integers(0, 1)


def text(amount: Any) -> Any:
    return None if amount is None else money.text(amount)


class Lives(RuleBasedStateMachine):
    met = Counter()

    @initialize()
    def begin(self) -> None:
        self.desks = [Desk(), Desk()]
        for desk in (0, 1):
            for ticket in ("1", "2", "3"):
                self.open(desk, ticket, Decimal("0.3"), None)

    def tell(self, desk: Any, verb: Any, args: Any, expected: Any) -> None:
        assert self.desks[desk].send(f"trade_{verb}", args)["code"] == expected
        self.met[verb, expected] += 1

    @rule(desk=DESKS, ticket=TICKETS, volume=VOLUMES, sl=STOPS)
    def open(self, desk: Any, ticket: Any, volume: Any, sl: Any) -> None:
        args = {"ticket_id": ticket, "symbol": "EURUSD", "type": "BUY", "open_price": money.text(OPEN_PRICE)}
        expected = self.desks[desk].model.open(ticket, volume, (sl, None))
        self.tell(desk, "open", {**args, "volume": text(volume), "sl": text(sl), "tp": None}, expected)

    @rule(
        desk=DESKS, ticket=TICKETS, named=st.dictionaries(st.sampled_from(["sl", "tp"]), STOPS, min_size=1), at=MOMENTS
    )
    def modify(self, desk: Any, ticket: Any, named: Any, at: Any) -> None:
        args = {"ticket_id": ticket} | {name: text(stop) for name, stop in named.items()}
        expected = self.desks[desk].model.modify(ticket, named, at)
        self.tell(desk, "modify", args | ({"master_time_ms": at} if at else {}), expected)

    @rule(desk=DESKS, ticket=TICKETS, deal=st.sampled_from("ab"), tenths=st.sampled_from([2, 1, 3, 4, 0]), price=PRICES)
    def reduce(self, desk: Any, ticket: Any, deal: Any, tenths: Any, price: Any) -> None:
        remaining, profit = Decimal(tenths) / 10, Decimal(1)
        args = {"ticket_id": ticket, "deal_id": deal, "volume": text(remaining), "close_price": text(price)}
        expected = self.desks[desk].model.reduce(ticket, deal, remaining, price, profit)
        self.tell(desk, "reduce", {**args, "profit": text(profit)}, expected)

    @rule(desk=DESKS, ticket=TICKETS, price=PRICES, reason=st.sampled_from(["TP", "MANUAL"]))
    def close(self, desk: Any, ticket: Any, price: Any, reason: Any) -> None:
        args = {"ticket_id": ticket, "close_price": text(price), "profit": "5", "reason": reason}
        expected = self.desks[desk].model.close(ticket, price, Decimal(5), reason)
        self.tell(desk, "close", args, expected)

    @rule(desk=DESKS)
    def repeat_the_last(self, desk: Any) -> None:
        """Repeat an operation whose answer was lost, under the same key."""
        if self.desks[desk].last:
            operation, outcome = self.desks[desk].last
            again = self.desks[desk].send(operation.verb, operation.args, operation.idempotency_key)
            assert again == {**outcome, "replayed": True}
            self.desks[desk].last = None

    @rule()
    def restart(self) -> None:
        connections.close_all()
        credentials._look_up.cache_clear()

    @invariant()
    def the_database_is_the_model(self) -> None:
        desks = {desk.account.pk: desk for desk in getattr(self, "desks", [])}
        lives, deals = rows(list(desks))
        assert lives == {(pk, *life) for pk, desk in desks.items() for life in desk.expected()}
        assert deals == {(pk, *deal) for pk, desk in desks.items() for deal in desk.model.deals()}

    @invariant()
    def the_snapshot_is_the_model(self) -> None:
        for desk in getattr(self, "desks", []):
            now = snapshot.read([desk.account.pk], using="bot")
            assert now.as_of == {desk.strategy.name: str(desk.model.seq)}
            seen = {t["ticket_id"]: (t["volume"], t["sl"], t["tp"], t["seq"]) for t in now.trades}
            assert seen == {
                ticket: (text(life.volume), *map(text, life.stops), str(life.seq))
                for ticket, life in desk.model.lives.items()
                if not life.closed
            }


OUTCOMES = {
    "open": {"opened", "open_already", "trade_exists_different", "trade_closed"},
    "modify": {"modified", "unchanged", "ignored", "stop_wrong_side", "trade_closed", "trade_unknown"},
    "reduce": {
        "reduced", "unchanged", "volume_increase", "deal_exists_different", "closed", "closed_already",
        "trade_closed_conflict", "tombstoned", "trade_closed", "trade_unknown",
    },
    "close": {"closed", "closed_already", "trade_closed_conflict", "tombstoned"},
}  # fmt: skip


def test_the_desk_agrees_with_the_model(desk_db: str) -> None:
    Lives.met.clear()

    run_state_machine_as_test(Lives, settings=SIZE)

    never = {(verb, code) for verb, codes in OUTCOMES.items() for code in codes} - Lives.met.keys()
    assert len(never) <= 3, "the walk met too little"


class Forgetful(Model):
    """The control: a model that takes a closed ticket for a new one."""

    def open(self, ticket: Any, volume: Any, stops: Any) -> Any:
        if ticket in self.lives and self.lives[ticket].closed:
            del self.lives[ticket]
        return super().open(ticket, volume, stops)


class Restless(Model):
    """The control: a model that accepts late messages."""

    def modify(self, ticket: Any, named: Any, reported_ms: Any) -> Any:
        if ticket in self.lives:
            self.lives[ticket].reported_ms = 0
        return super().modify(ticket, named, reported_ms)


@pytest.mark.parametrize("wrong", [Forgetful, Restless])
def test_control_the_walk_is_long_enough_to_detect_a_wrong_model(
    desk_db: str, monkeypatch: pytest.MonkeyPatch, wrong: Any
) -> None:
    monkeypatch.setitem(globals(), "Model", wrong)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Lives, settings=settings(SIZE, phases=[Phase.generate]))
