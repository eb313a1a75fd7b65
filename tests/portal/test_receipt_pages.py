"""The outcome of each trade on the copying page, and its receipt."""

from decimal import Decimal

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from audit import services as audit
from strategies import services as strategies
from strategies.models import Subscription
from tests.answers import text
from tests.portal.copying import ACTIVE, PAGE, SKIPS, close, copied, opened, page_of
from tests.signed import LONG_AGO, Bot
from trades.models import Reason


def test_lists_each_trade_with_its_result_or_the_reason_why_it_was_not_copied(
    as_finn: Client, lena_bot: Bot, finn_bot: Bot
) -> None:
    copied(finn_bot, opened(lena_bot, "1"), volume="0.10")
    close(lena_bot, "1")
    close(finn_bot, "501")
    ref = opened(lena_bot, "2", symbol="GBPUSD")
    finn_bot.send("POST", SKIPS, {"strategy": "lena-eurusd", "trade_ref": ref, "reason": "slippage", "detail": "<b>9"})
    opened(lena_bot, "3")

    page = text(as_finn.get(PAGE))

    assert "copied +5.00 take profit" in page
    assert "not copied the price had moved further than the settings allow “&lt;b&gt;9”" in page
    assert "copying…" in page


@pytest.mark.parametrize("first", ["1", "501"], ids=["provider first", "copy first"])
def test_a_copy_closed_after_the_provider_was_closed_with_the_provider(
    as_finn: Client, lena_bot: Bot, finn_bot: Bot, first: str
) -> None:
    copied(finn_bot, opened(lena_bot))
    bots = {"1": lena_bot, "501": finn_bot}
    for ticket in sorted(bots, reverse=first == "501"):
        query = "close_price=1.11&profit=5&reason=MANUAL"
        assert bots[ticket].send("DELETE", f"{ACTIVE}/{ticket}", query=query).status_code == 200

    expected, other = ("with the provider", str(Reason.MANUAL.label))[:: 1 if first == "1" else -1]
    for page in (text(as_finn.get(PAGE)), text(as_finn.get("/")).split("Closed on your accounts")[1]):
        assert f"+5.00 {expected}" in page
        assert f"+5.00 {other}" not in page


def test_a_receipt_shows_prices_latency_and_the_calculation_of_the_lots(
    as_finn: Client, lena_bot: Bot, finn_bot: Bot, follows: Subscription
) -> None:
    strategies.set_terms(
        subscription=follows, actor=audit.SYSTEM, since=LONG_AGO, multiplier=Decimal("0.333"),
        max_volume=Decimal("0.1"),
    )  # fmt: skip
    ref = opened(lena_bot, volume="0.5")
    ms = int(ref[:8] + ref[9:13], 16)
    copied(finn_bot, ref, volume="0.10", open_price="1.10503")
    order = {
        "strategy": "lena-eurusd", "seq": "1", "trade_ref": ref, "status": "executed", "requested_price": "1.105",
        "executed_price": "1.10503", "volume": "0.10", "ticket_id": "501", "heard_ms": str(ms + 60),
        "sent_ms": str(ms + 67), "filled_ms": str(ms + 157),
    }  # fmt: skip
    finn_bot.send("POST", "/api/v2/trades/orders", order)

    page = text(as_finn.get(page_of(follows, f"receipts/{ref}")))

    assert "Open price 1.10500 1.10503" in page
    assert "0.50 lots × 0.333 0.1665 At most 0.10 0.10 To be opened 0.10" in page
    assert "until your copier received the signal 60 ms" in page and "until the order was filled 90 ms" in page
    assert "Total, from the desk to your fill 157 ms" in page
    assert "Worse by 3 points, 0.27 bps" in page
    assert "Cost on 0.10 lots 0.30 USD" in page


def test_the_page_of_a_trade_not_copied_gives_the_reason(as_finn: Client, lena_bot: Bot, follows: Subscription) -> None:
    strategies.set_terms(subscription=follows, actor=audit.SYSTEM, since=LONG_AGO, min_volume=Decimal(1))
    ref = opened(lena_bot)

    page = text(as_finn.get(page_of(follows, f"receipts/{ref}")))

    assert "Not copied: EURUSD BUY 0.10 not copied the volume was below the smallest" in page
    assert "Below the smallest, 1.00: not copied 0.00" in page
    assert "No order was sent" in page


def test_the_number_of_queries_does_not_depend_on_the_number_of_trades(
    as_finn: Client, lena_bot: Bot, finn_bot: Bot
) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as seen:
            assert as_finn.get(PAGE).status_code == 200
        return len(seen)

    copied(finn_bot, opened(lena_bot, 1), 501)
    opened(lena_bot, 2)
    few = queries()
    for ticket in range(3, 9):
        ref = opened(lena_bot, ticket)
        if ticket % 2:
            copied(finn_bot, ref, 500 + ticket)

    assert queries() == few <= 16
