"""The drill's environment: its own accounts and keys at the desk, its copiers' processes, a listener on the stream.

The copiers are real processes that have only the desk's address and a key. Their executions are read from the broker's
records, never from their own reports.
"""

import json
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils import timezone

from accounts import services as accounts
from accounts.models import BotKey, TradingAccount, User
from audit import services as audit
from config import demo_data
from copybot.broker import Entry
from copybot.client import Client
from copybot.magic import magic_of
from copybot.paper import PaperBroker
from copybot.sandbox import Config
from copybot.stream import Message, Stream
from core import money
from core.transactions import use_case
from strategies import services as strategies
from strategies.models import Strategy, Subscription
from trades import services as trades
from trades.models import ActiveTrade, Copier
from trust import services as trust
from trust.models import ScoreKind, TrustHold

USER, PROVIDER, STRATEGY = "drill-sandbox", "drill-provider", "drill-zombies"
# The second instance leaves a lease behind, for which the next run would have to wait: it takes the next account.
COPIERS = tuple(f"drill-copier-{number}" for number in range(1, 7))
LABEL = FOLDERS = "copydesk-drill"
PROVIDER_KEY, LISTENER_KEY, FIRST_KEY, SECOND_KEY = "provider", "listener", "first", "second"
KINDS = {
    PROVIDER_KEY: BotKey.Kind.MASTER,
    LISTENER_KEY: BotKey.Kind.COPIER,
    FIRST_KEY: BotKey.Kind.COPIER,
    SECOND_KEY: BotKey.Kind.COPIER,
}
KEYS_LIVE = timedelta(hours=1)
FOLDERS_LIVE_S = 3600
START_S = 15
REPLY_S = 8
Line = Mapping[str, Any]


class SetupFailed(Exception):
    """The drill could not be run; the message says why."""


# --- the desk's side


@dataclass(frozen=True)
class Environment:
    """The accounts, the subscription of the copier to the provider, and the keys of this run by their user."""

    provider_account: TradingAccount
    copier_account: TradingAccount
    subscription: Subscription
    keys: Mapping[str, accounts.NewSecret] = field(repr=False)

    @property
    def instance(self) -> str:
        """The copier's instance: the same in each run, so that it does not wait for its own lease."""
        return _instance(self.copier_account)

    def client(self, url: str, user: str) -> Client:
        return Client(url, self.keys[user].key, self.keys[user].secret, timeout_s=3, attempts=3, patience_s=5)


def set_up() -> Environment:
    """Create or find the accounts, create new keys, and clean up after a killed run. Raises SetupFailed."""
    owner = _owner()
    env = _accounts_of(owner)
    clean_up()
    _hold_scores(owner)
    keys = {
        user: _key(env.provider_account if user == PROVIDER_KEY else env.copier_account, kind)
        for user, kind in KINDS.items()
    }
    return replace(env, keys=keys)


def _owner() -> User:
    owner = User.objects.filter(username=USER).first()
    if owner is not None and (owner.is_staff or owner.has_usable_password()):
        raise SetupFailed(f"the user {USER} belongs to a person, but the drill needs this name: rename the user")
    return owner or demo_data.user(USER)


@use_case()
def _accounts_of(owner: User) -> Environment:
    provider, copier = demo_data.account(owner, PROVIDER), _free_copier(owner)
    strategy = demo_data.strategy(owner, provider, STRATEGY, "Of the zombie drill, on paper accounts")
    if {provider.owner_id, copier.owner_id, strategy.owner_id} != {owner.pk}:
        raise SetupFailed(
            f"{provider}, {copier} or {strategy} belongs to another user, but the drill needs these names: rename it"
        )
    subscription = strategies.subscribe(account=copier, strategy=strategy, actor=audit.SYSTEM)
    if strategy.status != Strategy.Status.ACTIVE or subscription.status != Subscription.Status.ACTIVE:
        raise SetupFailed(
            f"{STRATEGY} is {strategy.status} and its subscription {subscription.status}: resume them first"
        )
    return Environment(provider, copier, subscription, {})


def _free_copier(owner: User) -> TradingAccount:
    for name in COPIERS:
        account = demo_data.account(owner, name)
        copier = Copier.objects.filter(account=account).first()
        if copier is None or max(copier.may_open_at, _end_of_foreign_lease(copier)) <= timezone.now():
            return account
    raise SetupFailed("the drill was run too often: the leases of its copiers are still held. Try again in a minute")


def _end_of_foreign_lease(copier: Copier) -> datetime:
    return copier.may_open_at if copier.instance == _instance(copier.account) else copier.leased_until


def _instance(account: TradingAccount) -> str:
    return f"{account.name}-first"


def _hold_scores(owner: User) -> None:
    """The drill causes faults on purpose, so its scores are held and restrict nothing."""
    for kind in (ScoreKind.ENDPOINT, ScoreKind.FLOW):
        if not TrustHold.objects.filter(user=owner, kind=kind, ended_at=None, expires_at__gt=timezone.now()).exists():
            trust.hold(
                user=owner, kind=kind, effect=TrustHold.Effect.OPEN, reason="The drill causes faults on purpose.",
                expires_at=timezone.now() + timedelta(days=3650), by=None, actor=audit.SYSTEM,
            )  # fmt: skip


def _key(account: TradingAccount, kind: str) -> accounts.NewSecret:
    expires_at = timezone.now() + KEYS_LIVE
    with use_case():
        return accounts.create_key(account=account, kind=kind, actor=audit.SYSTEM, label=LABEL, expires_at=expires_at)[
            1
        ]


def clean_up() -> int:
    """Force-close the open trades of the drill's accounts and revoke its keys; return how many trades were open."""
    open_trades = list(ActiveTrade.objects.filter(account__owner__username=USER))
    for trade in open_trades:
        with suppress(trades.TradeClosed):
            trades.force_close(
                trade_id=trade.pk, close_price=trade.open_price, profit=Decimal(0), note="Left open by a drill.",
                actor=audit.SYSTEM,
            )  # fmt: skip
    for key in BotKey.objects.filter(account__owner__username=USER, label=LABEL, revoked_at=None):
        accounts.revoke_key(key=key, actor=audit.SYSTEM)
    return len(open_trades)


# --- the copier's side


@dataclass
class Sandbox:
    """A copier's process, with JSON lines in and out. It can be killed and started again on the same folder."""

    command: Sequence[str]
    config: Config
    process: "subprocess.Popen[str] | None" = None
    output: "queue.SimpleQueue[Line | None]" = field(default_factory=queue.SimpleQueue)

    @property
    def folder(self) -> Path:
        return Path(self.config.folder)

    def start(self) -> None:
        self.output = queue.SimpleQueue()
        self.folder.mkdir(exist_ok=True)
        with self._log.open("a") as log:
            self.process = subprocess.Popen(  # noqa: S603 - this interpreter, and a module of the project
                self.command, cwd=settings.BASE_DIR, env={}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
        threading.Thread(target=self._listen, args=(self.process, self.output), daemon=True).start()
        self.write(asdict(self.config))
        self.read("ready", START_S)

    def write(self, line: Line) -> None:
        assert self.process is not None and self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(line, default=str) + "\n")
            self.process.stdin.flush()
        except OSError:
            raise SetupFailed(self._why_ended()) from None

    def read(self, kind: str, patience_s: float | None = None) -> Line:
        """The next line of this kind; others are skipped. Raises SetupFailed where it does not come in time."""
        patience_s = REPLY_S if patience_s is None else patience_s
        until = time.monotonic() + patience_s
        while (left_s := until - time.monotonic()) > 0:
            try:
                line = self.output.get(timeout=left_s)
            except queue.Empty:
                break
            if line is None:
                raise SetupFailed(self._why_ended())
            if line["said"] == kind:
                return line
        raise SetupFailed(f"the copier's process did not report “{kind}” within {patience_s:g} s")

    def state(self) -> Line:
        self.write({"cmd": "state"})
        return self.read("state")

    def kill(self) -> None:
        """End the process without warning, like a power cut."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdin is not None
            with suppress(OSError):  # lines that the process no longer reads
                self.process.stdin.close()
            self.process = None

    def stop(self) -> None:
        self.write({"cmd": "stop"})
        self.read("stopped")
        self.kill()

    @property
    def _log(self) -> Path:
        return self.folder.with_suffix(".log")

    @staticmethod
    def _listen(process: "subprocess.Popen[str]", output: "queue.SimpleQueue[Line | None]") -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                output.put(json.loads(line))
        output.put(None)

    def _why_ended(self) -> str:
        last_line = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        return f"the copier's process ended: {last_line[0] if last_line else 'without a message'}"


@dataclass
class StreamListener:
    """A socket at the desk for the copier's account, with a key of its own. It receives the deltas that are pushed."""

    client: Client
    messages: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stream = Stream(self.client)

    def open(self, patience_s: float = 8) -> None:
        until = time.monotonic() + patience_s
        while not self.stream.as_of:
            self._take(until, "the desk's stream could not be opened")

    def read(self, seq: str, action: str, patience_s: float = 5) -> dict[str, Any]:
        """The delta with this sequence number. Raises SetupFailed where it does not come or has another action."""
        until = time.monotonic() + patience_s
        while seq not in self.messages:
            self._take(until, f"the desk pushed no delta with the sequence number {seq}")
        message = self.messages[seq]
        if message["packet"]["action"] != action:
            raise SetupFailed(f"the desk pushed {message['packet']['action']} instead of {action}")
        return message

    def _take(self, until: float, otherwise: str) -> None:
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise SetupFailed(otherwise)
        event = self.stream.next(left_s)
        if isinstance(event, Message) and isinstance(event.body.get("packet"), dict):
            self.messages[str(event.body["seq"])] = event.body


@dataclass(frozen=True, slots=True)
class Executions:
    """What was executed at the broker for one trade: opening and closing orders, lots opened, lots still held."""

    opens: int
    closes: int
    opened: Decimal
    held: Decimal

    def __str__(self) -> str:
        return f"opened {self.opens}×, closed {self.closes}×, {lots(self.held)} held"


def lots(volume: Decimal) -> str:
    return f"{money.plain(volume)} lots"


@dataclass(frozen=True)
class BrokerRecords:
    """The broker's records, read independently of the copier. `index`: the subscription's part of the magic numbers."""

    account: PaperBroker
    index: int

    def of(self, ref: str) -> Executions:
        magic = magic_of(self.index, ref)
        held = sum((position.volume for position in self.account.positions() if position.magic == magic), Decimal(0))
        deals = [deal for deal in self.account.history() if deal.magic == magic]
        opens = [deal for deal in deals if deal.entry is Entry.IN]
        return Executions(len(opens), len(deals) - len(opens), sum((deal.volume for deal in opens), Decimal(0)), held)

    def close_all(self) -> int:
        """Close the positions that no copier will close any more; return how many there were."""
        positions = self.account.positions()
        for position in positions:
            self.account.close(position, position.volume)
        return len(positions)


class TemporaryFolder:
    """A private folder. Creating one also removes the folders that killed runs left behind."""

    def __init__(self) -> None:
        for old in Path(tempfile.gettempdir()).glob(f"{FOLDERS}-*"):
            if time.time() - old.stat().st_mtime > FOLDERS_LIVE_S:
                shutil.rmtree(old, ignore_errors=True)
        self.path = Path(tempfile.mkdtemp(prefix=f"{FOLDERS}-"))

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
