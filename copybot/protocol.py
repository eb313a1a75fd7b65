"""The protocol of one call, without a network: what to send next, and what an answer means.

A call is one effect. It is attempted until it has a certain answer. Each attempt has a new time and number and the
*same* Idempotency-Key, so the effect happens at most once, however many attempts arrive.
"""

import json
import random
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode, urlsplit

from copybot import signing
from copybot.errors import AnswerForged, DeskError, Transport, refusal

_BACKOFF_S, _LONGEST_BACKOFF_S = 0.1, 3.0
_MOST_FORGED = 3
_DAY_US = 86_400_000_000
_REPEATED = frozenset({"new_seq", "same_key", "after"})
# Refusals from before the desk knows the caller, so that it cannot sign them. The desk refuses so without an effect.
# Anybody on the way can write one as well, after an effect.
_UNSIGNED_REFUSALS = frozenset(
    {"request_malformed", "body_too_large", "https_required", "rate_limited", "clock_outside_window",
     "signature_invalid", "not_authenticated", "history_closed_to_bots"}
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """An HTTP answer. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The parsed body; numbers with a decimal point are Decimals."""
        return json.loads(self.body, parse_float=Decimal) if self.body else None

    def problem(self) -> dict[str, Any]:
        """The problem document, with the wait from Retry-After. A proxy's own 429 reads like the desk's."""
        after = self.headers.get("retry-after", "")
        defaults: dict[str, Any] = {"code": "rate_limited", "retry": "after"} if self.status == 429 else {}
        if after.isdecimal() and after.isascii() and len(after) < 7:
            defaults["retry_after_ms"] = int(after) * 1000
        if not self.headers.get("content-type", "").startswith("application/problem"):
            return defaults
        try:
            document = self.json()
        except ValueError:
            return defaults
        return defaults | document if isinstance(document, dict) else defaults


@dataclass(frozen=True, slots=True)
class Attempt:
    """One signed request, ready to be sent. `signature`: the request's own, which the answer's signature covers."""

    method: str
    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes
    signature: str = field(repr=False)
    sent_ms: int


@dataclass(frozen=True, slots=True)
class Repeat:
    """No certain answer yet: make another attempt in `after_s` seconds."""

    after_s: float


def encoded(fields: Any) -> bytes:
    """JSON with Decimals as text. Raises TypeError for a float, which cannot hold a price exactly."""
    if isinstance(fields, Mapping):
        floats = [name for name, value in fields.items() if isinstance(value, float)]
        if floats:
            raise TypeError(f"{floats[0]} is a float: use a Decimal or text")
    return json.dumps(fields, default=_text, allow_nan=False).encode()


def _text(value: Any) -> str:
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def query_of(values: Mapping[str, Any] | None) -> str:
    given = {name: value for name, value in (values or {}).items() if value is not None}
    return urlencode({name: value if isinstance(value, str) else _text(value) for name, value in given.items()})


@dataclass
class Line:
    """The state of one key's connection: its sequence number, and the desk's clock as learned from signed answers.

    `wall_ms`, `monotonic_s`: this machine's clocks. `jitter`: a random number from 0 to 1. Tests replace all three.
    """

    url: str
    key: str
    secret: str = field(repr=False)
    window_ms: int = 5000
    timeout_s: float = 10
    attempts: int = 6
    patience_s: float = 60
    seq: int = field(default_factory=lambda: time.time_ns() // 1000)
    clock_offset_ms: int = 0
    wall_ms: Callable[[], int] = field(default=lambda: time.time_ns() // 1_000_000, repr=False, kw_only=True)
    monotonic_s: Callable[[], float] = field(default=time.monotonic, repr=False, kw_only=True)
    jitter: Callable[[], float] = field(default=random.random, repr=False, kw_only=True)
    etag: str = field(default="", init=False)
    _is_set: bool = field(default=False, init=False, repr=False)

    def desk_ms(self) -> int:
        """The desk's time now, in ms since 1970, as learned from signed answers."""
        return self.wall_ms() + self.clock_offset_ms

    @property
    def origin(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{self.host}"

    @property
    def host(self) -> str:
        """The host as sent in Host and signed: lower case, without the scheme's default port."""
        parts = urlsplit(self.url)
        default_port = ":443" if parts.scheme == "https" else ":80"
        return parts.netloc.rpartition("@")[2].lower().removesuffix(default_port)

    def headers(self, method: str, path: str, query: str = "", body: bytes = b"", effect: str = "") -> dict[str, str]:
        """The signed headers of one request, with the next sequence number."""
        self.seq += 1
        time_ms = self.desk_ms()
        signature = signing.sign(
            self.secret, method=method, host=self.host.removesuffix(":443"), path=path, query=query, key=self.key,
            time_ms=time_ms, window_ms=self.window_ms, seq=self.seq, idempotency_key=effect, body=body,
        )  # fmt: skip
        headers = {
            "X-Cd-Key": self.key,
            "X-Cd-Time": str(time_ms),
            "X-Cd-Window": str(self.window_ms),
            "X-Cd-Seq": str(self.seq),
            "X-Cd-Sig": f"v1={signature}",
        }
        if effect:
            headers["Idempotency-Key"] = effect
        if body:
            headers["Content-Type"] = "application/json"
        return headers

    def attempt(self, method: str, path: str, query: str, body: bytes, effect: str, etag: str = "") -> Attempt:
        """Sign the next attempt at this request."""
        headers = self.headers(method, path, query, body, effect)
        signature = headers["X-Cd-Sig"]
        if etag:
            headers["If-None-Match"] = etag
        url = f"{self.origin}{path}" + (f"?{query}" if query else "")
        return Attempt(method, url, headers, body, signature, self.wall_ms())

    def _is_genuine(self, answer: Answer, attempt: Attempt, header: str = "x-cd-response-sig", etag: str = "") -> bool:
        return signing.answers(
            self.secret,
            request_signature=attempt.signature.removeprefix("v1="),
            status=answer.status,
            time_ms=answer.headers.get("x-cd-response-time", ""),
            body=answer.body,
            response_signature=answer.headers.get(header, ""),
            etag=etag,
        )

    def is_proven(self, answer: Answer, attempt: Attempt) -> bool:
        """Whether the desk signed this answer to this request. If so, the clock is set by it."""
        if not self._is_genuine(answer, attempt):
            return False
        self._learn_clock(int(answer.headers["x-cd-response-time"]), attempt.sent_ms)
        return True

    def etag_of(self, answer: Answer, attempt: Attempt) -> str:
        """The answer's ETag if the desk signed it, else no text: the next read is then unconditional."""
        etag = answer.headers.get("etag", "")
        is_signed = etag.isascii() and self._is_genuine(answer, attempt, "x-cd-response-etag-sig", etag)
        return etag if is_signed else ""

    def check(self, answer: Answer, attempt: Attempt) -> bool:
        """Return whether the desk signed this answer to this request. Raise AnswerForged if it had to and did not.

        An unsigned 5xx passes: it means no more than no answer. A 304 counts for the ETag that was sent only: on the
        way, somebody may have made the request conditional, or asked about another ETag.
        """
        if self.is_proven(answer, attempt):
            asked = attempt.headers.get("If-None-Match", "")
            if answer.status != 304 or (asked and self.etag_of(answer, attempt) == asked):
                return True
        elif "x-cd-response-sig" not in answer.headers and _may_be_unsigned(answer):
            return False
        raise AnswerForged(
            f"the answer {answer.status} to {attempt.method} {attempt.url} does not have the desk's signature",
            idempotency_key=attempt.headers.get("Idempotency-Key", ""),
        )

    def _learn_clock(self, desk_ms: int, sent_ms: int) -> None:
        """Learn the clock offset. The desk answered at some moment between sending and now, which bounds the offset.

        The first answer sets it to the middle. Later answers only correct it where they rule it out.
        """
        now = self.wall_ms()
        least, most = desk_ms - now, desk_ms - sent_ms
        if self._is_set:
            self.clock_offset_ms = max(least, min(most, self.clock_offset_ms))
        else:
            self.clock_offset_ms, self._is_set = desk_ms - (sent_ms + now) // 2, True

    def learn_from(self, problem: Mapping[str, Any], *, is_proven: bool = True) -> None:
        """Take from a refusal the number that the next attempt needs. A number that the desk did not sign counts if it
        is one that a clock gives: a forger must not use up all numbers.

        Nothing is learned of the time: signed answers alone move the clock, refusals of the clock among them. By an
        unsigned time, a forger could make old signals look young, or have a request signed for another day.
        """
        if problem.get("code") == "seq_replayed":
            last_seq = _number(problem.get("last_seq"))
            if is_proven or last_seq < self.wall_ms() * 1000 + _DAY_US:
                self.seq = max(self.seq, last_seq)


@dataclass
class Call:
    """One effect, and the attempts made at it so far."""

    line: Line
    method: str
    path: str
    query: str = ""
    body: bytes = b""
    effect: str = ""
    etag: str = ""
    tried: int = field(default=0, init=False)
    silent: bool = field(default=False, init=False)
    _forged: int = field(default=0, init=False)
    _unproven: int = field(default=0, init=False)
    _sent: Attempt | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.method != "GET" and not self.effect:
            self.effect = f"{self.method.lower()}-{secrets.token_hex(12)}"
        self._until_s = self.line.monotonic_s() + self.line.patience_s

    def next(self) -> Attempt:
        self.tried += 1
        self._sent = self.line.attempt(self.method, self.path, self.query, self.body, self.effect, self.etag)
        return self._sent

    def failed(self, fault: BaseException) -> Repeat:
        """Note that no answer came. Raises Transport after the last attempt."""
        self.silent = True
        return self._again(0, Transport(f"no answer to {self.method} {self.path}: {fault or type(fault).__name__}"))

    def judge(self, answer: Answer) -> Answer | Repeat:
        """The final answer, or when to try again. Raises DeskError, AnswerForged or Transport."""
        assert self._sent is not None
        try:
            is_proven = self.line.check(answer, self._sent)
        except AnswerForged as forged:
            self._forged, self.silent = self._forged + 1, True
            if self._forged >= _MOST_FORGED:
                raise
            return self._again(0, forged)
        if answer.status < 400:
            self.line.etag = self.line.etag_of(answer, self._sent) if self.method == "GET" else self.line.etag
            return answer
        problem = answer.problem()
        if answer.status >= 500:
            self.silent = True
            why = f"the desk answered {self.method} {self.path} with {answer.status} {problem.get('code', '')}".rstrip()
            return self._again(_wait_s(problem), Transport(why))
        if not is_proven and self.effect:
            self._unproven, self.silent = self._unproven + 1, True
        refused = refusal(answer.status, problem, after_silence=self.silent, is_proven=is_proven)
        if refused.retry not in _REPEATED and not 0 < self._unproven < _MOST_FORGED:
            raise refused
        self.line.learn_from(problem)
        return self._again(_wait_s(problem), refused)

    def _again(self, least_s: float, otherwise: Exception) -> Repeat:
        """Wait at least `least_s` and a random backoff. Raises `otherwise` if no attempt or no time is left.

        A temporary refusal says nothing about an earlier attempt without an answer; then the outcome is unknown.
        """
        spread_s = min(_LONGEST_BACKOFF_S, _BACKOFF_S * 2 ** min(self.tried, 10)) * self.line.jitter()
        wait_s = least_s + spread_s
        if self.tried < self.line.attempts and self.line.monotonic_s() + wait_s <= self._until_s:
            return Repeat(wait_s)
        if isinstance(otherwise, DeskError) and not (otherwise.is_proven and self.silent and self.effect):
            raise otherwise
        if isinstance(otherwise, Transport | AnswerForged):
            otherwise.idempotency_key = self.effect
            raise otherwise
        raise Transport(
            f"no certain answer to {self.method} {self.path}: {otherwise}", idempotency_key=self.effect
        ) from otherwise


def _may_be_unsigned(answer: Answer) -> bool:
    return answer.status >= 500 or answer.problem().get("code") in _UNSIGNED_REFUSALS


def _wait_s(problem: Mapping[str, Any]) -> float:
    return _number(problem.get("retry_after_ms")) / 1000


def _number(value: Any) -> int:
    """A whole number of at most 18 digits; zero for anything else."""
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else 0
