"""Looks for what would keep a bot from its work, before it costs a trade. Nothing is changed at desk or broker."""

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

from copybot.broker import Account, Terminal
from copybot.client import ACTIVE, Client
from copybot.errors import AnswerForged, DeskError, Invalid, ScopeDenied, Transport
from copybot.settings import Settings, SettingsError, load
from copybot.stream import Connected, Lost, Stream
from copybot.terminals import BrokerUnreachable, check_kind, terminal_of

_CLOCK_MS = 1_000  # the desk refuses a time that lies further ahead
_LEAST_FREE = 100 * 1024 * 1024
_CERTIFICATE_DAYS = 14
_PATIENCE_S = 10.0
_REMEDIES = {
    "signature_invalid": "key or secret is wrong, or of another desk: copy both anew from the page of your keys",
    "key_revoked": "the key was revoked: make a new one at the desk",
    "key_expired": "the key has expired: make a new one at the desk",
    "key_generation_retired": "a newer generation of the key is in use: take its key and secret",
    "ip_denied": "the key may not be used from this address: add it at the desk",
    "https_required": "url must begin with https://",
    "clock_outside_window": "this machine's clock is too far off: switch on time synchronisation",
}


@dataclass(frozen=True, slots=True)
class Found:
    """One check's result. `good` None: it could not be checked, because of something above."""

    what: str
    good: bool | None
    words: str


class Sick(Exception):
    """What is wrong, and how it is mended."""


class Skipped(Exception):
    """Why it was not looked at."""


@dataclass
class Patient:
    """What is known by now. Each check adds to it what later ones need."""

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


Check = Callable[[Patient], str]


def run(file: Path, console: Console, *, role: str | None = None) -> int:
    """Print each check as it is made. Returns 1 where one of them found something, else 0."""
    found, patient = [], Patient(file, role)
    for one in examine(patient):
        found.append(one)
        console.print(line(one), soft_wrap=True)
    if patient.client is not None:
        patient.client.hang_up()
    sick = sum(one.good is False for one in found)
    skipped = sum(one.good is None for one in found)
    rest = f", {skipped} could not be checked" if skipped else ""
    words, style = (f"{sick} to mend", "bold red") if sick else ("ready", "bold green")
    console.print(Text(f"\n{words}{rest}", style=style))
    return 1 if sick else 0


def line(found: Found) -> Text:
    mark, style = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("–", "bright_black")}[found.good]
    return Text.assemble((f"{mark} ", style), (f"{found.what:<14}", "bold"), (found.words, "" if found.good else style))


def examine(patient: Patient) -> Iterator[Found]:
    """All checks, in their order."""
    for what, check in _CHECKS:
        try:
            yield Found(what, True, check(patient))
        except Skipped as why:
            yield Found(what, None, str(why))
        except Sick as why:
            yield Found(what, False, str(why))
        except Exception as fault:  # what nobody thought of is found too
            yield Found(what, False, f"{type(fault).__name__}: {fault}")


# --- this machine


def configuration(patient: Patient) -> str:
    try:
        patient.settings = load(patient.file, patient.environ)
    except SettingsError as mistake:
        raise Sick(str(mistake)) from None
    settings = patient.settings
    patient.role = patient.role or ("follow" if settings.subscriptions else "publish")
    return f"{settings.file}, to {patient.role}"


def folder(patient: Patient) -> str:
    place = patient.need_settings().folder
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place, prefix="doctor-") as probe:
            probe.write(b"x")
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as fault:
        raise Sick(f"{place} cannot be written to ({fault.strerror}): give this user the right to") from fault
    free = shutil.disk_usage(place).free
    if free < _LEAST_FREE:
        raise Sick(f"{place} has {free // 2**20} MiB left: make room, at least {_LEAST_FREE // 2**20} MiB")
    return f"{place} can be written, {free / 2**30:.1f} GiB are free"


def state(patient: Patient) -> str:
    settings = patient.need_settings()
    files = [settings.folder / f"{one.sub_id}.sqlite3" for one in settings.subscriptions if patient.follows]
    held = [file.name for file in files if file.exists() and _is_held(file)]
    if held:
        patient.is_running = True
        raise Sick(f"{', '.join(held)} in use: a copier is running here. Stop it before you start another")
    known = sum(file.exists() for file in files)
    return f"{known} of {len(files)} state files are there, none in use" if patient.follows else "none is needed"


def _is_held(file: Path) -> bool:
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=0)) as db:
        try:
            db.execute("select count(*) from sqlite_master").fetchone()
        except sqlite3.OperationalError as fault:
            return "locked" in str(fault)
        except sqlite3.DatabaseError:
            raise Sick(f"{file} is damaged: the copier will put it aside, and open nothing old") from None
    return False


# --- the desk


def connection(patient: Patient) -> str:
    parts = urlsplit(patient.need_settings().url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((host, port), timeout=_PATIENCE_S) as plain:
            if parts.scheme != "https":
                return f"{host} answers on port {port}"
            with ssl.create_default_context().wrap_socket(plain, server_hostname=host) as secure:
                return f"{host} answers on port {port}, {secure.version()}, {_certificate(secure)}"
    except socket.gaierror:
        raise Sick(f"{host} is not a known name: mend url, or this machine's DNS") from None
    except ssl.SSLError as fault:
        raise Sick(f"{host} has no certificate that is trusted here ({fault.reason}): nothing is sent there") from None
    except OSError as fault:
        raise Sick(f"{host}:{port} cannot be reached ({fault}): look at the network and the firewall") from None


def _certificate(secure: ssl.SSLSocket) -> str:
    ends = str((secure.getpeercert() or {}).get("notAfter", ""))
    days = int((ssl.cert_time_to_seconds(ends) - time.time()) / 86_400)
    if days < _CERTIFICATE_DAYS:
        raise Sick(f"the desk's certificate ends in {days} days: tell its operator")
    return f"its certificate is good for {days} days"


def clock(patient: Patient) -> str:
    client = _client(patient)
    before = client.wall_ms()
    try:
        told = int(client.time()["server_time"])
    except Transport as fault:
        raise Sick(f"{fault}: is url the address of a desk?") from fault
    off = (before + client.wall_ms()) // 2 - told
    if abs(off) > _CLOCK_MS:
        raise Sick(f"this machine's clock is {off:+d} ms off the desk's: switch on time synchronisation")
    return f"{off:+d} ms off the desk's"


def key(patient: Patient) -> str:
    client = _client(patient)
    try:
        patient.active = client.active()
    except DeskError as no:
        raise Sick(f"{no.code}: {_REMEDIES.get(no.code, str(no))}") from no
    except AnswerForged as fault:
        raise Sick(f"{fault}: something between here and the desk changes answers") from fault
    return f"{client.key} is let in, and the desk's answer is signed"


def kind(patient: Patient) -> str:
    """By what the desk finds missing in an empty report, which has no effect and uses up no number."""
    patient.need_active()
    try:
        _client(patient).send("POST", ACTIVE, {})
    except ScopeDenied:
        found = "readonly"
    except Invalid as no:
        found = "copier" if "strategy" in no.fields else "master"
    else:
        raise Sick("the desk took an empty report: it is no desk that this program knows")
    wanted = "copier" if patient.follows else "master"
    if found != wanted:
        raise Sick(f"this is a {found} key; to {patient.role}, make a {wanted} key at the desk")
    return f"a {found} key, which may {patient.role}"


def stream(patient: Patient) -> str:
    patient.need_active()
    if not patient.follows:
        return "publishing needs none"
    if patient.is_running:  # a handshake uses up a number, which would make the running copier's next one too small
        raise Skipped("the running copier has it")
    client, until_s = _client(patient), time.monotonic() + _PATIENCE_S
    with Stream(client) as found:
        while (left_s := until_s - time.monotonic()) > 0:
            event = found.next(left_s)
            if isinstance(event, Connected):
                return "connects"
            if isinstance(event, Lost):
                raise Sick(f"it does not connect ({event.why}): does a proxy or firewall stop WebSockets?")
    raise Sick("it does not connect in time: does a proxy or firewall stop WebSockets?")


def subscriptions(patient: Patient) -> str:
    listed = patient.need_active()["as_of"].keys()
    if not patient.follows:
        return f"publishes {', '.join(listed)}" if listed else _no_strategy()
    ours = {one.strategy for one in patient.need_settings().subscriptions}
    if not ours:
        raise Sick("[subscriptions] is empty: name the strategy that you follow, its sub_id and its secrets")
    if absent := sorted(ours - listed):
        raise Sick(f"this account does not subscribe to {', '.join(absent)}: do so at the desk, or mend the name")
    if more := sorted(listed - ours):
        raise Sick(f"{', '.join(more)} would not be copied: add [subscriptions.{more[0]}], sub_id and secrets")
    return f"{', '.join(sorted(ours))}, each with its packet secrets"


def _no_strategy() -> str:
    raise Sick("this account publishes no strategy: make one at the desk")


def _client(patient: Patient) -> Client:
    if patient.client is None:
        settings = patient.need_settings()
        patient.client = Client(settings.url, settings.key, settings.secret, timeout_s=_PATIENCE_S, attempts=2)
    return patient.client


# --- the broker


def broker(patient: Patient) -> str:
    settings = patient.need_settings()
    try:
        patient.terminal = terminal_of(settings, copies=False)
        patient.account = account = patient.terminal.account()
    except (SettingsError, BrokerUnreachable) as hindrance:
        raise Sick(str(hindrance)) from hindrance
    return f"{account.login} on {account.server}, equity {account.equity:,.2f} {account.currency}"


def trading(patient: Patient) -> str:
    terminal, account = patient.need_terminal(), patient.account
    assert account is not None
    if patient.follows and not account.may_trade:
        raise Sick("programs may not trade: switch on algorithmic trading in the terminal, for this account")
    netting = patient.need_settings().broker.netting
    try:
        check_kind(account.is_hedging, netting=netting)
    except SettingsError as mistake:
        raise Sick(str(mistake)) from None
    if not terminal.is_settled():
        raise Sick("the terminal is not connected to its server, or its history is not loaded")
    return f"a {'netting' if netting else 'hedging'} account, as configured; {len(terminal.positions())} positions open"


def symbols(patient: Patient) -> str:
    terminal = patient.need_terminal()
    if not patient.follows:
        nameless = sorted({one.symbol[1:] for one in terminal.positions() if one.symbol.startswith("~")})
        if nameless:
            raise Sick(f"{', '.join(nameless)} has no name at the desk: give it one in [symbols.table]")
        return "each open position has its name at the desk"
    rows = [row for row in patient.need_active()["trades"] if row["role"] == "master" and row.get("copy")]
    wanted = {row["copy"]["symbol"]: Decimal(row["copy"]["volume"]) for row in rows}
    names = patient.need_settings().names
    if unknown := sorted(one for one in wanted if names.theirs(one) is None):
        raise Sick(f"{', '.join(unknown)}: the broker's name of it is another's in [symbols]: mend the table")
    if priceless := sorted(one for one in wanted if terminal.quote(one) is None):
        raise Sick(f"no price of {', '.join(priceless)} now: if its market is open, name it in [symbols.table]")
    small = sorted(one for one, volume in wanted.items() if volume and not terminal.fit(one, volume, None, None)[0])
    if small:
        raise Sick(f"the copies of {', '.join(small)} are below the broker's smallest volume: copy larger")
    return f"{', '.join(sorted(wanted))} can be traded" if wanted else "nothing is open at the desk now"


_CHECKS: tuple[tuple[str, Check], ...] = (
    ("configuration", configuration), ("folder", folder), ("state", state), ("connection", connection),
    ("clock", clock), ("key", key), ("kind", kind), ("stream", stream), ("subscriptions", subscriptions),
    ("broker", broker), ("trading", trading), ("symbols", symbols),
)  # fmt: skip
