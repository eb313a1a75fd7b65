"""The fan-out of deltas to this process's sockets. One hub a process.

A feed (a strategy's stream as it is known here) is a log of its last deltas, not a queue a socket: a socket is its
position in each feed it watches, an integer. One that keeps up is written to at once; one that does not is caught up
from the log by a task of its own; one that fell off the log gets a fresh snapshot. A delta is encoded once for each
distinct text of it; what is a subscription's own (its packet) is signed at delivery, the same way each time.
"""

import asyncio
import functools
import time
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import structlog
from channels.layers import get_channel_layer
from django.db import DatabaseError, InterfaceError, connection
from prometheus_client import Counter, Gauge

from strategies import services as strategies
from strategies.models import Subscription
from trades import publisher, snapshot
from trades.feed import Entry, Feed, PacketKey, Watcher

log = structlog.get_logger()
SOCKETS = Gauge("copydesk_sockets", "Sockets that watch here.")
DELTAS = Counter("copydesk_deltas", "Deltas that came in from Redis.")
SNAPSHOTS = Counter("copydesk_snapshots", "Snapshots sent over sockets, the first ones included.")

SLICE = 512  # sockets written to before others get a turn
REORDER_S = 0.5
HEARTBEAT_S = 4.0
SWEEP_S = 1.0
RESYNC_S = 1.0  # a client may ask for a snapshot this often
DATABASE_THREADS = 4


class Hub:
    def __init__(self) -> None:
        self.feeds: dict[int, Feed] = {}
        self.watchers: set[Watcher] = set()
        self.pool = ThreadPoolExecutor(DATABASE_THREADS, thread_name_prefix="hub")
        self.layer: Any = None
        self.channel = ""
        self.tasks: list[asyncio.Task[None]] = []
        self.starting = asyncio.Lock()
        self.at_work: set[asyncio.Future[None]] = set()

    async def start(self) -> None:
        """Begin to listen, beat and sweep; called before the first socket is let in."""
        async with self.starting:
            if not self.tasks:
                self.layer = get_channel_layer()
                self.channel = await self.layer.new_channel()
                loops = (self._listen, self._heartbeat, self._sweep)
                self.tasks = [asyncio.create_task(loop(), name=f"hub{loop.__name__}") for loop in loops]

    async def read(self, ask: Callable[..., Any], *args: Any) -> Any:
        """Ask the database in one of the hub's threads, whose connections last."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, _asked, ask, *args)

    # --- coming and going

    def join(self, watcher: Watcher) -> None:
        """Let a socket in: its snapshot first, then what follows."""
        self.watchers.add(watcher)
        SOCKETS.set(len(self.watchers))
        self._recover(watcher)

    def leave(self, watcher: Watcher) -> None:
        watcher.is_gone = True
        self.watchers.discard(watcher)
        SOCKETS.set(len(self.watchers))
        for strategy_id in watcher.at:
            if strategy_id in self.feeds:
                self.feeds[strategy_id].watchers.discard(watcher)
        if watcher.task is not None:
            watcher.task.cancel()

    def resync(self, watcher: Watcher) -> None:
        """Send a fresh snapshot, at most one a second: asked for more often, the wish waits."""
        wait_s = watcher.resynced_at + RESYNC_S - time.monotonic()
        if wait_s > 0:
            if not watcher.is_stale:
                watcher.is_stale = True
                asyncio.get_running_loop().call_later(wait_s, self._recover, watcher)
            return
        watcher.is_stale = True
        self._recover(watcher)

    def close(self, watcher: Watcher, code: int, reason: str) -> None:
        self.leave(watcher)
        self._begin_task(_quietly(watcher.send({"type": "websocket.close", "code": code, "reason": reason})))

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> None:
        """A task that is held until it is done: the loop itself would let it be collected."""
        task = asyncio.ensure_future(work)
        self.at_work.add(task)
        task.add_done_callback(self.at_work.discard)

    # --- deltas

    def receive(self, message: dict[str, Any]) -> None:
        """Take what a publisher sent for one strategy."""
        feed = self.feeds.get(message["strategy_id"])
        for at_ms, delta in message["deltas"] if feed else ():
            assert feed is not None
            DELTAS.inc()
            self._take(feed, Entry.of(at_ms, delta))

    def _take(self, feed: Feed, entry: Entry) -> None:
        """Deltas reach the log in the order of their numbers, whatever order they came in."""
        if entry.seq <= feed.head:
            return
        feed.early[entry.seq] = entry
        self._drain(feed)

    def _drain(self, feed: Feed) -> None:
        ready = []
        while feed.head + 1 in feed.early:
            ready.append(feed.early.pop(feed.head + 1))
            feed.append(ready[-1])
        if ready:
            self._begin_task(self._deliver(feed, ready))
        if feed.early and feed.gap is None:
            feed.gap = asyncio.get_running_loop().call_later(REORDER_S, self._mend, feed)

    async def _deliver(self, feed: Feed, entries: list[Entry]) -> None:
        for number, watcher in enumerate(list(feed.watchers)):
            try:
                for entry in entries:
                    self._write(feed, watcher, entry)
            except Exception:  # what is wrong with one must not keep a close from all the others
                log.exception("stream.undeliverable", strategy=feed.name)
                self.close(watcher, 1011, "this socket's deltas cannot be made")
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)
        for entry in entries:
            entry.forget()

    def _write(self, feed: Feed, watcher: Watcher, entry: Entry) -> None:
        """Write one delta to one socket, without a task as long as the socket takes it."""
        position = watcher.at.get(feed.strategy_id)
        if watcher.task is not None or watcher.is_stale or position is None or position >= entry.seq:
            return  # its task brings it there, or it has it
        if position != entry.seq - 1:
            self._recover(watcher)
            return
        watcher.at[feed.strategy_id] = entry.seq
        self._step(watcher, self._text(watcher, feed.strategy_id, entry))

    def _step(self, watcher: Watcher, text: str) -> None:
        """Run the send as far as it goes. Where it waits for the reader, the socket lags: a task goes on with it."""
        sending = watcher.send({"type": "websocket.send", "text": text})
        try:
            waits_for = sending.send(None)
        except StopIteration:
            return
        except Exception:
            self.leave(watcher)
            return
        self._recover(watcher, _resumed(sending, waits_for))

    @staticmethod
    def _text(watcher: Watcher, strategy_id: int, entry: Entry) -> str:
        source = watcher.sources[strategy_id]
        return entry.text(source, watcher.packet_keys.get(source.sub_id) if source.sub_id else None)

    def _mend(self, feed: Feed) -> None:
        """A delta is missing: whoever watches gets the state instead."""
        feed.gap = None
        if feed.early:
            log.warning("stream.gap", strategy=feed.name, after=feed.head, next=min(feed.early))
            self._renew(feed, max(feed.early))

    def _renew(self, feed: Feed, head: int) -> None:
        feed.start_anew(head)
        for watcher in list(feed.watchers):
            watcher.is_stale = True
            self._recover(watcher)

    # --- sockets that are not at the head

    def _recover(self, watcher: Watcher, unfinished: Any = None) -> None:
        """Bring a socket to the head, in a task of its own; one is enough."""
        if watcher.task is None and not watcher.is_gone:
            watcher.task = asyncio.ensure_future(self._recovery(watcher, unfinished))

    async def _recovery(self, watcher: Watcher, unfinished: Any) -> None:
        try:
            if unfinished is not None:
                await unfinished
            while not watcher.is_gone and not await self._caught_up(watcher):
                pass
        except asyncio.CancelledError:
            return
        except (DatabaseError, InterfaceError) as fault:
            log.warning("stream.no_snapshot", fault=type(fault).__name__)
            watcher.is_stale = True
            asyncio.get_running_loop().call_later(RESYNC_S, self._recover, watcher)
        except Exception:  # the socket is gone, in whatever way the server says so
            watcher.task = None
            self.leave(watcher)
        finally:
            watcher.task = None

    async def _caught_up(self, watcher: Watcher) -> bool:
        """Send what is next; whether nothing was. No pause lies between that answer and the end of the task."""
        if watcher.is_stale:
            await self._send_snapshot(watcher)
            return False
        for strategy_id, position in watcher.at.items():
            missing = self.feeds[strategy_id].after(position)
            if missing is None:
                watcher.is_stale = True
                return False
            if missing:
                for entry in missing[:100]:
                    text = self._text(watcher, strategy_id, entry)
                    await watcher.send({"type": "websocket.send", "text": text})
                    if watcher.is_stale:
                        return False
                    watcher.at[strategy_id] = entry.seq
                return False
        return True

    async def _send_snapshot(self, watcher: Watcher) -> None:
        """Watch first, then read: deltas that come meanwhile are in the log, and dropped up to the numbers read."""
        wanted = await self.read(_streams, watcher.accounts)
        for strategy_id, name, number in wanted:
            await self._watch(watcher, strategy_id, name, number)
        watcher.is_stale = False
        found: snapshot.Snapshot = await self.read(snapshot.read, watcher.accounts)
        if watcher.wants_packets:  # after: keys that are newer than the streams are noticed by the next beat
            watcher.packet_keys = await self.read(_packet_keys, watcher.accounts)
        watcher.resynced_at, watcher.copies = time.monotonic(), found.copies
        sources = {source.strategy_id: source for source in found.sources.values()}
        if not sources.keys() <= {strategy_id for strategy_id, _, _ in wanted}:
            watcher.is_stale = True  # a stream was added in between
            return
        for strategy_id in watcher.at.keys() - sources.keys():
            self.feeds[strategy_id].watchers.discard(watcher)
        watcher.sources = sources
        SNAPSHOTS.inc()
        watcher.at = {strategy_id: source.seq for strategy_id, source in sources.items()}
        for source in sources.values():
            self._begin(self.feeds[source.strategy_id], source.seq)
        await watcher.send({"type": "websocket.send", "text": found.body(type="snapshot").decode()})

    def _begin(self, feed: Feed, seq: int) -> None:
        """A feed with an empty log begins where its watchers' snapshots end: what came before the group was joined is
        in those, and will not come again."""
        if feed.entries or feed.head >= seq:
            return
        if all(one.is_stale or one.at.get(feed.strategy_id, seq) >= seq for one in feed.watchers):
            feed.start_anew(seq)
            self._drain(feed)

    async def _watch(self, watcher: Watcher, strategy_id: int, name: str, number: int) -> None:
        feed = self.feeds.setdefault(strategy_id, Feed(strategy_id, name, number))
        feed.watchers.add(watcher)
        watcher.at.setdefault(strategy_id, number)
        if not feed.joined:
            feed.joined = True
            await self.layer.group_add(publisher.group(strategy_id), self.channel)

    # --- the hub's own tasks

    async def _listen(self) -> None:
        while True:
            try:
                self.receive(await self.layer.receive(self.channel))
            except asyncio.CancelledError:
                raise
            except Exception as fault:
                log.warning("stream.listen", fault=type(fault).__name__)
                await asyncio.sleep(1)

    async def _heartbeat(self) -> None:
        """Tell every socket where its streams are, and notice what got lost on the way here."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                await self._check_numbers()
                await self._check_streams()
                await self._check_copies()
            except (DatabaseError, InterfaceError) as fault:
                log.warning("stream.no_heartbeat", fault=type(fault).__name__)  # silence tells the client as much
                continue
            await self._send_heartbeats()

    async def _check_numbers(self) -> None:
        for feed in [feed for feed in self.feeds.values() if not feed.watchers]:
            del self.feeds[feed.strategy_id]
            await self.layer.group_discard(publisher.group(feed.strategy_id), self.channel)
        numbers = await self.read(_numbers, [feed.strategy_id for feed in self.feeds.values() if feed.watchers])
        for strategy_id, number in numbers:
            if strategy_id not in self.feeds:
                continue
            feed = self.feeds[strategy_id]
            if number <= feed.head:
                feed.ahead = 0
            elif feed.ahead > feed.head:  # it was ahead a whole beat ago: that delta will not come
                self._renew(feed, number)
            else:
                feed.ahead = number

    async def _check_streams(self) -> None:
        """Who follows something else than at its snapshot, or with other settings, gets a new one."""
        watching = list(self.watchers)
        now = await self.read(_streams_of_each, sorted({one for watcher in watching for one in watcher.accounts}))
        for watcher in watching:
            seen = {_row_of(source) for source in watcher.sources.values()}
            found = {row for account in watcher.accounts for row in now.get(account, ())}
            if not watcher.is_stale and seen != _one_each(found):
                self.resync(watcher)

    async def _check_copies(self) -> None:
        """Copies make no event in a stream. Whoever looks on at them gets a new snapshot where some have changed."""
        people = [watcher for watcher in self.watchers if watcher.session_key is not None]
        numbers = dict(await self.read(_copy_numbers, sorted({one for watcher in people for one in watcher.accounts})))
        for watcher in people:
            now = ",".join(str(numbers[account]) for account in sorted(watcher.accounts))
            if watcher.copies != now and not watcher.is_stale:
                self.resync(watcher)

    async def _send_heartbeats(self) -> None:
        texts: dict[tuple[tuple[int, int], ...], str] = {}
        for number, watcher in enumerate(list(self.watchers)):
            if watcher.task is None and not watcher.is_stale:
                where = tuple(watcher.at.items())
                if where not in texts:
                    as_of = {self.feeds[strategy_id].name: str(seq) for strategy_id, seq in where}
                    texts[where] = orjson.dumps({"type": "heartbeat", "as_of": as_of}).decode()
                self._step(watcher, texts[where])
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)

    async def _sweep(self) -> None:
        """Close the sockets of keys that may no longer call and of sessions that have ended."""
        while True:
            await asyncio.sleep(SWEEP_S)
            watching = list(self.watchers)
            keys = {watcher.generation_id for watcher in watching} - {None}
            sessions = {(watcher.session_key, watcher.user_id) for watcher in watching if watcher.session_key}
            try:
                refused = await self.read(_refused_keys, list(keys)) if keys else set()
                alive = await self.read(_live_sessions, list(sessions)) if sessions else set()
            except (DatabaseError, InterfaceError) as fault:
                log.warning("stream.no_sweep", fault=type(fault).__name__)
                continue
            for watcher in watching:
                if watcher.generation_id in refused:
                    self.close(watcher, 1008, "this key may no longer call")
                elif watcher.session_key and (watcher.session_key, watcher.user_id) not in alive:
                    self.close(watcher, 1008, "this session has ended")


# --- what the hub asks the database

Row = tuple[int, str | None, str, str, int, int]


def _asked(ask: Callable[..., Any], *args: Any) -> Any:
    try:
        return ask(*args)
    except (DatabaseError, InterfaceError):
        connection.close()  # the next one begins with a new connection
        raise


def _rows(query: str, *params: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, params)
        found: list[tuple[Any, ...]] = cursor.fetchall()
    return found


def _streams(accounts: tuple[int, ...]) -> list[tuple[int, str, int]]:
    return _rows("select strategy_id, name, last_seq from streams_of(%s::bigint[])", list(accounts))


def _streams_of_each(accounts: list[int]) -> dict[int, set[Row]]:
    rows = _rows(
        "select account_id, strategy_id, sub_id, status, paused_for, generation, terms "
        "from streams_of_each(%s::bigint[])",
        accounts,
    )
    found: dict[int, set[Row]] = {}
    for account, *row in rows:
        found.setdefault(account, set()).add(tuple(row))
    return found


def _row_of(source: snapshot.Source) -> Row:
    return (
        source.strategy_id, source.sub_id, source.status, source.paused_for, source.generation, source.number,
    )  # fmt: skip


def _one_each(rows: set[Row]) -> set[Row]:
    """One row a strategy, as streams_of() chooses where a person has several accounts: an active one before others."""
    chosen: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: (row[2], row[1] or "")):
        chosen.setdefault(row[0], row)
    return set(chosen.values())


def _packet_keys(accounts: tuple[int, ...]) -> dict[str, PacketKey]:
    following = Subscription.objects.live().filter(account_id__in=accounts)
    return {one.sub_id: PacketKey(strategies.packet_secret(one), one.packet_generation) for one in following}


def _numbers(ids: list[int]) -> list[tuple[int, int]]:
    return _rows("select id, last_seq from strategies where id = any(%s)", ids)


def _copy_numbers(accounts: list[int]) -> list[tuple[int, int]]:
    return _rows("select id, copy_seq from trading_accounts where id = any(%s)", accounts)


def _refused_keys(generations: list[int]) -> set[int]:
    return {row[0] for row in _rows("select generation_id from keys_refused(%s::bigint[])", generations)}


def _live_sessions(sessions: list[tuple[str, Any]]) -> set[tuple[str, Any]]:
    keys, users = [key for key, _ in sessions], [user for _, user in sessions]
    return set(
        _rows(
            "select key, person from unnest(%s::text[], %s::uuid[]) wanted (key, person) "
            "join django_session s on s.session_key = key and s.expire_date > now() "
            "join users u on u.id = person and u.is_active",
            keys,
            users,
        )
    )


# --- coroutines that were begun without a task


@types.coroutine
def _resumed(begun: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Go on, inside a task, with a coroutine that already waits for something."""
    while True:
        try:
            yield waits_for
        except BaseException as fault:
            go_on = functools.partial(begun.throw, fault)
        else:
            go_on = functools.partial(begun.send, None)
        try:
            waits_for = go_on()
        except StopIteration:
            return


async def _quietly(sending: Awaitable[None]) -> None:
    try:
        await asyncio.wait_for(asyncio.ensure_future(sending), 5)
    except Exception:
        return
