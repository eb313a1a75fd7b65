"""Reports to the desk what a bot finds at its broker: funds, currency, kind of account, conditions of its symbols.

The desk sizes and values copies by them, and its answer names the symbols that it wants to know.
"""

import logging
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from copybot.broker import Account, SymbolSpec, Terminal
from copybot.errors import CurrencyDiffers, DeskError
from copybot.findings import Finding

log = logging.getLogger(__name__)

ACCOUNT = "/api/v2/account"
_MOST_SYMBOLS = 256
_SYMBOL, _CURRENCY = re.compile(r"[A-Za-z0-9._#/+&!@$^~-]{1,32}"), re.compile(r"[A-Za-z0-9]{1,16}")


class Desk(Protocol):
    def send(self, method: str, path: str, fields: Any = None, *, idempotency_key: str = "") -> Any: ...


@dataclass
class AccountReport:
    """Reports one account each `every_ms`, and after `pace_ms` when the desk or a position names a new symbol.

    A symbol is reported again when its conditions changed. `finding`: the desk has registered another currency.
    """

    desk: Desk
    terminal: Terminal
    monotonic_ms: Callable[[], int]
    every_ms: int = 60_000
    pace_ms: int = 5_000
    finding: Finding | None = field(default=None, init=False)
    _due_ms: int = field(default=0, init=False, repr=False)
    _sent_ms: int = field(default=0, init=False, repr=False)
    _wanted: set[str] = field(default_factory=set, init=False, repr=False)
    _reported: dict[str, dict[str, str]] = field(default_factory=dict, init=False, repr=False)
    _unknown: set[str] = field(default_factory=set, init=False, repr=False)
    _is_plain: bool = field(default=False, init=False, repr=False)

    def report(self, held: Iterable[str]) -> None:
        """Send a report if one is due. `held`: the symbols of open positions. Raises what desk and terminal raise."""
        now = self.monotonic_ms()
        new = set(held) - self._wanted
        self._wanted |= new
        if new and not self._is_plain:
            self._due_ms = min(self._due_ms, self._sent_ms + self.pace_ms)
        if now < self._due_ms:
            return
        self._due_ms, self._sent_ms = now + self.every_ms, now
        account = self.terminal.account()
        fields, symbols = _funds(account), {} if self._is_plain else self._changed_symbols()
        if not self._is_plain:
            fields |= _facts(account) | ({"symbols": list(symbols.values())} if symbols else {})
        try:
            answer = self._send(fields)
        except CurrencyDiffers as refusal:
            self._note_currency(refusal)
        else:
            self.finding = None
            self._reported |= symbols
            self._note_wanted(answer, now)

    def begin_anew(self) -> None:
        """Report everything again: a restored desk may have lost it."""
        self._reported, self._due_ms = {}, 0

    def _send(self, fields: dict[str, Any]) -> Mapping[str, Any]:
        try:
            return self._post(fields)
        except DeskError as refusal:
            if refusal.code != "invalid" or self._is_plain:
                raise
            log.warning("the desk takes balance and equity alone: %s", refusal)
            self._is_plain = True  # a desk of version 0.1 refuses members that it does not know
            return self._post({name: fields[name] for name in ("balance", "equity")})

    def _post(self, fields: dict[str, Any]) -> Mapping[str, Any]:
        key = f"account-{secrets.token_hex(12)}"
        answer: Mapping[str, Any] = self.desk.send("POST", ACCOUNT, fields, idempotency_key=key).json()
        return answer

    def _note_currency(self, refusal: CurrencyDiffers) -> None:
        registered, reported = (refusal.problem.get(name) for name in ("registered", "reported"))
        words = (
            f"the terminal's account is in {reported}, and the desk has registered {registered}: log the terminal in "
            "to the registered account, or ask staff to register the currency. Until then its equity sizes nothing"
        )
        if self.finding is None:
            log.error("%s", words)
        self.finding = Finding("", "currency_differs", words)

    def _note_wanted(self, answer: Mapping[str, Any], now: int) -> None:
        wanted = {str(row["symbol"]) for row in answer.get("symbols", ())}
        self._wanted |= wanted
        if wanted - self._reported.keys() - self._unknown:
            self._due_ms = now + self.pace_ms

    def _changed_symbols(self) -> dict[str, dict[str, str]]:
        """The conditions of wanted symbols that are not reported yet or have changed, at most 256."""
        rows: dict[str, dict[str, str]] = {}
        self._unknown = set()
        for symbol in sorted(self._wanted, key=lambda symbol: (symbol in self._reported, symbol)):
            spec = self.terminal.spec(symbol) if _SYMBOL.fullmatch(symbol) else None
            if spec is None or spec.contract_size <= 0:
                self._unknown.add(symbol)
                continue
            row = _row(symbol, spec)
            if row != self._reported.get(symbol):
                rows[symbol] = row
            if len(rows) == _MOST_SYMBOLS:
                break
        return rows


def _funds(account: Account) -> dict[str, Any]:
    return {"balance": f"{account.balance:.8f}", "equity": f"{account.equity:.8f}"}


def _facts(account: Account) -> dict[str, str]:
    kind = "fifo" if account.is_fifo else "hedging" if account.is_hedging else "netting"
    texts = {"login": account.login[:64], "server": account.server[:128], "kind": kind}
    if _CURRENCY.fullmatch(account.currency):
        texts["currency"] = account.currency
    return {name: text for name, text in texts.items() if text}


def _row(symbol: str, spec: SymbolSpec) -> dict[str, str]:
    amounts = {
        "contract_size": spec.contract_size, "volume_min": spec.volume_min, "volume_step": spec.volume_step,
        "volume_max": spec.volume_max,
    }  # fmt: skip
    return {"symbol": symbol, **{name: f"{amount:.8f}" for name, amount in amounts.items() if amount > 0}}
