"""A signed request takes effect at most once, whoever repeats it, at any time, to any process."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from http.client import HTTPConnection
from typing import Any

import pytest
import redis
from django.conf import settings

from accounts.models import TradingAccount
from audit.models import AuditLog
from copybot import signing
from tests.answers import refusal
from tests.conftest import Serving, key_of
from tests.signed import Bot, opening
from tests.transactions import committed

ACTIVE = "/api/v2/trades/active"
REPLAYED = (409, "seq_replayed")


def audited(code: Any) -> Any:
    return AuditLog.objects.filter(code=code).count()


def opened() -> Any:
    return AuditLog.objects.filter(action="trade.opened").count()


def now_ms() -> Any:
    return time.time_ns() // 1_000_000


# --- writes


def test_identical_bytes_sent_again_are_refused_and_audited(lena_bot: Bot) -> None:
    request = lena_bot.request("POST", fields=opening("1"))
    assert request.send().status_code == 201

    for _ in range(3):
        again = request.send()
        assert refusal(again) == REPLAYED
        assert again.json()["last_seq"] == str(request.seq)
        assert again.json()["retry"] == "new_seq"
    assert opened() == 1


@pytest.mark.parametrize("lower_by", [0, 1, 10**6])
def test_an_old_or_equal_number_is_refused_for_any_request(lower_by: int, lena_bot: Bot) -> None:
    first = lena_bot.request("POST", fields=opening("1"))
    assert first.send().status_code == 201

    later = lena_bot.request("POST", fields=opening("2"), seq=first.seq - lower_by)

    assert refusal(later.send()) == REPLAYED
    assert opened() == 1


def test_sequence_numbers_may_have_gaps(lena_bot: Bot) -> None:
    for seq in (5, 6, 1000, 10**18 - 1):
        assert lena_bot.send("POST", fields=opening(seq), seq=seq).status_code == 201


def test_a_refused_effect_uses_up_its_number(lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))
    request = lena_bot.request("POST", fields=opening("1", volume="0.2"))
    assert refusal(request.send()) == (409, "trade_exists_different")

    assert refusal(request.send()) == REPLAYED


def test_twenty_threads_sending_identical_bytes_have_one_effect(lena_bot: Bot) -> None:
    from django.db import connections

    request = lena_bot.request("POST", fields=opening("1"))
    answers, start = [], threading.Barrier(20)

    def send() -> None:
        start.wait()
        answers.append(refusal(request.send()))
        connections.close_all()

    threads = [threading.Thread(target=send) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert Counter(answers) == {(201, None): 1, REPLAYED: 19}
    assert opened() == 1


def post(web: Serving, request: Any, **but: Any) -> Any:
    """Send the exact bytes of a request to a real process."""
    connection = HTTPConnection("127.0.0.1", web.port, timeout=60)
    try:
        headers = {**request.headers(), "Content-Type": "application/json", "Host": request.host, **but}
        connection.request(request.method, request.path, request.body or None, headers)
        answer = connection.getresponse()
        return answer, json.loads(answer.read() or b"{}")
    finally:
        connection.close()


def forget(prefix: Any) -> None:
    """Delete the keys in Redis, as after a loss of its data."""
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        for key in client.scan_iter(f"{prefix}*"):
            client.delete(key)


def test_a_captured_request_is_refused_after_a_restart_by_other_processes_and_without_redis_data(
    serve: Callable[..., Serving], cast: dict[str, Any]
) -> None:
    first, second = serve(), serve()
    bot = Bot(key_of(cast, "lena", "master"))
    request = bot.request("POST", fields=opening("1"), window_ms=30_000, host="127.0.0.1:8000")
    assert post(first, request)[0].status == 201

    assert post(second, request)[1]["code"] == "seq_replayed"
    first.kill()
    first.start()
    assert post(first, request)[1]["code"] == "seq_replayed"
    forget(settings.REDIS_PREFIX)
    assert post(first, request)[1]["code"] == "seq_replayed"
    assert opened() == 1


# --- reads


def test_a_captured_read_is_refused(lena_bot: Bot) -> None:
    request = lena_bot.request("GET")
    assert request.send().status_code == 200

    assert refusal(request.send()) == REPLAYED


def test_a_captured_read_in_another_spelling_is_refused(lena_bot: Bot) -> None:
    request = lena_bot.request("GET")
    assert request.send().status_code == 200

    shouted = {"headers": {"X-Cd-Sig": f"v1={request.signature().upper()}"}}
    assert refusal(replace(request, but=shouted).send()) == REPLAYED
    tagged = {"headers": {"If-None-Match": '"x"'}}
    assert refusal(replace(request, but=tagged).send()) == REPLAYED


def test_a_captured_read_is_refused_after_the_next_write(lena_bot: Bot) -> None:
    captured = lena_bot.request("GET")
    lena_bot.send("POST", fields=opening("1"))

    assert refusal(captured.send()) == REPLAYED


def test_reads_may_share_a_number(lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))

    assert lena_bot.send("GET", seq=lena_bot.seq).status_code == 200
    assert lena_bot.send("GET", seq=lena_bot.seq, window_ms=5001).status_code == 200


def test_a_read_uses_up_no_number(lena_bot: Bot) -> None:
    assert lena_bot.send("GET", seq=lena_bot.seq + 1000).status_code == 200

    assert lena_bot.send("POST", fields=opening("1")).status_code == 201


# --- time


@pytest.mark.parametrize(
    ("late_ms", "window_ms"), [(6000, 5000), (31_000, 30_000), (1000, 1), (-1500, 5000), (-3_600_000, 30_000)]
)
def test_requests_outside_the_window_are_refused_with_the_servers_time(
    late_ms: int, window_ms: int, lena_bot: Bot
) -> None:
    request = lena_bot.request("POST", fields=opening("1"), time_ms=now_ms() - late_ms, window_ms=window_ms)

    answer = request.send()

    assert refusal(answer) == (401, "clock_outside_window")
    assert abs(answer.json()["server_time"] - now_ms()) < 2000
    assert answer.json()["retry"] == "same_key"
    assert audited("clock_outside_window") == 1
    assert opened() == 0


def test_a_refusal_of_the_clock_is_signed_for_a_bot_and_for_nobody_else(lena_bot: Bot) -> None:
    """So that a bot whose clock is off sets it by the desk's word alone."""
    wrong = {"time_ms": now_ms() - 3_600_000, "fields": opening("1")}
    genuine = lena_bot.request("POST", **wrong)
    forged = Bot({"key": lena_bot.key, "secret": "0" * 64}).request("POST", **wrong)

    answer = genuine.send()
    assert signing.answers(
        lena_bot.secret,
        request_signature=genuine.signature(),
        status=401,
        time_ms=answer["X-Cd-Response-Time"],
        body=answer.content,
        response_signature=answer["X-Cd-Response-Sig"],
    )
    assert "X-Cd-Response-Sig" not in forged.send()
    rows = AuditLog.objects.filter(code="clock_outside_window")
    assert {row.actor_kind for row in rows} == {"nobody"}  # anybody may have sent an old request again


@pytest.mark.parametrize("ahead_ms", [-86_400_000, 3_600_000])
def test_a_bot_whose_clock_is_off_sets_it_at_its_first_call(web: Serving, ahead_ms: int) -> None:
    lena = web.bot("lena", "master", wall_ms=lambda: now_ms() + ahead_ms)

    lena.open(**opening("1"))

    assert opened() == 1
    assert abs(lena.desk_ms() - now_ms()) < 2_000


def test_a_window_is_at_most_half_a_minute(lena_bot: Bot) -> None:
    assert refusal(lena_bot.send("POST", fields=opening("1"), window_ms=30_001)) == (400, "request_malformed")
    within = lena_bot.request("POST", fields=opening("1"), window_ms=30_000, time_ms=now_ms() - 25_000)
    assert within.send().status_code == 201


def test_a_late_request_does_not_reveal_whether_its_key_exists(lena_bot: Bot) -> None:
    """The time is checked before the key, so its refusal reveals nothing about keys."""
    late = {"time_ms": now_ms() - 60_000}
    unknown = Bot({"key": "ck_0123456789abcdef.1", "secret": "0" * 64})

    assert refusal(lena_bot.send("GET", **late)) == refusal(unknown.send("GET", **late))


# --- repeats


def test_a_repeat_gets_the_lost_response_byte_by_byte(lena_bot: Bot) -> None:
    effect = "open-000000000000001"
    first = lena_bot.send("POST", fields=opening("1"), effect=effect)

    again = lena_bot.send("POST", fields=opening("1"), effect=effect)

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first
    assert opened() == 1


def test_a_repeat_gets_the_lost_response_even_after_the_trade_changed(lena_bot: Bot) -> None:
    effect = "open-000000000000001"
    first = lena_bot.send("POST", fields=opening("1"), effect=effect)
    lena_bot.send("DELETE", f"{ACTIVE}/1", query="close_price=1.1&profit=5")

    again = lena_bot.send("POST", fields=opening("1"), effect=effect)

    assert (again.status_code, again.content) == (201, first.content)
    assert lena_bot.send("GET").json()["count"] == 0


def test_twenty_simultaneous_repeats_have_one_effect_and_one_response(lena_bot: Bot) -> None:
    from django.db import connections

    effect, answers, start = "open-000000000000001", [], threading.Barrier(20)
    requests = [lena_bot.request("POST", fields=opening("1"), effect=effect) for _ in range(20)]

    def send(request: Any) -> None:
        start.wait()
        answers.append(request.send())
        connections.close_all()

    threads = [threading.Thread(target=send, args=[request]) for request in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    done = [answer for answer in answers if answer.status_code == 201]
    assert {answer.content for answer in done} == {done[0].content}
    assert {refusal(answer) for answer in answers if answer.status_code != 201} <= {REPLAYED}
    assert opened() == 1


@pytest.mark.parametrize(
    "other",
    [
        {"fields": opening("1", volume="0.2")},
        {"fields": opening("2")},
        {"path": "/api/v2/actives"},
        {"method": "PATCH", "path": f"{ACTIVE}/1", "fields": {"sl": "1"}},
        {"method": "DELETE", "path": f"{ACTIVE}/1", "query": "close_price=1&profit=1", "fields": None},
    ],
)
def test_one_key_for_two_effects_is_a_conflict(other: dict[str, Any], lena_bot: Bot) -> None:
    effect = "open-000000000000001"
    lena_bot.send("POST", fields=opening("1"), effect=effect)

    conflict = lena_bot.send(**{"method": "POST", "fields": opening("1"), "effect": effect, **other})

    assert refusal(conflict) == (422, "idempotency_conflict")
    assert lena_bot.send("GET").json()["trades"][0]["seq"] == "1"


def test_a_refusal_is_repeated_even_when_the_request_would_now_succeed(lena_bot: Bot) -> None:
    effect = "move-000000000000001"
    first = lena_bot.send("PATCH", f"{ACTIVE}/1", {"sl": "1"}, effect=effect)
    assert refusal(first) == (404, "trade_unknown")
    lena_bot.send("POST", fields=opening("1"))

    again = lena_bot.send("PATCH", f"{ACTIVE}/1", {"sl": "1"}, effect=effect)

    assert refusal(again) == (404, "trade_unknown")
    assert again["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first


def test_a_zombie_is_refused_under_a_new_idempotency_key(lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("DELETE", f"{ACTIVE}/1", query="close_price=1.1&profit=5")

    for _ in range(2):
        assert refusal(lena_bot.send("POST", fields=opening("1"))) == (409, "trade_closed")
    assert AuditLog.objects.filter(action="zombie.refused").count() == 2


def test_two_keys_do_not_share_idempotency_keys(lena_bot: Bot, sam_bot: Bot) -> None:
    effect = "open-000000000000001"

    assert lena_bot.send("POST", fields=opening("1"), effect=effect).status_code == 201
    assert sam_bot.send("POST", fields=opening("7", symbol="XAUUSD"), effect=effect).status_code == 201
    assert opened() == 2


def test_generations_of_a_key_share_idempotency_keys_but_not_sequence_numbers(
    lena: TradingAccount, lena_bot: Bot
) -> None:
    """A request whose response was lost may be repeated with the new secret."""
    from accounts import services
    from accounts.models import BotKey
    from audit import services as audit

    effect = "open-000000000000001"
    first = lena_bot.send("POST", fields=opening("1"), effect=effect)
    rotated = committed(services.rotate_key, key=BotKey.objects.get(account=lena, kind="master"), actor=audit.SYSTEM)
    newer = Bot({"key": rotated.key, "secret": rotated.secret})

    again = newer.send("POST", fields=opening("1"), effect=effect, seq=1)
    other = newer.send("POST", fields=opening("1", volume="9"), effect=effect, seq=2)

    assert (again.status_code, again.content) == (201, first.content)
    assert again["Idempotency-Replayed"] == "true"
    assert refusal(other) == (422, "idempotency_conflict")
    assert opened() == 1


def test_a_request_signed_for_one_generation_does_not_verify_for_another(lena: TradingAccount, lena_bot: Bot) -> None:
    from accounts import services
    from accounts.models import BotKey
    from audit import services as audit

    rotated = committed(services.rotate_key, key=BotKey.objects.get(account=lena, kind="master"), actor=audit.SYSTEM)
    request = lena_bot.request("POST", fields=opening("1"))

    assert refusal(replace(request, but={"headers": {"X-Cd-Key": rotated.key}}).send()) == (401, "signature_invalid")


def test_each_operation_of_a_batch_has_its_own_idempotency_key(lena_bot: Bot) -> None:
    batch = {
        "operations": [
            {"idempotency_key": f"batch-0000000000-{ticket}", "action": "open", **opening(ticket)}
            for ticket in (1, 2, 2)
        ]
    }
    first = lena_bot.request("POST", f"{ACTIVE}/batch", batch)

    results = first.send().json()["results"]
    again = lena_bot.send("POST", f"{ACTIVE}/batch", batch).json()["results"]

    assert [(result["status"], result["replayed"]) for result in results] == [(201, False), (201, False), (201, True)]
    assert [(result["status"], result["replayed"]) for result in again] == [(201, True)] * 3
    assert [result["result"] for result in again] == [result["result"] for result in results]
    assert refusal(first.send()) == REPLAYED
    assert opened() == 2
