"""The errors of a call. One class for each way in which a bot should react; `code` gives the exact refusal."""

from collections.abc import Mapping
from typing import Any

_UNDECIDED = frozenset({"busy", "rate_limited", "clock_outside_window", "seq_replayed", "https_required"})


class DeskError(Exception):
    """The desk refused. `code` is stable, `problem` is the whole document.

    `after_silence`: an attempt of the same call got no answer that proves its outcome. See `may_have_happened`.
    `is_proven`: the desk signed the refusal. It cannot sign for a caller whom it does not know; such a refusal may be
    anybody's.
    """

    def __init__(
        self, status: int, problem: Mapping[str, Any], *, after_silence: bool = False, is_proven: bool = True
    ) -> None:
        super().__init__(f"{problem.get('code', 'unknown')}: {problem.get('detail', '')}")
        self.status, self.problem = status, dict(problem)
        self.after_silence, self.is_proven = after_silence, is_proven

    @property
    def code(self) -> str:
        return str(self.problem.get("code", ""))

    @property
    def retry(self) -> str:
        """What the bot may do next, according to the desk: never, new_seq, same_key, after, rotate or resync."""
        return str(self.problem.get("retry", "never"))

    @property
    def may_have_happened(self) -> bool:
        """Whether an attempt may have had its effect: the refusal is not proven, or concerns the caller alone."""
        concerns_caller = isinstance(self, KeyRefused | ScopeDenied) or self.code in _UNDECIDED
        return self.after_silence and (concerns_caller or not self.is_proven)


class KeyRefused(DeskError):
    """The desk refuses this key or this address. Further requests fail until the key's owner resolves it."""


class ScopeDenied(DeskError):
    """A key of this kind never has this right."""


class RateLimited(DeskError):
    """Too many requests, and the requested wait is longer than the call may take."""

    @property
    def retry_after_s(self) -> float:
        return float(self.problem.get("retry_after_ms", 0)) / 1000


class LeaseLost(DeskError):
    """A newer instance copies for this account: open no more trades. Closes continue until this instance stops."""


class TradeClosed(DeskError):
    """The trade is closed for ever. `problem["trade"]`, if present, says how."""


class TradeUnknown(DeskError):
    """The key's account has no such trade."""


class Different(DeskError):
    """An earlier report differs, and the first one stands. Find the mistake; do not send this one again."""


class OpensRefused(DeskError):
    """The strategy or the account's owner may open nothing now, or not this trade. Closes pass."""


class CurrencyDiffers(DeskError):
    """The desk has registered another currency for this account, and uses none of its amounts until they agree."""


class Invalid(DeskError):
    """The request has invalid fields. `fields`: the faults of each field."""

    @property
    def fields(self) -> dict[str, list[str]]:
        return dict(self.problem.get("fields") or {})


class Misused(DeskError):
    """A mistake in the client or in its use: fix the program."""


class ClockRefused(DeskError):
    """The request's time is outside the window even by the desk's clock; answers take too long, for example."""


class Transport(ConnectionError):
    """No certain answer: the effect may have happened, or may still happen.

    `idempotency_key` names the effect. Sent again under that key, it happens once.
    """

    def __init__(self, why: str, *, idempotency_key: str = "") -> None:
        super().__init__(why)
        self.idempotency_key = idempotency_key


class AnswerForged(Exception):
    """The answer to a signed request was not signed by the desk. Do not act on it.

    The outcome of a write is then unknown; `idempotency_key` names it, as with Transport.
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
    "too_many_sockets": RateLimited,
    "lease_lost": LeaseLost,
    "trade_closed": TradeClosed,
    "trade_closed_conflict": TradeClosed,
    "trade_unknown": TradeUnknown,
    "trade_exists_different": Different,
    "deal_exists_different": Different,
    "volume_increase": Different,
    "owner_inactive": OpensRefused,
    "strategy_close_only": OpensRefused,
    "strategy_missing": OpensRefused,
    "too_many_open": OpensRefused,
    "volume_above_limit": OpensRefused,
    "currency_differs": CurrencyDiffers,
    "stop_wrong_side": Invalid,
    "invalid": Invalid,
    "symbol_grammar": Invalid,
    "request_malformed": Misused,
    "body_too_large": Misused,
    "idempotency_conflict": Misused,
    "idempotency_key_missing": Misused,
    "clock_outside_window": ClockRefused,
}


def refusal(
    status: int, problem: Mapping[str, Any], *, after_silence: bool = False, is_proven: bool = True
) -> DeskError:
    """The error for a problem document; a plain DeskError if its code has no class of its own."""
    kind = KINDS.get(str(problem.get("code", "")), DeskError)
    return kind(status, problem, after_silence=after_silence, is_proven=is_proven)
