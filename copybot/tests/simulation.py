"""One seed is one schedule: the real guard between a desk that sends signals and a broker that cannot be trusted.

The desk is a model of the real verbs: numbered events, trades that are active or closed for ever, snapshots of one
instant. Packets are dropped, doubled, delayed and overtake each other. The broker refuses, answers too late or never,
executes what it did not answer, now or in a while, and closes positions by itself. The process dies before or after
any commit and any order. Nothing in here looks at a clock.
"""

import hashlib
import hmac
import random
import sqlite3
from collections import Counter
from dataclasses import dataclass, field, replace
from decimal import Decimal

from copybot.broker import Outcome, Position, Result, Trace
from copybot.guard import ExecutionGuard
from copybot.limits import Limits
from copybot.targets import Snapshot, Target

SECRET = "00112233445566778899aabbccddeeff" * 2
SUB = "s-1"
NOON = 1_767_600_000_000
LIMITS = Limits(max_open_age_ms=6_000, settle_ms=8_000, second_look_ms=2_000, brake_ms=1_000)
PRICE = Decimal("1.10000000")


class Crash(BaseException):
    """The process is gone: nothing in it catches this."""


@dataclass(frozen=True)
class Weather:
    """How bad it is: probabilities a step."""

    ticks: int = 60
    drop: float = 0.0
    double: float = 0.0
    reject: float = 0.02
    timeout: float = 0.0
    crash: float = 0.0
    slowest: int = 5  # ticks until an order that was not answered may still be executed
    away: float = 0.0  # the broker cannot be asked
    stop_out: float = 0.0  # the broker closes a position by itself


CALM = Weather()
FAULTY = Weather(drop=0.03, double=0.05, reject=0.03, timeout=0.05, crash=0.01, away=0.02, stop_out=0.01)
HOSTILE = Weather(drop=0.1, double=0.2, reject=0.05, timeout=0.2, crash=0.05, away=0.05, stop_out=0.02)
SLOW = replace(HOSTILE, slowest=20)  # later than the guard waits


def packet(seq, at_ms, action, target, *, secret=SECRET, generation="1"):
    """As the desk signs it, from the protocol's page alone."""
    volume = Decimal(0) if action == "CLOSE" else target.volume
    stops = ["" if one is None or action == "CLOSE" else f"{one:.8f}" for one in (target.sl, target.tp)]
    fields = [SUB, str(seq), str(at_ms), target.symbol, target.side, f"{volume:.8f}", f"{PRICE:.8f}", *stops]
    payload = "|".join([*fields, "CP1", action, target.ref, generation])
    key = hmac.new(secret.encode(), b"copydesk/packet/v1", hashlib.sha256).hexdigest().encode()
    names = ("sub_id", "seq", "timestamp", "symbol", "type", "volume", "price", "sl", "tp")
    return {
        **dict(zip(names, fields, strict=True)),
        "action": action,
        "trade_ref": target.ref,
        "gen": generation,
        "signature_v1": hmac.new(key, payload.encode(), hashlib.sha256).hexdigest(),
    }


class Desk:
    """A strategy at the desk."""

    def __init__(self, rng):
        self.rng, self.seq, self.epoch, self.active, self.closed, self.log = rng, 0, "1", {}, set(), []

    def open(self, now):
        ref = f"t{self.seq + 1}"
        volume = Decimal(self.rng.randrange(1, 20)) / 10
        sl = None if self.rng.random() < 0.3 else PRICE - Decimal("0.005")
        self._tell(
            "OPEN", Target(ref, "EURUSD", self.rng.choice(["BUY", "SELL"]), volume, sl, None, PRICE, now, 0), now
        )

    def change(self, now):
        """Modify, reduce or close one of those that are active."""
        target = self.active[self.rng.choice(sorted(self.active))]
        kind = self.rng.random()
        if kind < 0.2:
            self._tell("MODIFY", replace(target, sl=PRICE - Decimal(self.rng.randrange(1, 9)) / 1000), now)
        elif kind < 0.4 and target.volume > Decimal("0.1"):
            self._tell("REDUCE", replace(target, volume=target.volume - Decimal("0.1")), now)
        else:
            self._tell("CLOSE", target, now)

    def _tell(self, action, target, now):
        self.seq += 1
        target = replace(target, seq=self.seq)
        if action == "CLOSE":
            del self.active[target.ref]
            self.closed.add(target.ref)
        else:
            self.active[target.ref] = target
        self.log.append(packet(self.seq, now, action, target))

    def snapshot(self):
        return Snapshot(self.epoch, self.seq, dict(self.active))


@dataclass
class FakeBroker:
    """Hedging account. `opens` counts executions by magic; `sent` orders to open."""

    rng: random.Random
    weather: Weather
    now: int = 0
    held: dict = field(default_factory=dict)
    deals: set = field(default_factory=set)
    late: list = field(default_factory=list)
    opens: Counter = field(default_factory=Counter)
    sent: Counter = field(default_factory=Counter)
    point: object = lambda: None

    def tick(self, now):
        self.now = now
        for due in [one for one in self.late if one[0] <= now]:
            self.late.remove(due)
            due[1]()
        if self.held and self.rng.random() < self.weather.stop_out:
            self.held.pop(self.rng.choice(sorted(self.held)))

    def _ask(self):
        if self.rng.random() < self.weather.away:
            raise ConnectionError("the terminal is not connected")

    def _order(self, do):
        """Do it, or not, or later; and say so, or not."""
        self.point()
        luck, weather = self.rng.random(), self.weather
        if luck < weather.reject:
            self.point()
            return Result(Outcome.REJECTED, 10006)
        if luck < weather.reject + weather.timeout:
            fate = self.rng.random()
            if fate < 0.34:
                do()
            elif fate < 0.67:
                self.late.append((self.now + self.rng.randint(1, weather.slowest) * 1000, do))
            self.point()
            if self.rng.random() < 0.5:
                raise TimeoutError
            return Result(Outcome.UNKNOWN, 10012)
        do()
        self.point()
        return Result(Outcome.DONE, 10009)

    def positions(self):
        self._ask()
        return list(self.held.values())

    def trace(self, magic):
        self._ask()
        return Trace.DONE if magic in self.deals else Trace.NONE

    def is_settled(self):
        return self.rng.random() >= self.weather.away

    def fit(self, symbol, volume, sl, tp):
        return volume, sl, tp

    def open(self, *, magic, symbol, side, volume, sl, tp):
        self.sent[magic] += 1

        def do():
            self.opens[magic] += 1
            self.deals.add(magic)
            number = f"p{magic}-{self.opens[magic]}"
            self.held[number] = Position(number, magic, symbol, side, volume, sl, tp)

        return self._order(do)

    def close(self, position, volume):
        def do():
            held = self.held.pop(position.id, None)
            if held is not None and held.volume > volume:
                self.held[position.id] = replace(held, volume=held.volume - volume)

        return self._order(do)

    def modify(self, position, *, sl, tp):
        def do():
            if position.id in self.held:
                self.held[position.id] = replace(self.held[position.id], sl=sl, tp=tp)

        return self._order(do)


class Disk:
    """The state file: what was committed stays, whoever dies. Each commit is a place to die before and after."""

    def __init__(self, point):
        self.db, self.point = sqlite3.connect(":memory:", isolation_level=None), point

    def connect(self, path, **options):
        return self

    @property
    def in_transaction(self):
        return self.db.in_transaction

    def executescript(self, script):
        return self.db.executescript(script)

    def close(self):
        pass

    def execute(self, statement, *values):
        if statement != "commit":
            return self.db.execute(statement, *values)
        self.point()
        done = self.db.execute("commit")
        self.point()
        return done

    def power_cut(self):
        if self.db.in_transaction:
            self.db.execute("rollback")


class World:
    """Run one schedule with a kind of guard, then let the weather clear and all come to rest."""

    def __init__(self, seed, weather, guard=ExecutionGuard):
        self.rng, self.weather, self.kind = random.Random(seed), weather, guard
        self.desk, self.now, self.crashes, self.calm = Desk(self.rng), 0, 0, False
        self.broker = FakeBroker(random.Random(seed + 1), weather, point=self.point)
        self.disk, self.guard, self.up_at, self.net = Disk(self.point), None, 0, []
        self._run()

    def point(self):
        if not self.calm and self.rng.random() < self.weather.crash:
            self.crashes += 1
            raise Crash

    def _run(self):
        for tick in range(self.weather.ticks):
            self._step(NOON + tick * 1000)
        self.calm = True
        self.broker.weather = replace(CALM, reject=0.0)
        for tick in range(self.weather.ticks, self.weather.ticks + self.weather.slowest + 40):
            self._step(NOON + tick * 1000, quiet=True)

    def _step(self, now, quiet=False):
        self.now, before = now, len(self.desk.log)
        self.broker.tick(now)
        if not quiet and self.rng.random() < 0.3:
            self.desk.open(now)
        if self.desk.active and not quiet and self.rng.random() < 0.4:
            self.desk.change(now)
        for sent in self.desk.log[before:]:
            self._post(sent)
        if self.guard is None and now >= self.up_at:
            self._do(self._start)
        due = [one for one in self.net if one[0] <= now]
        self.net = [one for one in self.net if one[0] > now]
        self.rng.shuffle(due)
        for _, sent in due:
            if self.guard is not None:
                self._do(self.guard.on_packet, sent)
        if self.guard is not None:
            self._do(self._beat)

    def _post(self, sent):
        for chance in (1 - self.weather.drop, self.weather.double):
            if self.rng.random() < chance:
                self.net.append((self.now + self.rng.choice([0, 0, 0, 1000, 3000]), sent))

    def _start(self):
        self.guard = self.kind(
            "state", SUB, {1: SECRET}, 7, self.broker, lambda: self.now, LIMITS, connect=self.disk.connect
        )

    def _beat(self):
        if (self.guard.needs_snapshot or self.now % 10_000 == 0) and (self.calm or self.rng.random() < 0.7):
            self.guard.on_snapshot(self.desk.snapshot(), asked_at=self.guard.seen)
        self.guard.tick()

    def _do(self, step, *args):
        try:
            step(*args)
        except Crash:
            self.disk.power_cut()
            self.guard, self.up_at = None, self.now + self.rng.randint(1, 12) * 1000

    # --- what a user would lose

    @property
    def doubled(self):
        """Executions of opens beyond the first of a trade."""
        return sum(count - 1 for count in self.broker.opens.values() if count > 1)

    @property
    def orphans(self):
        """Positions at rest of trades that are closed, or of none."""
        wanted = {self.guard._magic(ref) for ref in self.desk.active}
        return [one for one in self.broker.held.values() if one.magic not in wanted]

    @property
    def astray(self):
        """Positions at rest that are larger than the snapshot says, or whose stops are others."""
        return [one for one, to in self._pairs() if one.volume > to.volume or (one.sl, one.tp) != (to.sl, to.tp)]

    @property
    def short(self):
        """Positions at rest that are smaller than the snapshot says: a reduction that was done twice."""
        return [one for one, to in self._pairs() if one.volume < to.volume]

    def _pairs(self):
        targets = {self.guard._magic(ref): target for ref, target in self.desk.active.items()}
        return [(one, targets[one.magic]) for one in self.broker.held.values() if one.magic in targets]

    @property
    def faults(self):
        late = self.weather.slowest * 1000 > LIMITS.settle_ms  # then nobody can know what is still to come
        return self.doubled + len(self.orphans) + len(self.astray) + (0 if late else len(self.short))

    @property
    def trades(self):
        return len(self.desk.active) + len(self.desk.closed)

    @property
    def copied(self):
        return len(self.broker.opens)
