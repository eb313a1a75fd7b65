"""What a drill is played with: accounts and keys of its own at the desk, its copiers, an ear on the real stream.

The copiers are real processes which know the desk by its address and their key alone. What they did is read from the
broker's own books, never taken from their word.
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
from dataclasses import asdict, dataclass, field
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
# Of two instances the later one waits for the other's lease, and so would the next run: it takes the next account.
COPIERS = tuple(f"drill-copier-{number}" for number in range(1, 7))
LABEL = FOLDERS = "copydesk-drill"
LEADER, EAR, FIRST, SECOND = "leader", "ear", "first", "second"
KINDS = {LEADER: BotKey.Kind.MASTER, EAR: BotKey.Kind.COPIER, FIRST: BotKey.Kind.COPIER, SECOND: BotKey.Kind.COPIER}
KEYS_LIVE = timedelta(hours=1)
FOLDERS_LIVE_S = 3600
START_S = 15
Line = Mapping[str, Any]


class SetupFailed(Exception):
    """The drill could not be made; says why."""


# --- the desk's side


@dataclass(frozen=True)
class Environment:
    """Who plays: the two accounts, the one that follows the other, and the keys of this run by who uses them."""

    provider: TradingAccount
    copier: TradingAccount
    follows: Subscription
    keys: Mapping[str, accounts.NewSecret] = field(repr=False)

    @property
    def instance(self) -> str:
        """The place that copies for this account: the same in each run, so that it need not wait for itself."""
        return _instance(self.copier)

    def client(self, url: str, who: str) -> Client:
        return Client(url, self.keys[who].key, self.keys[who].secret, timeout_s=3, attempts=3, patience_s=5)


def set_up() -> Environment:
    """Make who plays, or meet them again, and new keys; put away what a killed run left. Raises Unmade."""
    owner = _owner()
    stage = _met(owner)
    put_away()
    _spare(owner)
    keys = {who: _key(stage.provider if who == LEADER else stage.copier, kind) for who, kind in KINDS.items()}
    return Environment(stage.provider, stage.copier, stage.follows, keys)


def _owner() -> User:
    known = User.objects.filter(username=USER).first()
    if known is not None and (known.is_staff or known.has_usable_password()):
        raise SetupFailed(f"the user {USER} is somebody's: the drill needs that name for itself")
    return known or demo_data.user(USER)


@use_case()
def _met(owner: User) -> Environment:
    provider, copier = demo_data.account(owner, PROVIDER), _free_copier(owner)
    strategy = demo_data.strategy(owner, provider, STRATEGY, "The zombie drill's own, on paper")
    if {provider.owner_id, copier.owner_id, strategy.owner_id} != {owner.pk}:
        raise SetupFailed(
            f"{provider}, {copier} or {strategy} is somebody else's: the drill needs these names for itself"
        )
    follows = strategies.subscribe(account=copier, strategy=strategy, actor=audit.SYSTEM)
    if strategy.status != Strategy.Status.ACTIVE or follows.status != Subscription.Status.ACTIVE:
        raise SetupFailed(f"{STRATEGY} is {strategy.status} and its subscription {follows.status}: resume them first")
    return Environment(provider, copier, follows, {})


def _free_copier(owner: User) -> TradingAccount:
    for name in COPIERS:
        account = demo_data.account(owner, name)
        held = Copier.objects.filter(account=account).first()
        if held is None or max(held.may_open_at, _lease_of_another(held)) <= timezone.now():
            return account
    raise SetupFailed("it was run too often just now: the leases of its copiers last for another minute")


def _lease_of_another(held: Copier) -> datetime:
    return held.may_open_at if held.instance == _instance(held.account) else held.leased_until


def _instance(account: TradingAccount) -> str:
    return f"{account.name}-first"


def _spare(owner: User) -> None:
    """It makes faults on purpose, each night the same: its scores say nothing."""
    for kind in (ScoreKind.ENDPOINT, ScoreKind.FLOW):
        if not TrustHold.objects.filter(user=owner, kind=kind, ended_at=None, expires_at__gt=timezone.now()).exists():
            trust.hold(
                user=owner, kind=kind, effect=TrustHold.Effect.OPEN, reason="A drill: it makes faults on purpose.",
                expires_at=timezone.now() + timedelta(days=3650), by=None, actor=audit.SYSTEM,
            )  # fmt: skip


def _key(trades_on: TradingAccount, kind: str) -> accounts.NewSecret:
    ends = timezone.now() + KEYS_LIVE
    with use_case():
        return accounts.create_key(account=trades_on, kind=kind, actor=audit.SYSTEM, label=LABEL, expires_at=ends)[1]


def put_away() -> int:
    """Close what is open on the drill's accounts, in the desk's own books, and revoke its keys; how much was open."""
    left = list(ActiveTrade.objects.filter(account__owner__username=USER))
    for trade in left:
        with suppress(trades.TradeClosed):
            trades.force_close(
                trade_id=trade.pk, close_price=trade.open_price, profit=Decimal(0), note="Left by a drill.",
                actor=audit.SYSTEM,
            )  # fmt: skip
    for key in BotKey.objects.filter(account__owner__username=USER, label=LABEL, revoked_at=None):
        accounts.revoke_key(key=key, actor=audit.SYSTEM)
    return len(left)


# --- the copier's side


@dataclass
class Sandbox:
    """A copier's process. It may be killed, and started again on the same folder."""

    command: Sequence[str]
    config: Config
    process: "subprocess.Popen[str] | None" = None
    said: "queue.SimpleQueue[Line | None]" = field(default_factory=queue.SimpleQueue)

    @property
    def folder(self) -> Path:
        return Path(self.config.folder)

    def start(self) -> None:
        self.said = queue.SimpleQueue()
        self.folder.mkdir(exist_ok=True)
        with self._log.open("a") as log:
            self.process = subprocess.Popen(  # noqa: S603 - this Python, and a module of ours
                self.command, cwd=settings.BASE_DIR, env={}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
        threading.Thread(target=self._listen, args=(self.process, self.said), daemon=True).start()
        self.say(asdict(self.config))
        self.hear("ready", START_S)

    def say(self, line: Line) -> None:
        assert self.process is not None and self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(line, default=str) + "\n")
            self.process.stdin.flush()
        except OSError:
            raise SetupFailed(self._why_ended()) from None

    def hear(self, what: str, patience_s: float = 8) -> Line:
        """The next line that says it. Raises Unmade where it does not come."""
        until = time.monotonic() + patience_s
        while (left_s := until - time.monotonic()) > 0:
            try:
                line = self.said.get(timeout=left_s)
            except queue.Empty:
                break
            if line is None:
                raise SetupFailed(self._why_ended())
            if line["said"] == what:
                return line
        raise SetupFailed(f"the copier's process did not say “{what}” within {patience_s:g} s")

    def state(self) -> Line:
        self.say({"cmd": "state"})
        return self.hear("state")

    def kill(self) -> None:
        """As a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdin is not None
            with suppress(OSError):  # what it was not told any more
                self.process.stdin.close()
            self.process = None

    def stop(self) -> None:
        self.say({"cmd": "stop"})
        self.hear("stopped")
        self.kill()

    @property
    def _log(self) -> Path:
        return self.folder.with_suffix(".log")

    @staticmethod
    def _listen(process: "subprocess.Popen[str]", said: "queue.SimpleQueue[Line | None]") -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                said.put(json.loads(line))
        said.put(None)

    def _why_ended(self) -> str:
        words = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        return f"the copier's process ended: {words[0] if words else 'it said nothing'}"


@dataclass
class StreamListener:
    """The copier's own socket at the desk, with a key of its own: what really is pushed, in the order it comes in."""

    client: Client
    messages: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stream = Stream(self.client)

    def open(self, patience_s: float = 8) -> None:
        until = time.monotonic() + patience_s
        while not self.stream.as_of:
            self._take(until, "the desk's stream could not be opened")

    def hear(self, seq: str, action: str, patience_s: float = 5) -> dict[str, Any]:
        """The delta of this number. Raises Unmade where it does not come, or is another's."""
        until = time.monotonic() + patience_s
        while seq not in self.messages:
            self._take(until, f"the desk pushed nothing with the number {seq}")
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
    """What was done at the broker for one trade: orders that opened and closed, lots that were opened, lots held."""

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
    """The broker's books, read beside whoever trades. `index`: the subscription's part of the magic numbers."""

    account: PaperBroker
    index: int

    def of(self, ref: str) -> Executions:
        magic = magic_of(self.index, ref)
        held = sum((one.volume for one in self.account.positions() if one.magic == magic), Decimal(0))
        deals = [deal for deal in self.account.history() if deal.magic == magic]
        opens = [deal for deal in deals if deal.entry is Entry.IN]
        return Executions(len(opens), len(deals) - len(opens), sum((deal.volume for deal in opens), Decimal(0)), held)

    def close_all(self) -> int:
        """What no copier closes any more; how much it was."""
        left = self.account.positions()
        for position in left:
            self.account.close(position, position.volume)
        return len(left)


class TemporaryFolder:
    """A folder that nobody else reads; those that killed runs left go with it."""

    def __init__(self) -> None:
        for old in Path(tempfile.gettempdir()).glob(f"{FOLDERS}-*"):
            if time.time() - old.stat().st_mtime > FOLDERS_LIVE_S:
                shutil.rmtree(old, ignore_errors=True)
        self.path = Path(tempfile.mkdtemp(prefix=f"{FOLDERS}-"))

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
