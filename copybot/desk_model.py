"""A model of the desk for simulations, and an unreliable connection to it.

It keeps the desk's promises: one identity per ticket, closed for ever; numbers without gaps; snapshots of one instant;
effects stored under their idempotency keys; a lease. It reads no clock.
"""

import hashlib
import hmac
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from copybot import packets
from copybot.errors import DeskError, refusal

STRATEGY, MASTER, COPIER = "lena-eurusd", "master", "copier"
OWN_STRATEGY, LEADER = "finn-eurusd", "leader"  # what the copier's account publishes, with a key of its own
SECRET = "00112233445566778899aabbccddeeff" * 2
SUB_ID = "s-1"
_ACTIVE = "/api/v2/trades/active"


def packet(
    seq: int, at_ms: int, action: str, ref: str, fields: Mapping[str, str], *, secret: str = SECRET,
    generation: str = "1",
) -> dict[str, str]:  # fmt: skip
    """A packet signed as the protocol's page says. `fields`: symbol, type, volume, price, sl and tp as text."""
    values = {"sub_id": SUB_ID, "seq": str(seq), "timestamp": str(at_ms), **fields}
    text = [values[name] for name in packets.FIELDS]
    payload = "|".join([*text, "CP1", action, ref, generation])
    return {
        **dict(zip(packets.FIELDS, text, strict=True)),
        "action": action,
        "trade_ref": ref,
        "gen": generation,
        "signature_v1": hmac.digest(packets.derived_key(secret), payload.encode(), "sha256").hex(),
    }


@dataclass(slots=True)
class DeskState:
    """The desk's database. A copy of it serves as a backup."""

    seq: int = 0
    born: int = 0
    events: int = 0
    rows: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    closed: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    answers: dict[str, tuple[str, dict[str, Any] | DeskError]] = field(default_factory=dict)
    skips: dict[str, str] = field(default_factory=dict)
    gone: dict[str, str] = field(default_factory=dict)
    takeover_number: int = 0
    instance: str = ""
    leased_until: int = 0
    may_open_at: int = 0

    def copy(self) -> "DeskState":
        return replace(
            self, rows=dict(self.rows), closed=dict(self.closed), refs=dict(self.refs), answers=dict(self.answers),
            skips=dict(self.skips), gone=dict(self.gone),
        )  # fmt: skip


_STATUS = {"trade_unknown": 404, "invalid": 422}


def _refusal(code: str) -> DeskError:
    return refusal(_STATUS.get(code, 409), {"code": code, "retry": "never"})


@dataclass
class DeskModel:
    """One strategy, its provider's account and one copier's account, which may lead a strategy of its own.

    `unsized`: each trade of this number cannot be sized for the copier; 0 for none. `lost`: the number of requests that
    got no answer. `executed`: the trades that the copier reported as copied.
    """

    now: Callable[[], int]
    lease_ms: int = 5_000
    epoch: str = "1"
    paused_for: str = ""
    down_until: int = 0
    terms: dict[str, Any] = field(default_factory=dict)
    closes_all: bool = False
    unsized: int = 0
    state: DeskState = field(default_factory=DeskState)
    sent: list[dict[str, Any]] = field(default_factory=list)
    closes: dict[str, int] = field(default_factory=dict)
    opened: Counter[str] = field(default_factory=Counter)
    refs: set[str] = field(default_factory=set)
    alarms: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    executed: set[str] = field(default_factory=set)
    lost: int = 0

    # --- requests

    def active(self, account: str) -> dict[str, Any]:
        trades = [
            row | {"copy": self._target(row)} if owner == MASTER != account else row
            for (owner, _), row in self.state.rows.items()
            if owner == MASTER or account != MASTER
        ]
        as_of = {STRATEGY: str(self.state.seq)}
        if any(row["strategy"] == OWN_STRATEGY for row in trades):
            as_of[OWN_STRATEGY] = str(self.state.events)
        return {"stream_epoch": self.epoch, "as_of": as_of, "count": len(trades), "trades": trades}

    def send(self, account: str, method: str, path: str, fields: Mapping[str, Any], key: str) -> dict[str, Any]:
        """One signed request. A key's effect happens once; repeats get the stored answer for ever, refusals too."""
        fingerprint = f"{account} {method} {path} {sorted(fields.items()) if 'instance' not in fields else ''}"
        if key in self.state.answers:
            stored, answer = self.state.answers[key]
            if stored != fingerprint:
                raise _refusal("idempotency_conflict")
        else:
            try:
                answer = self._do(account, method, path, fields)
            except DeskError as refused:
                answer = refused
            self.state.answers[key] = fingerprint, answer
        if isinstance(answer, DeskError):
            raise answer
        return answer

    def _do(self, account: str, method: str, path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        rest = path.removeprefix(_ACTIVE).strip("/").split("/")
        match method, path.startswith(_ACTIVE), rest:
            case "POST", True, [""]:
                return self._open(account, fields)
            case "PATCH", True, [ticket]:
                return self._modify(account, ticket, fields)
            case "POST", True, [ticket, "reduce"]:
                return self._reduce(account, ticket, fields)
            case "DELETE", True, [ticket]:
                return self._close(account, ticket, fields)
        if path.endswith("/beat"):
            return self._heartbeat(fields)
        if path.endswith("/skips"):
            return self._skip(fields)
        if path.endswith("/alarms"):
            self.alarms[account] = list(fields["alarms"])
            return {"status": "told"}
        if path.endswith("/account"):
            return {"status": "told", "currency": fields.get("currency", ""), "symbols": []}
        assert path.endswith("/orders"), path
        if fields["trade_ref"] not in self.state.refs:
            raise _refusal("trade_unknown")
        if fields["status"] == "executed":
            self.executed.add(fields["trade_ref"])
        return {"status": "reported"}

    # --- the verbs

    def _open(self, account: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        identity, state = (account, fields["ticket_id"]), self.state
        if identity in state.closed:
            raise _refusal("trade_closed")
        if identity in state.rows:
            if state.rows[identity]["open_price"] != fields["open_price"]:
                raise _refusal("trade_exists_different")
            return {"trade": state.rows[identity]}
        copies = fields.get("trade_ref")
        if copies is not None and copies not in state.refs:
            raise _refusal("trade_unknown")
        state.born += 1
        self.opened[f"{account} {identity[1]}"] += 1
        row = {
            "trade_id": self._new_ref(), "role": "copy" if copies else "master",
            "strategy": STRATEGY if copies or account == MASTER else OWN_STRATEGY,
            "ticket_id": identity[1], "symbol": fields["symbol"], "type": fields["type"], "volume": fields["volume"],
            "open_price": fields["open_price"], "sl": fields.get("sl"), "tp": fields.get("tp"), "copies": copies,
            "opened_volume": fields["volume"], "seq": "0", "status": "OPEN", "copy": None,
        }  # fmt: skip
        state.refs[row["trade_id"]] = identity[1]
        self.refs.add(row["trade_id"])
        return {"trade": self._put(identity, row, "opened")}

    def _modify(self, account: str, ticket: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        row = self._row(account, ticket)
        stops = {name: fields[name] for name in ("sl", "tp") if name in fields}
        return {"trade": self._put((account, ticket), row | stops, "modified")}

    def _reduce(self, account: str, ticket: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        row = self._row(account, ticket)
        if Decimal(fields["volume"]) > Decimal(row["volume"]):
            raise _refusal("volume_increase")
        return {"trade": self._put((account, ticket), row | {"volume": fields["volume"]}, "reduced")}

    def _close(self, account: str, ticket: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        identity, close = (account, ticket), (fields["close_price"], fields["reason"])
        if identity in self.state.closed:
            if self.state.closed[identity] != close:
                raise _refusal("trade_closed_conflict")
            return {"status": "CLOSED"}
        row = self.state.rows.pop(identity, None)
        self.state.closed[identity] = close
        if row is not None and row["copies"]:
            self.state.gone[row["copies"]] = identity[1]
        if row is not None and account == MASTER:
            self.state.seq += 1
            self.closes[row["trade_id"]] = self.state.seq
            self._publish("closed", row | {"seq": str(self.state.seq)})
        return {"status": "CLOSED"}

    def _row(self, account: str, ticket: str) -> dict[str, Any]:
        if (account, ticket) in self.state.closed:
            raise _refusal("trade_closed")
        if (account, ticket) not in self.state.rows:
            raise _refusal("trade_unknown")
        return self.state.rows[account, ticket]

    def _put(self, identity: tuple[str, str], row: dict[str, Any], event: str) -> dict[str, Any]:
        self.state.events += 1
        if identity[0] == MASTER:
            self.state.seq += 1
            row = row | {"seq": str(self.state.seq)}
            self.state.rows[identity] = row
            self._publish(event, row)
        else:
            self.state.rows[identity] = row = row | {"seq": str(self.state.events)}
        return row

    def _new_ref(self) -> str:
        at, number = f"{self.now():012x}", self.state.born
        return f"{at[:8]}-{at[8:]}-7{number % 4096:03x}-8{int(self.epoch):03x}-{number:012x}"

    # --- targets of copies

    def _target(self, row: Mapping[str, Any]) -> dict[str, Any]:
        why_not = "drawdown" if self.closes_all else self.paused_for or self._unsizable(row)
        return {
            "symbol": row["symbol"], "type": row["type"], "sl": row["sl"], "tp": row["tp"], "opens": not why_not,
            "why_not": why_not, "volume": "0.00000000" if self.closes_all else _half(row["volume"]),
        }  # fmt: skip

    def _unsizable(self, row: Mapping[str, Any]) -> str:
        """Why a trade has no volume for the copier: its account's currency has no rate, say."""
        is_sized = not self.unsized or int(row["trade_id"][-12:], 16) % self.unsized
        return "" if is_sized else "not_sizable"

    def _publish(self, event: str, row: Mapping[str, Any]) -> None:
        action = {"opened": "OPEN", "modified": "MODIFY", "reduced": "REDUCE", "closed": "CLOSE"}[event]
        seq, ref = self.state.seq, row["trade_id"]
        if action == "OPEN" and (self.paused_for or self._unsizable(row)):
            fields = {"symbol": "-", "type": "-", "volume": "0.00000000", "price": "0.00000000", "sl": "", "tp": ""}
            action, ref = "GAPFILL", str(seq + 1)
        else:
            closing = action == "CLOSE"
            fields = {
                "symbol": row["symbol"], "type": row["type"], "price": row["open_price"],
                "volume": "0.00000000" if closing else _half(row["volume"]),
                "sl": "" if closing else row["sl"] or "", "tp": "" if closing else row["tp"] or "",
            }  # fmt: skip
        self.sent.append(
            {
                "type": f"trade.{event}",
                "strategy": STRATEGY,
                "seq": str(seq),
                "packet": packet(seq, self.now(), action, ref, fields),
            }
        )

    # --- the copier's lease

    def _heartbeat(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        now, state = self.now(), self.state
        if fields["fence"] is None:
            if fields["instance"] != state.instance:
                state.may_open_at = max(now, state.leased_until)
            state.takeover_number, state.instance = state.takeover_number + 1, fields["instance"]
        elif (fields["instance"], fields["fence"]) != (state.instance, str(state.takeover_number)):
            raise _refusal("lease_lost")
        state.leased_until = now if fields["ends"] else now + self.lease_ms
        (report,) = fields["subscriptions"]
        return {
            "fence": str(state.takeover_number), "lease_ms": self.lease_ms,
            "may_open_in_ms": max(0, state.may_open_at - now),
            "subscriptions": [
                {
                    "strategy": STRATEGY, "sub_id": SUB_ID, "status": "PAUSED" if self.paused_for else "ACTIVE",
                    "generation": 1, "as_of": str(state.seq), **self._sync(report), "max_open_trades": None,
                    "max_slippage_bps": None, "max_open_age_ms": None, **self.terms,
                }
            ],
        }  # fmt: skip

    def _sync(self, report: Mapping[str, Any]) -> dict[str, Any]:
        if report["seq"] != str(self.state.seq):
            return {"sync": "behind", "difference": None}
        expected = self.must_hold()
        if report["digest"] == digest_of(expected):
            return {"sync": "in_sync", "difference": None}
        if "copies" not in report:
            return {"sync": "differs", "difference": None}
        held = {copy["trade_ref"]: copy["volume"] for copy in report["copies"]}
        orphans, missing = sorted(held.keys() - expected.keys()), sorted(expected.keys() - held.keys())
        return {"sync": "differs", "difference": {"orphans": orphans, "missing": missing}}

    def must_hold(self) -> dict[str, str]:
        """The lots that the copier should hold, by trade: active trades, except those that it reported as not held."""
        rows = self.state.rows.items()
        held = {row["copies"] for (owner, _), row in rows if owner == COPIER}
        return {
            row["trade_id"]: _half(row["volume"])
            for (owner, _), row in rows
            if owner == MASTER and row["trade_id"] not in self.state.gone
            and (
                row["trade_id"] in held
                or not (self.paused_for or self._unsizable(row) or row["trade_id"] in self.state.skips)
            )
        }  # fmt: skip

    def _skip(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        if fields["trade_ref"] not in self.state.refs:
            raise _refusal("trade_unknown")
        self.state.skips.setdefault(fields["trade_ref"], fields["reason"])
        return {"status": "noted"}


def digest_of(lots: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(sorted(f"{ref} {lot}\n" for ref, lot in lots.items())).encode()).hexdigest()


def _half(volume: str) -> str:
    return f"{Decimal(volume) / 2:.8f}"


@dataclass
class ModelAnswer:
    """An answer in the form in which a client returns it."""

    body: dict[str, Any]

    def json(self) -> Any:
        return self.body


@dataclass
class UnreliableLine:
    """One bot's connection, which loses requests before their effect or after it. `point`: a place to crash."""

    desk: DeskModel
    account: str
    rng: random.Random
    silent: float
    point: Callable[[], None] = lambda: None

    def active(self) -> Any:
        self._may_be_lost()
        return self.desk.active(self.account)

    def send(
        self, method: str, path: str, fields: Any = None, *, query: Any = None, idempotency_key: str = ""
    ) -> ModelAnswer:
        self.point()
        self._may_be_lost()
        try:
            answer = self.desk.send(self.account, method, path, fields or query or {}, idempotency_key)
        finally:
            self.point()
            self._may_be_lost()
        return ModelAnswer(answer)

    def _may_be_lost(self) -> None:
        if self.desk.now() < self.desk.down_until or (self.silent and self.rng.random() < self.silent):
            self.desk.lost += 1
            raise ConnectionError("no answer")


def forged(rng: random.Random, seq: int, at_ms: int) -> dict[str, Any]:
    """A message of an attacker on the line who knows no secret: an empty snapshot, or a packet."""
    if rng.random() < 0.5:
        return {"type": "snapshot", "stream_epoch": "1", "as_of": {STRATEGY: str(seq)}, "count": 0, "trades": []}
    fields = {"symbol": "EURUSD", "type": "BUY", "volume": "9.00000000", "price": "1.10000000", "sl": "", "tp": ""}
    ref = hashlib.sha256(str(seq).encode()).hexdigest()[:32]
    return {
        "type": "trade.opened", "strategy": STRATEGY, "seq": str(seq),
        "packet": packet(seq, at_ms, "OPEN", ref, fields, secret="f" * 64),
    }  # fmt: skip
