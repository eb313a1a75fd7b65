"""Rate limits, counted in Redis by a sliding window, so that all processes count together."""

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
    detail = "Too many requests. Wait as long as Retry-After says."


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a limit."""

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


def spend(bucket: str, name: str, per_minute: int) -> Allowance | None:
    """Count one request of `name` in `bucket`; raise RateLimited where its minute is used up.

    With Redis away nobody is limited (None): a close must pass, and what guards the desk is the signature.
    """
    if not per_minute:
        return None
    item = RateLimitItemPerMinute(per_minute, namespace=f"limit:{bucket}")
    try:
        allowed = _limiter().hit(item, name)
        if allowed and bucket == "ip":
            return None
        window = _limiter().get_window_stats(item, name)
    except Exception as fault:  # whatever the storage raises: see above
        log.warning("rate_limit.unavailable", fault=type(fault).__name__)
        return None
    reset_s = max(1, round(window.reset_time - time.time()))
    if not allowed:
        raise RateLimited(retry_after_ms=reset_s * 1000, limit=per_minute)
    return Allowance(per_minute, window.remaining, reset_s)


@functools.cache
def _redis() -> "storage.RedisStorage":
    return _limiter().storage


def seen_before(name: str, *, for_ms: int) -> bool:
    """Mark `name` as seen; whether it was already. Best effort: with Redis away nothing was ever seen."""
    try:
        return not _redis().storage.set(f"{settings.REDIS_PREFIX}-seen:{name}", b"", nx=True, px=for_ms)
    except Exception as fault:
        log.warning("replay_mark.unavailable", fault=type(fault).__name__)
        return False
