"""The ledger against a small model of it: after any sequence of requests they agree to the last decimal.

`COPYDESK_EXAMPLES` sets the number of random sequences, `COPYDESK_STEPS` their maximum length.
"""

import itertools
import os
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from accounts.models import User
from audit import services as audit
from core import invariants
from core.errors import DomainError
from tests.wallets.conftest import set_limits
from wallets import checks, services
from wallets.models import TransferKind, Wallet, WalletHold
from wallets.services import destinations

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

# --- the model: two wallets, and the house with unlimited money


@dataclass
class Purse:
    balance: Decimal = Decimal(0)
    held: Decimal = Decimal(0)
    version: int = 0
    frozen: bool = False

    def refusal(self, amount: Any, spare: Decimal = Decimal(0)) -> Any:
        if self.frozen:
            return "wallet_frozen"
        return "insufficient_funds" if self.balance - self.held + spare < amount else None

    def moves(self, change: Any) -> None:
        self.balance += change
        self.version += 1


@dataclass
class Model:
    purses: list = field(default_factory=lambda: [Purse(), Purse()])
    answers: dict = field(default_factory=dict)  # by wallet and key: the request and its outcome
    holds: list = field(default_factory=list)  # wallet, amount, state
    transfers: list = field(default_factory=list)  # from, to, amount, whether reversed; None is the house
    requests: list = field(default_factory=list)  # wallet, hold, state

    def once(self, index: Any, key: Any, request: Any, do: Any) -> Any:
        if (index, key) in self.answers:
            earlier, outcome = self.answers[index, key]
            return outcome if earlier == request else "idempotency_conflict"
        outcome = do()
        self.answers[index, key] = request, outcome
        return outcome

    def move(self, source: Any, target: Any, amount: Any, spare: Decimal = Decimal(0)) -> Any:
        refusal = None if source is None else self.purses[source].refusal(amount, spare)
        if refusal:
            return refusal
        if source is not None:
            self.purses[source].moves(-amount)
        if target is not None:
            self.purses[target].moves(amount)
        return "done"

    def transfer(self, source: Any, target: Any, amount: Any) -> Any:
        outcome = self.move(source, target, amount)
        if outcome == "done":
            self.transfers.append([source, target, amount, False])
        return outcome

    def hold(self, index: Any, amount: Any) -> Any:
        refusal = self.purses[index].refusal(amount)
        if refusal:
            return refusal
        self.purses[index].held += amount
        self.holds.append([index, amount, "PENDING"])
        return "done"

    def post(self, number: Any, amount: Any) -> str:
        index, held, state = self.holds[number]
        if self.purses[index].frozen:
            return "wallet_frozen"
        if state != "PENDING":
            return "hold_resolved"
        if amount > held:
            return "amount_invalid"
        self.move(index, None, amount, held)
        self.release(number, "POSTED")
        return "done"

    def void(self, number: Any) -> Any:
        state = self.holds[number][2]
        if state == "PENDING":
            self.release(number, "VOIDED")
        return "hold_resolved" if state == "POSTED" else "done"

    def release(self, number: Any, state: Any) -> None:
        index, held, _ = self.holds[number]
        self.purses[index].held -= held
        self.holds[number][2] = state

    def reverse(self, number: Any) -> Any:
        source, target, amount, is_reversed = self.transfers[number]
        if is_reversed:
            return "reversed_already"
        outcome = self.move(target, source, amount)
        self.transfers[number][3] = outcome == "done"
        return outcome

    def decide(self, number: Any, yes: Any) -> Any:
        _, hold, state = self.requests[number]
        if state != "PENDING":
            return "request_decided"
        outcome = self.post(hold, self.holds[hold][1]) if yes else self.void(hold)
        if outcome == "done":
            self.requests[number][2] = "DECIDED"
        return outcome


# --- the ledger

INDEX = st.integers(0, 1)
AMOUNTS = st.sampled_from([Decimal(text) for text in ("10", "0.00000001", "30", "33.33333333", "50")])
KEYS = st.one_of(st.none(), st.sampled_from("ab"))
WHICH = st.integers(0, 5)
numbers = itertools.count()


class Ledger(RuleBasedStateMachine):
    seen = Counter()

    @initialize()
    def begin(self) -> None:
        owners = [User.objects.create(username=f"model-{next(numbers)}") for _ in range(2)]
        self.owners, self.staff = owners, User.objects.get(username="desk")
        self.wallets = [services.wallet_of(owner=owner, currency="USD") for owner in owners]
        self.model, self.holds, self.transfers, self.requests = Model(), [], [], []
        for index in (0, 1):
            self.credit(index, Decimal(50), None, "deposit")
            with transaction.atomic():
                destinations.add(owner=owners[index], name="Bank", kind="BANK", details="12345678", actor=audit.SYSTEM)

    def check(self, verb: Any, expected: Any, do: Any) -> Any:
        """Compare the outcome with the model's; return the result where it was done."""
        try:
            result, outcome = do(), "done"
        except DomainError as refusal:
            result, outcome = None, refusal.code
        assert (verb, outcome) == (verb, expected)
        self.seen[verb, outcome] += 1
        return result

    def key(self, key: Any) -> Any:
        return key or f"new-{next(numbers)}"

    @rule(index=INDEX, amount=AMOUNTS, key=KEYS, kind=st.sampled_from(["deposit", "ADJUSTMENT"]))
    def credit(self, index: Any, amount: Any, key: Any, kind: Any) -> None:
        key, model = self.key(key), self.model
        expected = model.once(index, key, (kind, amount), lambda: model.transfer(None, index, amount))
        args = {"wallet": self.wallets[index], "amount": amount, "note": "", "idempotency_key": key}
        if kind == "deposit":
            moved = self.check("credit", expected, lambda: services.deposit(**args))
        else:
            moved = self.check("credit", expected, lambda: services.credit(kind=kind, **args))
        self.keep(moved)

    @rule(index=INDEX, amount=AMOUNTS, key=KEYS)
    def debit(self, index: Any, amount: Any, key: Any) -> None:
        key, model = self.key(key), self.model
        expected = model.once(index, key, ("debit", amount), lambda: model.transfer(index, None, amount))
        args = {"wallet": self.wallets[index], "amount": amount, "note": "", "idempotency_key": key}
        self.keep(
            self.check("debit", expected, lambda: services.debit_wallet(kind=TransferKind.FEE_PERFORMANCE, **args))
        )

    @rule(source=INDEX, amount=AMOUNTS, key=KEYS)
    def transfer(self, source: Any, amount: Any, key: Any) -> None:
        key, model = self.key(key), self.model
        expected = model.once(source, key, ("transfer", amount), lambda: model.transfer(source, 1 - source, amount))
        args = {"source": self.wallets[source], "target": self.wallets[1 - source], "amount": amount, "note": ""}
        self.keep(self.check("transfer", expected, lambda: services.transfer(idempotency_key=key, **args)))

    def keep(self, moved: Any) -> None:
        if moved and not moved.replayed:
            self.transfers.append(moved.transfer_id)

    @rule(index=INDEX, amount=AMOUNTS, key=KEYS)
    def hold(self, index: Any, amount: Any, key: Any) -> None:
        key, model = self.key(key), self.model
        expected = model.once(index, key, ("hold", amount), lambda: model.hold(index, amount))
        args = {"wallet": self.wallets[index], "amount": amount, "purpose": f"hold-{key}", "idempotency_key": key}
        held = self.check("hold", expected, lambda: services.hold(**args))
        if held and held not in self.holds:
            self.holds.append(held)

    @rule(which=WHICH, amount=AMOUNTS)
    def post(self, which: Any, amount: Any) -> None:
        if which < len(self.holds):
            key, index = self.key(None), self.model.holds[which][0]
            expected = self.model.post(which, amount)
            args = {"wallet": self.wallets[index], "hold_id": self.holds[which], "amount": amount, "note": ""}
            do = lambda: services.post(kind=TransferKind.ADJUSTMENT, idempotency_key=key, **args)  # noqa: E731
            self.check("post", expected, do)

    @rule(which=WHICH)
    def void(self, which: Any) -> None:
        if which < len(self.holds) and all(hold != which for _, hold, _ in self.model.requests):
            self.check("void", self.model.void(which), lambda: services.void(hold_id=self.holds[which]))

    @rule(which=WHICH)
    def reverse(self, which: Any) -> None:
        if which < len(self.transfers):
            expected, key = self.model.reverse(which), self.key(None)
            args = {"transfer_id": self.transfers[which], "note": "", "idempotency_key": key}
            self.check("reverse", expected, lambda: services.reverse(**args))

    @rule(index=INDEX, frozen=st.sampled_from([False, False, True]))
    def freeze(self, index: Any, frozen: Any) -> None:
        self.model.purses[index].frozen = frozen
        verb = services.freeze if frozen else services.unfreeze
        self.check("freeze", "done", lambda: verb(wallet=self.wallets[index], reason="", actor=audit.SYSTEM))

    @rule(index=INDEX)
    def ask(self, index: Any) -> None:
        amount, key = LIMIT + 1, self.key(None)
        expected = self.model.hold(index, amount)
        request = self.check("ask", expected, lambda: self.withdrawal(index, amount, key))
        if request:
            self.model.requests.append([index, len(self.holds), "PENDING"])
            self.holds.append(request.hold_id)
            self.requests.append(request)

    def withdrawal(self, index: Any, amount: Any, key: Any) -> Any:
        by = self.owners[index]
        args = {"wallet": self.wallets[index], "kind": "WITHDRAWAL", "amount": amount, "reason": "", "by": by}
        return services.request_money(idempotency_key=key, actor=audit.SYSTEM, **args)

    @rule(which=st.integers(0, 1), yes=st.booleans())
    def decide(self, which: Any, yes: Any) -> None:
        if which < len(self.requests) and self.model.holds[self.model.requests[which][1]][2] == "PENDING":
            args = {"request": self.requests[which], "by": self.staff, "actor": audit.SYSTEM}
            do = (lambda: services.approve(**args)) if yes else (lambda: services.reject(reason="", **args))
            self.check("approve" if yes else "reject", self.model.decide(which, yes), do)

    @invariant()
    def wallets_agree_with_the_model(self) -> None:
        for wallet, purse in zip(self.wallets, self.model.purses, strict=True):
            now = Wallet.objects.get(pk=wallet.pk)
            assert (now.balance, now.held, now.version, now.is_frozen) == (
                purse.balance, purse.held, purse.version, purse.frozen,
            )  # fmt: skip
        states = dict(WalletHold.objects.filter(pk__in=self.holds).values_list("pk", "state"))
        assert [states[held] for held in self.holds] == [state for _, _, state in self.model.holds]

    @invariant()
    def all_invariants_hold(self) -> None:
        assert invariants.faults(CHEAP) == []


EVERY = {
    ("credit", "done"), ("credit", "idempotency_conflict"), ("debit", "done"), ("debit", "insufficient_funds"),
    ("debit", "wallet_frozen"), ("debit", "idempotency_conflict"), ("transfer", "done"),
    ("transfer", "insufficient_funds"), ("hold", "done"), ("hold", "insufficient_funds"), ("post", "done"),
    ("void", "done"), ("reverse", "done"), ("ask", "done"), ("approve", "done"), ("reject", "done"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def limit(desk_db: str) -> None:
    set_limits(str(LIMIT))


def test_every_wallet_agrees_with_the_model(desk_db: str) -> None:
    Ledger.seen.clear()

    run_state_machine_as_test(Ledger, settings=SIZE)

    assert len(EVERY - Ledger.seen.keys()) <= 3, "the sequences reached too few outcomes"
    assert checks.faults() == []


class ForgetsRefusals(Model):
    """The control: a model that forgets a key after a refusal."""

    def once(self, index: Any, key: Any, request: Any, do: Any) -> Any:
        if self.answers.get((index, key), ("", "done"))[1] != "done":
            del self.answers[index, key]
        return super().once(index, key, request, do)


class SpendsHolds(Model):
    """The control: a model that lets held money be spent."""

    def hold(self, index: Any, amount: Any) -> Any:
        outcome = super().hold(index, amount)
        if outcome == "done":
            self.purses[index].held -= amount
        return outcome


@pytest.mark.parametrize("wrong", [ForgetsRefusals, SpendsHolds])
def test_control_a_wrong_model_is_detected(desk_db: str, monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    monkeypatch.setitem(globals(), "Model", wrong)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Ledger, settings=settings(SIZE, phases=[Phase.generate]))
