"""The stream against a desk that loses and repeats messages, falls silent, breaks off and refuses keys."""

import asyncio
import contextlib
import itertools
import json
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

from copybot.aclient import AsyncClient
from copybot.client import Client
from copybot.errors import KeyRefused, ScopeDenied
from copybot.stream import AsyncStream, Backoff, Connected, Follow, Gap, Lost, Message, Stream, Unreadable
from copybot.tests.hostile_desk import KEY, SECRET, mac, problem, sha256

PATH = "/ws/v2/active"


def snapshot(**as_of: Any) -> dict[str, Any]:
    return {"type": "snapshot", "as_of": {name: str(seq) for name, seq in as_of.items()}, "trades": []}


def delta(seq: Any, strategy: str = "lena") -> dict[str, Any]:
    return {"type": "trade.opened", "strategy": strategy, "seq": str(seq), "trade": {}}


def heartbeat(**as_of: Any) -> Any:
    return snapshot(**as_of) | {"type": "heartbeat"}


# --- the books, without a socket


@pytest.fixture
def follow() -> Follow:
    books = Follow(0.0)
    hear(books, snapshot(lena=5))
    return books


@pytest.mark.parametrize("number", ["Infinity", "1e9999999999999999999", "NaN"])
def test_an_invalid_number_is_unreadable_and_does_not_end_the_stream(follow: Follow, number: str) -> None:
    with pytest.raises(Unreadable):
        follow.heard(f'{{"type": "heartbeat", "as_of": {{"lena": {number}}}}}', 1.0)


def hear(books: Any, message: Any, now_s: float = 1.0) -> Any:
    return books.heard(json.dumps(message), now_s)


def gaps(events: Any) -> list[Any]:
    return [event.strategy for event in events if isinstance(event, Gap)]


def test_numbers_in_turn_are_no_gap(follow: Follow) -> None:
    for seq in (6, 7, 7, 6, 8):
        assert [event.body["seq"] for event in hear(follow, delta(seq))] == [str(seq)]
    assert (follow.as_of, follow.to_say) == ({"lena": 8}, [])


def test_a_missing_number_is_reported_once_and_requests_one_snapshot(follow: Follow) -> None:
    assert gaps(hear(follow, delta(7))) == ["lena"]
    assert gaps(hear(follow, delta(9))) == []
    assert gaps(hear(follow, delta(1, "otto"))) == ["otto"]
    assert follow.as_of == {"lena": 5}  # what is out of turn counts for nothing
    assert [json.loads(said) for said in follow.to_say] == [{"type": "resync"}]

    hear(follow, snapshot(lena=9, otto=1))

    assert gaps(hear(follow, delta(10)) + hear(follow, delta(2, "otto"))) == []
    assert gaps(hear(follow, delta(12))) == ["lena"]


def test_messages_out_of_turn_are_passed_on(follow: Follow) -> None:
    """A close after a gap must still reach the copier."""
    events = hear(follow, delta(7) | {"type": "trade.closed"})

    assert [type(event) for event in events] == [Gap, Message]


def test_a_lost_last_delta_is_noticed_at_the_second_heartbeat(follow: Follow) -> None:
    assert gaps(hear(follow, heartbeat(lena=6))) == []
    assert gaps(hear(follow, heartbeat(lena=6))) == ["lena"]
    assert gaps(hear(follow, heartbeat(lena=6))) == []


def test_a_heartbeat_that_overtook_its_delta_is_not_a_gap(follow: Follow) -> None:
    hear(follow, heartbeat(lena=6))
    hear(follow, delta(6))
    hear(follow, heartbeat(lena=7))
    hear(follow, delta(7))

    assert gaps(hear(follow, heartbeat(lena=7))) == []


def test_an_unknown_strategy_is_a_gap(follow: Follow) -> None:
    assert gaps(hear(follow, heartbeat(lena=5, new=0)) + hear(follow, heartbeat(lena=5, new=0))) == ["new"]


def test_heartbeats_end_the_silence(follow: Follow) -> None:
    hear(follow, heartbeat(lena=5), now_s=20.0)

    assert not follow.is_silent(34.9)
    assert follow.is_silent(35.0)


def test_prices_come_without_floats(follow: Follow) -> None:
    (message,) = follow.heard('{"type": "trade.opened", "strategy": "lena", "seq": 6, "rate": 1.10}', 1.0)

    assert message.body["rate"] == Decimal("1.10")


@pytest.mark.parametrize(
    "text",
    ["", "x", "[]", "7", "{}", '{"type":"snapshot"}', '{"type":7}', '{"type":"trade.opened"}', b"\xff", "[" * 99_999],
)
def test_an_unreadable_message_raises_unreadable(follow: Follow, text: str | bytes) -> None:
    with pytest.raises(Unreadable):
        follow.heard(text, 1.0)


def test_unknown_message_types_are_ignored(follow: Follow) -> None:
    assert hear(follow, {"type": "weather", "sunny": True}) == []


def test_waits_longer_each_time_until_a_socket_has_held() -> None:
    backoff = Backoff(jitter=lambda: 1.0)

    assert [backoff.next_s() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff.next_s(held_s=59.0) == 30
    assert backoff.next_s(held_s=60.0) == 0.5
    assert {Backoff().next_s() for _ in range(5)} != {0.5}


# --- real sockets


class Desk:
    """Each socket plays the next scene, and the last scene repeats."""

    def __init__(self) -> None:
        self.scenes, self.refusals, self.handshakes, self.said = deque(), deque(), [], []
        self.signs_at: int | None = None  # the time in signed refusals, which are signed where it is set

    def __enter__(self) -> Any:
        self.server = serve(self._play, "127.0.0.1", 0, process_request=self._let_in, ping_interval=None)
        self.url = f"http://127.0.0.1:{self.server.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.thread.join()

    def _let_in(self, connection: Any, request: Any) -> Any:
        head = request.headers
        right = mac(
            "CD1-HMAC-SHA256", "GET", head["Host"], request.path, "", head["X-Cd-Key"], head["X-Cd-Time"],
            head["X-Cd-Window"], head["X-Cd-Seq"], "-", sha256(b""),
        )  # fmt: skip
        seq = int(head["X-Cd-Seq"])
        refused = self.refusals.popleft() if self.refusals else None
        if head["X-Cd-Sig"] != right:
            refused = problem(401, "signature_invalid")
        elif self.handshakes and seq <= self.handshakes[-1]:
            refused = problem(409, "seq_replayed", "new_seq", last_seq=str(self.handshakes[-1]))
        if refused is None:
            self.handshakes.append(seq)
            return None
        status, body = refused
        answer = connection.respond(status, body.decode())
        del answer.headers["Content-Type"]
        answer.headers["Content-Type"] = "application/problem+json"
        if self.signs_at is not None:
            time_ms = answer.headers["X-Cd-Response-Time"] = str(self.signs_at)
            signed = (head["X-Cd-Sig"].removeprefix("v1="), str(status), time_ms, sha256(body))
            answer.headers["X-Cd-Response-Sig"] = mac("CD1-RESPONSE", *signed)
        return answer

    def _play(self, socket: Any) -> None:
        scene = self.scenes.popleft() if len(self.scenes) > 1 else self.scenes[0]
        with contextlib.suppress(ConnectionClosed):
            scene(socket)


def say(*messages: Any, then: Any = None) -> Callable[..., Any]:
    def scene(socket: Any) -> None:
        for message in messages:
            socket.send(message if isinstance(message, str) else json.dumps(message))
        if then is not None:
            then(socket)

    return scene


def stay(socket: Any) -> None:
    socket.recv()


def revoke(socket: Any) -> None:
    socket.close(1008, "this key may no longer call")


class Reading:
    """Either stream behind one interface."""

    line: Any
    stream: Any

    def __init__(self, kind: Any, url: Any, **more: Any) -> None:
        more = {"backoff": Backoff(first_s=0.01, cap_s=0.02), **more}
        self.runner = asyncio.Runner()
        if kind is Stream:
            self.line = Client(url, KEY, SECRET)
            self.stream = Stream(self.line, **more)
        else:
            self.line = AsyncClient(url, KEY, SECRET)
            self.stream = AsyncStream(self.line, **more)
            self.events = self.stream.events()

    def next(self, timeout_s: int = 10) -> Any:
        if isinstance(self.stream, Stream):
            event = self.stream.next(timeout_s)
            assert event is not None, "nothing came"
            return event
        return self.runner.run(asyncio.wait_for(anext(self.events), timeout_s))

    def until(self, kind: Any) -> Any:
        for _ in range(50):
            event = self.next()
            if isinstance(event, kind):
                return event
        raise AssertionError(f"no {kind.__name__} came")

    def close(self) -> None:
        if isinstance(self.stream, Stream):
            self.stream.close()
        else:
            self.runner.run(self.events.aclose())
        self.runner.close()


@pytest.fixture
def desk() -> Iterator[Any]:
    with Desk() as desk:
        yield desk


@pytest.fixture(params=[Stream, AsyncStream], ids=["sync", "async"])
def read(request: pytest.FixtureRequest, desk: Any) -> Iterator[Callable[..., Any]]:
    readings = []

    def create(**more: Any) -> Any:
        readings.append(Reading(request.param, desk.url, **more))
        return readings[-1]

    yield create
    for reading in readings:
        reading.close()


def test_a_snapshot_is_followed_by_its_deltas(desk: Any, read: Callable[..., Any]) -> None:
    desk.scenes.append(say(snapshot(lena=1), heartbeat(lena=1), delta(2), then=stay))
    reading = read()

    assert reading.next() == Connected()
    assert [reading.next().type for _ in range(2)] == ["snapshot", "trade.opened"]
    assert reading.stream.as_of == {"lena": 2}


def test_each_handshake_has_its_own_number(desk: Any, read: Callable[..., Any]) -> None:
    desk.scenes.append(say(snapshot(lena=1)))
    reading = read()
    for _ in range(4):
        reading.until(Lost)

    assert len(desk.handshakes) >= 4
    assert desk.handshakes == sorted(set(desk.handshakes))


def test_a_gap_requests_a_snapshot(desk: Any, read: Callable[..., Any]) -> None:
    def answer(socket: Any) -> None:
        desk.said.append(socket.recv())
        say(snapshot(lena=5), then=stay)(socket)

    desk.scenes.append(say(snapshot(lena=1), delta(3), delta(4), then=answer))
    reading = read()

    assert reading.until(Gap) == Gap("lena")
    while reading.until(Message).type != "snapshot":
        pass
    assert desk.said == ['{"type": "resync"}']
    assert reading.stream.as_of == {"lena": 5}


def test_a_silent_socket_is_replaced(desk: Any, read: Callable[..., Any]) -> None:
    desk.scenes.extend([say(snapshot(lena=1), then=stay), say(snapshot(lena=2), then=stay)])
    reading = read(silence_s=0.3)

    assert "silent" in reading.until(Lost).why
    assert reading.next() == Connected()
    assert reading.next().body["as_of"] == {"lena": "2"}


def test_heartbeats_keep_a_quiet_socket(desk: Any, read: Callable[..., Any]) -> None:
    def beats(socket: Any) -> None:
        for _ in range(12):
            time.sleep(0.1)
            socket.send(json.dumps(heartbeat(lena=1)))
        socket.send(json.dumps(delta(2)))
        stay(socket)

    desk.scenes.append(say(snapshot(lena=1), then=beats))
    reading = read(silence_s=0.7)

    assert [type(reading.next()) for _ in range(3)] == [Connected, Message, Message]


def test_an_unreadable_message_ends_the_socket_but_not_the_bot(desk: Any, read: Callable[..., Any]) -> None:
    desk.scenes.extend([say("no json"), say("x" * (17 << 20)), say(snapshot(lena=1), then=stay)])
    reading = read()

    assert "unreadable message" in reading.until(Lost).why
    assert reading.until(Lost)
    assert reading.until(Message).type == "snapshot"


def test_a_revoked_key_ends_the_stream(desk: Any, read: Callable[..., Any]) -> None:
    desk.scenes.append(say(snapshot(lena=1), then=revoke))
    reading = read()

    with pytest.raises(KeyRefused) as end:
        reading.until(Lost)
    assert end.value.code == "key_revoked"
    assert len(desk.handshakes) == 1


@pytest.mark.parametrize(
    ("refused", "kind"),
    [
        (problem(401, "key_revoked", "rotate"), KeyRefused),
        (problem(401, "signature_invalid"), KeyRefused),
        (problem(403, "scope_denied"), ScopeDenied),
    ],
)
def test_a_refused_handshake_raises_its_reason(desk: Any, read: Callable[..., Any], refused: Any, kind: Any) -> None:
    desk.refusals.append(refused)
    reading = read()

    with pytest.raises(kind):
        reading.next()
    assert desk.handshakes == []


def test_a_refused_handshake_can_be_tried_again(desk: Any) -> None:
    desk.scenes.append(say(snapshot(lena=1), then=stay))
    desk.refusals.append(problem(401, "signature_invalid"))
    with Stream(Client(desk.url, KEY, SECRET)) as stream:
        for _ in range(2):  # without a restart, the refusal stays
            with pytest.raises(KeyRefused):
                stream.next(5)
        stream.restart()

        assert stream.next(5) == Connected()


def test_a_temporary_refusal_is_waited_out(desk: Any, read: Callable[..., Any]) -> None:
    desk.scenes.append(say(snapshot(lena=1), then=stay))
    desk.refusals.extend([problem(503, "unavailable", "same_key"), problem(409, "busy", "same_key"), (404, b"<html>")])
    reading = read()

    reasons = [reading.next().why for _ in range(3)]
    assert [why for why, of in zip(reasons, ("unavailable", "busy", "404"), strict=True) if of not in why] == []
    assert reading.next() == Connected()


def test_a_requested_wait_is_respected(desk: Any, read: Callable[..., Any]) -> None:
    desk.scenes.append(say(snapshot(lena=1), then=stay))
    desk.refusals.append(problem(429, "rate_limited", "after", retry_after_ms=300))
    reading = read()

    assert reading.next().again_s >= 0.3
    began = time.monotonic()
    assert reading.next() == Connected()
    assert time.monotonic() - began > 0.2


def test_a_used_number_is_skipped(desk: Any, read: Callable[..., Any]) -> None:
    desk.scenes.append(say(snapshot(lena=1), then=stay))
    reading = read()
    desk.handshakes.append(reading.line.seq + 1_000_000)

    assert "seq_replayed" in reading.next().why
    assert reading.next() == Connected()


@pytest.mark.parametrize("is_signed", [True, False])
def test_a_wrong_clock_is_corrected_by_a_signed_refusal_only(
    is_signed: bool, desk: Any, read: Callable[..., Any]
) -> None:
    desk.scenes.append(say(snapshot(lena=1), then=stay))
    desk_ms = 1_700_000_000_000
    desk.refusals.append(problem(401, "clock_outside_window", "same_key", server_time=desk_ms))
    desk.signs_at = desk_ms if is_signed else None
    reading = read()

    assert isinstance(reading.next(), Lost)
    assert reading.next() == Connected()
    assert (0 <= int(reading.line.headers("GET", PATH)["X-Cd-Time"]) - desk_ms < 60_000) is is_signed
    assert (reading.line.clock_offset_ms == 0) is not is_signed


def test_an_unreachable_desk_is_tried_again(desk: Any, read: Callable[..., Any]) -> None:
    desk.server.shutdown()
    reading = read()

    assert [type(reading.next()) for _ in range(3)] == [Lost] * 3


def test_a_loop_is_never_kept_waiting_by_the_network() -> None:
    """A port that accepts connections and never answers: the handshake hangs, the loop must not."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        line = Client(f"http://127.0.0.1:{deaf.getsockname()[1]}", KEY, SECRET, timeout_s=60)
        with Stream(line) as stream:
            assert stream.next(0.05) is None
            assert stream.next(0) is None
            handshake, _ = deaf.accept()
            with handshake:
                assert handshake.recv(65_536).startswith(b"GET ")
                assert select.select([handshake], [], [], 0)[0] == []  # it hangs still


def test_a_lagging_loop_does_not_fill_the_memory(desk: Any) -> None:
    sent = itertools.count(2)

    def flood(socket: Any) -> None:
        while True:
            socket.send(json.dumps(delta(next(sent)) | {"pad": "x" * 10_000}))

    desk.scenes.append(say(snapshot(lena=1), then=flood))
    with Stream(Client(desk.url, KEY, SECRET)) as stream:
        stream.next(5)
        time.sleep(1.5)
        held, before = stream._events.qsize(), next(sent)
        time.sleep(0.5)

        assert held <= 256
        assert next(sent) - before <= 2, "the desk was not made to wait"
        numbers = [stream.next(5) for _ in range(300)]
        assert [int(event.body["seq"]) for event in numbers[1:]] == list(range(2, 301))


def test_a_bug_in_the_reader_is_not_swallowed(desk: Any) -> None:
    desk.scenes.append(say(snapshot(lena=1), then=stay))
    stream = Stream(Client(desk.url, KEY, SECRET))

    def broken() -> Any:
        return 1 // 0

    stream._connected = broken
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            stream.next(5)
    stream.close()
