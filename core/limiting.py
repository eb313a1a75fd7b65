"""Rate limits: sliding windows in Redis, which all processes share. RATES is the policy."""

import functools
import time
from dataclasses import dataclass

import structlog
from django.conf import settings
from limits import RateLimitItemPerMinute, storage, strategies

from core.errors import DomainError

log = structlog.get_logger()


class RateLimited(DomainError):
    code = "rate_limited"
    status = 429
    retry = "after"
    detail = "Too many requests. Wait for the seconds of Retry-After."


@dataclass(frozen=True, slots=True)
class Rate:
    """`of`: whose requests are counted together. `per_minute`: how many they may be, or the setting that says so."""

    of: str
    per_minute: int | str


# Each bucket of the limiter. (A bot key has a rate of its own, which staff set.) An address is an IPv4 address or an
# IPv6 /64. A setting of 0 is no limit.
RATES = {
    "ip": Rate("signed requests of an address, before any cryptography", "RATE_PER_IP"),
    "account": Rate("signed requests of a trading account's rate-limited keys", "RATE_PER_ACCOUNT"),
    "visitor": Rate("pages, people's API and handshakes of an address", "RATE_PER_VISITOR"),
    "person": Rate("requests of a person to the API, from any address", "RATE_PER_PERSON"),
    "export": Rate("exports of a person", "RATE_OF_EXPORTS"),
    "sign-in": Rate("failed sign-ins of an address; a household with a forgotten password needs fewer", 10),
    "reset": Rate("links for a new password that an address asks for", 10),
}


def per_minute(bucket: str) -> int:
    """Return the policy's limit of this bucket."""
    rate = RATES[bucket].per_minute
    return int(getattr(settings, rate)) if isinstance(rate, str) else rate


@dataclass(frozen=True, slots=True)
class Allowance:
    """What remains of a rate limit."""

    limit: int
    remaining: int
    reset_s: int

    def headers(self) -> dict[str, str]:
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_s),
        }


@functools.cache
def _limiter() -> strategies.SlidingWindowCounterRateLimiter:
    return strategies.SlidingWindowCounterRateLimiter(
        storage.storage_from_string(
            settings.LIMITS_STORAGE, key_prefix=settings.REDIS_PREFIX, socket_timeout=1.0, socket_connect_timeout=1.0
        )
    )


def spend(bucket: str, name: str, limit: int | None = None) -> Allowance | None:
    """Count one request of `name` in `bucket`; raise RateLimited where the minute's limit is used up.

    `limit`: one of its own, instead of the policy's. Where Redis cannot be reached, nobody is limited (None): closes
    must pass, and signatures still guard the desk.
    """
    limit = per_minute(bucket) if limit is None else limit
    if not limit:
        return None
    item = RateLimitItemPerMinute(limit, namespace=f"limit:{bucket}")
    try:
        allowed = _limiter().hit(item, name)
        if allowed and bucket == "ip":
            return None
        window = _limiter().get_window_stats(item, name)
    except Exception as fault:  # of any class that the storage raises
        log.warning("rate_limit.unavailable", fault=type(fault).__name__)
        return None
    reset_s = max(1, round(window.reset_time - time.time()))
    if not allowed:
        raise RateLimited(retry_after_ms=reset_s * 1000, limit=limit)
    return Allowance(limit, window.remaining, reset_s)


def is_spent(bucket: str, name: str, limit: int) -> bool:
    """Whether the next `spend` would be refused. It counts nothing. Without Redis the answer is no."""
    try:
        return not _limiter().test(RateLimitItemPerMinute(limit, namespace=f"limit:{bucket}"), name)
    except Exception as fault:
        log.warning("rate_limit.unavailable", fault=type(fault).__name__)
        return False


@functools.cache
def _redis() -> "storage.RedisStorage":
    return _limiter().storage


def seen_before(name: str, *, for_ms: int) -> bool:
    """Record `name`, and say whether it was recorded before. Without Redis the answer is always no."""
    try:
        return not _redis().storage.set(f"{settings.REDIS_PREFIX}-seen:{name}", b"", nx=True, px=for_ms)
    except Exception as fault:
        log.warning("replay_mark.unavailable", fault=type(fault).__name__)
        return False
