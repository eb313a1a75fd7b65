"""Checks everything that a bot needs, before a problem costs a trade. It changes nothing at the desk or the broker."""

import os
import shutil
import socket
import sqlite3
import ssl
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.text import Text

from copybot import account_checks, keys, packets
from copybot.checkup import Check, Checkup, Failed, Result, Skipped
from copybot.client import Client
from copybot.display import age
from copybot.errors import AnswerForged, DeskError, ScopeDenied, Transport
from copybot.lease import instance_of
from copybot.settings import SettingsError, load
from copybot.stream import Connected, Lost, Stream
from copybot.subscriptions import Subscription

_CLOCK_MS = 1_000  # the desk refuses a request whose time is further ahead
_LEAST_FREE = 100 * 1024 * 1024
_CERTIFICATE_DAYS = 14
_PATIENCE_S = 10.0


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


def account(checkup: Checkup) -> str:
    checkup.need_active()
    try:
        checkup.desk_account = desk = _client(checkup).account()
    except DeskError as refusal:
        raise Skipped(f"this desk does not say ({refusal.code}): it is of an older version") from refusal
    publishes = f", which publishes {desk['publishes']}" if desk["publishes"] else ""
    return f"the key is for {desk['account']}{publishes}"


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


def secrets(checkup: Checkup) -> str:
    """Compare the signal secrets with the hashes that the desk gives: a wrong one is found before a signal comes."""
    checkup.need_settings()
    if not checkup.follows:
        return "publishing needs none"
    rows = {row["strategy"]: row for row in checkup.need_desk_account()["subscriptions"]}
    followed = [each for each in checkup.need_settings().subscriptions if each.strategy in rows]
    for subscription in followed:
        _check_secrets(subscription, rows[subscription.strategy])
    if not followed:
        raise Skipped("the desk lists no subscription of the configuration")
    return f"{', '.join(sorted(each.strategy for each in followed))}: as the desk has them"


def _check_secrets(subscription: Subscription, row: Mapping[str, Any]) -> None:
    strategy, sub_id = subscription.strategy, row["sub_id"]
    if subscription.sub_id != sub_id:
        raise Failed(f"sub_id in [subscriptions.{strategy}] must be {sub_id}")
    checks = {int(generation): check for generation, check in row["checks"].items()}
    newest = max(checks)  # with it alone the copier works: its first heartbeat puts it into use
    if newest not in subscription.secrets:
        raise Failed(
            f"secrets in [subscriptions.{strategy}] has no generation {newest}, which the desk uses or will use: "
            "add it, or create a new signal secret at the desk"
        )
    for generation, check in sorted(checks.items()):
        secret = subscription.secrets.get(generation)
        if secret and packets.secret_check(secret, sub_id=sub_id, generation=generation) != check:
            raise Failed(
                f"the signal secret of generation {generation} in [subscriptions.{strategy}] is wrong: copy it again, "
                "or create a new signal secret at the desk"
            )


def lease(checkup: Checkup) -> str:
    settings = checkup.need_settings()
    if not checkup.follows:
        return "publishing needs none"
    copier = checkup.need_desk_account()["copier"]
    if copier is None:
        return "free: no copier has connected yet"
    left_s = (_ms(copier["leased_until"]) - checkup.desk_ms()) / 1000
    contact = age(checkup.desk_ms() - _ms(copier["heartbeat_at"]))
    if left_s <= 0:
        return f"free: the last copier's contact was {contact} ago"
    if copier["instance"] == instance_of(settings.folder):
        return "held by the copier of this folder"
    raise Failed(
        f"another copier runs for this account (last contact {contact} ago): stop it first. If none is to run, wait "
        f"{left_s:.0f} s until its lease ends, and look for the machine that still has this key"
    )


def _ms(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp() * 1000)


def _no_strategy() -> str:
    raise Failed("this account publishes no strategy: create one at the desk")


def _client(checkup: Checkup) -> Client:
    if checkup.client is None:
        settings = checkup.need_settings()
        checkup.client = Client(settings.url, settings.key, settings.secret, timeout_s=_PATIENCE_S, attempts=2)
    return checkup.client


_CHECKS: tuple[tuple[str, Check], ...] = (
    ("configuration", configuration), ("folder", folder), ("state", state), ("connection", connection),
    ("clock", clock), ("key", key), ("account", account), ("kind", kind), ("stream", stream),
    ("subscriptions", subscriptions), ("secrets", secrets), ("lease", lease), ("broker", account_checks.broker),
    ("trading", account_checks.trading), ("currency", account_checks.currency), ("symbols", account_checks.symbols),
    ("contracts", account_checks.contracts),
)  # fmt: skip
