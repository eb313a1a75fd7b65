"""A delta as each watcher receives it: equal for equal settings, and never another subscription's."""

import asyncio
import gc
from decimal import Decimal
from typing import Any

from django.db import connections
from django.test.utils import CaptureQueriesContext

from strategies.sizing import Settings
from trades import feed, hub_queries
from trades.feed import Entry, Feed, Watcher
from trades.hub import Hub
from trades.snapshot import Source

REF = "01900000-0000-7000-8000-000000000001"
OPENED: dict[str, Any] = {
    "type": "trade.opened", "strategy": "s", "seq": "1",
    "trade": {
        "trade_id": REF, "symbol": "EURUSD", "type": "BUY", "volume": "1.00000000", "opened_volume": "1.00000000",
        "open_price": "1.10000000", "opened_sl": None, "sl": None, "tp": None, "status": "OPEN",
    },
}  # fmt: skip


def source(lots: Any, **more: Any) -> Source:
    settings = Settings("MULTIPLIER", Decimal(lots), **more)
    return Source(1, "s", 0, "s-1", "ACTIVE", "", 1, 1, False, ((0, settings),))


def volume_of(entry: Any, seen_by: Any) -> Any:
    return entry.text(seen_by, None).partition('"copy_volume":"')[2].partition('"')[0]


def test_a_rendering_of_settings_that_are_gone_is_never_used_for_others() -> None:
    entry = Entry.of(0, OPENED)
    for lots in range(1, 200):  # each is forgotten at once, so that the next may lie where it lay
        assert volume_of(entry, source(lots)) == f"{lots}.00000000"
        gc.collect(0)


def test_renderings_for_lagging_sockets_do_not_pile_up_in_the_log() -> None:
    entry = Entry.of(0, OPENED)
    entry.mark_delivered()

    followers = [source(lots) for lots in range(1, 100)]
    assert [volume_of(entry, follower) for follower in followers] == [f"{lots}.00000000" for lots in range(1, 100)]

    assert len(entry.renderings) <= feed.MOST_RENDERED


def test_a_delta_that_fails_for_one_socket_reaches_all_others() -> None:
    heard = {}

    def watcher(name: Any, lots: Any, **more: Any) -> Watcher:
        async def send(message: Any) -> None:
            heard[name] = message["type"]

        return Watcher(send, (1,), sources={1: source(lots, **more)}, at={1: 0}, is_stale=False)

    async def deliver() -> None:
        hub_under_test, stream = Hub(), Feed(1, "s", 0)
        hub_under_test.feeds[1] = stream
        stream.watchers = {watcher("broken", "NaN", max_volume=Decimal(1)), *(watcher(name, 1) for name in range(50))}
        entry = Entry.of(0, OPENED)
        stream.append(entry)
        await hub_under_test._deliver(stream, [entry])
        await asyncio.gather(*hub_under_test.background_tasks)
        hub_under_test.pool.shutdown()

    asyncio.run(deliver())

    assert heard.pop("broken") == "websocket.close"
    assert list(heard.values()) == ["websocket.send"] * 50


_MANY = """
    insert into users select (jsonb_populate_record(u, jsonb_build_object(
        'id', gen_random_uuid(), 'username', 'u' || n, 'email', 'u' || n || '@copydesk.example'))).*
      from users u, generate_series(1, 1000) n where u.username = 'finn';
    insert into trading_accounts select (jsonb_populate_record(a, jsonb_build_object(
        'id', 1000 + n, 'name', 'u' || n, 'login', 'u' || n,
        'owner_id', (select id from users where username = 'u' || n)))).*
      from trading_accounts a, generate_series(1, 1000) n where a.name = 'finn-mt5';
    insert into subscriptions select (jsonb_populate_record(s, jsonb_build_object(
        'id', 1000 + n, 'sub_id', 's-' || n, 'account_id', 1000 + n))).*
      from subscriptions s, generate_series(1, 1000) n where s.id < 1000;
    insert into subscription_terms select (jsonb_populate_record(m, jsonb_build_object(
        'id', 1000 + n, 'subscription_id', 1000 + n))).*
      from subscription_terms m, generate_series(1, 1000) n where m.id < 1000;
    analyze
"""


def blocks_read(accounts: Any) -> Any:
    """The number of blocks that the database reads to look up these accounts."""
    statement = "explain (analyze, buffers, format json) select * from streams_of_each(%s::bigint[])"
    with connections["owner"].cursor() as cursor:
        cursor.execute(statement, [accounts])
        return cursor.fetchone()[0][0]["Plan"]["Shared Hit Blocks"]


def test_the_streams_of_a_thousand_accounts_are_read_together(cast: dict[str, Any]) -> None:
    with connections["owner"].cursor() as cursor:
        for statement in _MANY.split(";"):
            cursor.execute(statement)
    everybody = list(range(1001, 2001))
    with CaptureQueriesContext(connections["default"]) as asked:
        assert len(hub_queries.streams_of_each(everybody)) == 1000

    blocks_read(everybody)  # the first time, the database reads its own catalogue too
    one_by_one = sum(blocks_read([account]) for account in everybody[:10]) * 100

    assert len(asked) == 1
    assert blocks_read(everybody) < one_by_one / 5
