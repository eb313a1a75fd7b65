"""Reads the configuration file. Each mistake is reported in one sentence that names the place and the remedy."""

import codecs
import difflib
import ipaddress
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from copybot.limits import BY_DISTANCE, BY_PRICE, Limits
from copybot.subscriptions import Subscription
from copybot.symbols import Names

_KEY = re.compile(r"ck_[0-9a-f]{16}\.[1-9][0-9]{0,5}")
_SECRET = re.compile(r"[0-9a-f]{64}")
_SUB_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class SettingsError(Exception):
    """A mistake in the file; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class PaperSymbol:
    """A symbol of the paper broker: a CSV of bars (time, open, high, low, close), and how it is quoted."""

    bars: Path
    digits: int
    spread_points: int
    contract: Decimal


@dataclass(frozen=True)
class Paper:
    """A paper account in a file of the folder. `fifo`: positions close in the order of their opening. `speed`: of
    market time. `repeats`: the bars start over at their end."""

    symbols: Mapping[str, PaperSymbol]
    login: str
    currency: str
    deposit: Decimal
    leverage: Decimal
    netting: bool
    fifo: bool
    speed: int
    repeats: bool


@dataclass(frozen=True)
class MetaTrader:
    """A MetaTrader 5 terminal on this machine and its account. Without a password the terminal uses its saved one."""

    terminal: Path | None
    login: int
    password: str = field(repr=False)
    server: str
    timeout_ms: int
    deviation_points: int
    netting: bool


@dataclass(frozen=True)
class Publishing:
    """The positions that are published (`magics`, `symbols`: empty for all), and how."""

    magics: frozenset[int]
    symbols: frozenset[str]
    max_open_age_ms: int
    publish_existing: bool
    poll_ms: int


@dataclass(frozen=True)
class Settings:
    """The checked configuration. Paths are absolute."""

    file: Path
    url: str
    key: str
    secret: str = field(repr=False)
    folder: Path
    subscriptions: tuple[Subscription, ...]
    broker: Paper | MetaTrader
    names: Names
    limits: Limits
    publishing: Publishing


def load(file: Path, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the file. Raises SettingsError."""
    return parse(read(file), file.resolve(), environ)


def read(file: Path) -> dict[str, Any]:
    """The file's tables. Raises SettingsError, also if other users may read the file."""
    try:
        check_private(file)
        return tomllib.loads(_text_of(file.read_bytes()), parse_float=Decimal)
    except FileNotFoundError:
        raise SettingsError(f"{file} does not exist: copybot example > {file}, and fill it in") from None
    except (OSError, UnicodeDecodeError) as fault:
        raise SettingsError(f"{file} cannot be read ({fault}): it must be a text file of yours, in UTF-8") from fault
    except tomllib.TOMLDecodeError as fault:
        raise SettingsError(f"{file} is not TOML: {fault}. Texts need quotes, tables need [brackets]") from fault


def _text_of(content: bytes) -> str:
    """Decode a file. Some editors write a byte order mark, and PowerShell's `>` writes UTF-16."""
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if is_wide else "utf-8-sig").replace("\r\n", "\n")


def check_private(file: Path) -> None:
    """Raise SettingsError if other users of this machine may read the file, which holds secrets."""
    mode = file.stat().st_mode
    if os.name == "posix" and mode & stat.S_IRWXO:
        raise SettingsError(
            f"{file} holds secrets, and other users of this machine may use it (mode {stat.S_IMODE(mode):o}): "
            f"chmod 600 {file}"
        )


def parse(raw: Mapping[str, Any], file: Path, environ: Mapping[str, str]) -> Settings:
    """Check the file's tables. Raises SettingsError."""
    top = Table(raw, "")
    settings = Settings(
        file=file,
        url=top.get("url", read_url),
        key=_from(
            environ,
            "COPYBOT_KEY",
            top,
            "key",
            read_key,
        ),
        secret=_from(environ, "COPYBOT_SECRET", top, "secret", read_secret),
        folder=file.parent / top.get("folder", _text, "state"),
        subscriptions=_subscriptions(top.table("subscriptions")),
        broker=_broker(top.table("broker"), file.parent, environ),
        names=_names(top.table("symbols")),
        limits=_limits(top.table("limits")),
        publishing=_publishing(top.table("publish")),
    )
    top.end()
    return settings


class Table:
    """One table of the file. Keys are read one by one; `end` refuses the keys that were not read."""

    def __init__(self, raw: Mapping[str, Any], name: str) -> None:
        self._raw, self.name, self._known = raw, name, list[str]()

    def get(self, key: str, read: Callable[[Any], Any], default: Any = ...) -> Any:
        """The value of a key; required if there is no default. `read` raises ValueError with what it must be."""
        self._known.append(key)
        if key not in self._raw:
            if default is ...:
                raise SettingsError(f"{self._place(key)} is missing: copybot example explains it")
            return default
        try:
            return read(self._raw[key])
        except ValueError as fault:
            raise SettingsError(f"{self._place(key)} {fault}") from None

    def table(self, key: str) -> "Table":
        return Table(self.get(key, _table, {}), f"{self.name}.{key}" if self.name else key)

    def names(self) -> list[str]:
        return list(self._raw)

    def end(self) -> None:
        """Raise SettingsError for a key that was not read."""
        for key in self._raw:
            if key not in self._known:
                near = difflib.get_close_matches(key, self._known, 1)
                hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(self._known)}"
                raise SettingsError(f"{self._place(key)} is unknown: {hint}")

    def _place(self, key: str) -> str:
        return f"{key} in [{self.name}]" if self.name else key


# --- the tables


def _subscriptions(table: Table) -> tuple[Subscription, ...]:
    subscriptions = []
    for strategy in table.names():
        if not _NAME.fullmatch(strategy):
            raise SettingsError(f"[subscriptions.{strategy}] is not a strategy's name: use letters, digits, _ and -")
        entry = table.table(strategy)
        must = "must be the subscription's id, as the desk shows it, in quotes"
        sub_id = entry.get("sub_id", _matching(_SUB_ID, must))
        subscriptions.append(Subscription(strategy, sub_id, entry.get("secrets", _secrets)))
        entry.end()
    return tuple(subscriptions)


def _broker(table: Table, folder: Path, environ: Mapping[str, str]) -> Paper | MetaTrader:
    kind = table.get("kind", read_one_of("mt5", "paper"))
    broker = _paper(table, folder) if kind == "paper" else _metatrader(table, environ)
    table.end()
    return broker


def _paper(table: Table, folder: Path) -> Paper:
    symbols = table.table("symbols")
    return Paper(
        symbols={name: _instrument(name, symbols.table(name), folder) for name in symbols.names()},
        login=table.get("login", _text, "1001"),
        currency=table.get("currency", _matching(re.compile("[A-Z]{3}"), "must be three capital letters"), "USD"),
        deposit=table.get("deposit", _amount, Decimal(10_000)),
        leverage=table.get("leverage", _amount, Decimal(100)),
        netting=table.get("netting", _flag, False),
        fifo=table.get("fifo", _flag, False),
        speed=table.get("speed", _whole(1, 100_000), 1),
        repeats=table.get("repeats", _flag, True),
    )


def _instrument(name: str, table: Table, folder: Path) -> PaperSymbol:
    """The bars of EURUSD come with the package, so that a paper account needs nothing else; they have no weekends."""
    bars = table.get("bars", _any_text, "")
    if not bars and name != "EURUSD":
        raise SettingsError(f"bars in [broker.symbols.{name}] is missing: name a CSV with time, open, high, low, close")
    symbol = PaperSymbol(
        bars=folder / (bars or str(resources.files("copybot").joinpath("eurusd-1h.csv"))),
        digits=table.get("digits", _whole(0, 8), 5),
        spread_points=table.get("spread_points", _whole(0, 10_000), 8),
        contract=table.get("contract", _amount, Decimal(100_000)),
    )
    table.end()
    return symbol


def _metatrader(table: Table, environ: Mapping[str, str]) -> MetaTrader:
    terminal = table.get("terminal", _any_text, "")
    return MetaTrader(
        terminal=Path(terminal) if terminal else None,
        login=table.get("login", _whole(1, 10**12)),
        password=_from(environ, "COPYBOT_BROKER_PASSWORD", table, "password", _any_text, ""),
        server=table.get("server", _any_text, ""),
        timeout_ms=table.get("timeout_ms", _whole(1_000, 300_000), 60_000),
        deviation_points=table.get("deviation_points", _whole(0, 10_000), 20),
        netting=table.get("netting", _flag, False),
    )


def _names(table: Table) -> Names:
    listed = table.get("table", _table, {})
    for symbol, broker_name in listed.items():
        if not isinstance(broker_name, str) or not broker_name:
            raise SettingsError(f"{symbol} in [symbols.table] must be the broker's name of the symbol, in quotes")
    try:
        names = Names(listed, table.get("prefix", _any_text, ""), table.get("suffix", _any_text, ""))
    except ValueError as fault:
        raise SettingsError(f"[symbols.table] is ambiguous: {fault}. Give each symbol a name of its own") from fault
    table.end()
    return names


def _limits(table: Table) -> Limits:
    read = {"brake_share": _share, "closes_below_least": _flag, "stops": read_one_of(BY_PRICE, BY_DISTANCE)}
    given = {
        limit.name: table.get(limit.name, read.get(limit.name, _whole(0, 3_600_000)))
        for limit in fields(Limits)
        if table.get(limit.name, _any, None) is not None
    }
    table.end()
    return Limits(**given)


def _publishing(table: Table) -> Publishing:
    publishing = Publishing(
        magics=frozenset(table.get("magics", _list_of(int, "numbers"), ())),
        symbols=frozenset(table.get("symbols", _list_of(str, "names in quotes"), ())),
        max_open_age_ms=1000 * table.get("max_open_age_s", _whole(1, 86_400), 60),
        publish_existing=table.get("publish_existing", _flag, False),
        poll_ms=table.get("poll_ms", _whole(50, 10_000), 500),
    )
    table.end()
    return publishing


# --- single values


def _from(
    environ: Mapping[str, str], variable: str, table: Table, key: str, read: Callable[[Any], Any], default: Any = ...
) -> Any:
    """The environment variable's value if it is set, else the file's."""
    if not environ.get(variable):
        if default is ... and key not in table.names():
            raise SettingsError(f"{key} is missing: write it into the file, or set {variable}")
        return table.get(key, read, default)
    table.get(key, _any, None)
    try:
        return read(environ[variable])
    except ValueError as fault:
        raise SettingsError(f"{variable} (environment) {fault}") from None


def read_url(value: Any) -> str:
    text = _text(value).rstrip("/")
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query or parts.username:
        raise ValueError("must be the desk's address and nothing more: https://desk.example")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ValueError("must begin with https:// (plain http is for a desk on this machine)")
    return text


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_key(value: Any) -> str:
    return str(_matching(_KEY, "must look like ck_0123456789abcdef.1")(value))


def read_secret(value: Any) -> str:
    if not isinstance(value, str) or not _SECRET.fullmatch(value):
        raise ValueError("must be the 64 characters 0-9 a-f that the desk showed when it was created")
    return value


def _secrets(value: Any) -> dict[int, str]:
    secrets: dict[int, str] = {}
    for generation, secret in _table(value).items():
        if not re.fullmatch(r"[1-9][0-9]{0,8}", generation):
            raise ValueError(f'has {generation!r}, which is not a generation: write {{ 1 = "…" }}')
        try:
            secrets[int(generation)] = read_secret(secret)
        except ValueError as fault:
            raise ValueError(f"of generation {generation} {fault}") from None
    if not secrets:
        raise ValueError('is empty: write { 1 = "…" }, the packet secret that the desk showed')
    return secrets


def _any(value: Any) -> Any:
    return value


def _any_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text, in quotes")
    return value


def _text(value: Any) -> str:
    if not _any_text(value):
        raise ValueError("must not be empty")
    return str(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false, without quotes")
    return value


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("must be a table")
    return value


def _amount(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not Decimal(value) > 0:
        raise ValueError("must be a number above zero")
    return Decimal(value)


def _share(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not 0 <= value <= 1:
        raise ValueError("must be a share from 0 to 1")
    return Decimal(value)


def _whole(least: int, most: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return value

    return read


def read_one_of(*names: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return str(value)

    return read


def _matching(pattern: re.Pattern[str], words: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(words)
        return value

    return read


def _list_of(kind: type, words: str) -> Callable[[Any], Iterable[Any]]:
    def read(value: Any) -> Iterable[Any]:
        if not isinstance(value, list) or any(not isinstance(item, kind) or isinstance(item, bool) for item in value):
            raise ValueError(f"must be a list of {words}")
        return value

    return read
