"""Checks everything that a bot needs, before a problem costs a trade. It changes nothing at the desk or the broker."""

import os
import shutil
import socket
import sqlite3
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.text import Text

from copybot import keys
from copybot.broker import Account, Terminal
from copybot.client import Client
from copybot.errors import AnswerForged, DeskError, ScopeDenied, Transport
from copybot.settings import Settings, SettingsError, load
from copybot.stream import Connected, Lost, Stream
from copybot.terminals import BrokerUnreachable, check_kind, terminal_of

_CLOCK_MS = 1_000  # the desk refuses a request whose time is further ahead
_LEAST_FREE = 100 * 1024 * 1024
_CERTIFICATE_DAYS = 14
_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Result:
    """One check's result. `good` None: it was not checked, because an earlier check failed."""

    name: str
    good: bool | None
    words: str


class Failed(Exception):
    """A check failed; the message says what is wrong and how to fix it."""


class Skipped(Exception):
    """A check was not made; the message says why."""


@dataclass
class Checkup:
    """The state shared by the checks. Each check adds what later ones need."""

    file: Path
    role: str | None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    settings: Settings | None = None
    client: Client | None = None
    terminal: Terminal | None = None
    account: Account | None = None
    active: dict[str, Any] | None = None
    is_running: bool = False

    @property
    def follows(self) -> bool:
        return self.role == "follow"

    def need_settings(self) -> Settings:
        if self.settings is None:
            raise Skipped("needs the configuration")
        return self.settings

    def need_active(self) -> dict[str, Any]:
        if self.active is None:
            raise Skipped("needs an answer of the desk")
        return self.active

    def need_terminal(self) -> Terminal:
        if self.terminal is None or self.account is None:
            raise Skipped("needs the broker")
        return self.terminal


Check = Callable[[Checkup], str]


def run(file: Path, console: Console, *, role: str | None = None) -> int:
    """Print each check as it is made. Returns 1 if a check failed, else 0."""
    results, checkup = [], Checkup(file, role)
    for result in examine(checkup):
        results.append(result)
        console.print(line(result), soft_wrap=True)
    if checkup.client is not None:
        checkup.client.hang_up()
    failed = sum(result.good is False for result in results)
    skipped = sum(result.good is None for result in results)
    rest = f", {skipped} could not be checked" if skipped else ""
    words, style = (f"{failed} to fix", "bold red") if failed else ("ready", "bold green")
    console.print(Text(f"\n{words}{rest}", style=style))
    return 1 if failed else 0


def line(result: Result) -> Text:
    mark, style = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("–", "bright_black")}[result.good]
    words_style = "" if result.good else style
    return Text.assemble((f"{mark} ", style), (f"{result.name:<14}", "bold"), (result.words, words_style))


def examine(checkup: Checkup) -> Iterator[Result]:
    """Make all checks, in their order."""
    for name, check in _CHECKS:
        try:
            yield Result(name, True, check(checkup))
        except Skipped as reason:
            yield Result(name, None, str(reason))
        except Failed as problem:
            yield Result(name, False, str(problem))
        except Exception as fault:  # an error that no check foresees is a result too
            yield Result(name, False, f"{type(fault).__name__}: {fault}")


# --- this machine


def configuration(checkup: Checkup) -> str:
    try:
        checkup.settings = load(checkup.file, checkup.environ)
    except SettingsError as mistake:
        raise Failed(str(mistake)) from None
    settings = checkup.settings
    checkup.role = checkup.role or ("follow" if settings.subscriptions else "publish")
    return f"{settings.file}, to {checkup.role}"


def folder(checkup: Checkup) -> str:
    place = checkup.need_settings().folder
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place, prefix="doctor-") as probe:
            probe.write(b"x")
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as fault:
        raise Failed(f"{place} cannot be written to ({fault.strerror}): allow this user to write") from fault
    free = shutil.disk_usage(place).free
    if free < _LEAST_FREE:
        raise Failed(f"{place} has {free // 2**20} MiB left: free at least {_LEAST_FREE // 2**20} MiB")
    return f"{place} can be written, {free / 2**30:.1f} GiB are free"


def state(checkup: Checkup) -> str:
    settings = checkup.need_settings()
    files = [
        settings.folder / f"{subscription.sub_id}.sqlite3" for subscription in settings.subscriptions if checkup.follows
    ]
    held = [file.name for file in files if file.exists() and _is_held(file)]
    if held:
        checkup.is_running = True
        raise Failed(f"{', '.join(held)} in use: a copier is running here. Stop it before you start another one")
    existing = sum(file.exists() for file in files)
    return f"{existing} of {len(files)} state files exist, none in use" if checkup.follows else "none is needed"


def _is_held(file: Path) -> bool:
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=0)) as db:
        try:
            db.execute("select count(*) from sqlite_master").fetchone()
        except sqlite3.OperationalError as fault:
            return "locked" in str(fault)
        except sqlite3.DatabaseError:
            raise Failed(f"{file} is damaged: the copier will move it aside and open no old trade") from None
    return False


# --- the desk


def connection(checkup: Checkup) -> str:
    parts = urlsplit(checkup.need_settings().url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((host, port), timeout=_PATIENCE_S) as plain:
            if parts.scheme != "https":
                return f"{host} answers on port {port}"
            with ssl.create_default_context().wrap_socket(plain, server_hostname=host) as secure:
                return f"{host} answers on port {port}, {secure.version()}, {_certificate(secure)}"
    except socket.gaierror:
        raise Failed(f"{host} is not a known name: correct url, or this machine's DNS") from None
    except ssl.SSLError as fault:
        raise Failed(
            f"{host} has no certificate that is trusted here ({fault.reason}): no request is sent to it"
        ) from None
    except OSError as fault:
        raise Failed(f"{host}:{port} cannot be reached ({fault}): check the network and the firewall") from None


def _certificate(secure: ssl.SSLSocket) -> str:
    ends = str((secure.getpeercert() or {}).get("notAfter", ""))
    days = int((ssl.cert_time_to_seconds(ends) - time.time()) / 86_400)
    if days < _CERTIFICATE_DAYS:
        raise Failed(f"the desk's certificate expires in {days} days: tell its operator")
    return f"its certificate is valid for {days} days"


def clock(checkup: Checkup) -> str:
    client = _client(checkup)
    before = client.wall_ms()
    try:
        server_ms = int(client.time()["server_time"])
    except Transport as fault:
        raise Failed(f"{fault}: is url the address of a desk?") from fault
    offset_ms = (before + client.wall_ms()) // 2 - server_ms
    if abs(offset_ms) > _CLOCK_MS:
        raise Failed(f"this machine's clock is {offset_ms:+d} ms off the desk's: switch on time synchronisation")
    return f"{offset_ms:+d} ms off the desk's"


def key(checkup: Checkup) -> str:
    client = _client(checkup)
    try:
        checkup.active = client.active()
    except DeskError as refusal:
        raise Failed(keys.explained(refusal)) from refusal
    except AnswerForged as fault:
        raise Failed(f"{fault}: a proxy between here and the desk may change answers") from fault
    return f"the desk accepts {client.key}, and its answer is signed"


def kind(checkup: Checkup) -> str:
    checkup.need_active()
    assert checkup.role is not None
    try:
        return f"a {keys.check_kind(_client(checkup), checkup.role)} key, which may {checkup.role}"
    except ScopeDenied as refusal:
        raise Failed(str(refusal.problem["detail"])) from refusal


def stream(checkup: Checkup) -> str:
    checkup.need_active()
    if not checkup.follows:
        return "publishing needs none"
    if checkup.is_running:  # a handshake uses up a number, which would outdate the running copier's next one
        raise Skipped("the running copier uses it")
    client, until_s = _client(checkup), time.monotonic() + _PATIENCE_S
    with Stream(client) as socket:
        while (left_s := until_s - time.monotonic()) > 0:
            event = socket.next(left_s)
            if isinstance(event, Connected):
                return "connects"
            if isinstance(event, Lost):
                raise Failed(f"it does not connect ({event.why}): does a proxy or firewall block WebSockets?")
    raise Failed("it does not connect in time: does a proxy or firewall block WebSockets?")


def subscriptions(checkup: Checkup) -> str:
    listed = checkup.need_active()["as_of"].keys()
    if not checkup.follows:
        return f"publishes {', '.join(listed)}" if listed else _no_strategy()
    configured = {subscription.strategy for subscription in checkup.need_settings().subscriptions}
    if not configured:
        raise Failed("[subscriptions] is empty: add the strategy that you follow, its sub_id and its secrets")
    if absent := sorted(configured - listed):
        raise Failed(
            f"this account does not subscribe to {', '.join(absent)}: subscribe at the desk, or correct the name"
        )
    if missing := sorted(listed - configured):
        raise Failed(f"{', '.join(missing)} would not be copied: add [subscriptions.{missing[0]}], sub_id and secrets")
    return f"{', '.join(sorted(configured))}, each with its packet secrets"


def _no_strategy() -> str:
    raise Failed("this account publishes no strategy: create one at the desk")


def _client(checkup: Checkup) -> Client:
    if checkup.client is None:
        settings = checkup.need_settings()
        checkup.client = Client(settings.url, settings.key, settings.secret, timeout_s=_PATIENCE_S, attempts=2)
    return checkup.client


# --- the broker


def broker(checkup: Checkup) -> str:
    settings = checkup.need_settings()
    try:
        checkup.terminal = terminal_of(settings, copies=False)
        checkup.account = account = checkup.terminal.account()
    except (SettingsError, BrokerUnreachable) as fault:
        raise Failed(str(fault)) from fault
    return f"{account.login} on {account.server}, equity {account.equity:,.2f} {account.currency}"


def trading(checkup: Checkup) -> str:
    terminal, account = checkup.need_terminal(), checkup.account
    assert account is not None
    if checkup.follows and not account.may_trade:
        raise Failed("programs may not trade: switch on algorithmic trading in the terminal, for this account")
    netting = checkup.need_settings().broker.netting
    try:
        check_kind(account.is_hedging, netting=netting)
    except SettingsError as mistake:
        raise Failed(str(mistake)) from None
    if not terminal.is_settled():
        raise Failed("the terminal is not connected to its server, or its history is not loaded")
    return f"a {'netting' if netting else 'hedging'} account, as configured; {len(terminal.positions())} positions open"


def symbols(checkup: Checkup) -> str:
    terminal = checkup.need_terminal()
    if not checkup.follows:
        symbols = {position.symbol for position in terminal.positions()}
        nameless = sorted(symbol[1:] for symbol in symbols if symbol.startswith("~"))
        if nameless:
            raise Failed(f"{', '.join(nameless)} has no name at the desk: add one in [symbols.table]")
        return "each open position's symbol has a name at the desk"
    rows = [row for row in checkup.need_active()["trades"] if row["role"] == "master" and row.get("copy")]
    wanted = {row["copy"]["symbol"]: Decimal(row["copy"]["volume"]) for row in rows}
    names = checkup.need_settings().names
    if unknown := sorted(symbol for symbol in wanted if names.at_broker(symbol) is None):
        raise Failed(f"{', '.join(unknown)}: [symbols] gives the broker's name to another symbol: correct the table")
    if unquoted := sorted(symbol for symbol in wanted if terminal.quote(symbol) is None):
        raise Failed(f"no price of {', '.join(unquoted)} now: if its market is open, name it in [symbols.table]")
    specs = {name: terminal.spec(name) for name in wanted}
    small = sorted(name for name, spec in specs.items() if spec and wanted[name] and not spec.lots(wanted[name]))
    if small:
        raise Failed(
            f"the copies of {', '.join(small)} are below the broker's minimum volume: choose a larger copy size"
        )
    return f"{', '.join(sorted(wanted))} can be traded" if wanted else "no trade is open at the desk now"


_CHECKS: tuple[tuple[str, Check], ...] = (
    ("configuration", configuration), ("folder", folder), ("state", state), ("connection", connection),
    ("clock", clock), ("key", key), ("kind", kind), ("stream", stream), ("subscriptions", subscriptions),
    ("broker", broker), ("trading", trading), ("symbols", symbols),
)  # fmt: skip
