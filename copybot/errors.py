"""What may come back instead of an answer. A class for each thing that a bot does about it; `code` tells the rest."""

from collections.abc import Mapping
from typing import Any

_UNDECIDED = frozenset({"busy", "rate_limited", "clock_outside_window", "seq_replayed", "https_required"})


class DeskError(Exception):
    """The desk refused. `code` is stable, `problem` the whole document.

    `after_silence`: an earlier attempt of the same call got no answer. See `may_have_happened`.
    """

    def __init__(self, status: int, problem: Mapping[str, Any], *, after_silence: bool = False) -> None:
        super().__init__(f"{problem.get('code', 'unknown')}: {problem.get('detail', '')}")
        self.status, self.problem, self.after_silence = status, dict(problem), after_silence

    @property
    def code(self) -> str:
        return str(self.problem.get("code", ""))

    @property
    def retry(self) -> str:
        """What the desk says may be done next: never, new_seq, same_key, after, rotate or resync."""
        return str(self.problem.get("retry", "never"))

    @property
    def may_have_happened(self) -> bool:
        """Whether an earlier attempt may have had its effect: this refusal is of the caller, not of the effect."""
        return self.after_silence and (isinstance(self, KeyRefused | ScopeDenied) or self.code in _UNDECIDED)


class KeyRefused(DeskError):
    """This key, or this address, is not let in. No later request fares better until its owner has seen to it."""


class ScopeDenied(DeskError):
    """A key of this kind may not do that, and never will."""


class RateLimited(DeskError):
    """Too many requests, and the wait asked for is longer than the call may take."""

    @property
    def retry_after_s(self) -> float:
        return float(self.problem.get("retry_after_ms", 0)) / 1000


class LeaseLost(DeskError):
    """A newer instance follows for this account: open nothing more. Closes go on until this one is stopped."""


class TradeClosed(DeskError):
    """The trade is closed, for ever. `problem["trade"]`, where it is there, says how."""


class TradeUnknown(DeskError):
    """The key's account has no such trade."""


class Different(DeskError):
    """The desk was told otherwise before, and the first word stands. Look for the mistake; do not send it again."""


class OpensRefused(DeskError):
    """The strategy opens nothing now. Closes pass."""


class Invalid(DeskError):
    """The request can be read, but not what it says. `fields`: each field with its faults."""

    @property
    def fields(self) -> dict[str, list[str]]:
        return dict(self.problem.get("fields") or {})


class Misused(DeskError):
    """A mistake in how the client is used or in the client itself: mend the program."""


class ClockRefused(DeskError):
    """The clock is still outside the window after it was set by the desk's: the answers take too long, say."""


class Transport(ConnectionError):
    """No certain answer. The effect may have happened, or may yet.

    `idempotency_key` names it: sent again under that key, it happens once.
    """

    def __init__(self, why: str, *, idempotency_key: str = "") -> None:
        super().__init__(why)
        self.idempotency_key = idempotency_key


class AnswerForged(Exception):
    """The answer to a signed request was not signed by the desk. It must not be acted on.

    Of a write nobody knows then whether it happened: `idempotency_key` names it, as with Transport.
    """

    def __init__(self, why: str, *, idempotency_key: str = "") -> None:
        super().__init__(why)
        self.idempotency_key = idempotency_key


KINDS: dict[str, type[DeskError]] = {
    "key_revoked": KeyRefused,
    "key_expired": KeyRefused,
    "key_generation_retired": KeyRefused,
    "signature_invalid": KeyRefused,
    "ip_denied": KeyRefused,
    "https_required": KeyRefused,
    "scope_denied": ScopeDenied,
    "history_closed_to_bots": ScopeDenied,
    "rate_limited": RateLimited,
    "lease_lost": LeaseLost,
    "trade_closed": TradeClosed,
    "trade_closed_conflict": TradeClosed,
    "trade_unknown": TradeUnknown,
    "trade_exists_different": Different,
    "deal_exists_different": Different,
    "volume_increase": Different,
    "strategy_close_only": OpensRefused,
    "strategy_missing": OpensRefused,
    "invalid": Invalid,
    "symbol_grammar": Invalid,
    "request_malformed": Misused,
    "body_too_large": Misused,
    "idempotency_conflict": Misused,
    "idempotency_key_missing": Misused,
    "clock_outside_window": ClockRefused,
}


def refusal(status: int, problem: Mapping[str, Any], *, after_silence: bool = False) -> DeskError:
    """The error of this problem document; a plain DeskError where its code needs no class of its own."""
    kind = KINDS.get(str(problem.get("code", "")), DeskError)
    return kind(status, problem, after_silence=after_silence)
