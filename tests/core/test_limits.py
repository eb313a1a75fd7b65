"""Rate limits: exact under many threads, shown in headers, and off where Redis cannot be reached."""

import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.test import Client as DjangoClient
from pytest_django import Settings
from structlog.testing import capture_logs

from accounts import services
from accounts.models import TradingAccount, User
from audit import sampling
from audit import services as audit
from audit.models import AuditLog
from core import limiting
from core.errors import DomainError
from core.limiting import RateLimited
from tests.signed import HOST, Bot, opening
from tests.transactions import committed
from trades import consumers

THREADS, EACH, LIMIT = 32, 4, 50


@pytest.fixture
def own_limiter() -> Iterator[None]:
    """Use a new limiter, and drop it after the test."""
    limiting._limiter.cache_clear()
    limiting._redis.cache_clear()
    yield
    limiting._limiter.cache_clear()
    limiting._redis.cache_clear()


@pytest.fixture
def no_redis(settings: Settings, own_limiter: None, tmp_path: Path) -> None:
    settings.LIMITS_STORAGE = f"redis+unix://{tmp_path}/nobody.sock"


def let_through(hit: Any) -> int:
    """Return how many of 128 attempts of 32 threads pass."""
    passed, start = [], threading.Barrier(THREADS)

    def run() -> None:
        start.wait()
        for _ in range(EACH):
            try:
                hit()
            except RateLimited:
                continue
            passed.append(1)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(passed)


@pytest.mark.parametrize("bucket", ["ip", "key", "account"])
def test_allows_exactly_the_limit_under_many_threads(bucket: str) -> None:
    name = uuid.uuid4().hex

    assert let_through(lambda: limiting.spend(bucket, name, LIMIT)) == LIMIT


def test_control_a_limiter_that_reads_and_then_writes_allows_more(settings: Settings) -> None:
    """Without one atomic step in Redis the same test fails."""
    name = f"{settings.REDIS_PREFIX}-control:{uuid.uuid4().hex}"
    client = redis.Redis.from_url(settings.REDIS_URL)

    def hit() -> None:
        count = int(client.get(name) or 0)
        time.sleep(0.001)
        if count >= LIMIT:
            raise RateLimited(retry_after_ms=1, limit=LIMIT)
        client.set(name, count + 1, px=60_000)

    try:
        assert let_through(hit) > LIMIT
    finally:
        client.delete(name)
        client.close()


def test_buckets_and_names_do_not_share_a_count() -> None:
    name = uuid.uuid4().hex
    for bucket, of in (("key", name), ("account", name), ("key", name + "2")):
        for _ in range(2):
            limiting.spend(bucket, of, 2)
        with pytest.raises(RateLimited):
            limiting.spend(bucket, of, 2)


def test_a_limit_of_zero_is_no_limit() -> None:
    name = uuid.uuid4().hex

    assert [limiting.spend("key", name, 0) for _ in range(100)] == [None] * 100


def test_returns_what_remains_of_the_limit() -> None:
    name = uuid.uuid4().hex

    rooms = [limiting.spend("key", name, 3) for _ in range(3)]

    assert [room.remaining for room in rooms] == [2, 1, 0]
    assert all(room.limit == 3 and 1 <= room.reset_s <= 120 for room in rooms)


def test_keys_in_redis_begin_with_the_desks_prefix(settings: Settings) -> None:
    name = uuid.uuid4().hex
    limiting.spend("key", name, 5)
    limiting.seen_before(name, for_ms=5000)

    with redis.Redis.from_url(settings.REDIS_URL) as client:
        keys = [key.decode() for key in client.scan_iter(f"*{name}*")]
    assert len(keys) == 2
    assert all(key.startswith(settings.REDIS_PREFIX) for key in keys)


# --- over the API


def limited_bot(account: Any, per_minute: Any, kind: str = "master") -> Bot:
    _, secret = committed(
        services.create_key, account=account, kind=kind, actor=audit.SYSTEM, rate_per_minute=per_minute
    )
    return Bot({"key": secret.key, "secret": secret.secret})


def test_a_key_has_its_own_limit_and_the_headers_show_it(lena: TradingAccount) -> None:
    bot = limited_bot(lena, 3)

    answers = [bot.send("GET") for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer["RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
    assert {answer["RateLimit-Limit"] for answer in answers} == {"3"}
    assert all(int(answer["RateLimit-Reset"]) > 0 for answer in answers)


def test_a_limited_response_says_when_to_repeat(lena: TradingAccount) -> None:
    bot = limited_bot(lena, 1)
    bot.send("POST", fields=opening("1"))

    refused = bot.send("POST", fields=opening("2"))

    problem = refused.json()
    assert (refused.status_code, problem["code"], problem["retry"]) == (429, "rate_limited", "after")
    assert int(refused["Retry-After"]) == -(-problem["retry_after_ms"] // 1000) > 0
    assert refused["Content-Type"] == "application/problem+json"
    assert "X-Cd-Response-Sig" in refused  # signed, so that a bot does not wait at an attacker's word
    assert AuditLog.objects.filter(action="trade.opened").count() == 1


def test_a_limited_request_uses_up_no_number(lena: TradingAccount) -> None:
    bot = limited_bot(lena, 1)
    bot.send("GET")
    request = bot.request("POST", fields=opening("1"))
    assert request.send().status_code == 429

    services.BotKey.objects.filter(key_id=bot.key.partition(".")[0]).update(rate_per_minute=None)
    from accounts import credentials

    credentials._look_up.cache_clear()

    assert request.send().status_code == 201


def test_the_generations_of_a_key_share_its_limit(lena: TradingAccount) -> None:
    bot = limited_bot(lena, 2)
    key = services.BotKey.objects.get(key_id=bot.key.partition(".")[0])
    rotated = committed(services.rotate_key, key=key, actor=audit.SYSTEM)
    newer = Bot({"key": rotated.key, "secret": rotated.secret})

    assert [bot.send("GET").status_code, newer.send("GET").status_code] == [200, 200]
    assert [bot.send("GET").status_code, newer.send("GET").status_code] == [429, 429]


def test_the_limited_keys_of_an_account_share_a_limit(
    lena: TradingAccount, sam: TradingAccount, settings: Settings
) -> None:
    settings.RATE_PER_ACCOUNT = 3
    first, second, stranger = limited_bot(lena, 100), limited_bot(lena, 100, "readonly"), limited_bot(sam, 100)

    answers = [bot.send("GET").status_code for bot in (first, second, first, second, first)]

    assert answers == [200, 200, 200, 429, 429]
    assert stranger.send("GET").status_code == 200


def test_keys_without_a_limit_are_not_limited_by_their_account(lena_bot: Bot, settings: Settings) -> None:
    settings.RATE_PER_ACCOUNT = 1

    answers = [lena_bot.send("GET") for _ in range(5)]

    assert Counter(answer.status_code for answer in answers) == {200: 5}
    assert "RateLimit-Limit" not in answers[0]


@pytest.fixture
def from_somewhere(settings: Settings) -> dict[str, Any]:
    """An unused caller's address behind a proxy, in an IPv6 /64 of its own."""
    settings.SECURE_PROXY_SSL_HEADER, settings.TRUSTED_PROXIES = ("HTTP_X_FORWARDED_PROTO", "https"), 1
    address = f"2001:db8:{uuid.uuid4().hex[:4]}:{uuid.uuid4().hex[:4]}::1"
    return {"headers": {"X-Forwarded-For": address, "X-Forwarded-Proto": "https"}}


def test_an_address_is_limited_before_signatures_are_checked(
    lena_bot: Bot, settings: Settings, from_somewhere: dict[str, Any]
) -> None:
    settings.RATE_PER_IP = 3
    forger = Bot({"key": lena_bot.key, "secret": "0" * 64})

    answers = [forger.send("GET", but=from_somewhere) for _ in range(6)]

    assert [answer.status_code for answer in answers] == [401, 401, 401, 429, 429, 429]
    assert AuditLog.objects.filter(action="request.refused").count() == 3
    assert lena_bot.send("GET", but=from_somewhere).status_code == 429
    neighbour = {"X-Forwarded-For": from_somewhere["headers"]["X-Forwarded-For"] + "234"}  # of the same customer
    assert lena_bot.send("GET", but={"headers": from_somewhere["headers"] | neighbour}).status_code == 429
    assert lena_bot.send("GET").status_code == 200


def test_malformed_requests_cannot_fill_the_audit_log(
    lena_bot: Bot, settings: Settings, from_somewhere: dict[str, Any]
) -> None:
    """Refusals are audit rows, which stay for ever, so malformed requests count against the address too."""
    settings.RATE_PER_IP = 3
    malformed = {"headers": {**from_somewhere["headers"], "X-Cd-Time": "now"}}

    answers = [lena_bot.send("POST", fields={}, but=malformed).status_code for _ in range(10)]

    assert Counter(answers) == {400: 3, 429: 7}
    assert AuditLog.objects.filter(action="request.refused").count() == 3


def test_requests_without_tls_cannot_fill_the_audit_log(
    lena_bot: Bot, settings: Settings, from_somewhere: dict[str, Any]
) -> None:
    settings.RATE_PER_IP = 3
    plain = {"headers": {**from_somewhere["headers"], "X-Forwarded-Proto": "http"}}

    answers = [lena_bot.send("GET", but=plain).status_code for _ in range(10)]

    assert Counter(answers) == {403: 3, 429: 7}


def test_without_redis_nothing_is_limited_and_a_warning_is_logged(
    no_redis: None, lena: TradingAccount, settings: Settings
) -> None:
    settings.RATE_PER_IP = 1
    bot = limited_bot(lena, 1)

    with capture_logs() as lines:
        answers = [bot.send("POST", fields=opening(ticket)) for ticket in (1, 2, 3)]
        reads = [bot.send("GET") for _ in range(3)]

    assert [answer.status_code for answer in answers + reads] == [201] * 3 + [200] * 3
    assert "RateLimit-Limit" not in answers[0]
    assert {"rate_limit.unavailable", "replay_mark.unavailable"} <= {line["event"] for line in lines}


def test_without_redis_a_repeated_write_is_still_refused(no_redis: None, lena_bot: Bot) -> None:
    request = lena_bot.request("POST", fields=opening("1"))

    assert [request.send().status_code for _ in range(3)] == [201, 409, 409]


# --- what callers without a key or session can write


def rows_of(code: str) -> int:
    return AuditLog.objects.filter(action="request.refused", code=code).count()


def test_a_request_for_a_foreign_host_is_counted_before_its_refusal_is_recorded(
    lena_bot: Bot, settings: Settings, from_somewhere: dict[str, Any]
) -> None:
    settings.RATE_PER_IP = 3

    answers = [lena_bot.send("GET", but={**from_somewhere, "host": "elsewhere.example"}).status_code for _ in range(9)]

    assert Counter(answers) == {400: 3, 429: 6}
    assert rows_of("request_malformed") == 3


def test_a_bots_request_at_a_persons_route_is_one_row(
    lena_bot: Bot, settings: Settings, from_somewhere: dict[str, Any]
) -> None:
    settings.RATE_PER_IP = 3
    malformed = {"headers": {**from_somewhere["headers"], "X-Cd-Time": "now"}}

    answers = [lena_bot.send("GET", "/api/v2/trades/history", but=malformed).status_code for _ in range(9)]

    assert Counter(answers) == {403: 3, 429: 6}
    assert AuditLog.objects.filter(action="request.refused").count() == rows_of("history_closed_to_bots") == 3


def test_a_verified_key_adds_a_bounded_number_of_rows(lena_bot: Bot) -> None:
    for _ in range(50):
        assert lena_bot.send("GET", "/api/v2/trades/history").status_code == 403

    assert rows_of("history_closed_to_bots") == sampling.of_the_verified.of_a_kind


HANDSHAKES: dict[str, dict[str, str]] = {
    "no session": {"Origin": "http://127.0.0.1:8000"},
    "a foreign page": {"Origin": "https://elsewhere.example"},
    "a foreign host": {"Host": "elsewhere.example"},
    "a foreign host, signed": {"Host": "elsewhere.example", "X-Cd-Key": "ck_0123456789abcdef.1"},
}


@pytest.mark.parametrize("headers", HANDSHAKES.values(), ids=HANDSHAKES)
def test_handshakes_of_strangers_cannot_fill_the_audit_log(
    headers: dict[str, str], desk_db: str, settings: Settings
) -> None:
    settings.RATE_PER_IP = settings.RATE_PER_VISITOR = 3
    network = f"2001:db8:{uuid.uuid4().hex[:4]}:{uuid.uuid4().hex[:4]}"

    def shake(number: int) -> str:
        scope: dict[str, Any] = {
            "path": "/ws/v2/active",
            "client": (f"{network}::{number}", 1),
            "headers": [(n.lower().encode(), v.encode()) for n, v in {"Host": "127.0.0.1:8000", **headers}.items()],
        }
        with pytest.raises(DomainError) as refused:
            consumers._watcher(scope, None)
        return refused.value.code

    codes = [shake(number) for number in range(1, 10)]

    assert codes[3:] == ["rate_limited"] * 6
    assert "rate_limited" not in codes[:3]
    assert AuditLog.objects.filter(action="request.refused").count() == 3


# --- the policy


def test_every_bucket_that_the_code_spends_stands_in_the_policy() -> None:
    """A bot key's rate is its own."""
    spends = re.compile(r"limiting\.(?:spend|is_spent)\(\s*\"([a-z-]+)\"")
    folders = ("accounts", "audit", "config", "core", "market", "portal", "strategies", "trades", "trust", "wallets")
    root = Path(limiting.__file__).parent.parent
    texts = (path.read_text() for folder in folders for path in (root / folder).rglob("*.py"))
    spent = {bucket for text in texts for bucket in spends.findall(text)}

    assert {"visitor", "ip", "sign-in"} <= spent
    assert spent - {"key"} <= set(limiting.RATES)


def test_every_rate_of_the_policy_that_has_a_setting_stands_in_the_example_of_the_environment() -> None:
    example = (Path(limiting.__file__).parent.parent / ".env.example").read_text()

    for rate in limiting.RATES.values():
        assert isinstance(rate.per_minute, int) or f"\n{rate.per_minute}=" in example, rate


@pytest.fixture
def person(cast: dict[str, Any], settings: Settings) -> DjangoClient:
    """Finn's browser; counts of other tests are not his."""
    settings.REDIS_PREFIX = f"limits-{uuid.uuid4().hex[:8]}"
    client = DjangoClient(headers={"Host": HOST})
    client.force_login(User.objects.get(username="finn"))
    return client


EXPORTS = ["/api/v2/trades/history.csv", "/api/v2/wallets/me/statement.csv?month=2026-11"]


@pytest.mark.parametrize("path", ["/api/v2/trades/history", "/api/v2/trust/me", *EXPORTS])
def test_a_persons_requests_are_limited_from_any_address(
    path: str, person: DjangoClient, settings: Settings, own_limiter: None
) -> None:
    settings.RATE_PER_PERSON = 3

    answers = [person.get(path, REMOTE_ADDR=f"198.51.100.{number}") for number in range(5)]

    assert [answer.status_code == 429 for answer in answers] == [False] * 3 + [True] * 2
    assert answers[3].json()["code"] == "rate_limited"
    assert int(answers[3]["Retry-After"]) > 0


@pytest.mark.parametrize("path", EXPORTS)
def test_exports_have_a_limit_of_their_own(
    path: str, person: DjangoClient, settings: Settings, own_limiter: None
) -> None:
    settings.RATE_OF_EXPORTS = 2

    assert [person.get(path).status_code == 429 for _ in range(4)] == [False, False, True, True]
    assert person.get("/api/v2/trades/history").status_code == 200


def test_exports_of_staff_are_limited_and_only_those_that_are_made_are_audited(
    person: DjangoClient, staff: User, settings: Settings, own_limiter: None
) -> None:
    settings.RATE_OF_EXPORTS = 2
    person.force_login(staff)

    answers = [person.get("/admin/trades/tradehistory/export.csv").status_code for _ in range(4)]

    assert answers == [200, 200, 429, 429]
    assert AuditLog.objects.filter(action="history.exported").count() == 2
