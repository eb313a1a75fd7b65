"""Fee terms bind nobody who has not accepted them: new subscribers wait, existing ones keep what was agreed."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from accounts.models import TradingAccount
from audit import services as audit
from audit.models import AuditLog
from config import demo_data
from core.errors import Invalid, NotFound
from strategies import services as strategies
from strategies.models import Strategy, Subscription
from tests.signed import Bot, opening
from tests.trades.test_hostile_callers import of
from tests.transactions import committed
from tests.wallets.conftest import (
    JUST_AFTER,
    Following,
    accept,
    balance,
    following,
    pay_in,
    priced,
    state,
    subscribe,
    subscription_of,
)  # fmt: skip
from wallets import tasks
from wallets.models import FeeAcceptance, FeeAgreement, FeeClaim, FeeNotice, Wallet
from wallets.services import agreements, settlement

DAY = timedelta(days=1)


def outcomes() -> list[str]:
    return list(FeeNotice.objects.order_by("pk").values_list("outcome", flat=True))


# --- those who follow already


def test_a_price_that_is_added_charges_no_existing_follower(follows_free: Following) -> None:
    priced(follows_free.agreement.strategy)
    follows_free.realise("1", "1000")

    for month in (0, 1, 2):
        now = timezone.now() if not month else follows_free.month_end(month) + JUST_AFTER
        settlement.sweep(now=now)

    assert (FeeAgreement.objects.count(), FeeClaim.objects.count()) == (0, 0)


@pytest.fixture
def follows_free(lena: TradingAccount, finn: TradingAccount, strategy: Strategy) -> Following:
    """finn follows lena's strategy, which has no fees. The agreement is not saved; it gives the periods' ends."""
    agreement = FeeAgreement(subscriber=finn.owner, strategy=strategy, currency="USD", started_at=timezone.now())
    return Following(lena, finn, agreement)


def test_an_existing_follower_goes_on_free_of_charge_and_then_stops(finn: TradingAccount, strategy: Strategy) -> None:
    priced(strategy)
    now = timezone.now()

    assert agreements.keep_notices(now=now)["given"] == 1
    assert agreements.keep_notices(now=now + 30 * DAY - timedelta(seconds=1))["stopped"] == 0
    assert state(finn) == ("ACTIVE", "")
    assert agreements.keep_notices(now=now + 30 * DAY)["stopped"] == 1
    assert agreements.keep_notices(now=now + 30 * DAY) == dict.fromkeys(("lapsed", "given", "stopped", "begun"), 0)

    assert state(finn) == ("ENDED", "")
    assert outcomes() == ["STOPPED"]
    assert FeeClaim.objects.count() == 0
    assert AuditLog.objects.filter(action="fee.notice_ended", actor_kind="system").count() == 1


def test_open_copies_outlive_the_end_of_a_notice_as_they_outlive_any_end(
    follows_free: Following, strategy: Strategy
) -> None:
    follows_free.copy("1")
    priced(strategy)
    agreements.keep_notices(now=timezone.now())
    agreements.keep_notices(now=timezone.now() + 31 * DAY)

    follows_free.close("1", "100")

    assert FeeClaim.objects.count() == 0


def test_the_length_of_the_notice_is_a_setting(finn: TradingAccount, strategy: Strategy, settings: Settings) -> None:
    settings.FEE_NOTICE_DAYS = 45
    priced(strategy)
    now = timezone.now()
    agreements.keep_notices(now=now)
    settings.FEE_NOTICE_DAYS = 1  # changes no notice that was given

    assert FeeNotice.objects.get().ends_at == now + 45 * DAY


def test_the_task_gives_notice(finn: TradingAccount, strategy: Strategy) -> None:
    priced(strategy)

    assert tasks.fee_notices() == {"lapsed": 0, "given": 1, "stopped": 0, "begun": 0}


def test_an_acceptance_binds_from_then_on(follows_free: Following, strategy: Strategy) -> None:
    finn, terms = follows_free.finn, priced(strategy, monthly="0")
    pay_in(finn, "500")
    follows_free.realise("1", "1000")  # before the acceptance: free
    agreements.keep_notices(now=timezone.now())
    agreement = accept(finn, terms)
    follows_free.realise("2", "100")
    agreements.keep_notices(now=timezone.now() + 31 * DAY)

    settlement.sweep(now=agreement.due_at + JUST_AFTER)

    assert state(finn) == ("ACTIVE", "")
    assert outcomes() == ["ACCEPTED"]
    assert [claim.amount for claim in FeeClaim.objects.all()] == [20]
    assert balance(finn) == 480


def test_an_acceptance_says_who_when_and_which_version(finn: TradingAccount, strategy: Strategy) -> None:
    terms, before = priced(strategy), timezone.now()

    agreement = accept(finn, terms)

    row = FeeAcceptance.objects.get()
    assert (row.subscriber, row.strategy, row.currency, row.terms) == (finn.owner, strategy, "USD", terms)
    assert before < row.accepted_at < timezone.now()
    assert (agreement.acceptance, agreement.next_acceptance) == (row, row)
    entry = AuditLog.objects.get(action="fee.terms_accepted")
    assert (entry.actor, entry.detail["version"]) == (str(finn.owner_id), terms.pk)


def test_dearer_terms_leave_the_agreed_ones_in_force_until_the_notice_ends(follows: Following) -> None:
    priced(follows.agreement.strategy, 5000, "0")
    follows.realise("1", "1000")
    now = follows.agreement.started_at
    agreements.keep_notices(now=now)

    settled = follows.settle()
    agreements.keep_notices(now=now + 31 * DAY)

    assert (settled.rate_bps, settled.fee) == (2000, 200)
    assert state(follows.finn) == ("ENDED", "")


def test_dearer_terms_that_are_accepted_hold_from_the_next_period_on(follows: Following) -> None:
    terms = priced(follows.agreement.strategy, 5000, "0")
    follows.copy("1", volume="0.1", price="1.00000")
    follows.bar("1.10000")
    follows.bar("1.20000", month=2)
    agreements.keep_notices(now=follows.agreement.started_at)
    accept(follows.finn, terms)

    settled = [follows.settle(month) for month in (1, 2)]

    assert [(period.rate_bps, period.fee) for period in settled] == [(2000, 200), (5000, 500)]
    assert agreements.keep_notices(now=timezone.now() + 365 * DAY)["stopped"] == 0


@pytest.mark.parametrize(("bps", "monthly"), [(1000, "0"), (2000, "0"), (0, "0")])
def test_nobody_is_stopped_for_not_accepting_a_lower_price(follows: Following, bps: int, monthly: str) -> None:
    priced(follows.agreement.strategy, bps, monthly)
    agreements.keep_notices(now=timezone.now())

    counts = agreements.keep_notices(now=timezone.now() + 365 * DAY)

    assert FeeNotice.objects.get().ends_at is None
    assert counts["stopped"] == 0
    assert follows.settle().rate_bps == 2000


@pytest.mark.parametrize(("bps", "monthly"), [(2001, "0"), (0, "0.01")])
def test_terms_that_are_dearer_in_one_part_have_an_end(follows: Following, bps: int, monthly: str) -> None:
    priced(follows.agreement.strategy, bps, monthly)
    agreements.keep_notices(now=timezone.now())

    assert FeeNotice.objects.get().ends_at is not None


def test_a_price_that_is_taken_back_lapses_the_notice(finn: TradingAccount, strategy: Strategy) -> None:
    now = timezone.now()
    priced(strategy)
    agreements.keep_notices(now=now)
    priced(strategy, 0, "0")

    counts = agreements.keep_notices(now=now + 31 * DAY)

    assert (counts["lapsed"], counts["given"], counts["stopped"]) == (1, 0, 0)
    assert state(finn) == ("ACTIVE", "")


def test_newer_terms_begin_a_new_notice(finn: TradingAccount, strategy: Strategy) -> None:
    now = timezone.now()
    priced(strategy)
    agreements.keep_notices(now=now)
    newer = priced(strategy, 1000)

    agreements.keep_notices(now=now + 31 * DAY)

    open_notice = FeeNotice.objects.open().get()
    assert (open_notice.terms, open_notice.ends_at) == (newer, now + 61 * DAY)
    assert outcomes() == ["LAPSED", ""]


def test_an_account_in_another_currency_needs_an_acceptance_of_its_own(
    finn: TradingAccount, strategy: Strategy
) -> None:
    now = timezone.now()
    accept(finn, priced(strategy))
    TradingAccount.objects.filter(pk=finn.pk).update(currency="EUR")

    assert agreements.keep_notices(now=now)["given"] == 1
    assert agreements.keep_notices(now=now + 31 * DAY)["stopped"] == 1


def test_one_acceptance_covers_all_accounts_of_a_subscriber(finn: TradingAccount, strategy: Strategy) -> None:
    second = demo_data.account(finn.owner, "finn-second")
    subscribe(second, strategy)
    terms = priced(strategy)
    agreements.keep_notices(now=timezone.now())

    accept(finn, terms)

    assert agreements.keep_notices(now=timezone.now() + 31 * DAY)["stopped"] == 0
    assert outcomes() == ["ACCEPTED", "ACCEPTED"]
    assert (state(second), FeeAgreement.objects.count()) == (("ACTIVE", ""), 1)


# --- new subscribers


def test_a_new_subscription_copies_nothing_until_its_fees_are_accepted(
    ella: TradingAccount, strategy: Strategy
) -> None:
    terms = priced(strategy)

    subscription = subscribe(ella, strategy)

    assert (subscription.status, subscription.paused_for) == state(ella) == ("PAUSED", "TERMS")
    accept(ella, terms)
    assert state(ella) == ("ACTIVE", "")
    assert Wallet.objects.filter(owner=ella.owner, currency="USD").exists()


def test_who_waits_to_accept_is_shown_no_open_trade(
    ella: TradingAccount, strategy: Strategy, lena_bot: Bot, cast: dict[str, Any]
) -> None:
    from accounts import services as accounts

    _, key = committed(accounts.create_key, account=ella, kind="copier", actor=audit.SYSTEM)
    bot = Bot({"key": key.key, "secret": key.secret})
    priced(strategy)
    lena_bot.send("POST", fields=opening("777001"))
    subscribe(ella, strategy)
    lena_bot.send("POST", fields=opening("777002"))

    assert "77700" not in bot.send("GET").content.decode()
    accept(ella)
    lena_bot.send("POST", fields=opening("777003"))
    assert "777003" in bot.send("GET").content.decode()


def paused_and_resumed(row: Subscription) -> None:
    strategies.pause(subscription=row, actor=audit.SYSTEM)
    strategies.resume(subscription=row, actor=audit.SYSTEM)


@pytest.mark.parametrize(
    "begin",
    [
        lambda row: strategies.resume(subscription=row, actor=audit.SYSTEM),
        lambda row: strategies.resume(subscription=row, actor=audit.SYSTEM, why="TERMS"),
        paused_and_resumed,
        lambda row: subscribe(row.account, row.strategy),
        lambda row: (strategies.end(subscription=row, actor=audit.SYSTEM), subscribe(row.account, row.strategy)),
        lambda row: agreements.keep_notices(now=timezone.now() + 99 * DAY),
        lambda row: of("owner").execute("update subscriptions set status = 'ACTIVE', paused_for = ''"),
    ],
    ids=["staff", "resume for it", "staff pause first", "again", "ended and again", "periodic work", "SQL"],
)
def test_nothing_but_the_acceptance_begins_the_copying(
    ella: TradingAccount, strategy: Strategy, begin: Callable[[Subscription], Any]
) -> None:
    priced(strategy)
    subscribe(ella, strategy)

    begin(subscription_of(ella))

    assert state(ella) == ("PAUSED", "TERMS")


def test_coming_back_after_the_end_of_a_notice_needs_the_acceptance(finn: TradingAccount, strategy: Strategy) -> None:
    priced(strategy)
    agreements.keep_notices(now=timezone.now())
    agreements.keep_notices(now=timezone.now() + 31 * DAY)

    subscribe(finn, strategy)

    assert state(finn) == ("PAUSED", "TERMS")
    assert agreements.keep_notices(now=timezone.now() + 99 * DAY)["stopped"] == 0
    accept(finn)
    assert state(finn) == ("ACTIVE", "")


def test_a_notice_from_before_does_not_end_a_subscription_that_began_anew(
    finn: TradingAccount, strategy: Strategy
) -> None:
    priced(strategy)
    agreements.keep_notices(now=timezone.now())
    strategies.end(subscription=subscription_of(finn), actor=audit.SYSTEM)
    subscribe(finn, strategy)

    assert agreements.keep_notices(now=timezone.now() + 31 * DAY)["stopped"] == 0
    assert (state(finn), outcomes()) == (("PAUSED", "TERMS"), ["LAPSED"])


def test_who_waits_to_accept_pays_no_monthly_fee(finn: TradingAccount, strategy: Strategy) -> None:
    """Under earlier terms neither: nothing is copied."""
    accept(finn, priced(strategy))
    strategies.end(subscription=subscription_of(finn), actor=audit.SYSTEM)
    priced(strategy, monthly="30")
    subscribe(finn, strategy)

    settlement.sweep(now=timezone.now())

    assert state(finn) == ("PAUSED", "TERMS")
    assert FeeClaim.objects.count() == 0


def test_copying_begins_where_the_fees_were_taken_back(ella: TradingAccount, strategy: Strategy) -> None:
    priced(strategy)
    subscribe(ella, strategy)
    priced(strategy, 0, "0")

    assert agreements.keep_notices(now=timezone.now())["begun"] == 1
    assert state(ella) == ("ACTIVE", "")


def test_who_accepted_once_follows_again_at_once(finn: TradingAccount, strategy: Strategy) -> None:
    accept(finn, priced(strategy))
    strategies.end(subscription=subscription_of(finn), actor=audit.SYSTEM)

    subscribe(finn, strategy)

    assert state(finn) == ("ACTIVE", "")


def test_free_terms_need_an_acceptance_only_where_others_are_in_force(
    ella: TradingAccount, finn: TradingAccount, strategy: Strategy
) -> None:
    accept(finn, priced(strategy))
    strategies.end(subscription=subscription_of(finn), actor=audit.SYSTEM)
    priced(strategy, 0, "0")

    assert (subscribe(ella, strategy).status, subscribe(finn, strategy).paused_for) == ("ACTIVE", "TERMS")


def test_an_account_without_a_currency_says_what_is_needed(ella: TradingAccount, strategy: Strategy) -> None:
    TradingAccount.objects.filter(pk=ella.pk).update(currency="")
    priced(strategy)
    subscribe(ella, strategy)

    with pytest.raises(Invalid) as refusal:
        accept(ella)

    assert "start the copier once" in str(refusal.value.extra)
    assert FeeAcceptance.objects.count() == 0


def test_an_ended_subscription_accepts_nothing(ella: TradingAccount, strategy: Strategy) -> None:
    priced(strategy)
    strategies.end(subscription=subscribe(ella, strategy), actor=audit.SYSTEM)

    with pytest.raises(NotFound):
        accept(ella)


def test_a_repeated_acceptance_changes_nothing(finn: TradingAccount, strategy: Strategy) -> None:
    terms = priced(strategy)

    assert accept(finn, terms) == accept(finn, terms)

    assert FeeAcceptance.objects.count() == AuditLog.objects.filter(action="fee.terms_accepted").count() == 1


# --- declining


def test_a_new_subscriber_who_declines_is_ended(ella: TradingAccount, strategy: Strategy) -> None:
    terms = priced(strategy)
    subscription = subscribe(ella, strategy)

    agreements.decline(subscription=subscription, terms=terms, actor=audit.SYSTEM, now=timezone.now())

    assert state(ella) == ("ENDED", "")


def test_a_follower_who_declines_keeps_the_rest_of_the_notice(finn: TradingAccount, strategy: Strategy) -> None:
    terms, now = priced(strategy), timezone.now()
    agreements.keep_notices(now=now)

    for _ in range(2):
        agreements.decline(subscription=subscription_of(finn), terms=terms, actor=audit.SYSTEM, now=now)

    assert state(finn) == ("ACTIVE", "")
    assert AuditLog.objects.filter(action="fee.terms_declined").count() == 1
    accept(finn, terms)  # a second thought
    assert agreements.keep_notices(now=now + 31 * DAY)["stopped"] == 0


def test_terms_that_changed_meanwhile_can_be_neither_accepted_nor_declined(
    finn: TradingAccount, strategy: Strategy
) -> None:
    shown = priced(strategy)
    priced(strategy, 5000)

    with pytest.raises(agreements.TermsNotOffered) as refusal:
        accept(finn, shown)
    with pytest.raises(agreements.TermsNotOffered):
        agreements.decline(subscription=subscription_of(finn), terms=shown, actor=audit.SYSTEM, now=timezone.now())

    assert refusal.value.status == 409
    assert FeeAcceptance.objects.count() == 0


# --- the month's fee


def test_a_months_fee_is_that_of_the_terms_that_hold_in_it(lena: TradingAccount, finn: TradingAccount) -> None:
    """A month begins some minutes before its period before is settled."""
    follows = following(lena, finn, subscription_fee=Decimal(30))
    accept(finn, priced(follows.agreement.strategy, 2000, "10"))

    now = follows.month_end() + timedelta(seconds=30)
    charged = settlement.charge_subscription(agreement_id=follows.agreement.pk, now=now)

    assert charged is not None
    assert charged.amount == 10
