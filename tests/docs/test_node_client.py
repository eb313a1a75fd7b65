"""The example client in Node, written from the pages alone, passes the vectors and works with a real desk."""

import hashlib
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.server import serve as serve_sockets

from accounts import services as accounts
from accounts.models import BotKey, TradingAccount
from audit import services as audit
from audit.models import AuditLog
from strategies import services as strategies
from strategies.models import Subscription
from tests import node
from tests.conftest import Serving, key_of
from tests.docs import proxy, reading
from tests.signed import Bot, opening
from tests.trades.test_stream import close_without_publishing
from trades.models import ActiveTrade, TradeHistory

FOLDER = reading.ROOT / "examples" / "node"


def run(script: Any, *args: Any, timeout_s: int = 60, **environment: Any) -> Any:
    return subprocess.run(
        [node.find(), FOLDER / script, *args], env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=timeout_s,
    )  # fmt: skip


def lines(text: Any) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def identity(cast: Any, owner: Any, kind: Any, url: Any) -> dict[str, Any]:
    key = key_of(cast, owner, kind)
    return {"COPYDESK_URL": url, "COPYDESK_KEY": key["key"], "COPYDESK_SECRET": key["secret"]}


# --- the vectors


def test_passes_every_vector() -> None:
    ran = run("vectors.mjs")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)["failed"] == []
    assert json.loads(ran.stdout)["checked"] > 80


@pytest.mark.parametrize(
    "planted",
    [
        lambda vectors: vectors["requests"][0].update(seq=42),
        lambda vectors: vectors["response"].update(status=201),
        lambda vectors: vectors["packets"][3]["fields"].__setitem__(5, "0.00100001"),
        lambda vectors: vectors["packets_mac_ok_but_grammar_refused"][2].update(accept=True),
        lambda vectors: vectors["packets_v1"]["vectors"][1].update(signature="0" * 64),
        lambda vectors: vectors["recognisable_mistakes_for_K1"].update(none=vectors["packets"][0]["signature"]),
    ],
)
def test_reports_a_vector_that_fails(planted: Callable[..., Any], tmp_path: Path) -> None:
    vectors = json.loads((reading.DOCS / "vectors.json").read_text())
    planted(vectors)
    (tmp_path / "vectors.json").write_text(json.dumps(vectors))

    ran = run("vectors.mjs", str(tmp_path / "vectors.json"))

    assert ran.returncode == 1
    assert json.loads(ran.stdout)["failed"]


# --- a provider's bot


def test_a_provider_opens_modifies_reduces_and_closes(web: Serving, cast: dict[str, Any]) -> None:
    ran = run("provider.mjs", "987654", **identity(cast, "lena", "master", web.url))

    assert (ran.returncode, ran.stderr) == (0, "")
    assert lines(ran.stdout) == [
        {"what": "open", "status": "broadcasted", "seq": "1"},
        {"what": "modify", "status": "modified", "seq": "2"},
        {"what": "reduce", "status": "reduced", "seq": "3"},
        {"what": "active", "tickets": [["987654", "0.05000000"]]},
        {"what": "close", "status": "CLOSED", "seq": "4"},
        {"what": "open again", "code": "trade_closed", "retry": "never"},
    ]
    closed = TradeHistory.objects.get()
    assert (str(closed.profit), str(closed.sl), closed.reason) == ("40.00000000", "1.10200000", "TP")


def test_a_second_run_has_no_second_effect(web: Serving, cast: dict[str, Any]) -> None:
    """As after a crash: the idempotency keys come from what survives it."""
    first = run("provider.mjs", "987654", **identity(cast, "lena", "master", web.url))
    again = run("provider.mjs", "987654", **identity(cast, "lena", "master", web.url))

    printed = [line for line in lines(again.stdout) if line["what"] != "active"]
    assert printed == [line for line in lines(first.stdout) if line["what"] != "active"]
    assert TradeHistory.objects.count() == 1
    assert AuditLog.objects.filter(action="trade.opened").count() == 1


def test_a_lost_response_is_requested_again_under_the_same_key(web: Serving, cast: dict[str, Any]) -> None:
    with proxy.between(web.port, proxy.lose, bytes, proxy.lose) as between:
        ran = run("provider.mjs", "987654", **identity(cast, "lena", "master", between.url))

    assert [line["what"] for line in lines(ran.stdout)][-1] == "open again", ran.stderr
    keys = [headers.get("idempotency-key") for _, headers in between.seen]
    numbers = [int(headers["x-cd-seq"]) for _, headers in between.seen]
    assert (keys[0], keys[2]) == (keys[1], keys[3])
    assert len(set(keys[:4])) == 2
    assert numbers == sorted(set(numbers))
    assert AuditLog.objects.filter(action="trade.opened").count() == 1
    assert AuditLog.objects.filter(action="trade.modified").count() == 1


def test_a_response_changed_in_transit_is_rejected(web: Serving, cast: dict[str, Any]) -> None:
    """The client uses the repeat's response instead. Three kinds of change are tried."""
    forge = [
        lambda body: body.replace(b'"0.10000000"', b'"9.10000000"'),
        lambda body: body.replace(b"broadcasted", b"BROADCASTED"),
        lambda _: b"{}",
    ]
    with proxy.between(web.port, *forge) as between:
        ran = run("provider.mjs", "987654", **identity(cast, "lena", "master", between.url))

    assert lines(ran.stdout)[0] == {"what": "open", "status": "broadcasted", "seq": "1"}
    assert len({headers["idempotency-key"] for _, headers in between.seen[:4]}) == 1
    assert len(between.seen) == 3 + 6


def test_an_emptied_snapshot_is_rejected(web: Serving, cast: dict[str, Any]) -> None:
    none = hashlib.sha256(b"[]").hexdigest()
    empty = f'{{"stream_epoch":"1","as_of":{{"lena-eurusd":"3"}},"count":0,"digest":"{none}","trades":[]}}'.encode()
    with proxy.between(web.port, bytes, bytes, bytes, lambda _: empty) as between:
        ran = run("provider.mjs", "987654", **identity(cast, "lena", "master", between.url))

    assert lines(ran.stdout)[3]["tickets"] == [["987654", "0.05000000"]]


def test_a_wrong_secret_is_reported_after_three_attempts_at_one_effect(web: Serving, cast: dict[str, Any]) -> None:
    wrong = identity(cast, "lena", "master", web.url) | {"COPYDESK_SECRET": "0" * 64}
    with proxy.between(web.port) as between:
        ran = run("provider.mjs", "987654", **wrong | {"COPYDESK_URL": between.url})

    assert "signature_invalid" in ran.stderr
    assert (ran.returncode, len(between.seen)) == (1, 3)
    assert len({headers["idempotency-key"] for _, headers in between.seen}) == 1
    assert not ActiveTrade.objects.exists()


@pytest.mark.parametrize(("status", "code"), [(401, "signature_invalid"), (400, "request_malformed")])
def test_an_unsigned_refusal_of_a_delivered_open_is_asked_again(
    web: Serving, cast: dict[str, Any], status: int, code: str
) -> None:
    """Somebody on the way replaces the desk's answer. The trade is open, and the client learns it."""
    with proxy.between(web.port, lambda _: proxy.Refusal(status, code)) as between:
        ran = run("provider.mjs", "987654", **identity(cast, "lena", "master", between.url))

    assert lines(ran.stdout)[0] == {"what": "open", "status": "broadcasted", "seq": "1"}
    assert AuditLog.objects.filter(action="trade.opened").count() == 1


POLL = """
import {{ Desk }} from "{folder}/desk.mjs";
const {{ COPYDESK_URL: url, COPYDESK_KEY: key, COPYDESK_SECRET: secret }} = process.env;
const desk = new Desk({{ url, key, secret, attempts: 2 }});
const first = await desk.active({{ etag: {etag} }}).catch((fault) => fault.constructor.name);
const second = await desk.active({{ etag: desk.etag }}).catch((fault) => fault.constructor.name);
const shown = {{ first: first?.count ?? first, second: second?.count ?? second, etag: desk.etag !== "" }};
console.log(JSON.stringify(shown));
desk.agent.destroy();
"""


def poll(cast: dict[str, Any], url: str, tmp_path: Path, etag: str = '""') -> Any:
    script = tmp_path / "poll.mjs"
    script.write_text(POLL.format(folder=FOLDER, etag=etag))
    ran = subprocess.run(
        [node.find(), script], env={**os.environ, **identity(cast, "finn", "copier", url)}, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    return json.loads(ran.stdout or json.dumps({"stderr": ran.stderr}))


def test_a_poll_learns_from_the_signed_etag_that_nothing_changed(
    web: Serving, cast: dict[str, Any], tmp_path: Path
) -> None:
    assert poll(cast, web.url, tmp_path) == {"first": 0, "second": None, "etag": True}


def test_a_poll_does_not_use_an_etag_that_was_replaced_on_the_way(
    web: Serving, cast: dict[str, Any], tmp_path: Path
) -> None:
    with proxy.between(web.port) as between:
        between.says = {"etag": '"of-a-later-state"'}
        assert poll(cast, between.url, tmp_path) == {"first": 0, "second": 0, "etag": False}


def test_a_304_about_another_etag_is_no_answer(
    web: Serving, cast: dict[str, Any], finn_bot: Bot, tmp_path: Path
) -> None:
    with proxy.between(web.port) as between:
        between.asks = {"If-None-Match": finn_bot.send("GET")["ETag"]}
        answers = poll(cast, between.url, tmp_path, etag="'\"of-an-older-state\"'")
    assert (answers["first"], answers["second"]) == ("OutcomeUnknown", "OutcomeUnknown")


# --- a follower of the stream


class Following:
    """A running follower, with its output line by line."""

    def __init__(self, process: Any) -> None:
        self.process, self.lines = process, queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(json.loads(line))

    def next(self, timeout_s: int = 15) -> Any:
        return self.lines.get(timeout=timeout_s)

    def until(self, event: Any, timeout_s: int = 20) -> Any:
        deadline = time.monotonic() + timeout_s
        while (line := self.next(max(0.01, deadline - time.monotonic())))["event"] != event:
            pass
        return line


@contextmanager
def following(cast: Any, url: Any, **changed: Any) -> Any:
    (follows,) = [row for row in cast["subscriptions"] if row["subscriber"] == "finn"]
    environment = {
        **os.environ, **identity(cast, "finn", "copier", url), "COPYDESK_SUB_ID": follows["sub_id"],
        "COPYDESK_PACKET_SECRET": follows["packet_secret"], **changed,
    }  # fmt: skip
    process = subprocess.Popen(
        [node.find(), FOLDER / "follower.mjs"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        yield Following(process)
    finally:
        process.terminate()
        _, complaints = process.communicate(timeout=10)
        assert complaints == ""


@pytest.fixture
def follows(finn: TradingAccount) -> Subscription:
    return Subscription.objects.get(account=finn)


def test_follows_from_snapshot_to_close_with_verified_packets(web: Serving, cast: dict[str, Any]) -> None:
    lena = web.bot("lena", "master")
    lena.open(**opening("1"))
    with following(cast, web.url) as finn:
        assert finn.next() == {"event": "connected"}
        first = finn.next()
        ref = str(ActiveTrade.objects.get().trade_id)
        assert (first["as_of"], first["must_hold"]) == ({"lena-eurusd": "1"}, [[ref, "0.10000000"]])
        lena.modify("1", sl="1.10100000")
        lena.reduce("1", deal_id="1", volume="0.04", close_price="1.10800000", profit="3")
        lena.close("1", close_price="1.11", profit="5")
        following_lines = [finn.next() for _ in range(3)]

    assert [(line["event"], line["seq"], line["packet"]) for line in following_lines] == [
        ("trade.modified", "2", {"action": "MODIFY", "trade_ref": ref, "volume": "0.10000000"}),
        ("trade.reduced", "3", {"action": "REDUCE", "trade_ref": ref, "volume": "0.04000000"}),
        ("trade.closed", "4", {"action": "CLOSE", "trade_ref": ref, "volume": "0.00000000"}),
    ]


def test_a_gapfill_uses_up_its_number(web: Serving, cast: dict[str, Any], follows: Subscription) -> None:
    strategies.pause(subscription=follows, actor=audit.SYSTEM)
    with following(cast, web.url) as finn:
        finn.until("snapshot")
        web.bot("lena", "master").open(**opening("1"))

        assert finn.until("trade.hidden")["packet"]["action"] == "GAPFILL"


def test_a_packet_of_another_secret_is_refused(web: Serving, cast: dict[str, Any]) -> None:
    with following(cast, web.url, COPYDESK_PACKET_SECRET="0" * 64) as finn:
        finn.until("snapshot")
        web.bot("lena", "master").open(**opening("1"))
        line = finn.until("trade.opened")

    assert (line["packet"], line["refused"]) == (None, "the signature is wrong")


def test_a_lost_event_arrives_with_the_next_snapshot(web: Serving, cast: dict[str, Any], lena: TradingAccount) -> None:
    """The close commits without an event: the process died before it published one."""
    web.bot("lena", "master").open(**opening("1"))
    with following(cast, web.url) as finn:
        assert finn.until("snapshot")["must_hold"]
        close_without_publishing(lena, "1")
        repaired = finn.until("snapshot")

    assert (repaired["as_of"], repaired["must_hold"]) == ({"lena-eurusd": "2"}, [])


def test_reconnects_when_the_desk_restarts(serve: Callable[..., Serving], cast: dict[str, Any]) -> None:
    first = serve()
    with following(cast, first.url) as finn:
        finn.until("snapshot")
        first.stop()
        assert "1012" in finn.until("lost")["why"]
        first.start()

        assert finn.until("snapshot", 40)["as_of"] == {"lena-eurusd": "0"}


def test_a_revoked_key_ends_the_follower(web: Serving, cast: dict[str, Any]) -> None:
    with following(cast, web.url) as finn:
        finn.until("snapshot")
        key = BotKey.objects.get(key_id=key_of(cast, "finn", "copier")["key"].partition(".")[0])
        accounts.revoke_key(key=key, actor=audit.SYSTEM)

        assert finn.until("refused")["code"] == "key_revoked"
        assert finn.process.wait(10) == 1


def test_a_strangers_handshake_is_refused(web: Serving, cast: dict[str, Any]) -> None:
    with following(cast, web.url, COPYDESK_SECRET="0" * 64) as finn:
        assert finn.next()["code"] == "signature_invalid"
        assert finn.process.wait(10) == 1


# --- the stream's numbers and frames, from a desk that omits events

WATCH = """
import {{ Desk }} from "{folder}/desk.mjs";
import {{ follow }} from "{folder}/stream.mjs";
const desk = new Desk({{ url: process.env.COPYDESK_URL, key: "ck_0000000000000000.1", secret: "0".repeat(64) }});
let left = {events};
for await (const {{ event, snapshot, message, strategy }} of follow(desk)) {{
  console.log(JSON.stringify([event, snapshot?.as_of?.s ?? message?.seq ?? strategy ?? ""]));
  if ((left -= 1) === 0) break;
}}
desk.agent.destroy();
"""
NONE = hashlib.sha256(b"[]").hexdigest()


def snapshot(seq: Any, **more: Any) -> Any:
    body = {"type": "snapshot", "as_of": {"s": str(seq)}, "count": 0, "digest": NONE, **more, "trades": []}
    return json.dumps(body, separators=(",", ":"))


def delta(seq: Any, **more: Any) -> Any:
    return json.dumps({"type": "trade.opened", "strategy": "s", "seq": str(seq), "trade": {}, **more})


def beat(seq: Any) -> Any:
    return json.dumps({"type": "heartbeat", "as_of": {"s": str(seq)}})


def watched(events: Any, talk: Any) -> list[Any]:
    """Return the client's events after `talk(connection)`."""
    with serve_sockets(talk, "127.0.0.1", 0, compression="deflate") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        program = WATCH.format(folder=FOLDER.as_uri(), events=events)
        ran = subprocess.run(
            [node.find(), "--input-type=module", "-e", program], env={**os.environ, "COPYDESK_URL": url},
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert ran.stderr == ""
        return [tuple(line) for line in lines(ran.stdout)]


def test_a_missing_number_is_a_gap_until_the_requested_snapshot() -> None:
    received = []

    def talk(desk: Any) -> None:
        desk.send(snapshot(5))
        desk.send(delta(6))
        desk.send(delta(8))
        desk.send(delta(9))  # next after 8, but the client lacks 7
        received.append(desk.recv(10))
        desk.send(snapshot(9))
        desk.send(delta(9))  # old: it is in the snapshot
        desk.send(delta(10))
        desk.recv()

    assert watched(6, talk) == [
        ("connected", ""), ("snapshot", "5"), ("delta", "6"), ("gap", "s"), ("snapshot", "9"), ("delta", "10"),
    ]  # fmt: skip
    assert json.loads(received[0]) == {"type": "resync"}


def test_a_heartbeat_ahead_of_the_events_is_a_gap() -> None:
    def talk(desk: Any) -> None:
        desk.send(snapshot(5))
        desk.send(beat(6))
        desk.send(delta(6))
        desk.send(beat(7))
        desk.send(beat(7))
        desk.recv()
        desk.recv()

    assert watched(4, talk) == [("connected", ""), ("snapshot", "5"), ("delta", "6"), ("gap", "s")]


def test_reads_frames_of_every_size_and_shape_and_answers_pings() -> None:
    pongs = []

    def talk(desk: Any) -> None:
        desk.send(snapshot(5, padding="x" * 70_000))  # a length of eight bytes
        pongs.append(desk.ping(b"alive?").wait(10))
        text = delta(6, padding="ü" * 300)  # of two
        desk.send([text[:50], text[50:200], text[200:]])
        desk.recv()

    # Often, because the first frame may come with the handshake, and its rest at any moment after it.
    for _ in range(12):
        assert watched(3, talk) == [("connected", ""), ("snapshot", "5"), ("delta", "6")]
    assert pongs == [True] * 12


def test_a_snapshot_with_missing_rows_is_rejected() -> None:
    def talk(desk: Any) -> None:
        desk.send(snapshot(5, count=1))
        desk.recv()

    assert watched(2, talk) == [("connected", ""), ("lost", "")]
