"""End to end on real processes: a provider's terminal, the desk, three copiers. Every process is killed in turn.

Ten days of real prices pass in a minute. The copiers' brokers differ: one account is hedging, one netting, one closes
oldest first (FIFO). The web process, PostgreSQL, Valkey, the provider's terminal and the copiers are killed without
warning, and wires are cut. Then nobody kills any more, and positions, the desk's rows, history and wallets must agree.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import timedelta
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, InterfaceError, connections
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from accounts import services as accounts
from accounts.models import TradingAccount, User
from audit import services as audit
from copybot.broker import Deal, Entry
from copybot.magic import magic_of
from copybot.netting import Book, book_of
from market.models import Candle
from strategies import services as strategies
from strategies.models import Strategy
from tests import databases
from tests.conftest import ROOT, Serving
from tests.crashes.network import Wire
from tests.signed import LONG_AGO
from tests.transactions import committed
from tests.wallets.conftest import accept
from trades import checks
from trades.models import ActiveTrade, CopySkip, TradeHistory
from trades.services import overdue_closes
from wallets import checks as wallet_checks
from wallets import services as wallets
from wallets.lines import Line
from wallets.models import FeeClaim, FeeTerms
from wallets.services import settlement

pytestmark = pytest.mark.crash

FOR_S = float(os.environ.get("COPYDESK_DRILL_S", "24"))
DAYS = 10
SEED = int(os.environ.get("SEED", time.time_ns() % 10**6))
BARS = ROOT / "market" / "data" / "eurusd-1h-2017-2018.csv"
WAYS: dict[str, Any] = {  # how each of the three copies
    "even": {},
    "half": {"multiplier": Decimal("0.5"), "max_open_trades": 6},
    "against": {"mode": "FIXED", "fixed_lots": Decimal("0.07"), "reverse": True},
}
BROKERS = {"half": "netting = true", "against": "fifo = true"}
DEPOSIT = Decimal(1_000)  # of each subscriber's wallet

CONFIG = """
url = "http://127.0.0.1:{port}"
key = "{key}"
secret = "{secret}"
folder = "{folder}"
{subscription}
[broker]
kind = "paper"
login = "{login}"
speed = {speed}
{character}
deposit = 1_000_000

[broker.symbols.EURUSD]
bars = "{bars}"

[limits]
settle_ms = 2_000
second_look_ms = 300
"""


class Program:
    """A process that the drill kills and starts again."""

    process: Any

    def __init__(self, name: Any, *command: Any, log: Any) -> None:
        self.name, self.command, self.log, self.process, self.kills = name, command, log, None, 0

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=ROOT, stdout=log, stderr=log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.kills += 1

    def stop(self) -> Any:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(120)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return None


class Account:
    """The state of a paper account, read while its bot trades."""

    def __init__(self, path: Any) -> None:
        self.path = path

    def rows(self, query: Any) -> Any:
        with sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=10) as db:
            return db.execute(query).fetchall()

    def positions(self) -> dict[Any, Any]:
        return {str(number): (magic, Decimal(lots)) for number, magic, lots in self.rows(
            "select id, magic, volume from position")}  # fmt: skip

    def opened(self) -> Counter:
        """The number of orders that opened a position, by magic number."""
        return Counter(dict(self.rows("""select magic, count(distinct "order") from deal where entry = 'IN'
                                         group by magic""")))  # fmt: skip

    def realised(self) -> dict[str, Decimal]:
        """The profit of each position that has ended, by ticket."""
        rows = self.rows("select position, profit from deal where position not in (select id from position)")
        profits: dict[str, Decimal] = defaultdict(Decimal)
        for number, profit in rows:
            profits[str(number)] += Decimal(profit)
        return profits


class SharedAccount(Account):
    """An account on which copies share positions: its deals say how much of each copy is open."""

    def book(self) -> Book:
        rows = self.rows("""select id, "order", position, entry, magic, symbol, side, volume, price, profit, at_ms,
                                   reason, costs from deal order by id""")  # fmt: skip
        amounts = {7, 8, 9, 12}
        deals = (Deal(*(Decimal(value) if at in amounts else value for at, value in enumerate(row))) for row in rows)
        return book_of(deals, worth=lambda _: Decimal(100_000))

    def positions(self) -> dict[Any, Any]:
        return {str(magic): (magic, abs(copy.volume)) for magic, copy in self.book().virtuals.items() if copy.volume}

    def opened(self) -> Counter:
        """How often each copy was opened: the ends of its volume, since one open may take several orders."""
        ends: Counter = Counter()
        for magic, copy in self.book().virtuals.items():
            volume, own = Decimal(0), copy.deals[0].side
            for deal in copy.deals:
                ends[magic] += volume == 0 and deal.entry is Entry.IN and deal.side == own
                volume += deal.volume if deal.entry is Entry.IN else -deal.volume
        return ends

    def realised(self) -> dict[str, Decimal]:
        return {
            str(magic): sum((deal.profit for deal in copy.deals), Decimal(0))
            for magic, copy in self.book().virtuals.items()
            if not copy.volume
        }


class Follower:
    """A copier, its connection to the desk, and the state that its account must have."""

    def __init__(self, name: Any, folder: Any, desk_port: Any, market: Any) -> None:
        self.name, self.folder, self.wire = name, folder, Wire(desk_port)
        owner = User.objects.create_user(name)
        self.account = TradingAccount.objects.create(
            name=f"{name}-mt5", owner=owner, broker="b", server="s", login=name
        )
        lena = Strategy.objects.get(name="lena-eurusd")
        self.follows = committed(strategies.subscribe, account=self.account, strategy=lena, actor=audit.SYSTEM)
        strategies.set_terms(subscription=self.follows, actor=audit.SYSTEM, since=LONG_AGO, **WAYS[name])
        _, key = committed(accounts.create_key, account=self.account, kind="copier", actor=audit.SYSTEM)
        secret = strategies.packet_secret(self.follows)
        subscription = (
            f'[subscriptions.lena-eurusd]\nsub_id = "{self.follows.sub_id}"\nsecrets = {{ 1 = "{secret}" }}\n'
        )
        config = configured(folder, self.wire.port, key, name, market, subscription, BROKERS.get(name, ""))
        self.program = Program(
            name, sys.executable, "-m", "copybot", "follow", "--plain", "--config", str(config), log=folder / "log"
        )
        self.books = (SharedAccount if name in BROKERS else Account)(folder / f"paper-{name}.sqlite3")
        wallet = wallets.wallet_of(owner=owner, currency="USD")
        wallets.deposit(wallet=wallet, amount=DEPOSIT, note="", idempotency_key=f"drill-{name}")
        self.agreement = accept(self.account, now=timezone.now() - timedelta(seconds=1))

    @property
    def index(self) -> Any:
        from copybot.subscriptions import Subscription as Followed

        return Followed("lena-eurusd", self.follows.sub_id, {}).index

    def faults(self) -> list[Any]:
        """The differences between this copier's account, the desk's rows about it, and the strategy."""
        masters = {
            str(trade.pk): trade
            for trade in ActiveTrade.objects.filter(strategy=self.follows.strategy, master_trade=None)
        }
        magics = {magic_of(self.index, ref): ref for ref in masters}
        held = self.books.positions()
        orphans = [number for number, (magic, _) in held.items() if magic not in magics]
        copied = {magics[magic] for magic, _ in held.values() if magic in magics}
        unexplained = masters.keys() - copied - self.explained(masters)
        rows = {trade.ticket_id: trade.volume for trade in ActiveTrade.objects.filter(account=self.account)}
        lots = {number: volume for number, (_, volume) in held.items()}
        larger = [number for number, (magic, volume) in held.items() if magic in magics
                  and volume > self.most(masters[magics[magic]])]  # fmt: skip
        doubled = [magic for magic, times in self.books.opened().items() if times > 1]
        differences = {
            "orphans": orphans, "unexplained": sorted(unexplained), "larger": larger, "doubled": doubled,
            "rows": sorted(rows.items() ^ lots.items()),
        }  # fmt: skip
        differences["history"] = sorted(set(history_of(self.account).items()) ^ set(self.books.realised().items()))
        return [f"{self.name} {what}: {difference}" for what, difference in differences.items() if difference]

    def assert_fees_agree(self) -> None:
        """The fee counts each ended trade that the broker copied, once, at the provider's result for the lots of the
        terms; and the wallet is what the fees left of the deposit.
        """
        settled = settlement.settle(agreement_id=self.agreement.pk, now=self.agreement.due_at + timedelta(minutes=10))
        assert settled is not None
        counted = {line["trade"]: Decimal(line["result"]) for line in settled.lines if not line["is_open"]}
        copied = self.books.opened()
        closed = TradeHistory.objects.filter(strategy=self.follows.strategy, master_trade=None, kind="TRADE")
        ended = {str(trade.pk): trade for trade in closed if magic_of(self.index, str(trade.pk)) in copied}
        assert counted.keys() == ended.keys()
        for ref, trade in ended.items():
            assert abs(counted[ref] - self.result_of(trade)) < Decimal("0.02"), (self.name, ref)
        # Trades that are open still have partial closes.
        realised = sum(Line.from_json(line).realised("USD") for line in settled.lines)
        assert settled.closed_result == realised
        claims = FeeClaim.objects.filter(agreement=self.agreement)
        for claim in claims:
            settlement.collect(claim_id=claim.pk)
        wallet = wallets.wallet_of(owner=self.account.owner, currency="USD")
        assert wallet.balance == DEPOSIT - sum(claim.collected for claim in claims.all())

    def result_of(self, trade: Any) -> Decimal:
        """What a provider's closed trade makes at the lots of this copier's terms."""
        if self.name == "against":
            return -trade.profit * Decimal("0.07") / trade.volume
        lots = trade.volume
        if self.name == "half":
            lots = (lots / 2).quantize(Decimal("0.01"), ROUND_DOWN)
        return trade.profit * lots / trade.volume

    def most(self, master: Any) -> Any:
        """The most lots that the copy of this trade may have."""
        share = master.volume / master.opened_volume
        if self.name == "against":
            return Decimal("0.07") * share
        return master.volume / (2 if self.name == "half" else 1)

    def explained(self, masters: Any) -> set[Any]:
        """Trades that are not held for a recorded reason: they were skipped, or the copy closed by itself."""
        refs = list(masters)
        skipped = CopySkip.objects.filter(subscription=self.follows, master_trade__in=refs)
        closed = TradeHistory.objects.filter(account=self.account, master_trade__in=refs)
        return {str(ref) for rows in (skipped, closed) for ref in rows.values_list("master_trade", flat=True)}


def history_of(account: TradingAccount) -> dict[str, Decimal]:
    closed = TradeHistory.objects.filter(account=account, kind="TRADE")
    return dict(closed.values_list("ticket_id", "profit"))


def configured(
    folder: Path, port: Any, key: Any, login: Any, speed: Any, subscription: str = "", character: str = ""
) -> Any:
    folder.mkdir(exist_ok=True)
    path = folder / "copybot.toml"
    path.write_text(CONFIG.format(port=port, key=key.key, secret=key.secret, folder=folder, login=login, speed=speed,
                                  bars=BARS, subscription=subscription, character=character))  # fmt: skip
    path.chmod(0o600)
    return path


class Drill:
    """The desk, the provider and the copiers, with methods that kill or disconnect each of them."""

    def __init__(self, servers: Any, web: Serving, tmp_path: Path) -> None:
        self.servers, self.web, self.rng = servers, web, random.Random(SEED)
        speed = int(DAYS * 86400 / FOR_S)
        lena = TradingAccount.objects.get(name="lena-mt5")
        _, key = committed(accounts.create_key, account=lena, kind="master", actor=audit.SYSTEM)
        self.over = tmp_path / "over"
        config = configured(tmp_path / "lena", web.port, key, "lena", speed)
        self.leader = Program(
            "leader", sys.executable, "-m", "tests.crashes.provider_process", str(config), str(SEED), str(self.over),
            log=tmp_path / "lena" / "log",
        )  # fmt: skip
        self.leads = Account(tmp_path / "lena" / "paper-lena.sqlite3")
        terms = {"performance_bps": 2000, "platform_bps": 2500, "subscription_fee": 0}
        FeeTerms.objects.create(strategy=Strategy.objects.get(name="lena-eurusd"), **terms)
        self.followers = [Follower(name, tmp_path / name, web.port, speed) for name in WAYS]
        self.done = Counter()

    @property
    def programs(self) -> list[Any]:
        return [self.leader, *(follower.program for follower in self.followers)]

    def run(self) -> None:
        for program in self.programs:
            program.start()
        time.sleep(3)
        began = time.monotonic()
        while time.monotonic() < began + FOR_S or (self.has_seen_little() and time.monotonic() < began + 10 * FOR_S):
            time.sleep(self.rng.uniform(0.2, 1.2))
            mischief = self.rng.choice([self.kill_a_copier, self.kill_a_copier, self.kill_the_leader, self.cut_a_wire,
                                        self.kill_the_web, self.kill_postgresql, self.kill_valkey])  # fmt: skip
            mischief()
            self.done[mischief.__name__] += 1
        self.over.touch()

    def has_seen_little(self) -> Any:
        """Whether too little has happened so far: a busy machine does less in the same time."""
        return sum(self.leads.opened().values()) < 0.6 * FOR_S or len(self.done) < 5

    def kill_a_copier(self) -> None:
        self._kill(self.rng.choice(self.followers).program)

    def kill_the_leader(self) -> None:
        self._kill(self.leader)

    def _kill(self, program: Any) -> None:
        program.kill()
        time.sleep(self.rng.uniform(0, 1))
        program.start()

    def cut_a_wire(self) -> None:
        wire = self.rng.choice(self.followers).wire
        wire.cut()
        time.sleep(self.rng.uniform(0.2, 3))
        wire.mend()

    def kill_the_web(self) -> None:
        self.web.kill()
        self.web.start()

    def kill_postgresql(self) -> None:
        self._kill_server(self.servers.postgres)

    def kill_valkey(self) -> None:
        self._kill_server(self.servers.valkey)

    @staticmethod
    def _kill_server(server: Any) -> None:
        server.process.kill()
        server.process.wait()
        server.launch()

    def faults(self) -> Any:
        """The differences that remain anywhere."""
        published = {trade.ticket_id: trade.volume for trade in ActiveTrade.objects.filter(account__name="lena-mt5")}
        held = {number: lots for number, (_, lots) in self.leads.positions().items()}
        faults = [f"leader: {sorted(published.items() ^ held.items())}"] if published != held else []
        faults += [f"overdue: {copy}" for copy in overdue_closes.overdue()]
        for follower in self.followers:
            faults += follower.faults()
        return faults

    def wait_for_rest(self, patience_s: Any) -> Any:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                faults = self.faults()
            except (DatabaseError, InterfaceError, sqlite3.Error) as fault:
                faults = [str(fault)]
                for alias in connections:
                    connections[alias].close()
            if not faults or time.monotonic() > deadline:
                return faults
            time.sleep(0.3)

    def stop(self) -> dict[Any, Any]:
        codes = {program.name: program.stop() for program in self.programs if program.process is not None}
        for follower in self.followers:
            follower.wire.close()
        return codes


@pytest.fixture
def drill(durable: Any, django_db_blocker: DjangoDbBlocker, tmp_path: Path) -> Iterator[Drill]:
    durable.valkey.start()
    with django_db_blocker.unblock():
        name = databases.make_template()
        from config import demo_data

        web = Serving(name, demo_data.make(), REDIS_URL=durable.valkey.url, REDIS_PREFIX="drill").start()
        new_drill = Drill(durable, web, tmp_path)
        yield new_drill
        new_drill.stop()
        web.stop()


def test_all_accounts_agree_in_the_end_whichever_process_is_killed(
    drill: Drill, capsys: pytest.CaptureFixture[str]
) -> None:
    drill.run()

    left = drill.wait_for_rest(300)

    masters = TradeHistory.objects.filter(strategy__name="lena-eurusd", master_trade=None).count()
    masters += ActiveTrade.objects.filter(strategy__name="lena-eurusd", master_trade=None).count()
    copied = {follower.name: len(follower.books.opened()) for follower in drill.followers}
    with capsys.disabled():
        print(f"\nSEED={SEED}: {masters} trades, copied {copied}, {dict(drill.done)}")
    assert left == [], f"SEED={SEED}"
    assert checks.faults() == []
    assert_wallets_agree(drill)
    assert masters > FOR_S / 2
    assert all(count > masters * 0.2 for count in copied.values()), f"SEED={SEED}: {masters} trades, {copied}"
    assert len(drill.done) >= 5  # of six kinds of mischief
    assert_the_checker_sees(drill)
    codes = drill.stop()
    assert [codes[follower.name] for follower in drill.followers[1:]] == [0, 0]


def assert_the_checker_sees(drill: Any) -> None:
    """The control: a position without a provider's trade, and a trade that was opened twice."""
    follower = drill.followers[0]
    follower.program.kill()
    with sqlite3.connect(follower.books.path, timeout=10) as db:
        db.execute("update position set magic = magic + 1")
        db.execute("""insert into position (id, magic, symbol, side, volume, open_price, opened_ms)
                      values (1, 5, 'EURUSD', 'BUY', '1', '1', 1)""")
        columns = "position, entry, magic, symbol, side, volume, price, profit, at_ms, reason, costs"
        db.execute(
            f"""insert into deal ("order", {columns})
                select "order" + 1000000, {columns} from deal where entry = 'IN' limit 1"""
        )
    differences = " ".join(follower.faults())
    assert "orphans" in differences
    assert "doubled" in differences
    assert "rows" in differences
    shared = drill.followers[1]
    assert shared.program.stop() == 0
    with sqlite3.connect(shared.books.path, timeout=10) as db:
        db.execute(
            f"""insert into deal ("order", {columns})
                select "order" + 1000000, position, 'IN', magic + 1, symbol, side, volume, price, profit, at_ms, reason,
                       costs from deal limit 1"""
        )
        db.execute("update deal set profit = profit + 1, price = price + 1 where id = (select max(id) - 1 from deal)")
    differences = " ".join(shared.faults())
    assert "orphans" in differences
    assert "rows" in differences


def assert_wallets_agree(drill: Drill) -> None:
    closes = {name: Decimal("1.2") for name in ("open", "high", "low", "close")}
    due_at = drill.followers[0].agreement.due_at
    Candle.objects.create(instrument_id="EURUSD", minutes=60, opened_at=due_at - timedelta(hours=1), volume=1, **closes)
    for follower in drill.followers:
        follower.assert_fees_agree()
    assert wallet_checks.faults() == []
