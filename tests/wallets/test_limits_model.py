"""Random sequences of movements by five people over weeks: nobody moves more than a sum without a second person.

The test keeps its own list of what was moved without one. It shares no code with the functions of the database.
`COPYDESK_EXAMPLES` sets the number of sequences.
"""

import itertools
import os
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from django.db import connections, transaction
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from accounts.models import User
from audit import services as audit
from core.errors import DomainError
from tests.people import colleague
from tests.wallets.conftest import Later, fund, set_limits
from wallets import services
from wallets.models import MoneyRequest, TransferKind, Wallet
from wallets.services import destinations

pytestmark = pytest.mark.model

LIMITS = {"USD": Decimal(100), "EUR": Decimal(50)}
DAY, THIRTY_DAYS, STAFF_THIRTY_DAYS = 1, 5, 10  # times the limit
SIZE = settings(
    max_examples=int(os.environ.get("COPYDESK_EXAMPLES", "10")),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
SHARES = st.sampled_from([Decimal(text) for text in ("1", "0.5", "0.34", "0.99999999", "0.00000001", "0.2", "1.1")])
WHO = st.integers(0, 4)  # three of staff, then the two customers
STEP = st.tuples(
    st.sampled_from(["ask", "ask", "ask", "ask", "decide", "reverse", "alone", "later"]),
    WHO,
    st.integers(0, 1),
    st.sampled_from(["USD", "USD", "EUR"]),
    st.sampled_from(["DEPOSIT", "WITHDRAWAL", "ADJUSTMENT", "-ADJUSTMENT"]),
    SHARES,
    st.sampled_from([1, 11, 12, 13, 24, 25, 24 * 5, 24 * 29, 24 * 30]),
)
numbers = itertools.count()


@dataclass
class Office:
    """Three of staff and two customers, and what was moved without a second person: hour, customer, actor, share."""

    hour: int = 0
    moved: list[tuple[int, int, int | None, Decimal]] = field(default_factory=list)
    done: list[tuple[Any, int, str, Decimal]] = field(default_factory=list)
    waiting: list[MoneyRequest] = field(default_factory=list)
    seen: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        number = next(numbers)
        staff = [colleague(f"staff-{number}-{n}") for n in range(3)]
        customers = [User.objects.create(username=f"customer-{number}-{n}") for n in range(2)]
        self.people = [*staff, *customers]
        self.wallets = {
            (n, currency): services.wallet_of(owner=customers[n], currency=currency)
            for n in range(2)
            for currency in LIMITS
        }
        for wallet in self.wallets.values():
            fund(wallet, "100000")
        for owner in customers:
            with transaction.atomic():
                destinations.add(owner=owner, name="Bank", kind="BANK", details="12345678", actor=audit.SYSTEM)

    def actor(self, who: int) -> audit.Actor:
        kind = audit.AuditLog.Actor.STAFF if who < 3 else audit.AuditLog.Actor.USER
        return audit.Actor(kind, str(self.people[who].pk))

    def count(self, transfer: Any, customer: int, who: int | None, currency: str, amount: Decimal) -> None:
        self.moved.append((self.hour, customer, who, amount / LIMITS[currency]))
        self.done.append((transfer, customer, currency, amount))

    def step(self, verb: str, who: int, customer: int, currency: str, kind: str, share: Decimal, hours: int) -> None:
        amount = (share * LIMITS[currency]).quantize(Decimal("0.00000001"))
        if verb == "later":
            Later().hours(hours)
            self.hour += hours
            return
        try:
            outcome = getattr(self, verb)(who, customer, currency, kind, amount)
        except DomainError as refusal:
            outcome = refusal.code
        self.seen[verb, outcome] += 1

    def ask(self, who: int, customer: int, currency: str, kind: str, amount: Decimal) -> str:
        if who >= 3:
            customer, kind = who - 3, "WITHDRAWAL"
        request = services.request_money(
            wallet=self.wallets[customer, currency], kind=kind.lstrip("-"),
            amount=-amount if kind.startswith("-") else amount, reason="", idempotency_key=f"n{next(numbers)}",
            by=self.people[who], actor=self.actor(who),
        )  # fmt: skip
        if request.state == MoneyRequest.State.DONE:
            self.count(request.transfer_id, customer, who, currency, amount)
        else:
            self.waiting.append(request)
        return str(request.state)

    def decide(self, who: int, customer: int, currency: str, kind: str, amount: Decimal) -> str:
        """Anybody tries to decide. What was approved had a second person if somebody else approved it."""
        if not self.waiting:
            return "nothing"
        request = self.waiting[-1]
        if kind == "DEPOSIT":
            services.reject(request=request, by=self.people[who], reason="", actor=self.actor(who))
        else:
            services.approve(request=request, by=self.people[who], actor=self.actor(who))
            assert request.requested_by != self.people[who] and who < 3
        self.waiting.pop()
        return "decided"

    def reverse(self, who: int, customer: int, currency: str, kind: str, amount: Decimal) -> str:
        if not self.done or who >= 3:
            return "nothing"
        transfer, customer, currency, amount = self.done[len(self.done) // 2]
        reversal = services.reverse(
            transfer_id=transfer, note="", idempotency_key=f"n{next(numbers)}", actor=self.actor(who)
        )
        self.count(reversal, customer, who, currency, amount)
        return "reversed"

    def alone(self, who: int, customer: int, currency: str, kind: str, amount: Decimal) -> str:
        """A caller that makes no request at all."""
        wallet: Wallet = self.wallets[customer, currency]
        verb = services.debit_wallet if kind in ("WITHDRAWAL", "-ADJUSTMENT") else services.credit
        moved = verb(
            wallet=wallet, amount=amount, kind=TransferKind.ADJUSTMENT, note="", idempotency_key=f"n{next(numbers)}",
            actor=self.actor(who),
        )  # fmt: skip
        self.count(moved.transfer_id, customer, who, currency, amount)
        return "moved"

    def largest(self, hours: int, *, by: int) -> Decimal:
        """The largest sum that one customer (by=1), or one person who acted (by=2), moved within so many hours."""
        sums = [Decimal(0)]
        for end, *_ in self.moved:
            within = [row for row in self.moved if end - hours < row[0] <= end]
            of_each: Counter = Counter()
            for row in within:
                of_each[row[by]] += row[3]
            sums += of_each.values()
        return max(sums)


EVERY = {
    ("ask", "DONE"), ("ask", "PENDING"), ("decide", "decided"), ("decide", "second_person_needed"),
    ("reverse", "reversed"), ("reverse", "second_person_needed"), ("alone", "moved"), ("alone", "second_person_needed"),
}  # fmt: skip


def run(seen: Counter, size: settings = SIZE) -> None:
    @size
    @given(st.lists(STEP, min_size=25, max_size=40))
    def sequences(steps: list[Any]) -> None:
        office = Office()
        for step in steps:
            office.step(*step)
        seen.update(office.seen)
        assert office.largest(24, by=1) <= DAY
        assert office.largest(24, by=2) <= DAY
        assert office.largest(720, by=1) <= THIRTY_DAYS
        assert office.largest(720, by=2) <= STAFF_THIRTY_DAYS

    sequences()


@pytest.fixture
def _limits(desk_db: str) -> None:
    set_limits("100,EUR=50", f"{DAY},{THIRTY_DAYS},{STAFF_THIRTY_DAYS}")


def test_nobody_moves_more_than_a_sum_without_a_second_person(_limits: None) -> None:
    seen: Counter = Counter()

    run(seen)

    assert EVERY - seen.keys() == set(), "the sequences reached too few outcomes"


@pytest.mark.breaks_the_books
@pytest.mark.parametrize("forgotten", ["WITHDRAWAL", "ADJUSTMENT", "DEPOSIT"])
def test_control_a_sum_that_forgets_a_kind_is_detected(_limits: None, forgotten: str) -> None:
    with connections["owner"].cursor() as cursor:
        cursor.execute(
            "create or replace function is_moved_by_hand(p_kind text, p_claim bigint, p_scope text) returns boolean"
            f" language sql immutable as $$ select p_claim is null and p_kind <> '{forgotten}' $$"
        )

    with pytest.raises(AssertionError):
        run(Counter(), settings(SIZE, phases=[Phase.generate]))
