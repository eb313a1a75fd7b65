"""Trades at prices of zero and below, as crude oil had on 20 April 2020: opened, copied, closed, valued."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from accounts.models import TradingAccount
from market.models import Instrument
from strategies import sizing
from tests.answers import refusal
from tests.signed import Bot, opening
from trades.models import ActiveTrade, CopyOrder, TradeHistory
from trust import detector, evidence_types

ACTIVE, ORDERS = "/api/v2/trades/active", "/api/v2/trades/orders"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def oil(desk_db: str) -> Instrument:
    return Instrument.objects.create(
        symbol="USOIL", point=Decimal("0.01"), contract_size=Decimal(1000), allows_nonpositive_prices=True
    )


def of_oil(ticket: str = "1", price: str = "-37.63", **more: Any) -> dict[str, Any]:
    return opening(ticket, symbol="USOIL", open_price=price, sl=None, tp=None, **more)


@pytest.mark.parametrize("price", ["0", "-0.00000001", "-37.63"])
def test_opens_where_the_instrument_allows_it(lena_bot: Bot, finn_bot: Bot, oil: Instrument, price: str) -> None:
    answer = lena_bot.send("POST", fields=of_oil(price=price))

    assert (answer.status_code, Decimal(answer.json()["trade"]["open_price"])) == (201, Decimal(price))
    (shown,) = finn_bot.send("GET").json()["trades"]
    assert (Decimal(shown["open_price"]), shown["copy"]["opens"]) == (Decimal(price), True)


@pytest.mark.parametrize("symbol", ["EURUSD", "NOTLISTED"])
@pytest.mark.parametrize("price", ["0", "-1.1"])
def test_refuses_it_elsewhere_and_says_which_field(lena_bot: Bot, oil: Instrument, symbol: str, price: str) -> None:
    answer = lena_bot.send("POST", fields=opening("1", symbol=symbol, open_price=price))

    assert refusal(answer) == (422, "invalid")
    assert answer.json()["fields"] == {"open_price": ["must be above zero"]}
    assert not ActiveTrade.objects.exists()


def test_a_copy_closes_with_the_profit_that_it_had(
    lena_bot: Bot, finn_bot: Bot, oil: Instrument, finn: TradingAccount
) -> None:
    ref = lena_bot.send("POST", fields=of_oil()).json()["trade"]["trade_id"]
    copied = finn_bot.send("POST", fields=of_oil("501", "-37.60", strategy="lena-eurusd", trade_ref=ref))
    assert copied.status_code == 201

    order = {"strategy": "lena-eurusd", "seq": "1", "trade_ref": ref, "type": "BUY", "status": "executed"}
    prices = {"requested_price": "-37.63", "executed_price": "-37.60", "volume": "0.1", "ticket_id": "501"}
    answer = finn_bot.send("POST", ORDERS, {**order, **prices}).json()
    lena_bot.send("DELETE", f"{ACTIVE}/1", query="close_price=-36.63&profit=100")

    assert answer["slippage_points"] == "3.00000000"
    assert Decimal(answer["slippage_bps"]).quantize(Decimal("0.01")) == Decimal("7.97")  # worse is positive
    closed = TradeHistory.objects.get()
    assert (closed.open_price, closed.close_price, closed.profit) == (Decimal("-37.63"), Decimal("-36.63"), 100)


def test_slippage_of_a_request_at_zero_has_points_only(lena_bot: Bot, finn_bot: Bot, oil: Instrument) -> None:
    ref = lena_bot.send("POST", fields=of_oil(price="0")).json()["trade"]["trade_id"]
    order = {"strategy": "lena-eurusd", "seq": "1", "trade_ref": ref, "type": "BUY", "status": "executed"}

    answer = finn_bot.send("POST", ORDERS, {**order, "requested_price": "0", "executed_price": "0.05", "volume": "0.1"})

    assert (answer.json()["slippage_points"], answer.json()["slippage_bps"]) == ("5.00000000", None)
    assert CopyOrder.objects.get().slippage_bps is None


@pytest.mark.parametrize("price", ["0", "-37.63"])
def test_a_copy_is_sized_or_refused_but_never_fails(price: str) -> None:
    trade = sizing.ProviderTrade("USOIL", "BUY", Decimal(1), Decimal(price), Decimal(-40), Decimal(1), None, None)
    by_risk = sizing.Settings(
        "RISK", Decimal(1), risk_pct=Decimal(1), max_volume=Decimal(9), equity=Decimal(10_000), currency="USO",
        contracts={"USOIL": Decimal(1000)},
    )  # fmt: skip

    assert sizing.plan(sizing.Settings("MULTIPLIER", Decimal("0.5")), trade).volume == Decimal("0.5")
    assert sizing.plan(by_risk, trade).why_not == "not_sizable"  # the price of a unit is no rate


@pytest.mark.parametrize("price", ["0", "-37.63"])
def test_trust_measures_such_trades(price: str) -> None:
    deals = [
        evidence_types.Deal(
            NOW - timedelta(hours=n + 2), NOW - timedelta(hours=n + 1), "USOIL", "BUY", Decimal(1), Decimal(price),
            Decimal(price) + 1, Decimal(1000), str(n),
        )
        for n in range(40)
    ]  # fmt: skip
    owners = ("a", "b", "c")
    copies = [
        evidence_types.Copy(deal.ref, "BUY", Decimal(1), deal.open_price, deal.close_price, owners[at % 3])
        for at, deal in enumerate(deals)
    ]
    evidence = evidence_types.Evidence(
        deals=deals, since=NOW - timedelta(days=9), until=NOW, copies=copies, bars={"USOIL": []}
    )

    features = {feature.name: feature for feature in detector.assess(evidence, now=NOW).features}

    assert features["not_captured"].value == 0  # the copies gained what the trades gained


def test_a_fill_above_a_negative_request_is_worse_for_a_buyer() -> None:
    fill = evidence_types.Fill(NOW, "USOIL", "BUY", Decimal(-100), Decimal(-99))
    assert fill.slippage_bps == 100
