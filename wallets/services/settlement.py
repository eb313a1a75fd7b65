"""Fees: agreed, settled once a period, accrued once, collected, paid out.

Accrual is apart from collection: what is owed is booked exactly once, by keys of the database, and an empty wallet
neither holds it up nor repeats it. Each verb is a use case that may be run again at any time, by any number of workers.
"""

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import structlog
from django.db.models import Exists, F, OuterRef

from accounts.models import User
from audit import services as audit
from core import money
from core.errors import DomainError
from core.transactions import use_case
from strategies import services as strategies
from strategies.models import Strategy, Subscription
from wallets import fees, pnl, services
from wallets.models import FeeAgreement, FeeClaim, FeeTerms, Settlement, TransferKind, Wallet, WalletHold
from wallets.services import translated

GRACE = timedelta(minutes=5)  # longer than any transaction, so that whatever closed in the period is in sight
COOLING = timedelta(days=7)  # a fee can be put right before the provider has it
BATCH = 500

log = structlog.get_logger()


class TermsNotOffered(DomainError):
    code = "terms_not_offered"
    detail = "These are not the strategy's latest terms."


@dataclass(frozen=True, slots=True)
class Shown:
    """A settled fee, reckoned once more from the trades by the code that charged it."""

    settlement: Settlement
    result: pnl.Result
    performance: fees.Performance

    @property
    def agrees(self) -> bool:
        charged = self.settlement
        return (self.result.cumulative_pnl, self.performance.fee, self.performance.high_water_mark) == (
            charged.cumulative_pnl, charged.fee, charged.high_water_mark,
        )  # fmt: skip


# --- what is agreed


@use_case()
def agree(*, subscriber: User, strategy: Strategy, currency: str, now: datetime) -> FeeAgreement | None:
    """Begin an agreement on the strategy's latest terms; the one there is, if there is one. None: it costs nothing."""
    terms = latest_terms(strategy)
    if terms is None or subscriber == strategy.owner:
        return None
    agreement, made = FeeAgreement.objects.get_or_create(
        subscriber=subscriber,
        strategy=strategy,
        currency=currency,
        defaults={"terms": terms, "next_terms": terms, "started_at": now, "due_at": fees.month_after(now)},
    )
    if made:
        nothing = {
            "closed_result": 0,
            "floating_result": 0,
            "cumulative_pnl": 0,
            "high_water_mark": 0,
            "fee": 0,
            "rate_bps": 0,
        }
        Settlement.objects.create(agreement=agreement, period_no=0, starts_at=now, ends_at=now, **nothing)
        audit.record("fee.agreed", actor=audit.SYSTEM, subject=f"agreement:{agreement.pk}", terms=str(terms))
    return agreement


@use_case()
def accept(*, agreement: FeeAgreement, terms: FeeTerms, actor: audit.Actor) -> None:
    """The subscriber takes the strategy's latest terms, from the next period on. Until then the agreed ones hold."""
    if latest_terms(agreement.strategy) != terms:
        raise TermsNotOffered
    if FeeAgreement.objects.filter(pk=agreement.pk).exclude(next_terms=terms).update(next_terms=terms):
        audit.record("fee.terms_accepted", actor=actor, subject=f"agreement:{agreement.pk}", terms=str(terms))


def latest_terms(strategy: Strategy) -> FeeTerms | None:
    return FeeTerms.objects.filter(strategy=strategy).order_by("-pk").first()


# --- what is owed


def settle(*, agreement_id: int, now: datetime) -> Settlement | None:
    """Settle the period that is due, and book its fee. None: nothing is due, or there is no mark and it has to wait.

    Any number of deliveries settle a period once: the agreement's row is locked, and behind the lock the settlement's
    own keys refuse a second one, a gap, or a mark that was not the last.
    """
    with translated(), use_case():
        agreement = FeeAgreement.objects.lock().get(pk=agreement_id)
        if agreement.due_at > now - GRACE:
            return None
        found = pnl.result(agreement, at=agreement.due_at)
        if found.unpriced:
            _postpone(agreement, found.unpriced, now)
            return None
        last = agreement.settlements.order_by("-period_no")[:1].get()
        rate = agreement.terms.performance_bps
        due = fees.performance(cumulative_pnl=found.cumulative_pnl, high_water_mark=last.high_water_mark, rate_bps=rate)
        settled = Settlement.objects.create(
            agreement=agreement,
            period_no=last.period_no + 1,
            prev_no=last.period_no,
            starts_at=last.ends_at,
            ends_at=agreement.due_at,
            closed_result=found.closed,
            floating_result=found.floating,
            cumulative_pnl=found.cumulative_pnl,
            high_water_mark_before=last.high_water_mark,
            high_water_mark=due.high_water_mark,
            rate_bps=rate,
            fee=due.fee,
            trades=found.trades,
            mark_prices=found.mark_prices,
        )
        if due.fee:
            detail = {
                "base": money.text(found.cumulative_pnl),
                "mark": money.text(last.high_water_mark),
                "rate_bps": rate,
            }
            _claim(agreement, FeeClaim.Kind.PERFORMANCE, settled.period_no, due.fee, detail)
        else:
            _release(agreement)
        agreement.terms, agreement.due_at = agreement.next_terms, fees.month_after(agreement.due_at)
        agreement.postponed = ""
        agreement.save(update_fields=["terms", "due_at", "postponed"])
        audit.record(
            "fee.settled", actor=audit.SYSTEM, subject=f"agreement:{agreement.pk}", period=settled.period_no,
            fee=money.text(due.fee),
        )  # fmt: skip
        return settled


def _postpone(agreement: FeeAgreement, why: str, now: datetime) -> None:
    """No mark, no fee. Once the next month is over too, the period goes on to its end."""
    following = fees.month_after(agreement.due_at)
    if following <= now - GRACE:
        agreement.due_at = following
    agreement.postponed = why[:200]
    agreement.save(update_fields=["due_at", "postponed"])


def charge_subscription(*, agreement_id: int, now: datetime) -> FeeClaim | None:
    """Book the subscription fee of this month, or of what is left of it, once; None where it is booked or not due."""
    with translated(), use_case():
        agreement = FeeAgreement.objects.lock().get(pk=agreement_id)
        month, ends = fees.month_of(now), fees.month_after(now)
        known = agreement.claims.filter(kind=FeeClaim.Kind.SUBSCRIPTION, period_no=_month_no(now))
        if known.exists() or not _followed(agreement).exists():
            return None
        # Who follows as the month begins pays for all of it; who comes later, by whole days.
        begins = month if agreement.started_at < month and now < month + timedelta(days=1) else now
        monthly = agreement.terms.subscription_fee
        fee = fees.subscription(monthly=monthly, begins=begins, ends=ends)
        if not fee:
            return None
        detail = {"monthly": money.text(monthly), "from": begins.isoformat(), "until": ends.isoformat()}
        return _claim(agreement, FeeClaim.Kind.SUBSCRIPTION, _month_no(now), fee, detail)


def _month_no(at: datetime) -> int:
    return at.year * 100 + at.month


def _claim(agreement: FeeAgreement, kind: str, period_no: int, fee: Decimal, detail: dict[str, Any]) -> FeeClaim:
    """Book what is owed: the subscriber's debt to the house, and the fee that comes of it."""
    payer = services.wallet_of(owner=agreement.subscriber, currency=agreement.currency)
    claim = FeeClaim.objects.create(
        agreement=agreement,
        kind=kind,
        period_no=period_no,
        payer=payer,
        payee=services.wallet_of(owner=agreement.strategy.owner, currency=agreement.currency),
        amount=fee,
        provider_share=fees.provider_share(fee, agreement.terms.platform_bps),
        detail=detail,
    )
    _move(
        claim, "accrual", TransferKind.ACCRUAL, fee, debit_house=Wallet.Kind.RECEIVABLE, credit_house=Wallet.Kind.FEES,
        currency=agreement.currency, shard=payer.pk,
    )  # fmt: skip
    return claim


# --- what is paid


def reserve(*, agreement_id: int, now: datetime) -> None:
    """Set aside what the open period would cost if it ended now, as far as the wallet goes; less, if it costs less."""
    with translated(), use_case():
        agreement = FeeAgreement.objects.lock().get(pk=agreement_id)
        found = pnl.result(agreement, at=now)
        if found.unpriced or agreement.due_at <= now:
            return
        last = agreement.settlements.order_by("-period_no")[:1].get()
        due = fees.performance(
            cumulative_pnl=found.cumulative_pnl,
            high_water_mark=last.high_water_mark,
            rate_bps=agreement.terms.performance_bps,
        ).fee
        wallet = Wallet.objects.lock().filter(owner=agreement.subscriber_id, currency=agreement.currency).first()
        if wallet is None:
            return
        held = _pending(agreement)
        wanted = min(due, wallet.available + (held.amount if held else 0))
        if wallet.is_frozen or wanted == (held.amount if held else 0):
            return
        if held is not None:
            services.void(hold_id=held.pk, wait=True)
        if wanted:
            services.hold(
                wallet=wallet, amount=wanted, purpose=_purpose(agreement), idempotency_key=f"reserve:{uuid.uuid4()}",
                wait=True,
            )  # fmt: skip


def collect(*, claim_id: int) -> Decimal:
    """Take what is owed from the payer's wallet, as much as is there; what is still owed afterwards."""
    with translated(), use_case():
        claim = FeeClaim.objects.select_related("agreement").get(pk=claim_id)
        wallet = Wallet.objects.lock().get(pk=claim.payer_id)
        claim.refresh_from_db(fields=["collected", "collected_at"])
        if claim.owed and not wallet.is_frozen:
            held = _pending(claim.agreement) if claim.kind == FeeClaim.Kind.PERFORMANCE else None
            if held is not None:
                _take(claim, wallet, min(held.amount, claim.owed), hold=str(held.pk))
                wallet.refresh_from_db(fields=["balance", "held", "version"])
            _take(claim, wallet, min(wallet.available, claim.owed))
        return claim.owed


def _take(claim: FeeClaim, wallet: Wallet, amount: Decimal, **more: Any) -> None:
    if amount > 0:
        key = f"collect:{money.text(claim.collected)}"  # what it had collected names the part
        _move(claim, key, claim.kind, amount, debit=wallet.pk, credit_house=Wallet.Kind.RECEIVABLE, **more)
        claim.collected += amount


def pay_out(*, claim_id: int, now: datetime) -> bool:
    """Give the provider their share of a fee that was collected long enough ago; whether it was given now."""
    claim = _payable(now).filter(pk=claim_id).first()
    if claim is None:
        return False
    sides = {"debit_house": Wallet.Kind.FEES, "credit": claim.payee_id, "shard": claim.payer_id}
    return "replayed" not in _move(claim, "payout", TransferKind.PAYOUT, claim.provider_share, **sides)


def _move(claim: FeeClaim, key: str, kind: str, amount: Decimal, **sides: Any) -> dict[str, Any]:
    args = {
        "scope": f"claim:{claim.pk}",
        "key": key,
        "kind": str(kind),
        "amount": money.text(amount),
        "note": claim.about,
        "claim": claim.pk,
        "wait": True,
    }
    return services.ask("ledger_move", audit.SYSTEM, args | sides)


# --- what the clock does


def sweep(*, now: datetime) -> dict[str, int]:
    """Do whatever is due, each by itself, so that one failure holds up nothing else; how much of each was done."""
    return {
        "agreed": _each(_unagreed(), lambda one: agree(now=now, **one)),
        "settled": _each(_ids(due(now)), lambda pk: settle(agreement_id=pk, now=now)),
        "charged": _each(_ids(_uncharged(now)), lambda pk: charge_subscription(agreement_id=pk, now=now)),
        "collected": _each(_ids(_owed()), lambda pk: collect(claim_id=pk) == 0),
        "paused": _each(_following(owing=True), _pause),
        "resumed": _each(_following(owing=False), _resume),
        "paid out": _each(_ids(_payable(now)), lambda pk: pay_out(claim_id=pk, now=now)),
        "expired": _each(_ids(_overdue(now)), lambda pk: services.expire(hold_id=pk)),
    }


def reserve_all(*, now: datetime) -> int:
    """Bring what is set aside for open periods up to date."""
    open_ones = FeeAgreement.objects.filter(due_at__gt=now, terms__performance_bps__gt=0)
    return _each(open_ones.values_list("pk", flat=True).iterator(), lambda pk: reserve(agreement_id=pk, now=now))


def _each(rows: Iterable[Any], do: Callable[[Any], Any]) -> int:
    done = 0
    for row in rows:
        try:
            done += bool(do(row))
        except DomainError as no:
            log.warning("fee.not_done", row=str(row), code=no.code)
    return done


def _ids(rows: Any) -> list[Any]:
    return list(rows.values_list("pk", flat=True)[:BATCH])


def due(now: datetime) -> Any:
    return FeeAgreement.objects.filter(due_at__lte=now - GRACE).order_by("due_at")


def _unagreed() -> Any:
    """Who follows a strategy that costs something, and has no agreement on it yet."""
    agreed = FeeAgreement.objects.filter(
        subscriber=OuterRef("account__owner"), strategy=OuterRef("strategy"), currency=OuterRef("account__currency")
    )
    priced = FeeTerms.objects.filter(strategy=OuterRef("strategy"))
    found = (
        Subscription.objects.live()
        .filter(Exists(priced), ~Exists(agreed))
        .exclude(account__owner=F("strategy__owner"))
        .select_related("account__owner", "strategy__owner")
    )
    pairs = {(one.account.owner_id, one.strategy_id, one.account.currency): one for one in found[:BATCH]}
    return [
        {"subscriber": one.account.owner, "strategy": one.strategy, "currency": one.account.currency}
        for one in pairs.values()
    ]


def _uncharged(now: datetime) -> Any:
    """Agreements that have no subscription fee for this month yet."""
    charged = FeeClaim.objects.filter(
        agreement=OuterRef("pk"), kind=FeeClaim.Kind.SUBSCRIPTION, period_no=_month_no(now)
    )
    return FeeAgreement.objects.filter(~Exists(charged), terms__subscription_fee__gt=0)


def _following(*, owing: bool) -> Any:
    """Subscriptions that are open though a fee is owed; or still paused for one, though none is owed any more.

    Nothing new is opened for who owes. Closes pass, always.
    """
    owed = FeeClaim.objects.filter(
        agreement__subscriber=OuterRef("account__owner"),
        agreement__strategy=OuterRef("strategy"),
        agreement__currency=OuterRef("account__currency"),
        collected_at=None,
    )
    if owing:
        return Subscription.objects.filter(Exists(owed), status=Subscription.Status.ACTIVE)[:BATCH]
    return Subscription.objects.filter(~Exists(owed), paused_for=Subscription.PausedFor.UNPAID)[:BATCH]


def _pause(subscription: Subscription) -> bool:
    strategies.pause(subscription=subscription, actor=audit.SYSTEM, why=Subscription.PausedFor.UNPAID)
    return True


def _resume(subscription: Subscription) -> bool:
    strategies.resume(subscription=subscription, actor=audit.SYSTEM, why=Subscription.PausedFor.UNPAID)
    return True


def _owed() -> Any:
    return FeeClaim.objects.filter(collected_at=None).order_by("pk")


def _payable(now: datetime) -> Any:
    ready = {"collected_at__lte": now - COOLING, "paid_out_at": None, "provider_share__gt": 0}
    return FeeClaim.objects.filter(**ready).select_related("agreement__strategy")


def _overdue(now: datetime) -> Any:
    return WalletHold.objects.filter(state=WalletHold.State.PENDING, expires_at__lte=now)


def _followed(agreement: FeeAgreement) -> Any:
    accounts = {"account__owner": agreement.subscriber_id, "account__currency": agreement.currency}
    return Subscription.objects.live().filter(strategy=agreement.strategy_id, **accounts)


def _purpose(agreement: FeeAgreement) -> str:
    return f"performance:{agreement.pk}"


def _pending(agreement: FeeAgreement) -> WalletHold | None:
    return WalletHold.objects.filter(purpose=_purpose(agreement), state=WalletHold.State.PENDING).first()


def _release(agreement: FeeAgreement) -> None:
    held = _pending(agreement)
    if held is not None:
        services.void(hold_id=held.pk, wait=True)


# --- show me


def show(settlement: Settlement) -> Shown:
    """Reckon a settled fee once more, from the trades, at the prices that were taken then."""
    found = pnl.result(settlement.agreement, at=settlement.ends_at, mark_prices=settlement.mark_prices)
    due = fees.performance(
        cumulative_pnl=found.cumulative_pnl,
        high_water_mark=settlement.high_water_mark_before or Decimal(0),
        rate_bps=settlement.rate_bps,
    )
    return Shown(settlement, found, due)
