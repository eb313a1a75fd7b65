"""A delta as each who watches gets it: alike for those who copy alike, and never another's."""

import asyncio
import gc
from decimal import Decimal

from strategies.sizing import Settings
from trades import feed
from trades.feed import Entry, Feed, Watcher
from trades.hub import Hub
from trades.snapshot import Source

REF = "01900000-0000-7000-8000-000000000001"
OPENED = {
    "type": "trade.opened", "strategy": "s", "seq": "1",
    "trade": {
        "trade_id": REF, "symbol": "EURUSD", "type": "BUY", "volume": "1.00000000", "opened_volume": "1.00000000",
        "open_price": "1.10000000", "opened_sl": None, "sl": None, "tp": None, "status": "OPEN",
    },
}  # fmt: skip


def source(lots, **more):
    settings = Settings("MULTIPLIER", Decimal(lots), **more)
    return Source(1, "s", 0, "s-1", "ACTIVE", "", 1, 1, False, ((0, settings),))


def volume_of(entry, seen_by):
    return entry.text(seen_by, None).partition('"copy_volume":"')[2].partition('"')[0]


def test_settings_that_are_gone_leave_nothing_that_others_could_be_taken_for():
    entry = Entry.of(0, OPENED)
    for lots in range(1, 200):  # each is forgotten at once, so that the next may lie where it lay
        assert volume_of(entry, source(lots)) == f"{lots}.00000000"
        gc.collect(0)


def test_what_those_who_lag_are_sent_does_not_pile_up_in_the_log():
    entry = Entry.of(0, OPENED)
    entry.forget()

    followers = [source(lots) for lots in range(1, 100)]
    assert [volume_of(entry, one) for one in followers] == [f"{lots}.00000000" for lots in range(1, 100)]

    assert len(entry.shown) <= feed.MOST_SHOWN


def test_one_whose_delta_cannot_be_made_keeps_it_from_nobody_else():
    heard = {}

    def watcher(name, lots, **more):
        async def send(message):
            heard[name] = message["type"]

        return Watcher(send, (1,), sources={1: source(lots, **more)}, at={1: 0}, is_stale=False)

    async def deliver():
        hub, stream = Hub(), Feed(1, "s", 0)
        hub.feeds[1] = stream
        stream.watchers = {watcher("broken", "NaN", max_volume=Decimal(1)), *(watcher(name, 1) for name in range(50))}
        entry = Entry.of(0, OPENED)
        stream.append(entry)
        await hub._deliver(stream, [entry])
        await asyncio.gather(*hub.at_work)
        hub.pool.shutdown()

    asyncio.run(deliver())

    assert heard.pop("broken") == "websocket.close"
    assert list(heard.values()) == ["websocket.send"] * 50
