"""The plan of a copy, checked against figures that are calculated by hand."""

import json
import random
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from strategies import sizing
from strategies.sizing import ProviderTrade, Settings

D = Decimal
TRADE = ProviderTrade("EURUSD", "BUY", D("0.5"), D("1.10000"), D("1.09000"), D("0.5"), D("1.09000"), D("1.12000"))
TWICE = Settings("MULTIPLIER", D(2))


def lots(settings: Any, trade: Any = TRADE) -> Any:
    return sizing.plan(settings, trade).volume


def test_a_multiplier_scales_the_providers_lots() -> None:
    assert lots(TWICE) == D("1.0")


def test_fixed_lots_do_not_depend_on_the_providers_lots() -> None:
    fixed = Settings("FIXED", D(1), fixed_lots=D("0.03"))

    assert lots(fixed) == lots(fixed, replace(TRADE, opened_volume=D(9), volume=D(9))) == D("0.03")


def test_copies_in_proportion_to_both_equities() -> None:
    settings = Settings("EQUITY", D("0.5"), equity=D(2000), master_equity=D(10000))

    assert lots(settings) == D("0.05")


def test_a_copy_by_risk_loses_its_share_at_the_stop_loss() -> None:
    settings = Settings("RISK", D(1), risk_pct=D(1), equity=D(10000), currency="USD", contracts={"EURUSD": D(100000)})

    volume = lots(settings)

    assert volume == D("0.1")  # 0.01 × 100,000 = 1,000 a lot; a hundred may be lost
    assert volume * abs(TRADE.open_price - TRADE.opened_sl) * 100000 == D(10000) / 100


def test_risk_in_the_base_currency_is_converted_at_the_open_price() -> None:
    trade = replace(TRADE, symbol="USDJPY", open_price=D(150), opened_sl=D(149))
    settings = Settings("RISK", D(1), risk_pct=D(1), equity=D(10000), currency="USD", contracts={"USDJPY": D(100000)})

    assert lots(settings, trade) == D("0.15")


@pytest.mark.parametrize(
    "settings",
    [
        Settings("EQUITY", D(1), equity=None, master_equity=D(1000)),
        Settings("EQUITY", D(1), equity=D(1000), master_equity=None),
        Settings("EQUITY", D(1), equity=D(1000), master_equity=D(0)),
        Settings("EQUITY", D(1), equity=D(1000), master_equity=D(-1000)),
        Settings("RISK", D(1), risk_pct=D(1), equity=D(1000), currency="USD", contracts={}),
        Settings("RISK", D(1), risk_pct=D(1), equity=D(1000), currency="CHF", contracts={"EURUSD": D(100000)}),
        Settings("RISK", D(1), risk_pct=D(1), equity=None, currency="USD", contracts={"EURUSD": D(100000)}),
    ],
    ids=["no-equity", "no-masters", "masters-zero", "master-owes", "no-contract", "no-rate", "risk-no-equity"],
)
def test_an_unknown_input_is_never_guessed(settings: Any) -> None:
    plan = sizing.plan(settings, TRADE)

    assert (plan.volume, plan.why_not) == (0, "not_sizable")


def test_a_trade_without_a_stop_loss_cannot_be_copied_by_risk() -> None:
    settings = Settings("RISK", D(1), risk_pct=D(1), equity=D(1000), currency="USD", contracts={"EURUSD": D(100000)})

    assert sizing.plan(settings, replace(TRADE, opened_sl=None)).why_not == "not_sizable"
    assert sizing.plan(settings, replace(TRADE, opened_sl=TRADE.open_price)).why_not == "not_sizable"


def test_negative_equity_opens_nothing() -> None:
    settings = Settings("EQUITY", D(1), equity=D(-5), master_equity=D(1000))

    assert sizing.plan(settings, TRADE).why_not == "volume_too_small"


def test_applies_the_largest_and_the_smallest_volume() -> None:
    assert lots(replace(TWICE, max_volume=D("0.7"))) == D("0.7")
    small = replace(TWICE, min_volume=D("1.5"))
    assert (lots(small), sizing.plan(small, TRADE).why_not) == (0, "volume_too_small")
    assert lots(replace(small, raises_to_min=True)) == D("1.5")


def test_copies_only_allowed_symbols_and_maps_their_names() -> None:
    mapped = replace(TWICE, symbols=("XAUUSD",), symbol_map={"XAUUSD": "GOLD"})

    assert sizing.plan(mapped, TRADE).why_not == "symbol_not_allowed"
    assert sizing.plan(mapped, replace(TRADE, symbol="XAUUSD")).symbol == "GOLD"


def test_reverse_copying_swaps_the_side_and_the_stops() -> None:
    plan = sizing.plan(replace(TWICE, reverse=True), TRADE)

    assert (plan.type, plan.sl, plan.tp) == ("SELL", D("1.12000"), D("1.09000"))


def test_a_partial_close_reduces_the_copy_by_the_same_share_in_every_mode() -> None:
    half = replace(TRADE, volume=D("0.25"))
    for settings in (TWICE, Settings("FIXED", D(1), fixed_lots=D("0.03")), replace(TWICE, max_volume=D("0.7"))):
        assert lots(settings, half) == lots(settings) / 2


def test_moving_the_stop_loss_does_not_change_the_size() -> None:
    settings = Settings("RISK", D(1), risk_pct=D(1), equity=D(10000), currency="USD", contracts={"EURUSD": D(100000)})

    assert lots(settings, replace(TRADE, sl=D("1.099"))) == lots(settings)


def test_rounds_down_by_less_than_two_units_of_the_last_digit() -> None:
    rng = random.Random(7)
    for _ in range(500):
        opened = D(rng.randrange(1, 10**6)) / 10**4
        left = opened * rng.randrange(1, 100) / 100
        factor = D(rng.randrange(1, 10**6)) / 10**5
        trade = replace(TRADE, opened_volume=opened, volume=left)

        exact = Fraction(opened) * Fraction(factor) * Fraction(left) / Fraction(opened)
        rounded = Fraction(lots(Settings("MULTIPLIER", factor), trade))

        assert 0 <= exact - rounded <= Fraction(2, 10**8)


def test_copies_large_volumes_to_the_last_digit() -> None:
    whole = D("12345678.12345677")
    trade = replace(TRADE, opened_volume=whole, volume=whole)

    assert lots(Settings("MULTIPLIER", D(1)), trade) == whole


def test_never_rounds_up_to_the_last_digit() -> None:
    settings = Settings(
        "EQUITY", D("0.99999999"), equity=D("999999999999.99999999"), master_equity=D("999999999999.99999998")
    )
    trade = replace(TRADE, opened_volume=D("900000000000.00000001"), volume=D("900000000000.00000001"))

    exact = Fraction(trade.opened_volume) * Fraction(settings.multiplier) * Fraction(settings.equity)
    exact /= Fraction(settings.master_equity)
    assert 0 <= exact - Fraction(lots(settings, trade)) < Fraction(1, 10**8)


@pytest.mark.parametrize("equity", [D(-5), D(0)])
def test_an_account_without_equity_is_not_raised_to_the_smallest_volume(equity: Any) -> None:
    settings = Settings(
        "EQUITY", D(1), equity=equity, master_equity=D(1000), min_volume=D("0.01"), raises_to_min=True
    )  # fmt: skip

    assert (lots(settings), sizing.plan(settings, TRADE).why_not) == (0, "volume_too_small")


def test_an_impossible_volume_is_not_sizable_even_if_raised_to_the_smallest() -> None:
    settings = Settings("MULTIPLIER", D(10) ** 11, min_volume=D("0.01"), raises_to_min=True)
    plan = sizing.plan(settings, replace(TRADE, opened_volume=D(10) ** 11))

    assert (plan.volume, plan.why_not) == (0, "not_sizable")


def test_an_impossible_volume_opens_nothing() -> None:
    assert sizing.plan(Settings("MULTIPLIER", D(10) ** 11), replace(TRADE, opened_volume=D(10) ** 11)).volume == 0


def test_equal_settings_are_one_object() -> None:
    text = json.dumps({"mode": "MULTIPLIER", "multiplier": "2.00000000", "symbols": [], "symbol_map": {}})

    assert sizing.settings(text) is sizing.settings(text)
    assert lots(sizing.settings(text)) == D("1.0")
