"""What is known of both accounts when terms are made: currencies with rates, and contract sizes."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError, connection
from django.utils import timezone

from accounts.models import TradingAccount
from audit import services as audit
from core import uuid7
from market import prices
from market.models import Candle, Instrument
from strategies import explanations, sizing
from strategies import services as strategies
from strategies.models import Subscription, Terms
from tests.signed import LONG_AGO, Bot, opening
from trades import receipts, snapshot

D = Decimal


@pytest.fixture
def subscription(finn: TradingAccount) -> Subscription:
    return Subscription.objects.get(account=finn)


def bar(symbol: str, close: str, *, ago: timedelta = timedelta(hours=2)) -> None:
    Instrument.objects.get_or_create(symbol=symbol, defaults={"point": D("0.001"), "contract_size": 100_000})
    amounts = dict.fromkeys(("open", "high", "low", "close"), D(close))
    Candle.objects.create(instrument_id=symbol, minutes=60, opened_at=timezone.now() - ago, volume=1, **amounts)


def report(bot: Bot, equity: str = "10000", *, status: int = 200, **more: Any) -> None:
    answer = bot.send("POST", "/api/v2/account", {"balance": equity, "equity": equity, **more})
    assert answer.status_code == status, answer.content


def size(symbol: str, contract_size: str) -> dict[str, str]:
    return {"symbol": symbol, "contract_size": contract_size}


def set_terms(subscription: Subscription, **settings: Any) -> Terms:
    settings = {"max_volume": D(50), **settings}
    return strategies.set_terms(subscription=subscription, actor=audit.SYSTEM, since=LONG_AGO, **settings)


def copy(lena_bot: Bot, finn_bot: Bot, ticket: str = "1", **more: Any) -> dict[str, Any]:
    """The plan of finn's copy of a trade that lena opens now."""
    assert lena_bot.send("POST", fields=opening(ticket, **more)).status_code == 201
    plans = {trade["ticket_id"]: trade["copy"] for trade in finn_bot.send("GET").json()["trades"]}
    plan: dict[str, Any] = plans[ticket]
    return plan


# --- rates


@pytest.mark.usefixtures("desk_db")
def test_rates_come_from_the_pair_its_inverse_or_both_pairs_with_usd() -> None:
    bar("USDJPY", "150")
    bar("EURUSD", "1.2", ago=timedelta(hours=5))
    now = timezone.now()

    def rate(currency: str, into: str) -> Any:
        return prices.rate(currency, into, at=now)

    assert (rate("USD", "JPY").value, rate("USD", "JPY").by) == (150, "USDJPY")
    assert rate("JPY", "USD").value == D("0.00666666666667")
    through = rate("EUR", "JPY")
    assert (through.value, through.by) == (180, "EURUSD, USDJPY")
    assert now - through.at > timedelta(hours=3)  # as old as the older of both prices
    assert (rate("USD", "USC").value, rate("USC", "USD").value) == (100, D("0.01"))
    assert rate("CHF", "JPY") is None


@pytest.mark.usefixtures("desk_db")
def test_an_old_price_gives_no_rate() -> None:
    bar("USDJPY", "150", ago=timedelta(days=4, hours=1))

    assert prices.rate("USD", "JPY", at=timezone.now()) is None


# --- equities in two currencies


def in_yen(finn: TradingAccount) -> None:
    TradingAccount.objects.filter(pk=finn.pk).update(currency="JPY")


def test_equities_in_two_currencies_are_converted_by_a_known_rate(
    lena_bot: Bot, finn_bot: Bot, finn: TradingAccount, subscription: Subscription
) -> None:
    """1,500,000 JPY are 10,000 USD: copying 0.10 lots by equity is 0.10 lots, not 15."""
    in_yen(finn)
    bar("USDJPY", "150")
    report(lena_bot, "10000", currency="USD")
    report(finn_bot, "1500000", currency="JPY")

    terms = set_terms(subscription, mode="EQUITY")

    assert terms.facts["rates"]["USD"]["rate"] == "150.00000000"
    plan = copy(lena_bot, finn_bot)
    assert (plan["volume"], plan["opens"]) == ("0.10000000", True)


def test_without_a_rate_two_currencies_are_not_sizable(
    lena_bot: Bot, finn_bot: Bot, finn: TradingAccount, subscription: Subscription
) -> None:
    in_yen(finn)
    report(lena_bot, "10000")
    report(finn_bot, "1500000")
    set_terms(subscription, mode="EQUITY")

    plan = copy(lena_bot, finn_bot)

    assert (plan["volume"], plan["opens"], plan["why_not"]) == ("0.00000000", False, "not_sizable")


def test_a_rate_that_moved_or_went_stale_renews_the_terms(
    lena_bot: Bot, finn_bot: Bot, finn: TradingAccount, subscription: Subscription
) -> None:
    in_yen(finn)
    bar("USDJPY", "150", ago=timedelta(hours=9))
    report(lena_bot, "10000")
    report(finn_bot, "1500000")
    set_terms(subscription, mode="EQUITY")

    bar("USDJPY", "151.4", ago=timedelta(hours=5))
    assert strategies.revalue() == 0  # less than 1 %
    bar("USDJPY", "151.6", ago=timedelta(hours=3))
    assert strategies.revalue() == 1
    Candle.objects.filter(instrument="USDJPY").delete()
    assert strategies.revalue() == 1
    assert "rates" not in strategies.terms_of(subscription).facts


def test_risk_in_a_third_currency_is_converted_by_a_known_rate(
    lena_bot: Bot, finn_bot: Bot, finn: TradingAccount, subscription: Subscription
) -> None:
    """1 % of 1,500,000 JPY is 15,000 JPY = 100 USD; the stop of one lot costs 500 USD."""
    in_yen(finn)
    bar("USDJPY", "150")
    report(finn_bot, "1500000")
    set_terms(subscription, mode="RISK", risk_pct=D(1))

    assert copy(lena_bot, finn_bot)["volume"] == "0.20000000"


def test_another_currency_than_the_registered_one_sizes_nothing_by_equity(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription
) -> None:
    report(lena_bot, "10000")
    report(finn_bot, "10000", currency="USD")
    set_terms(subscription, mode="EQUITY")
    report(finn_bot, "1000000", status=409, currency="USC")

    latest = strategies.terms_of(subscription)

    assert latest.equity is None  # renewed at once, in force in ten seconds
    assert latest.since - timezone.now() < strategies.TERMS_AFTER


# --- contract sizes


def test_lots_are_converted_by_both_contract_sizes(lena_bot: Bot, finn_bot: Bot, subscription: Subscription) -> None:
    """US30 is 1 a point and lot at lena's broker and 25 at finn's: half of 2 lots is 0.04 lots."""
    report(lena_bot, symbols=[size("US30", "1")])
    report(finn_bot, symbols=[size("US30", "25")])
    set_terms(subscription, multiplier=D("0.5"))

    plan = copy(lena_bot, finn_bot, symbol="US30", volume="2", open_price="39000", sl="38000", tp=None)

    assert plan["volume"] == "0.04000000"


def test_a_report_of_a_contract_size_renews_the_terms_of_every_mode_that_scales(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription
) -> None:
    report(lena_bot, symbols=[size("US30", "1")])
    report(finn_bot, symbols=[size("US30", "25")])

    assert strategies.terms_of(subscription).facts == {"sizes": {"US30": ["1.00000000", "25.00000000"]}}
    strategies.set_terms(subscription=subscription, actor=audit.SYSTEM, mode="FIXED", fixed_lots=D("0.1"))
    report(finn_bot, symbols=[size("US30", "10")])
    assert strategies.terms_of(subscription).facts == {}


def test_open_trades_keep_the_contract_sizes_that_they_were_opened_with(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription
) -> None:
    report(lena_bot, symbols=[size("US30", "1")])
    report(finn_bot, symbols=[size("US30", "25")])
    set_terms(subscription, multiplier=D("0.5"))
    us30 = {"symbol": "US30", "volume": "2", "open_price": "39000", "sl": None, "tp": None}
    copy(lena_bot, finn_bot, **us30)

    report(finn_bot, symbols=[size("US30", "1")])

    (trade,) = finn_bot.send("GET").json()["trades"]
    assert trade["copy"]["volume"] == "0.04000000"


def test_a_mapped_symbol_has_the_contract_size_of_its_own_name(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription
) -> None:
    report(lena_bot, symbols=[size("US30", "1")])
    report(finn_bot, symbols=[size("DJ30", "10"), size("US30", "5")])
    set_terms(subscription, symbol_map={"US30": "DJ30"})

    assert copy(lena_bot, finn_bot, symbol="US30", volume="2", open_price="39000", sl=None, tp=None) == {
        "symbol": "DJ30", "type": "BUY", "volume": "0.20000000", "sl": None, "tp": None, "opens": True, "why_not": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("listed", "provider", "copier", "volume"),
    [
        (None, None, "25", "2.00000000"),  # nothing to compare with
        ("1", None, "25", "0.08000000"),  # the listed size stands for the provider's
        ("25", None, "1", "2.00000000"),  # an assumption never makes a copy larger
        ("25", "1", None, "0.08000000"),
        ("1", "25", None, "2.00000000"),
        ("1", "25", "25", "2.00000000"),
    ],
)
def test_where_one_side_is_silent_the_listed_size_may_only_reduce(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription, listed: Any, provider: Any, copier: Any, volume: str
) -> None:
    if listed is not None:
        Instrument.objects.create(symbol="US30", point=1, contract_size=D(listed))
    report(lena_bot, symbols=[size("US30", provider)] if provider else [])
    report(finn_bot, symbols=[size("US30", copier)] if copier else [])
    set_terms(subscription)

    plan = copy(lena_bot, finn_bot, symbol="US30", volume="2", open_price="39000", sl=None, tp=None)

    assert plan["volume"] == volume


US30 = {"symbol": "US30", "volume": "2", "open_price": "39000", "sl": None, "tp": None}
KIND = {"kind": "hedging"}  # a bot that reports what it finds at its broker


@pytest.mark.parametrize("mode", ["MULTIPLIER", "EQUITY"])
def test_the_first_trade_in_a_symbol_waits_for_no_guess(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription, mode: str
) -> None:
    """At finn's broker a lot of US30 is 25 times as much, which the desk learns after lena's first trade in it."""
    report(lena_bot, **KIND)
    report(finn_bot, **KIND)
    set_terms(subscription, mode=mode)
    first = copy(lena_bot, finn_bot, "1", **US30)
    report(lena_bot, symbols=[size("US30", "1")], **KIND)
    set_terms(subscription, mode=mode)
    second = copy(lena_bot, finn_bot, "2", **US30)
    report(finn_bot, symbols=[size("US30", "25")], **KIND)

    for plan in (first, second):
        assert (plan["opens"], plan["volume"], plan["why_not"]) == (False, "0.00000000", "not_sizable")
    renewed = explanations.settings(strategies.terms_of(subscription), currency="USD", contracts={})
    outcome = receipts.recent([subscription], now=timezone.now())[-1]
    assert sizing.plan(renewed, receipts.as_opened(outcome.provider_trade)).volume == D("0.08")
    (line,) = receipts.receipt(outcome).lines
    assert line.says.startswith("the contract size of US30 was not known at both brokers.")


@pytest.mark.parametrize(
    ("settings", "opening_of", "volume"),
    [
        ({}, {}, "0.10000000"),  # EURUSD is listed
        ({"symbol_factors": {"US30": "0.04"}}, US30, "0.08000000"),
        ({"mode": "FIXED", "fixed_lots": D(1)}, US30, "1.00000000"),
    ],
)
def test_what_needs_no_comparison_is_copied_at_once(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription, settings: Any, opening_of: Any, volume: str
) -> None:
    report(lena_bot, **KIND)
    report(finn_bot, **KIND)
    set_terms(subscription, **settings)

    plan = copy(lena_bot, finn_bot, **opening_of)

    assert (plan["opens"], plan["volume"]) == (True, volume)


def test_equal_sizes_that_both_reported_are_known(lena_bot: Bot, finn_bot: Bot, subscription: Subscription) -> None:
    report(lena_bot, symbols=[size("US30", "1")], **KIND)
    report(finn_bot, symbols=[size("US30", "1")], **KIND)
    set_terms(subscription)

    assert copy(lena_bot, finn_bot, **US30)["volume"] == "2.00000000"


def test_where_one_bot_never_reports_sizes_nothing_waits_for_them(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription
) -> None:
    report(lena_bot)
    report(finn_bot, symbols=[size("US30", "1")], **KIND)
    set_terms(subscription)

    assert copy(lena_bot, finn_bot, **US30)["volume"] == "2.00000000"


def test_risk_uses_the_copiers_own_contract_size(lena_bot: Bot, finn_bot: Bot, subscription: Subscription) -> None:
    report(finn_bot, symbols=[size("EURUSD", "10000")])
    set_terms(subscription, mode="RISK", risk_pct=D(1))

    assert copy(lena_bot, finn_bot)["volume"] == "2.00000000"  # 0.20 with the desk's 100,000


def test_a_factor_of_the_settings_comes_on_top(lena_bot: Bot, finn_bot: Bot, subscription: Subscription) -> None:
    set_terms(subscription, symbol_factors={"EURUSD": "0.5"})

    assert copy(lena_bot, finn_bot)["volume"] == "0.05000000"


@pytest.mark.parametrize("factor", ["0", "0.00", "-1", "NaN", "1e3", "", 0.5])
def test_the_database_refuses_a_factor_that_is_no_positive_number(subscription: Subscription, factor: Any) -> None:
    with pytest.raises(IntegrityError, match="terms_factors_are_well_formed"):
        set_terms(subscription, symbol_factors={"EURUSD": factor})


def test_the_page_and_the_snapshot_size_alike(
    lena_bot: Bot, finn_bot: Bot, finn: TradingAccount, subscription: Subscription
) -> None:
    in_yen(finn)
    bar("USDJPY", "150")
    report(lena_bot, symbols=[size("US30", "1")], **KIND)
    report(finn_bot, "1500000", symbols=[size("US30", "25"), size("EURUSD", "1000")], **KIND)
    for settings in ({"mode": "EQUITY"}, {"mode": "RISK", "risk_pct": D(1), "risk_default_stop_bps": D(50)}):
        set_terms(subscription, symbol_factors={"US30": "0.5"}, **settings)
        (source,) = snapshot.read([finn.pk]).sources.values()
        history = receipts.TermsHistory.of([subscription], since=timezone.now())
        theirs, ours = (
            history.settings(subscription, timezone.now()),
            source.settings_of(str(uuid7.first_at(timezone.now()))),
        )
        if settings["mode"] == "RISK":
            assert theirs == ours
        assert (theirs.rates, theirs.sizes, theirs.known, theirs.currency, theirs.symbol_factors) == (
            ours.rates, ours.sizes, ours.known, ours.currency, ours.symbol_factors,
        )  # fmt: skip


def test_the_version_before_reads_settings_without_what_it_does_not_know(subscription: Subscription) -> None:
    set_terms(subscription, symbol_factors={"US30": "0.5"})
    with connection.cursor() as cursor:
        cursor.execute("select active_snapshot(array[%s]::bigint[])::text", [subscription.account_id])
        (text,) = cursor.fetchone() or ("",)

    assert "symbol_factors" not in text


# --- what people see


def page(browser: Any, finn: TradingAccount) -> str:
    browser.force_login(finn.owner)
    return " ".join(browser.get("/copying/").content.decode().split())


def test_the_page_warns_of_an_unknown_contract_size_and_of_another_currency(
    client: Any, lena_bot: Bot, finn_bot: Bot, finn: TradingAccount, subscription: Subscription
) -> None:
    report(finn_bot, symbols=[size("US30", "25"), size("EURUSD", "100000")])
    warned = page(client, finn)
    report(finn_bot, status=409, currency="USC")

    assert "One lot of US30 is 25 units at your broker, and the provider&#x27;s bot has not reported its size" in warned
    assert "One lot of EURUSD" not in warned  # as listed: nothing to warn of
    assert "USC, registered is USD" in page(client, finn)
    report(lena_bot, symbols=[size("US30", "1")])
    assert "One lot of US30" not in page(client, finn)


def test_between_bots_that_report_sizes_the_page_warns_of_what_is_traded_alone(
    client: Any, lena_bot: Bot, finn_bot: Bot, finn: TradingAccount, subscription: Subscription
) -> None:
    report(lena_bot, symbols=[size("GER40", "1")], **KIND)
    report(finn_bot, symbols=[size("US30", "25")], **KIND)

    warned = page(client, finn)

    assert "GER40 is not copied until it has, unless your settings have a factor for it." in warned
    assert "US30" not in warned  # lena has never traded it


def test_the_arithmetic_names_rate_and_contract_sizes(
    lena_bot: Bot, finn_bot: Bot, finn: TradingAccount, subscription: Subscription
) -> None:
    in_yen(finn)
    bar("USDJPY", "150")
    report(lena_bot, symbols=[size("US30", "1")])
    report(finn_bot, "1500000", symbols=[size("US30", "25")])
    set_terms(subscription, mode="EQUITY")
    copy(lena_bot, finn_bot, symbol="US30", volume="2", open_price="39000", sl=None, tp=None)

    (outcome,) = receipts.recent([subscription], now=timezone.now())

    assert explanations.in_one_line(receipts.receipt(outcome).lines) == (
        "2.00 lots × 1 × 1 / 25 units in a lot × 1,500,000 / 10,000 of equity, at 150.00000000 JPY for 1 USD = 0.08"
    )
