"""A model of the desk, for simulations: what it promises, and a line to it on which requests and answers are lost.

One row of identity for each ticket, closed for ever; numbers without gaps; snapshots of one instant; effects that are
kept under their keys; a lease. Nothing in here looks at a clock.
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
SECRET = "00112233445566778899aabbccddeeff" * 2
SUB_ID = "s-1"
_ACTIVE = "/api/v2/trades/active"


def packet(
    seq: int, at_ms: int, action: str, ref: str, fields: Mapping[str, str], *, secret: str = SECRET,
    generation: str = "1",
) -> dict[str, str]:  # fmt: skip
    """As the desk signs it, from the protocol's page alone. `fields`: symbol, type, volume, price, sl, tp as text."""
    known = {"sub_id": SUB_ID, "seq": str(seq), "timestamp": str(at_ms), **fields}
    text = [known[name] for name in packets.FIELDS]
    payload = "|".join([*text, "CP1", action, ref, generation])
    return {
        **dict(zip(packets.FIELDS, text, strict=True)),
        "action": action,
        "trade_ref": ref,
        "gen": generation,
        "signature_v1": hmac.digest(packets.derived_key(secret), payload.encode(), "sha256").hex(),
    }


@dataclass(slots=True)
class AccountState:
    """What the database holds, and a backup of it."""

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

    def copy(self) -> "AccountState":
        return replace(
            self, rows=dict(self.rows), closed=dict(self.closed), refs=dict(self.refs), answers=dict(self.answers),
            skips=dict(self.skips), gone=dict(self.gone),
        )  # fmt: skip


_STATUS = {"trade_unknown": 404, "invalid": 422}


def _no(code: str) -> DeskError:
    return refusal(_STATUS.get(code, 409), {"code": code, "retry": "never"})


@dataclass
class DeskModel:
    """One strategy, its master's account and one copier's."""

    now: Callable[[], int]
    lease_ms: int = 5_000
    epoch: str = "1"
    paused_for: str = ""
    down_until: int = 0
    terms: dict[str, Any] = field(default_factory=dict)
    closes_all: bool = False
    kept: AccountState = field(default_factory=AccountState)
    sent: list[dict[str, Any]] = field(default_factory=list)
    closes: dict[str, int] = field(default_factory=dict)
    opened: Counter[str] = field(default_factory=Counter)
    refs: set[str] = field(default_factory=set)

    # --- what bots ask

    def active(self, account: str) -> dict[str, Any]:
        trades = [
            row if row["role"] == "copy" or account == MASTER else row | {"copy": self._must(row)}
            for (owner, _), row in self.kept.rows.items()
            if owner in (MASTER, account)
        ]
        return {
            "stream_epoch": self.epoch, "as_of": {STRATEGY: str(self.kept.seq)}, "count": len(trades), "trades": trades
        }  # fmt: skip

    def send(self, account: str, method: str, path: str, fields: Mapping[str, Any], key: str) -> dict[str, Any]:
        """One signed request. The effect of a key happens once, and is answered the same for ever, refusals too."""
        print_of = f"{account} {method} {path} {sorted(fields.items()) if 'instance' not in fields else ''}"
        if key in self.kept.answers:
            known, answer = self.kept.answers[key]
            if known != print_of:
                raise _no("idempotency_conflict")
        else:
            try:
                answer = self._do(account, method, path, fields)
            except DeskError as refused:
                answer = refused
            self.kept.answers[key] = print_of, answer
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
        assert path.endswith("/orders"), path
        if fields["trade_ref"] not in self.kept.refs:
            raise _no("trade_unknown")
        return {"status": "reported"}

    # --- the verbs

    def _open(self, account: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        at, kept = (account, fields["ticket_id"]), self.kept
        if at in kept.closed:
            raise _no("trade_closed")
        if at in kept.rows:
            if kept.rows[at]["open_price"] != fields["open_price"]:
                raise _no("trade_exists_different")
            return {"trade": kept.rows[at]}
        copies = fields.get("trade_ref")
        if account == COPIER and copies not in kept.refs:
            raise _no("trade_unknown")
        kept.born += 1
        self.opened[f"{account} {at[1]}"] += 1
        row = {
            "trade_id": self._new_ref(), "role": "copy" if copies else "master", "strategy": STRATEGY,
            "ticket_id": at[1], "symbol": fields["symbol"], "type": fields["type"], "volume": fields["volume"],
            "open_price": fields["open_price"], "sl": fields.get("sl"), "tp": fields.get("tp"), "copies": copies,
            "opened_volume": fields["volume"], "seq": "0", "status": "OPEN", "copy": None,
        }  # fmt: skip
        kept.refs[row["trade_id"]] = at[1]
        self.refs.add(row["trade_id"])
        return {"trade": self._put(at, row, "opened")}

    def _modify(self, account: str, ticket: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        row = self._row(account, ticket)
        stops = {name: fields[name] for name in ("sl", "tp") if name in fields}
        return {"trade": self._put((account, ticket), row | stops, "modified")}

    def _reduce(self, account: str, ticket: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        row = self._row(account, ticket)
        if Decimal(fields["volume"]) > Decimal(row["volume"]):
            raise _no("volume_increase")
        return {"trade": self._put((account, ticket), row | {"volume": fields["volume"]}, "reduced")}

    def _close(self, account: str, ticket: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        at, said = (account, ticket), (fields["close_price"], fields["reason"])
        if at in self.kept.closed:
            if self.kept.closed[at] != said:
                raise _no("trade_closed_conflict")
            return {"status": "CLOSED"}
        row = self.kept.rows.pop(at, None)
        self.kept.closed[at] = said
        if row is not None and row["copies"]:
            self.kept.gone[row["copies"]] = at[1]
        if row is not None and account == MASTER:
            self.kept.seq += 1
            self.closes[row["trade_id"]] = self.kept.seq
            self._publish("closed", row | {"seq": str(self.kept.seq)})
        return {"status": "CLOSED"}

    def _row(self, account: str, ticket: str) -> dict[str, Any]:
        if (account, ticket) in self.kept.closed:
            raise _no("trade_closed")
        if (account, ticket) not in self.kept.rows:
            raise _no("trade_unknown")
        return self.kept.rows[account, ticket]

    def _put(self, at: tuple[str, str], row: dict[str, Any], event: str) -> dict[str, Any]:
        self.kept.events += 1
        if at[0] == MASTER:
            self.kept.seq += 1
            row = row | {"seq": str(self.kept.seq)}
            self.kept.rows[at] = row
            self._publish(event, row)
        else:
            self.kept.rows[at] = row = row | {"seq": str(self.kept.events)}
        return row

    def _new_ref(self) -> str:
        at, number = f"{self.now():012x}", self.kept.born
        return f"{at[:8]}-{at[8:]}-7{number % 4096:03x}-8{int(self.epoch):03x}-{number:012x}"

    # --- what copies must be

    def _must(self, row: Mapping[str, Any]) -> dict[str, Any]:
        why_not = "drawdown" if self.closes_all else self.paused_for
        return {
            "symbol": row["symbol"], "type": row["type"], "sl": row["sl"], "tp": row["tp"], "opens": not why_not,
            "why_not": why_not, "volume": "0.00000000" if self.closes_all else _half(row["volume"]),
        }  # fmt: skip

    def _publish(self, event: str, row: Mapping[str, Any]) -> None:
        action = {"opened": "OPEN", "modified": "MODIFY", "reduced": "REDUCE", "closed": "CLOSE"}[event]
        seq, ref = self.kept.seq, row["trade_id"]
        if self.paused_for and action == "OPEN":
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
        now, kept = self.now(), self.kept
        if fields["fence"] is None:
            if fields["instance"] != kept.instance:
                kept.may_open_at = max(now, kept.leased_until)
            kept.takeover_number, kept.instance = kept.takeover_number + 1, fields["instance"]
        elif (fields["instance"], fields["fence"]) != (kept.instance, str(kept.takeover_number)):
            raise _no("lease_lost")
        kept.leased_until = now if fields["ends"] else now + self.lease_ms
        (told,) = fields["subscriptions"]
        return {
            "fence": str(kept.takeover_number), "lease_ms": self.lease_ms,
            "may_open_in_ms": max(0, kept.may_open_at - now),
            "subscriptions": [
                {
                    "strategy": STRATEGY, "sub_id": SUB_ID, "status": "PAUSED" if self.paused_for else "ACTIVE",
                    "generation": 1, "as_of": str(kept.seq), **self._sync(told), "max_open_trades": None,
                    "max_slippage_bps": None, "max_open_age_ms": None, **self.terms,
                }
            ],
        }  # fmt: skip

    def _sync(self, told: Mapping[str, Any]) -> dict[str, Any]:
        if told["seq"] != str(self.kept.seq):
            return {"sync": "behind", "difference": None}
        must = self.must_hold()
        if told["digest"] == digest_of(must):
            return {"sync": "in_sync", "difference": None}
        if "copies" not in told:
            return {"sync": "differs", "difference": None}
        held = {one["trade_ref"]: one["volume"] for one in told["copies"]}
        return {
            "sync": "differs",
            "difference": {"orphans": sorted(held.keys() - must.keys()), "missing": sorted(must.keys() - held.keys())},
        }

    def must_hold(self) -> dict[str, str]:
        """Lots by trade that the copier should hold: what is active, less what it said that it has not."""
        rows = self.kept.rows.items()
        held = {row["copies"] for (owner, _), row in rows if owner == COPIER}
        return {
            row["trade_id"]: _half(row["volume"])
            for (owner, _), row in rows
            if owner == MASTER and row["trade_id"] not in self.kept.gone
            and (row["trade_id"] in held or not (self.paused_for or row["trade_id"] in self.kept.skips))
        }  # fmt: skip

    def _skip(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        if fields["trade_ref"] not in self.kept.refs:
            raise _no("trade_unknown")
        self.kept.skips.setdefault(fields["trade_ref"], fields["reason"])
        return {"status": "noted"}


def digest_of(lots: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(sorted(f"{ref} {lot}\n" for ref, lot in lots.items())).encode()).hexdigest()


def _half(volume: str) -> str:
    return f"{Decimal(volume) / 2:.8f}"


@dataclass
class Said:
    """An answer, as a client gives it."""

    body: dict[str, Any]

    def json(self) -> Any:
        return self.body


@dataclass
class UnreliableLine:
    """One bot's connection: requests are lost before their effect, or after it. `point`: a place to die."""

    desk: DeskModel
    account: str
    rng: random.Random
    silent: float
    point: Callable[[], None] = lambda: None

    def active(self) -> Any:
        self._may_be_lost()
        return self.desk.active(self.account)

    def send(self, method: str, path: str, fields: Any = None, *, query: Any = None, idempotency_key: str = "") -> Said:
        self.point()
        self._may_be_lost()
        try:
            answer = self.desk.send(self.account, method, path, fields or query or {}, idempotency_key)
        finally:
            self.point()
            self._may_be_lost()
        return Said(answer)

    def _may_be_lost(self) -> None:
        if self.desk.now() < self.desk.down_until or (self.silent and self.rng.random() < self.silent):
            raise ConnectionError("no answer")


def forged(rng: random.Random, seq: int, at_ms: int) -> dict[str, Any]:
    """What somebody on the line sends, who knows no secret: a snapshot of nothing, or a packet."""
    if rng.random() < 0.5:
        return {"type": "snapshot", "stream_epoch": "1", "as_of": {STRATEGY: str(seq)}, "count": 0, "trades": []}
    fields = {"symbol": "EURUSD", "type": "BUY", "volume": "9.00000000", "price": "1.10000000", "sl": "", "tp": ""}
    ref = hashlib.sha256(str(seq).encode()).hexdigest()[:32]
    return {
        "type": "trade.opened", "strategy": STRATEGY, "seq": str(seq),
        "packet": packet(seq, at_ms, "OPEN", ref, fields, secret="f" * 64),
    }  # fmt: skip
