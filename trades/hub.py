"""The fan-out of deltas to the sockets of this process. Each process has one hub.

A feed (a strategy's stream as this process knows it) is one log of the latest deltas, not a queue for each socket. A
socket is an integer position in each feed that it watches. A socket that keeps up is written to at once. A socket that
lags is served from the log by a task of its own. A socket whose position has left the log gets a fresh snapshot. A
delta is encoded once for each distinct text; the packet of a subscription is signed at delivery and is the same each
time.
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
from django.conf import settings
from django.db import DatabaseError, InterfaceError
from prometheus_client import Counter, Gauge

from core import descriptors
from trades import hub_queries, publisher, snapshot
from trades.feed import Entry, Feed, Watcher
from trades.places import Places

log = structlog.get_logger()
SOCKETS = Gauge("copydesk_sockets", "Open sockets of this process.")
DELTAS = Counter("copydesk_deltas", "Deltas received from Redis.")
SNAPSHOTS = Counter("copydesk_snapshots", "Snapshots sent over sockets, including the first of each socket.")

SLICE = 512  # sockets written to before other tasks get a turn
REORDER_S = 0.5  # how long to wait for a missing number before all watchers get snapshots
HEARTBEAT_S = 4.0
SWEEP_S = 1.0
RESYNC_S = 1.0  # shortest time between two snapshots that a client asks for
DATABASE_THREADS = 4
DOOR_THREADS = 2


class Hub:
    def __init__(self) -> None:
        self.feeds: dict[int, Feed] = {}
        self.watchers: set[Watcher] = set()
        self.pool = ThreadPoolExecutor(DATABASE_THREADS, thread_name_prefix="hub")
        self.doors = ThreadPoolExecutor(DOOR_THREADS, thread_name_prefix="hub-door")
        self.places = Places(settings.SOCKETS, descriptors.sockets())
        self.layer: Any = None
        self.channel = ""
        self.tasks: list[asyncio.Task[None]] = []
        self.starting = asyncio.Lock()
        self.background_tasks: set[asyncio.Future[None]] = set()

    async def start(self) -> None:
        """Start the hub's own tasks. Called before each socket is admitted; only the first call has an effect."""
        async with self.starting:
            if not self.tasks:
                self.layer = get_channel_layer()
                self.channel = await self.layer.new_channel()
                loops = (self._listen, self._heartbeat, self._sweep)
                self.tasks = [asyncio.create_task(loop(), name=f"hub{loop.__name__}") for loop in loops]

    async def read(self, query: Callable[..., Any], *args: Any) -> Any:
        """Run a database query in one of the hub's threads, which keep their connections."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, hub_queries.run, query, *args)

    async def admit(self, identify: Callable[..., Watcher], *args: Any) -> Watcher:
        """Identify a socket's caller, in threads of their own: a flood of handshakes delays no socket that is open."""
        return await asyncio.get_running_loop().run_in_executor(self.doors, hub_queries.run, identify, *args)

    # --- joining and leaving

    def join(self, watcher: Watcher) -> None:
        """Add a socket: it receives a snapshot first, then the deltas that follow."""
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
        """Send a fresh snapshot. A request within a second of the last snapshot is served after that second."""
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
        self._start_task(_quietly(watcher.send({"type": "websocket.close", "code": code, "reason": reason})))

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task and keep a reference to it, because the event loop keeps only weak ones."""
        task = asyncio.ensure_future(work)
        self.background_tasks.add(task)
        task.add_done_callback(self.background_tasks.discard)

    # --- deltas

    def receive(self, message: dict[str, Any]) -> None:
        """Take in a publisher's message: deltas of one strategy, and accounts whose sockets need a fresh snapshot."""
        feed = self.feeds.get(message["strategy_id"])
        if feed is None:
            return
        paused = message.get("paused", {})
        for at_ms, delta in message["deltas"]:
            DELTAS.inc()
            self._insert(feed, Entry.of(at_ms, delta, frozenset(paused.get(delta["seq"], ()))))
        for account in message.get("refresh", ()):
            for watcher in [watcher for watcher in feed.watchers if account in watcher.accounts]:
                self.resync(watcher)

    def _insert(self, feed: Feed, entry: Entry) -> None:
        """Append the delta to the log in the order of its number; an early one waits for those before it."""
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
            self._start_task(self._deliver(feed, ready))
        if feed.early and feed.gap is None:
            feed.gap = asyncio.get_running_loop().call_later(REORDER_S, self._repair_gap, feed)

    async def _deliver(self, feed: Feed, entries: list[Entry]) -> None:
        for number, watcher in enumerate(list(feed.watchers)):
            try:
                for entry in entries:
                    self._write(feed, watcher, entry)
            except Exception:  # a fault with one socket must not keep a close from all the others
                log.exception("stream.undeliverable", strategy=feed.name)
                self.close(watcher, 1011, "the desk cannot encode this socket's deltas")
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)
        for entry in entries:
            entry.mark_delivered()

    def _write(self, feed: Feed, watcher: Watcher, entry: Entry) -> None:
        """Write one delta to one socket. A task is needed only if the socket cannot take it at once."""
        position = watcher.at.get(feed.strategy_id)
        if watcher.task is not None or watcher.is_stale or position is None or position >= entry.seq:
            return  # a task is already catching it up, or it has this delta
        if position != entry.seq - 1:
            self._recover(watcher)
            return
        watcher.at[feed.strategy_id] = entry.seq
        self._step(watcher, self._text(watcher, feed.strategy_id, entry))

    def _step(self, watcher: Watcher, text: str) -> None:
        """Run the send until it waits for the reader. Such a socket lags, and a task continues the send."""
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
        key = watcher.packet_keys.get(source.sub_id) if source.sub_id else None
        is_hidden = (source.paused or entry.paused or watcher.hidden) and watcher.hides(source, entry)
        return entry.hidden_text(source, key) if is_hidden else entry.text(source, key, to_bot=watcher.is_bot)

    def _repair_gap(self, feed: Feed) -> None:
        """Give up waiting for a missing delta, and send all watchers a snapshot."""
        feed.gap = None
        if feed.early:
            log.warning("stream.gap", strategy=feed.name, after=feed.head, next=min(feed.early))
            self._restart(feed, max(feed.early))

    def _restart(self, feed: Feed, head: int) -> None:
        feed.restart(head)
        for watcher in list(feed.watchers):
            watcher.is_stale = True
            self._recover(watcher)

    # --- sockets that are not at the head

    def _recover(self, watcher: Watcher, unfinished: Any = None) -> None:
        """Catch a socket up with its feeds, in a task of its own unless one is running already."""
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
        except Exception:  # servers raise different errors for a socket that is gone
            watcher.task = None
            self.leave(watcher)
        finally:
            watcher.task = None

    async def _caught_up(self, watcher: Watcher) -> bool:
        """Send what is missing; True if nothing was. The task ends without an await after True, so no delta can come
        in between.
        """
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
        """Join the feeds first and read afterwards, so that deltas of the time between are in the log. Those that the
        snapshot already contains are not sent.
        """
        streams = await self.read(hub_queries.streams, watcher.accounts)
        for strategy_id, name, number in streams:
            await self._watch(watcher, strategy_id, name, number)
        watcher.is_stale = False
        active: snapshot.Snapshot = await self.read(snapshot.read, watcher.accounts)
        if watcher.wants_packets:  # read last: the next heartbeat notices keys that are newer than the streams
            watcher.packet_keys = await self.read(hub_queries.packet_keys, watcher.accounts)
        watcher.resynced_at, watcher.copies = time.monotonic(), active.copies
        sources = {source.strategy_id: source for source in active.sources.values()}
        if not sources.keys() <= {strategy_id for strategy_id, _, _ in streams}:
            watcher.is_stale = True  # a stream was added between the two reads
            return
        for strategy_id in watcher.at.keys() - sources.keys():
            self.feeds[strategy_id].watchers.discard(watcher)
        watcher.sources, watcher.hidden = sources, set(active.hidden)
        SNAPSHOTS.inc()
        watcher.at = {strategy_id: source.seq for strategy_id, source in sources.items()}
        for source in sources.values():
            self._advance_empty_feed(self.feeds[source.strategy_id], source.seq)
        await watcher.send({"type": "websocket.send", "text": active.body(type="snapshot").decode()})

    def _advance_empty_feed(self, feed: Feed, seq: int) -> None:
        """Move an empty feed's head to the number of its watchers' snapshots. Earlier deltas were published before this
        process joined the group and will not arrive.
        """
        if feed.entries or feed.head >= seq:
            return
        if all(watcher.is_stale or watcher.at.get(feed.strategy_id, seq) >= seq for watcher in feed.watchers):
            feed.restart(seq)
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
        """Send every socket the numbers of its streams, and notice deltas that were lost on the way to this process."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                await self._check_numbers()
                await self._check_streams()
                await self._check_copies()
            except (DatabaseError, InterfaceError) as fault:
                # No heartbeat is sent then: its absence shows clients that the numbers are not being checked.
                log.warning("stream.no_heartbeat", fault=type(fault).__name__)
                continue
            await self._send_heartbeats()

    async def _check_numbers(self) -> None:
        for feed in [feed for feed in self.feeds.values() if not feed.watchers]:
            del self.feeds[feed.strategy_id]
            await self.layer.group_discard(publisher.group(feed.strategy_id), self.channel)
        numbers = await self.read(
            hub_queries.numbers, [feed.strategy_id for feed in self.feeds.values() if feed.watchers]
        )
        for strategy_id, number in numbers:
            if strategy_id not in self.feeds:
                continue
            feed = self.feeds[strategy_id]
            if number <= feed.head:
                feed.ahead = 0
            elif feed.ahead > feed.head:  # already missing at the last heartbeat: that delta will not arrive
                self._restart(feed, number)
            else:
                feed.ahead = number

    async def _check_streams(self) -> None:
        """Send a new snapshot to sockets whose streams or settings have changed since their last one."""
        watching = list(self.watchers)
        accounts = sorted({account for watcher in watching for account in watcher.accounts})
        rows_by_account = await self.read(hub_queries.streams_of_each, accounts)
        for watcher in watching:
            sent = {hub_queries.row_of(source) for source in watcher.sources.values()}
            current = {row for account in watcher.accounts for row in rows_by_account.get(account, ())}
            if not watcher.is_stale and sent != hub_queries.one_row_each(current):
                self.resync(watcher)

    async def _check_copies(self) -> None:
        """Send a new snapshot where copies have changed: to browsers, because copies are not events of a stream, and to
        paused followers, because they see what they hold.
        """
        watching = [watcher for watcher in self.watchers if watcher.session_key is not None or watcher.is_paused]
        accounts = sorted({account for watcher in watching for account in watcher.accounts})
        numbers = dict(await self.read(hub_queries.copy_numbers, accounts))
        for watcher in watching:
            copies = ",".join(str(numbers[account]) for account in sorted(watcher.accounts))
            if watcher.copies != copies and not watcher.is_stale:
                self.resync(watcher)

    async def _send_heartbeats(self) -> None:
        texts: dict[tuple[tuple[int, int], ...], str] = {}
        for number, watcher in enumerate(list(self.watchers)):
            if watcher.task is None and not watcher.is_stale:
                positions = tuple(watcher.at.items())
                if positions not in texts:
                    as_of = {self.feeds[strategy_id].name: str(seq) for strategy_id, seq in positions}
                    texts[positions] = orjson.dumps({"type": "heartbeat", "as_of": as_of}).decode()
                self._step(watcher, texts[positions])
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)

    async def _sweep(self) -> None:
        """Close the sockets of keys that may no longer call, and of people whose session has ended or who have another
        password or other rights now.
        """
        while True:
            await asyncio.sleep(SWEEP_S)
            watching = list(self.watchers)
            bots = {(watcher.generation_id, watcher.ip) for watcher in watching if watcher.generation_id is not None}
            people = {_session_of(watcher) for watcher in watching if watcher.session_key}
            try:
                refused = await self.read(hub_queries.refused_bots, list(bots)) if bots else set()
                alive = await self.read(hub_queries.live_sessions, list(people)) if people else set()
            except (DatabaseError, InterfaceError) as fault:
                log.warning("stream.no_sweep", fault=type(fault).__name__)
                continue
            for watcher in watching:
                if (watcher.generation_id, watcher.ip) in refused:
                    self.close(watcher, 1008, "this key may no longer call")
                elif watcher.session_key and _session_of(watcher) not in alive:
                    self.close(watcher, 1008, "this session has ended")


def _session_of(watcher: Watcher) -> hub_queries.LiveSession:
    return watcher.session_key, watcher.user_id, watcher.standing


# --- coroutines that were started without a task


@types.coroutine
def _resumed(started: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Continue, inside a task, a coroutine that already waits for something."""
    while True:
        try:
            yield waits_for
        except BaseException as fault:
            resume = functools.partial(started.throw, fault)
        else:
            resume = functools.partial(started.send, None)
        try:
            waits_for = resume()
        except StopIteration:
            return


async def _quietly(sending: Awaitable[None]) -> None:
    try:
        await asyncio.wait_for(asyncio.ensure_future(sending), 5)
    except Exception:
        return
