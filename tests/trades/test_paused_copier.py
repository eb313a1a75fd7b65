"""The real copier at the real desk while its subscription is paused: each close arrives, and nothing new is opened."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from accounts.models import TradingAccount
from copybot import runner
from copybot.copier import Copier
from copybot.copier import Subscription as Followed
from copybot.limits import Limits
from copybot.paper import PaperBroker
from copybot.stream import Stream
from copybot.tests.guard_process import PRICE, broker
from strategies import services as strategies
from strategies.models import Subscription
from tests.conftest import Serving
from tests.signed import opening
from tests.trades.test_paused import pause, subscription
from tests.trades.test_stream import close_without_publishing
from trades.models import ActiveTrade, CopySkip

__all__ = ["subscription"]
PATIENCE_S = 60


def wait_for(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def copying(web: Serving, subscription: Subscription, folder: Path, deposit: int = 10**8) -> Iterator[PaperBroker]:
    """Run finn's copier on a paper account, until the end of the block."""
    client, paper, stop = (
        web.bot("finn", "copier", timeout_s=5, attempts=1),
        broker(folder / "paper", deposit),
        threading.Event(),
    )
    followed = Followed("lena-eurusd", subscription.sub_id, {1: strategies.packet_secret(subscription)})
    running: list[Copier] = []

    def run() -> None:  # a state file belongs to the thread that opened it
        limits = Limits(settle_ms=300, second_look_ms=50)
        running.append(Copier(client, paper, [followed], folder / "state", client.desk_ms, limits))
        with Stream(client) as stream:
            runner.run(running[0], stream, stop, step_s=0.1)

    loop = threading.Thread(target=run)
    loop.start()
    try:
        wait_for(lambda: running and running[0].lease.takeover_number and running[0].is_in_touch)
        wait_for(lambda: not running[0].followed[0].guard.needs_snapshot)
        yield paper
    finally:
        stop.set()
        loop.join()


def reported(count: int) -> Callable[[], bool]:
    return lambda: ActiveTrade.objects.filter(account__name="finn-mt5").count() == count


@pytest.mark.parametrize("is_published", [True, False], ids=["by packet", "by snapshot"])
def test_a_close_during_the_pause_reaches_the_broker_and_an_open_does_not(
    web: Serving, lena: TradingAccount, subscription: Subscription, tmp_path: Path, is_published: bool
) -> None:
    provider = web.bot("lena", "master")
    trade = opening("1", open_price=str(PRICE), sl=None, tp=None)
    with copying(web, subscription, tmp_path) as paper:
        provider.open(**trade)
        wait_for(lambda: len(paper.positions()) == 1)
        wait_for(reported(1))
        pause(subscription)
        provider.open(**trade | {"ticket_id": "2"})
        provider.reduce("1", deal_id="d1", volume="0.06", close_price=str(PRICE), profit="0")
        wait_for(lambda: [position.volume for position in paper.positions()] == [Decimal("0.06")])

        if is_published:
            provider.close("1", close_price=str(PRICE), profit="0")
        else:
            close_without_publishing(lena, "1")
        wait_for(lambda: paper.positions() == [])
        wait_for(reported(0))

        time.sleep(1)
        assert paper.positions() == []
    opens = [deal for deal in paper.history() if deal.entry == "IN"]
    assert len(opens) == 1
    assert CopySkip.objects.get().reason == "unpaid"
