"""The ledger against a small model of it: whatever is asked in whatever order, they agree to the last decimal.

`COPYDESK_EXAMPLES` sets how many walks are tried, `COPYDESK_STEPS` how long they may be.
"""

import itertools
import os
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings as django_settings
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from accounts.models import User
from audit import services as audit
from core import invariants
from core.errors import DomainError
from wallets import checks, services
from wallets.models import TransferKind, Wallet, WalletHold

pytestmark = pytest.mark.model

SIZE = settings(
    max_examples=int(os.environ.get("COPYDESK_EXAMPLES", "50")),
    stateful_step_count=int(os.environ.get("COPYDESK_STEPS", "30")),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
LIMIT = Decimal(50)
CHEAP = {name: query for name, query in checks.INVARIANTS.items() if "key and trigger" not in name}

# --- the model: two wallets, and what is outside of them without end


@dataclass
class Purse:
    balance: Decimal = Decimal(0)
    held: Decimal = Decimal(0)
    version: int = 0
    frozen: bool = False

    def no(self, amount: Any, spare: Decimal = Decimal(0)) -> Any:
        if self.frozen:
            return "wallet_frozen"
        return "insufficient_funds" if self.balance - self.held + spare < amount else None

    def moves(self, change: Any) -> None:
        self.balance += change
        self.version += 1


@dataclass
class Model:
    purses: list = field(default_factory=lambda: [Purse(), Purse()])
    answers: dict = field(default_factory=dict)  # by wallet and key: what was asked, what was told
    holds: list = field(default_factory=list)  # wallet, amount, state
    transfers: list = field(default_factory=list)  # from, to, amount, whether undone; none is the house
    requests: list = field(default_factory=list)  # wallet, hold, state

    def once(self, whose: Any, key: Any, asked: Any, do: Any) -> Any:
        if (whose, key) in self.answers:
            before, told = self.answers[whose, key]
            return told if before == asked else "idempotency_conflict"
        told = do()
        self.answers[whose, key] = asked, told
        return told

    def move(self, source: Any, target: Any, amount: Any, spare: Decimal = Decimal(0)) -> Any:
        no = None if source is None else self.purses[source].no(amount, spare)
        if no:
            return no
        if source is not None:
            self.purses[source].moves(-amount)
        if target is not None:
            self.purses[target].moves(amount)
        return "done"

    def transfer(self, source: Any, target: Any, amount: Any) -> Any:
        told = self.move(source, target, amount)
        if told == "done":
            self.transfers.append([source, target, amount, False])
        return told

    def hold(self, whose: Any, amount: Any) -> Any:
        no = self.purses[whose].no(amount)
        if no:
            return no
        self.purses[whose].held += amount
        self.holds.append([whose, amount, "PENDING"])
        return "done"

    def post(self, number: Any, amount: Any) -> str:
        whose, held, state = self.holds[number]
        if self.purses[whose].frozen:
            return "wallet_frozen"
        if state != "PENDING":
            return "hold_resolved"
        if amount > held:
            return "amount_invalid"
        self.move(whose, None, amount, held)
        self.release(number, "POSTED")
        return "done"

    def void(self, number: Any) -> Any:
        state = self.holds[number][2]
        if state == "PENDING":
            self.release(number, "VOIDED")
        return "hold_resolved" if state == "POSTED" else "done"

    def release(self, number: Any, state: Any) -> None:
        whose, held, _ = self.holds[number]
        self.purses[whose].held -= held
        self.holds[number][2] = state

    def reverse(self, number: Any) -> Any:
        source, target, amount, undone = self.transfers[number]
        if undone:
            return "reversed_already"
        told = self.move(target, source, amount)
        self.transfers[number][3] = told == "done"
        return told

    def decide(self, number: Any, yes: Any) -> Any:
        _, hold, state = self.requests[number]
        if state != "PENDING":
            return "request_decided"
        told = self.post(hold, self.holds[hold][1]) if yes else self.void(hold)
        if told == "done":
            self.requests[number][2] = "DECIDED"
        return told


# --- the ledger

WHO = st.integers(0, 1)
AMOUNTS = st.sampled_from([Decimal(text) for text in ("10", "0.00000001", "30", "33.33333333", "50")])
KEYS = st.one_of(st.none(), st.sampled_from("ab"))
WHICH = st.integers(0, 5)
numbers = itertools.count()


class Ledger(RuleBasedStateMachine):
    met = Counter()

    @initialize()
    def begin(self) -> None:
        owners = [User.objects.create(username=f"model-{next(numbers)}") for _ in range(2)]
        self.owners, self.staff = owners, User.objects.get(username="desk")
        self.wallets = [services.wallet_of(owner=owner, currency="USD") for owner in owners]
        self.model, self.holds, self.transfers, self.requests = Model(), [], [], []
        for whose in (0, 1):
            self.bring(whose, Decimal(50), None, "deposit")

    def tell(self, verb: Any, expected: Any, do: Any) -> Any:
        """What came of it, where it was done."""
        try:
            done, told = do(), "done"
        except DomainError as no:
            done, told = None, no.code
        assert (verb, told) == (verb, expected)
        self.met[verb, told] += 1
        return done

    def key(self, key: Any) -> Any:
        return key or f"new-{next(numbers)}"

    @rule(whose=WHO, amount=AMOUNTS, key=KEYS, kind=st.sampled_from(["deposit", "ADJUSTMENT"]))
    def bring(self, whose: Any, amount: Any, key: Any, kind: Any) -> None:
        key, model = self.key(key), self.model
        expected = model.once(whose, key, (kind, amount), lambda: model.transfer(None, whose, amount))
        args = {"wallet": self.wallets[whose], "amount": amount, "note": "", "idempotency_key": key}
        if kind == "deposit":
            moved = self.tell("bring", expected, lambda: services.deposit(**args))
        else:
            moved = self.tell("bring", expected, lambda: services.credit(kind=kind, **args))
        self.keep(moved)

    @rule(whose=WHO, amount=AMOUNTS, key=KEYS)
    def debit(self, whose: Any, amount: Any, key: Any) -> None:
        key, model = self.key(key), self.model
        expected = model.once(whose, key, ("debit", amount), lambda: model.transfer(whose, None, amount))
        args = {"wallet": self.wallets[whose], "amount": amount, "note": "", "idempotency_key": key}
        self.keep(
            self.tell("debit", expected, lambda: services.debit_wallet(kind=TransferKind.FEE_PERFORMANCE, **args))
        )

    @rule(source=WHO, amount=AMOUNTS, key=KEYS)
    def transfer(self, source: Any, amount: Any, key: Any) -> None:
        key, model = self.key(key), self.model
        expected = model.once(source, key, ("transfer", amount), lambda: model.transfer(source, 1 - source, amount))
        args = {"source": self.wallets[source], "target": self.wallets[1 - source], "amount": amount, "note": ""}
        self.keep(self.tell("transfer", expected, lambda: services.transfer(idempotency_key=key, **args)))

    def keep(self, moved: Any) -> None:
        if moved and not moved.replayed:
            self.transfers.append(moved.transfer_id)

    @rule(whose=WHO, amount=AMOUNTS, key=KEYS)
    def hold(self, whose: Any, amount: Any, key: Any) -> None:
        key, model = self.key(key), self.model
        expected = model.once(whose, key, ("hold", amount), lambda: model.hold(whose, amount))
        args = {"wallet": self.wallets[whose], "amount": amount, "purpose": f"hold-{key}", "idempotency_key": key}
        held = self.tell("hold", expected, lambda: services.hold(**args))
        if held and held not in self.holds:
            self.holds.append(held)

    @rule(which=WHICH, amount=AMOUNTS)
    def post(self, which: Any, amount: Any) -> None:
        if which < len(self.holds):
            key, whose = self.key(None), self.model.holds[which][0]
            expected = self.model.post(which, amount)
            args = {"wallet": self.wallets[whose], "hold_id": self.holds[which], "amount": amount, "note": ""}
            do = lambda: services.post(kind=TransferKind.WITHDRAWAL, idempotency_key=key, **args)  # noqa: E731
            self.tell("post", expected, do)

    @rule(which=WHICH)
    def void(self, which: Any) -> None:
        if which < len(self.holds) and all(hold != which for _, hold, _ in self.model.requests):
            self.tell("void", self.model.void(which), lambda: services.void(hold_id=self.holds[which]))

    @rule(which=WHICH)
    def reverse(self, which: Any) -> None:
        if which < len(self.transfers):
            expected, key = self.model.reverse(which), self.key(None)
            args = {"transfer_id": self.transfers[which], "note": "", "idempotency_key": key}
            self.tell("reverse", expected, lambda: services.reverse(**args))

    @rule(whose=WHO, frozen=st.sampled_from([False, False, True]))
    def freeze(self, whose: Any, frozen: Any) -> None:
        self.model.purses[whose].frozen = frozen
        verb = services.freeze if frozen else services.unfreeze
        self.tell("freeze", "done", lambda: verb(wallet=self.wallets[whose], reason="", actor=audit.SYSTEM))

    @rule(whose=WHO)
    def ask(self, whose: Any) -> None:
        amount, key = LIMIT + 1, self.key(None)
        expected = self.model.hold(whose, amount)
        asked = self.tell("ask", expected, lambda: self.withdrawal(whose, amount, key))
        if asked:
            self.model.requests.append([whose, len(self.holds), "PENDING"])
            self.holds.append(asked.hold_id)
            self.requests.append(asked)

    def withdrawal(self, whose: Any, amount: Any, key: Any) -> Any:
        by = self.owners[whose]
        args = {"wallet": self.wallets[whose], "kind": "WITHDRAWAL", "amount": amount, "reason": "", "by": by}
        return services.request_money(idempotency_key=key, actor=audit.SYSTEM, **args)

    @rule(which=st.integers(0, 1), yes=st.booleans())
    def decide(self, which: Any, yes: Any) -> None:
        if which < len(self.requests) and self.model.holds[self.model.requests[which][1]][2] == "PENDING":
            args = {"request": self.requests[which], "by": self.staff, "actor": audit.SYSTEM}
            do = (lambda: services.approve(**args)) if yes else (lambda: services.reject(reason="", **args))
            self.tell("approve" if yes else "reject", self.model.decide(which, yes), do)

    @invariant()
    def the_wallets_are_the_models(self) -> None:
        for wallet, purse in zip(self.wallets, self.model.purses, strict=True):
            now = Wallet.objects.get(pk=wallet.pk)
            assert (now.balance, now.held, now.version, now.is_frozen) == (
                purse.balance, purse.held, purse.version, purse.frozen,
            )  # fmt: skip
        states = dict(WalletHold.objects.filter(pk__in=self.holds).values_list("pk", "state"))
        assert [states[held] for held in self.holds] == [state for _, _, state in self.model.holds]

    @invariant()
    def the_books_are_right(self) -> None:
        assert invariants.faults(CHEAP) == []


EVERY = {
    ("bring", "done"), ("bring", "idempotency_conflict"), ("debit", "done"), ("debit", "insufficient_funds"),
    ("debit", "wallet_frozen"), ("debit", "idempotency_conflict"), ("transfer", "done"),
    ("transfer", "insufficient_funds"), ("hold", "done"), ("hold", "insufficient_funds"), ("post", "done"),
    ("void", "done"), ("reverse", "done"), ("ask", "done"), ("approve", "done"), ("reject", "done"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(django_settings, "SECOND_PERSON_ABOVE", LIMIT)


def test_every_wallet_is_as_the_model_says(desk_db: str) -> None:
    Ledger.met.clear()

    run_state_machine_as_test(Ledger, settings=SIZE)

    assert len(EVERY - Ledger.met.keys()) <= 3, "the walk met too little"
    assert checks.faults() == []


class Generous(Model):
    """A model that forgets what a key was told when it was refused, as the control."""

    def once(self, whose: Any, key: Any, asked: Any, do: Any) -> Any:
        if self.answers.get((whose, key), ("", "done"))[1] != "done":
            del self.answers[whose, key]
        return super().once(whose, key, asked, do)


class Careless(Model):
    """A model that lets a hold be spent, as the control."""

    def hold(self, whose: Any, amount: Any) -> Any:
        told = super().hold(whose, amount)
        if told == "done":
            self.purses[whose].held -= amount
        return told


@pytest.mark.parametrize("wrong", [Generous, Careless])
def test_the_walk_is_long_enough_to_tell_a_wrong_model(
    desk_db: str, monkeypatch: pytest.MonkeyPatch, wrong: Any
) -> None:
    monkeypatch.setitem(globals(), "Model", wrong)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Ledger, settings=settings(SIZE, phases=[Phase.generate]))
