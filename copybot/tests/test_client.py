"""The connection against a desk that plays tricks: whatever it does, an effect happens once, and no forger is believed.

Each test runs with both clients. They sleep in a time of their own, so nothing here waits.
"""

import asyncio
import inspect
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copybot import errors, protocol
from copybot.aclient import AsyncClient
from copybot.client import Client, trusted
from copybot.tests.hostile_desk import KEY, SECRET, HostileDesk, problem

OPENING: dict[str, Any] = {"ticket_id": "1", "symbol": "EURUSD", "volume": Decimal("0.10")}


class Asking:
    """Either client behind one interface. Its sleeps advance the test's clock."""

    def __init__(self, kind: Any, url: Any, **more: Any) -> None:
        self.slept = []
        common = {"monotonic_s": lambda: sum(self.slept), "jitter": lambda: 0.5, **more}
        if kind is Client:
            self.client = Client(url, KEY, SECRET, sleep=self.slept.append, **common)
        else:
            self.client = AsyncClient(url, KEY, SECRET, sleep=self.pause, **common)
        self.runner = asyncio.Runner()

    async def pause(self, wait_s: Any) -> None:
        self.slept.append(wait_s)

    def __getattr__(self, name: Any) -> Any:
        attribute = getattr(self.client, name)
        if not inspect.iscoroutinefunction(attribute):
            return attribute
        return lambda *args, **more: self.runner.run(attribute(*args, **more))


@pytest.fixture
def desk() -> Iterator[Any]:
    with HostileDesk() as desk:
        yield desk


@pytest.fixture(params=[Client, AsyncClient], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest, desk: Any) -> Iterator[Callable[..., Any]]:
    clients = []

    def create(**more: Any) -> Any:
        clients.append(Asking(request.param, desk.url, **more))
        return clients[-1]

    yield create
    for asking in clients:
        asking.hang_up()
        asking.runner.close()


@pytest.fixture
def bot(ask: Callable[..., Any]) -> Any:
    return ask()


def keys_of(desk: Any) -> list[Any]:
    return [request.headers["Idempotency-Key"] for request in desk.requests]


UNCERTAIN = [
    "hang_up", "execute_and_hang_up", "half_an_answer", "500", "execute_and_500", "execute_and_502_of_a_proxy", "forge",
    "forged_500", "leave_out_the_signature", "answer_with_an_old_answer", "say_it_is_closed", "lie_about_the_clock",
    "busy", "ask_to_wait", "ask_to_wait_as_a_proxy", "execute_and_refuse_the_key",
    "execute_and_say_it_is_malformed", "execute_and_say_it_is_forbidden",
]  # fmt: skip


@pytest.mark.parametrize("trick", UNCERTAIN)
def test_an_effect_happens_once_whatever_happens_to_the_answer(bot: Any, desk: Any, trick: str) -> None:
    bot.active()
    desk.tricks.extend([trick, trick])

    assert bot.open(**OPENING) == {"number": 1}

    assert len(desk.effects) == 1
    assert len(set(keys_of(desk)[1:])) == 1
    numbers = [int(request.headers["X-Cd-Seq"]) for request in desk.requests]
    assert numbers == sorted(set(numbers)) and len(numbers) >= 4


def test_control_another_idempotency_key_is_another_effect(bot: Any, desk: Any) -> None:
    """The control: the desk counts the effects that it executes."""
    for name in ("effect-000000000001", "effect-000000000002"):
        bot.open(**OPENING, idempotency_key=name)

    assert len(desk.effects) == 2


def test_every_write_takes_an_idempotency_key(bot: Any, desk: Any) -> None:
    named = {"idempotency_key": "a-name-that-was-kept"}
    calls = [
        lambda: bot.open(**named, ticket_id="1"),
        lambda: bot.modify("1", **named, sl=None),
        lambda: bot.reduce("1", **named, volume="0.1"),
        lambda: bot.close("1", **named, reason="TP", profit=Decimal("-1.50"), comment=None),
        lambda: bot.heartbeat(**named, instance="i"),
        lambda: bot.skip(**named, reason="missed"),
        lambda: bot.report_order(**named, seq="1"),
    ]
    for call in calls:
        call()
        desk.answers.clear()

    assert keys_of(desk) == ["a-name-that-was-kept"] * 7
    assert [f"{method} {path}" for method, path, _ in desk.effects] == [
        "POST /api/v2/trades/active",
        "PATCH /api/v2/trades/active/1",
        "POST /api/v2/trades/active/1/reduce",
        "DELETE /api/v2/trades/active/1?reason=TP&profit=-1.50",
        "POST /api/v2/copier/beat",
        "POST /api/v2/copier/skips",
        "POST /api/v2/trades/orders",
    ]


# --- unknown outcomes


def test_an_unknown_outcome_is_resolved_by_a_repeat_under_the_same_key(ask: Callable[..., Any], desk: Any) -> None:
    bot = ask(attempts=3)
    desk.tricks.extend(["execute_and_hang_up"] * 3)

    with pytest.raises(errors.Transport) as unknown:
        bot.open(**OPENING)
    assert bot.open(**OPENING, idempotency_key=unknown.value.idempotency_key) == {"number": 1}

    assert isinstance(unknown.value, ConnectionError)
    assert len(desk.effects) == 1


@pytest.mark.parametrize("trick", ["execute_and_hang_up", "execute_and_500", "forge"])
def test_a_busy_desk_after_a_lost_answer_may_be_executing_this_effect(
    ask: Callable[..., Any], desk: Any, trick: str
) -> None:
    bot = ask(attempts=3)
    desk.tricks.extend([trick, "busy", "busy"])

    with pytest.raises(errors.Transport):
        bot.open(**OPENING)

    desk.tricks.extend(["busy"] * 3)
    with pytest.raises(errors.DeskError, match="busy"):  # it was refused each time: nothing is unknown
        bot.open(**OPENING)


def test_a_refusal_of_the_key_after_a_lost_answer_leaves_the_effect_unknown(bot: Any, desk: Any) -> None:
    desk.tricks.append("execute_and_hang_up")
    desk.refuses = problem(401, "key_revoked", "rotate")

    with pytest.raises(errors.KeyRefused) as refused:
        bot.open(**OPENING)
    assert refused.value.may_have_happened
    with pytest.raises(errors.KeyRefused) as refused:
        bot.open(**OPENING)
    assert not refused.value.may_have_happened


UNPROVEN = ["execute_and_refuse_the_key", "execute_and_say_it_is_malformed", "execute_and_say_it_is_forbidden"]


@pytest.mark.parametrize("trick", UNPROVEN)
def test_an_unsigned_refusal_of_a_write_proves_nothing(bot: Any, desk: Any, trick: str) -> None:
    """Anybody on the way can write it after the desk executed the request. A bot stops, and says what is unknown."""
    desk.tricks.extend([trick] * 3)

    with pytest.raises(errors.DeskError) as refused:
        bot.open(**OPENING)

    assert refused.value.may_have_happened and not refused.value.is_proven
    assert len(desk.requests) == 3 and len(set(keys_of(desk))) == 1
    assert len(desk.effects) == 1


def test_a_bot_with_a_wrong_secret_stops_within_seconds(ask: Callable[..., Any], desk: Any) -> None:
    bot = ask()
    bot.client.secret = "f" * 64

    with pytest.raises(errors.KeyRefused):
        bot.open(**OPENING)
    with pytest.raises(errors.KeyRefused):
        bot.active()

    assert sum(bot.slept) < 2 and desk.effects == []


def test_a_signed_refusal_of_the_key_proves_that_nothing_happened(bot: Any, desk: Any) -> None:
    desk.refuses = problem(401, "key_revoked", "rotate")

    with pytest.raises(errors.KeyRefused) as refused:
        bot.open(**OPENING)

    assert refused.value.is_proven and not refused.value.may_have_happened
    assert len(desk.requests) == 1


def test_an_unsigned_wait_longer_than_the_call_leaves_the_outcome_unknown(bot: Any, desk: Any) -> None:
    desk.tricks.append("ask_to_wait_for_an_hour")

    with pytest.raises(errors.RateLimited) as refused:
        bot.open(**OPENING)

    assert refused.value.may_have_happened


def test_a_call_ends_when_its_time_is_over(ask: Callable[..., Any], desk: Any) -> None:
    bot = ask(attempts=1000, patience_s=20)
    desk.tricks.extend(["hang_up"] * 1000)

    with pytest.raises(errors.Transport):
        bot.open(**OPENING)

    assert 15 < sum(bot.slept) <= 20


def test_the_backoff_grows_up_to_a_bound(ask: Callable[..., Any], desk: Any) -> None:
    bot = ask(attempts=12)
    desk.tricks.extend(["hang_up"] * 11)

    bot.active()

    assert bot.slept == [0.1, 0.2, 0.4, 0.8, *[1.5] * 7]


def test_an_unreachable_desk_raises_transport(ask: Callable[..., Any], desk: Any) -> None:
    desk.shutdown()
    desk.server_close()
    bot = ask(attempts=2)

    with pytest.raises(errors.Transport):
        bot.active()
    with pytest.raises(errors.Transport):
        bot.time()


def test_a_slowly_dripping_answer_times_out(desk: Any) -> None:
    bot = Client(desk.url, KEY, SECRET, timeout_s=0.3, sleep=lambda _: None)
    desk.tricks.append("drip")

    assert bot.open(**OPENING) == {"number": 1}
    assert len(desk.requests) == 2
    bot.hang_up()


def test_a_slowly_dripping_answer_times_out_with_asyncio_too(desk: Any) -> None:
    async def ask() -> None:
        bot = AsyncClient(desk.url, KEY, SECRET, timeout_s=0.3)
        desk.tricks.append("drip")
        assert await bot.open(**OPENING) == {"number": 1}
        await bot.hang_up()

    asyncio.run(ask())
    assert len(desk.requests) == 2


# --- authenticity of answers


def test_refuses_answers_without_the_desks_signature(bot: Any, desk: Any) -> None:
    desk.tricks.extend(["forge"] * 3)

    with pytest.raises(errors.AnswerForged) as forged:
        bot.open(**OPENING)

    assert forged.value.idempotency_key == keys_of(desk)[0]
    assert len(desk.requests) == 3


def test_an_unsigned_refusal_does_not_make_a_bot_forget_a_trade(bot: Any, desk: Any) -> None:
    desk.tricks.extend(["say_it_is_closed"] * 3)

    with pytest.raises(errors.AnswerForged):
        bot.close("1", reason="TP")


def test_a_signed_refusal_is_final(bot: Any, desk: Any) -> None:
    desk.refuses = problem(409, "trade_closed", trade={"reason": "TP"})

    with pytest.raises(errors.TradeClosed) as refused:
        bot.open(**OPENING)

    assert (refused.value.code, refused.value.status, refused.value.problem["trade"]) == (
        "trade_closed", 409, {"reason": "TP"},
    )  # fmt: skip
    assert len(desk.requests) == 1 and bot.slept == []


def test_recognises_an_unchanged_snapshot_by_its_etag(bot: Any, desk: Any) -> None:
    assert bot.active() == {"trades": [], "count": 0, "rate": Decimal("1.10")}

    assert bot.active(etag=bot.client.etag) is None
    assert bot.active(etag='"another"') is not None
    assert bot.active() is not None


def test_refuses_a_304_to_a_request_without_an_etag(bot: Any, desk: Any) -> None:
    desk.tricks.extend(["say_it_is_unchanged"] * 3)

    with pytest.raises(errors.AnswerForged):
        bot.active()


@pytest.mark.parametrize("trick", ["ask_about_another_etag", "say_unchanged_without_the_second_signature"])
def test_refuses_a_304_that_is_not_about_the_etag_that_was_sent(bot: Any, desk: Any, trick: str) -> None:
    bot.active()
    desk.tricks.extend([trick] * 3)

    with pytest.raises(errors.AnswerForged):
        bot.active(etag=bot.client.etag)


def test_a_replaced_etag_is_not_used_for_the_next_read(bot: Any, desk: Any) -> None:
    desk.tricks.append("replace_the_etag")
    bot.active()

    assert bot.client.etag == ""
    assert bot.active(etag=bot.client.etag) is not None


def test_a_desk_that_does_not_sign_etags_sends_the_whole_snapshot_each_time(bot: Any, desk: Any) -> None:
    desk.signs_etags = False

    assert bot.active() is not None
    assert bot.active(etag=bot.client.etag) is not None
    assert desk.requests[-1].headers["If-None-Match"] is None


def test_refuses_an_untrusted_certificate(desk: Any) -> None:
    assert (trusted().verify_mode, trusted().check_hostname) == (ssl.CERT_REQUIRED, True)
    bot = Client(desk.url.replace("http:", "https:"), KEY, SECRET, attempts=1)
    with pytest.raises(errors.Transport):
        bot.active()
    bot.hang_up()
    assert desk.requests == []


# --- waits requested by the desk


@pytest.mark.parametrize("trick", ["ask_to_wait", "ask_to_wait_as_a_proxy"])
def test_waits_for_the_requested_time(bot: Any, desk: Any, trick: str) -> None:
    desk.tricks.append(trick)

    bot.active()

    assert 7 <= sum(bot.slept) <= 8


def test_does_not_wait_longer_than_the_call_may_take(bot: Any, desk: Any) -> None:
    desk.tricks.append("ask_to_wait_for_an_hour")

    with pytest.raises(errors.RateLimited) as refused:
        bot.open(**OPENING)

    assert (refused.value.retry_after_s, bot.slept, len(desk.effects)) == (3600, [], 0)


# --- numbers and clocks


def test_continues_above_the_desks_last_number(bot: Any, desk: Any) -> None:
    bot.client.seq, desk.last_seq = 5, 1_000

    assert bot.open(**OPENING) == {"number": 1}
    assert bot.client.seq == 1_001


@pytest.mark.parametrize("ahead_ms", [-3_600_000, 3_600_000])
def test_learns_the_desks_clock(bot: Any, desk: Any, ahead_ms: int) -> None:
    desk.clock_ahead_ms = ahead_ms

    assert bot.open(**OPENING) == {"number": 1}

    assert len(desk.requests) == 2
    assert abs(bot.desk_ms() - desk.clock_ms()) < 100


def test_an_unsigned_time_neither_makes_old_signals_young_nor_signs_a_request_for_another_day(
    ask: Callable[..., Any], desk: Any
) -> None:
    bot = ask(attempts=3)
    bot.active()
    before = bot.client.clock_offset_ms
    desk.tricks.extend(["lie_about_the_clock", "hang_up", "hang_up"])

    with pytest.raises(errors.Transport):
        bot.active()

    assert {abs(int(request.headers["X-Cd-Time"]) - desk.clock_ms()) < 60_000 for request in desk.requests} == {True}
    assert bot.client.clock_offset_ms == before


def test_a_clock_that_only_unsigned_refusals_correct_stays_as_it_is(ask: Callable[..., Any], desk: Any) -> None:
    """As at the first call: nothing is known yet, and nobody's word is taken."""
    bot = ask(attempts=3)
    desk.tricks.extend(["lie_about_the_clock"] * 3)

    with pytest.raises(errors.ClockRefused):
        bot.active()

    assert bot.client.clock_offset_ms == 0
    assert len({request.headers["X-Cd-Sig"] for request in desk.requests}) == 3


@pytest.mark.parametrize(("is_proven", "last_seq"), [(True, 10**17), (False, 41)])
def test_a_number_that_the_desk_did_not_sign_counts_if_a_clock_can_give_it(is_proven: bool, last_seq: int) -> None:
    desk = line(seq=40, wall_ms=lambda: 1_767_600_000_000)
    desk.learn_from({"code": "seq_replayed", "last_seq": str(last_seq)}, is_proven=is_proven)
    assert desk.seq == last_seq

    desk.learn_from({"code": "seq_replayed", "last_seq": "9" * 18}, is_proven=False)
    assert desk.seq == last_seq


def line(**more: Any) -> Any:
    return protocol.Line("https://desk.example", KEY, SECRET, **more)


def test_a_slow_answer_does_not_worsen_the_clock_of_a_quick_one() -> None:
    now = [0]
    desk = line(wall_ms=lambda: now[0])

    def answered(sent: Any, desk_ms: Any, received: Any) -> Any:
        now[0] = received
        desk._learn_clock(desk_ms, sent)
        return desk.clock_offset_ms

    assert answered(1_000, 6_000, 3_000) == 4_000  # somewhere between 3,000 and 5,000
    assert answered(4_000, 8_410, 4_020) == 4_390  # between 4,390 and 4,410
    assert answered(5_000, 11_000, 8_000) == 4_390  # rules nothing out
    assert answered(9_000, 13_600, 9_020) == 4_580  # a clock was set


def test_signs_the_host_that_it_sends() -> None:
    for url, host in {
        "https://Desk.Example": "desk.example",
        "https://desk.example:443/": "desk.example",
        "https://desk.example:8443": "desk.example:8443",
        "http://127.0.0.1:80": "127.0.0.1",
        "http://127.0.0.1:8000": "127.0.0.1:8000",
        "https://who:ever@desk.example": "desk.example",
    }.items():
        assert protocol.Line(url, KEY, SECRET).host == host


# --- what is sent


def test_a_price_is_text_and_never_a_float(bot: Any, desk: Any) -> None:
    bot.open(
        volume=Decimal("1E-8"), open_price=Decimal("1.10"), analysis={"rsi": 70.5}, at=datetime(2026, 1, 5, tzinfo=UTC)
    )

    assert json.loads(desk.effects[0][2]) == {
        "volume": "0.00000001", "open_price": "1.10", "analysis": {"rsi": 70.5}, "at": "2026-01-05T00:00:00+00:00",
    }  # fmt: skip
    for wrong in ({"open_price": 1.1}, {"analysis": {"rsi": float("nan")}}, {"at": object()}):
        with pytest.raises((TypeError, ValueError)):
            bot.open(**wrong)
    assert len(desk.requests) == 1


def test_asks_the_time_without_a_key(bot: Any, desk: Any) -> None:
    assert bot.time() == {"server_time": 1.5}
    assert "X-Cd-Key" not in desk.requests[0].headers


def test_threads_and_tasks_that_share_a_client_wait_for_each_other(desk: Any) -> None:
    bot = Client(desk.url, KEY, SECRET)
    threads = [threading.Thread(target=lambda: bot.open(**OPENING)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bot.hang_up()

    async def together() -> None:
        bot = AsyncClient(desk.url, KEY, SECRET)
        await asyncio.gather(*(bot.open(**OPENING) for _ in range(20)))
        await bot.hang_up()

    asyncio.run(together())

    assert (len(desk.effects), len(desk.requests)) == (40, 40)  # no number came late, so none was repeated


def test_no_repr_shows_the_secret() -> None:
    for client in (Client("https://desk.example", KEY, SECRET), AsyncClient("https://desk.example", KEY, SECRET)):
        client.headers("GET", "/api/v2/trades/active")
        assert SECRET not in repr(client)
        assert SECRET not in repr(client.attempt("GET", "/api/v2/trades/active", "", b"", ""))


# --- errors


def test_each_code_has_the_class_that_the_page_says() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    page = readme.partition("## Answers and errors")[2].partition("\n## ")[0]
    classes = {}
    for row in re.findall(r"^\| `([A-Za-z]+)` \| (.+?) \|", page, re.MULTILINE):
        classes |= dict.fromkeys(re.findall(r"`([a-z_]+)`", row[1]), row[0])

    assert classes == {code: kind.__name__ for code, kind in errors.KINDS.items()}
    for code, kind in errors.KINDS.items():
        assert type(errors.refusal(409, {"code": code})) is kind
        assert inspect.getdoc(kind) and issubclass(kind, errors.DeskError)
    assert type(errors.refusal(409, {"code": "of_tomorrow"})) is errors.DeskError


def test_says_which_fields_are_wrong(bot: Any, desk: Any) -> None:
    desk.refuses = problem(422, "invalid", fields={"volume": ["must be above zero"]})

    with pytest.raises(errors.Invalid) as refused:
        bot.open(**OPENING)

    assert refused.value.fields == {"volume": ["must be above zero"]}
