"""Two or more transactions on one trade: in every order the trade has exactly one home, and each gets a true answer.

The interleaving is explicit. The first transaction acts without a commit; the second acts until it waits for the first
or has finished; then the first commits. Above READ COMMITTED the second may have to retry (40001), and then gets the
same answer as without the retry.
"""

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel

from accounts import services as accounts
from accounts.models import BotKeyGeneration, TradingAccount
from audit import services as audit
from strategies import services as strategies
from strategies.models import Strategy
from tests import databases
from tests.conftest import Serving, key_of
from tests.signed import opening
from tests.transactions import committed
from trades.models import ActiveTrade, Trade, TradeHistory

LEVELS = [IsolationLevel.READ_COMMITTED, IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE]
levels = pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
SERIALIZATION, DEADLOCK = "40001", "40P01"


# --- two at once


def connect(name: Any, **more: Any) -> Any:
    """Connect as the tables' owner, whom no permission restricts."""
    return psycopg.connect(**databases.login(), dbname=name, **more)


@dataclass(frozen=True)
class Act:
    """A SQL function with its arguments, or a statement that bypasses them. `who` is the account's name."""

    name: str
    what: str
    args: dict[str, Any] = field(default_factory=dict)
    who: str = "lena-mt5"

    def on(self, connection: Any) -> Any:
        if " " in self.what:
            return connection.execute(self.what).rowcount and "kept"
        account = "(select id from trading_accounts where name = %s)"
        caller = f"jsonb_build_object('kind', 'system', 'account', {account})"
        statement = f"select {self.what}({caller}, %s::jsonb)->>'code'"
        return connection.execute(statement, [self.who, json.dumps(self.args)]).fetchone()[0]


def open_(ticket: str = "1", who: str = "lena-mt5", **more: Any) -> Act:
    return Act("open", "trade_open", opening(ticket, **more), who)


def close(ticket: str = "1", price: str = "1.11", who: str = "lena-mt5") -> Act:
    args = {"ticket_id": ticket, "close_price": price, "profit": "5", "reason": "TP"}
    return Act("close" if price == "1.11" else "close otherwise", "trade_close", args, who)


def modify(**more: Any) -> Act:
    return Act("modify", "trade_modify", {"ticket_id": "1", **more})


def reduce(deal: Any, volume: Any) -> Act:
    args = {"ticket_id": "1", "deal_id": deal, "volume": volume, "close_price": "1.1", "profit": "3"}
    return Act(f"reduce to {volume} by {deal}", "trade_reduce", args)


COPIED = {"copies": {"strategy": "lena-eurusd", "master_ticket": "1"}}
RAW_ACTIVE = Act(
    "put back into active",
    "insert into active_trades (trade_id, account_id, strategy_id, ticket_id, master_ticket, seq, symbol, type, volume,"
    " opened_volume, open_price, status, comment, opened_at) select id, account_id, (select min(id) from strategies),"
    " ticket_id, ticket_id, 9, 'EURUSD', 'BUY', 1, 1, 1, 'OPEN', '', now() from trades where ticket_id = '1'",
)
RAW_HISTORY = Act(
    "put into history",
    "insert into trade_history (trade_id, kind, account_id, ticket_id, master_ticket, seq, close_price, reason,"
    " comment, status) select id, 'TOMBSTONE', account_id, ticket_id, ticket_id, 9, 1, 'TP', '', 'CLOSED' from trades"
    " where ticket_id = '1'",
)
RAW_REOPEN = Act("set the state back", "update trades set state = 'OPEN' where ticket_id = '1'")
RAW_DELETE = Act("delete from active", "delete from active_trades where ticket_id = '1'")

BACK = "active_trade_belongs_to_an_open_trade"
OPENED, UNKNOWN = [open_()], []

# The earlier acts, the first act, the second act, and the answers of both.
PAIRS = [
    (OPENED, close(), close(), "closed", "closed_already"),
    (OPENED, close(), close(price="1.12"), "closed", "trade_closed_conflict"),
    (OPENED, close(), modify(sl="1.101"), "closed", "trade_closed"),
    (OPENED, modify(sl="1.101"), close(), "modified", "closed"),
    (OPENED, close(), reduce("d1", "0.04"), "closed", "trade_closed"),
    (OPENED, reduce("d1", "0.04"), close(), "reduced", "closed"),
    (OPENED, close(), open_(), "closed", "trade_closed"),
    (OPENED, close(), RAW_ACTIVE, "closed", BACK),
    (OPENED, close(), RAW_HISTORY, "closed", "trade_history_pkey"),
    (OPENED, close(), RAW_REOPEN, "closed", "CD001"),
    (OPENED, close(), RAW_DELETE, "closed", 0),
    (OPENED, modify(sl="1.101"), modify(sl="1.102"), "modified", "modified"),
    (OPENED, modify(sl="1.101", master_time_ms=2), modify(sl="1.102", master_time_ms=1), "modified", "ignored"),
    (OPENED, reduce("d1", "0.04"), reduce("d1", "0.04"), "reduced", "unchanged"),
    (OPENED, reduce("d1", "0.04"), reduce("d1", "0.03"), "reduced", "deal_exists_different"),
    (OPENED, reduce("d1", "0.04"), reduce("d2", "0.03"), "reduced", "reduced"),
    (OPENED, reduce("d1", "0.03"), reduce("d2", "0.04"), "reduced", "volume_increase"),
    (OPENED, reduce("d1", "0.04"), reduce("d2", "0"), "reduced", "closed"),
    (UNKNOWN, open_(), open_(), "opened", "open_already"),
    (UNKNOWN, open_(), open_(volume="0.2"), "opened", "trade_exists_different"),
    (UNKNOWN, open_(), close(), "opened", "closed"),
    (UNKNOWN, close(), open_(), "tombstoned", "trade_closed"),
    (UNKNOWN, close(), close(), "tombstoned", "closed_already"),
    (UNKNOWN, open_(), reduce("d1", "0"), "opened", "closed"),
]


@dataclass
class Race:
    first: Any
    second: Any
    waited: bool
    retried: bool


def race(name: Any, level: Any, first: Any, second: Any) -> Race:
    with connect(name) as one, connect(name) as two, connect(name, autocommit=True) as observer:
        one.isolation_level = two.isolation_level = level
        two.execute("select count(*) from trades")  # takes its snapshot before the first acts
        answers = {"first": act(one, first)}
        thread = threading.Thread(target=lambda: answers.update(second=finish(two, act(two, second))))
        thread.start()
        waited = until_it_waits(observer, two.info.backend_pid, thread)
        answers["first"] = finish(one, answers["first"])
        thread.join()
        retried = answers["second"] in (SERIALIZATION, DEADLOCK)
        if retried:
            answers["second"] = finish(two, act(two, second))
    return Race(answers["first"], answers["second"], waited, retried)


def act(connection: Any, step: Any) -> Any:
    """The act's answer: a code, or the name of the constraint that refused it."""
    try:
        return step.on(connection)
    except psycopg.Error as error:
        return error_name(error)


def finish(connection: Any, answer: Any) -> Any:
    """Commit; return the earlier answer, or the error if the commit is refused."""
    try:
        connection.commit()
    except psycopg.Error as error:
        return error_name(error)
    return answer


def error_name(error: Any) -> Any:
    return error.diag.constraint_name or error.sqlstate


def until_it_waits(observer: Any, pid: Any, thread: Any) -> bool:
    """Return True once the backend waits for another, or False if it finishes without waiting."""
    while thread.is_alive():
        if observer.execute("select cardinality(pg_blocking_pids(%s)) > 0", [pid]).fetchone()[0]:
            return True
        time.sleep(0.002)
    return False


def homes(ticket: str = "1") -> list[Any]:
    return [model.objects.filter(ticket_id=ticket).count() for model in (ActiveTrade, TradeHistory)]


def run_before(name: Any, acts: Any) -> None:
    with connect(name) as connection:
        for step in acts:
            step.on(connection)


@levels
@pytest.mark.parametrize(
    ("before", "first", "second", "first_answer", "second_answer"),
    PAIRS,
    ids=[f"{'' if before else 'unknown: '}{first.name} ‖ {second.name}" for before, first, second, _, _ in PAIRS],
)
def test_two_transactions_on_one_trade(
    desk_db: str, level: Any, before: Any, first: Any, second: Any, first_answer: str, second_answer: Any
) -> None:
    run_before(desk_db, before)

    outcome = race(desk_db, level, first, second)

    assert (outcome.first, outcome.second) == (first_answer, second_answer)
    assert outcome.waited, "the second transaction never waited for the first"
    assert not (outcome.retried and level is IsolationLevel.READ_COMMITTED)
    assert sum(homes()) == 1


@levels
@pytest.mark.parametrize("copy_first", [False, True])
def test_a_provider_and_a_copier_on_one_ticket_of_an_account(
    desk_db: str, lena: TradingAccount, sam: TradingAccount, level: Any, copy_first: bool
) -> None:
    """The account's two streams have no common lock, so the unique ticket decides."""
    follow(sam, "lena-eurusd")
    run_before(desk_db, OPENED)
    both = [open_("7", who="sam-mt5"), open_("7", who="sam-mt5", **COPIED)]

    outcome = race(desk_db, level, *(reversed(both) if copy_first else both))

    assert (outcome.first, outcome.second) == ("opened", "trade_exists_different")
    assert sum(homes("7")) == 1
    sam.refresh_from_db()
    assert (Strategy.objects.get(account=sam).last_seq, sam.copy_seq) == ((0, 1) if copy_first else (1, 0))


@levels
@pytest.mark.parametrize("second", ["closed_already", "trade_closed"])
def test_two_transactions_on_one_copy(desk_db: str, finn: TradingAccount, level: Any, second: str) -> None:
    run_before(desk_db, [open_(), open_("501", who="finn-mt5", **COPIED)])
    second_act = close("501", who="finn-mt5") if second == "closed_already" else open_("501", who="finn-mt5", **COPIED)

    outcome = race(desk_db, level, close("501", who="finn-mt5"), second_act)

    assert (outcome.first, outcome.second) == ("closed", second)
    assert sum(homes("501")) == 1


@levels
def test_a_direct_delete_at_worst_makes_a_close_retry(desk_db: str, level: Any) -> None:
    """The delete locks the two rows in the opposite order, so one transaction may be a deadlock's victim."""
    run_before(desk_db, OPENED)

    outcome = race(desk_db, level, RAW_DELETE, close())

    assert outcome.first in {"open_trade_is_active", "CD003", DEADLOCK}
    assert outcome.second == "closed"
    assert homes() == [0, 1]


def follow(account: Any, name: Any) -> Any:
    return committed(
        strategies.subscribe, account=account, strategy=Strategy.objects.get(name=name), actor=audit.SYSTEM
    )


# --- the controls: the same races with a lookup in place of the foreign keys

KEYS = {
    "active_trades": ["active_trade_belongs_to_an_open_trade"],
    "trade_history": ["closed_trade_belongs_to_a_closed_trade"],
    "trades": ["open_trade_is_active", "closed_trade_is_history"],
}
LOOK = """
    create function look() returns trigger language plpgsql as $$
    begin
      if exists (select from trade_history where trade_id = new.trade_id) then
        raise exception 'zombie' using errcode = 'CD009';
      end if;
      return new;
    end $$;
    create trigger look {} insert on active_trades for each row execute function look()"""


def drop_the_keys(name: Any, instead: Any) -> None:
    with connect(name) as connection:
        for table, keys in KEYS.items():
            for key in keys:
                connection.execute(f"alter table {table} drop constraint {key}")
        connection.execute("drop trigger goes_with_its_close on active_trades")
        if instead:
            connection.execute(LOOK.format(instead))


@pytest.mark.breaks_the_books
@pytest.mark.parametrize(
    ("instead", "level", "zombie"),
    [
        ("", LEVELS[0], True),
        ("", LEVELS[1], True),
        ("", LEVELS[2], True),
        ("before", LEVELS[0], True),
        ("before", LEVELS[1], True),
        ("before", LEVELS[2], False),
        ("after", LEVELS[0], False),
        ("after", LEVELS[1], True),
        ("after", LEVELS[2], False),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_control_a_lookup_instead_of_the_keys_lets_zombies_through(
    desk_db: str, instead: str, level: Any, zombie: bool
) -> None:
    run_before(desk_db, OPENED)
    drop_the_keys(desk_db, instead)

    race(desk_db, level, close(), RAW_ACTIVE)

    assert homes() == ([1, 1] if zombie else [0, 1])


@pytest.mark.breaks_the_books
@levels
def test_control_without_the_keys_a_trade_is_lost(desk_db: str, level: Any) -> None:
    run_before(desk_db, OPENED)
    drop_the_keys(desk_db, "")

    race(desk_db, level, RAW_DELETE, modify(sl="1.101"))

    assert homes() == [0, 0]


UNLOCKED = """
    create or replace function trade_locked(p_account bigint, p_ticket text) returns trades language sql as $$
      select * from trades where account_id = p_account and ticket_id = p_ticket
    $$"""


def test_control_without_the_lock_the_second_close_fails_with_an_error(desk_db: str) -> None:
    run_before(desk_db, OPENED)
    with connect(desk_db) as connection:
        connection.execute(UNLOCKED)

    outcome = race(desk_db, LEVELS[0], close(), close())

    assert (outcome.first, outcome.second) == ("closed", "CD001")
    assert homes() == [0, 1]


# --- many at once


def together(tasks: Any) -> Any:
    """Run all tasks at the same moment; return their answers in order."""
    start, answers = threading.Barrier(len(tasks)), [None] * len(tasks)

    def run(index: Any, task: Any) -> None:
        start.wait()
        answers[index] = task()

    threads = [threading.Thread(target=run, args=[index, task]) for index, task in enumerate(tasks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_fifty_concurrent_closes_close_a_trade_once(desk_db: str, lena: TradingAccount) -> None:
    tickets = [str(ticket) for ticket in range(1, 21)]
    run_before(desk_db, [open_(ticket) for ticket in tickets])
    connections = [connect(desk_db, autocommit=True) for _ in range(50)]

    for ticket in tickets:
        answers = together([lambda c=c, ticket=ticket: act(c, close(ticket)) for c in connections])
        assert Counter(answers) == {"closed": 1, "closed_already": 49}

    for connection in connections:
        connection.close()
    assert TradeHistory.objects.count() == 20
    assert Strategy.objects.get(account=lena).last_seq == 40


def test_fifty_concurrent_opens_open_a_trade_once(desk_db: str, lena: TradingAccount) -> None:
    connections = [connect(desk_db, autocommit=True) for _ in range(50)]

    for ticket in ("1", "2", "3"):
        answers = together([lambda c=c, ticket=ticket: act(c, open_(ticket)) for c in connections])
        assert Counter(answers) == {"opened": 1, "open_already": 49}

    for connection in connections:
        connection.close()
    assert Strategy.objects.get(account=lena).last_seq == 3


def test_a_hundred_clients_with_one_idempotency_key_have_one_effect_and_one_answer(
    web: Serving, cast: dict[str, Any], lena: TradingAccount
) -> None:
    key = key_of(cast, "lena", "master")
    body, effect = json.dumps(opening("1")).encode(), "one-effect-for-all-of-them"
    clients = [web.bot("lena", "master") for _ in range(100)]
    assert {client.key for client in clients} == {key["key"]}

    def send(client: Any) -> Any:
        while True:
            answer = client.once("POST", "/api/v2/trades/active", "", body, effect)
            if answer.status < 400:
                return answer
            problem = answer.json()
            assert problem["code"] == "seq_replayed", problem
            client.seq = int(problem["last_seq"]) + random.randrange(10_000)

    answers = together([lambda client=client: send(client) for client in clients])

    assert {answer.status for answer in answers} == {201}
    assert len({answer.body for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert ActiveTrade.objects.count() == 1
    assert Strategy.objects.get(account=lena).last_seq == 1


# --- the hunt for deadlocks

HUNTERS, HUNT_S, TICKETS_A_SECOND = 16, 5, 30


class Hunter(threading.Thread):
    """One key that sends single operations and batches, on the few tickets that are in use at the moment."""

    def __init__(self, name: Any, generation: Any, account: Any, over: Any, seed: Any) -> None:
        super().__init__(daemon=True)
        self.connection = connect(name, autocommit=True)
        self.generation, self.account, self.over = generation, account, over
        self.random = random.Random(seed)
        self.answers = Counter()
        self.fault: Any = None

    def run(self) -> None:
        with closing(self.connection):
            self.connection.execute("set role copydesk_bot")
            for seq in itertools.count(1):
                if self.over.is_set():
                    return
                self.call(seq)

    def call(self, seq: Any) -> None:
        chosen = [self.operation(f"{seq}-{n}") for n in range(self.random.choice([1, 1, 2, 5]))]
        caller = {"kind": "bot", "actor": "hunter", "account": self.account.pk, "ip": "127.0.0.1"}
        arguments = [self.generation.pk, seq, json.dumps(caller), json.dumps(chosen)]
        try:
            answer = self.connection.execute("select signed_call(%s, %s, %s, %s)", arguments).fetchone()[0]
        except psycopg.Error as error:
            self.answers[error.sqlstate] += 1
            self.fault = self.fault or error
        else:
            self.answers.update(outcome["code"] for outcome in answer["results"])

    def operation(self, name: Any) -> dict[str, Any]:
        verb, args = self.random.choice([self.open, self.copy, self.close, self.close, self.modify, self.reduce])()
        return {"idem": f"{self.generation.pk}-{name}", "fingerprint": "00", "verb": verb, "args": args}

    def ticket(self) -> str:
        return str(1 + int(time.monotonic() * TICKETS_A_SECOND) % 10**6 + self.random.randrange(6))

    def open(self) -> Any:
        return "trade_open", opening(self.ticket())

    def copy(self) -> Any:
        leader = "sam-xauusd" if self.account.name == "lena-mt5" else "lena-eurusd"
        return "trade_open", opening(self.ticket(), copies={"strategy": leader, "master_ticket": self.ticket()})

    def close(self) -> Any:
        return "trade_close", {"ticket_id": self.ticket(), "close_price": "1", "profit": "1", "reason": "TP"}

    def modify(self) -> Any:
        return "trade_modify", {"ticket_id": self.ticket(), "sl": str(self.random.randint(1, 9))}

    def reduce(self) -> Any:
        args = {"deal_id": str(self.random.randint(1, 9)), "volume": f"0.0{self.random.randint(0, 9)}"}
        return "trade_reduce", {"ticket_id": self.ticket(), "close_price": "1", "profit": "1", **args}


def hunt(name: Any, seconds: Any, until: Callable[..., Any] = lambda hunters: False) -> Any:
    """Run many keys of accounts that copy each other's trades; return the count of each answer, and the faults.

    One of the two subscriptions has ended: accounts may not follow each other. Its copies are reported all the same.
    """
    over = threading.Event()
    chosen = TradingAccount.objects.filter(name__in=["lena-mt5", "sam-mt5", "finn-mt5"])
    strategies.end(subscription=follow(chosen.get(name="lena-mt5"), "sam-xauusd"), actor=audit.SYSTEM)
    follow(chosen.get(name="sam-mt5"), "lena-eurusd")
    hunters = []
    for number, account in zip(range(HUNTERS), itertools.cycle([*chosen, *chosen.exclude(name="finn-mt5")])):
        key, _ = committed(accounts.create_key, account=account, kind="master", actor=audit.SYSTEM)
        generation = BotKeyGeneration.objects.get(key=key)
        hunters.append(Hunter(name, generation, account, over, number))
    for hunter in hunters:
        hunter.start()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not until(hunters):
        time.sleep(0.05)
    over.set()
    for hunter in hunters:
        hunter.join()
    return sum((hunter.answers for hunter in hunters), Counter()), [hunter.fault for hunter in hunters if hunter.fault]


EVENTS = """
    select coalesce(a.master_trade, h.master_trade) is not null, t.account_id, l.detail->>'strategy',
           (l.detail->>'seq')::bigint
      from audit_log l join trades t on l.subject = 'trade:' || t.id
      left join active_trades a on a.trade_id = t.id left join trade_history h on h.trade_id = t.id
     where l.action in ('trade.opened', 'trade.modified', 'trade.reduced', 'trade.closed')"""


def test_random_load_finds_no_deadlock_and_uses_each_number_once(
    desk_db: str, lena: TradingAccount, sam: TradingAccount
) -> None:
    answers, faults = hunt(desk_db, HUNT_S)

    assert faults == []
    assert min(answers[code] for code in ("opened", "closed", "closed_already", "trade_closed", "tombstoned")) > 0
    with connect(desk_db) as connection:
        events = connection.execute(EVENTS).fetchall()
    for strategy in Strategy.objects.all():
        numbers = sorted(seq for copied, _, name, seq in events if name == strategy.name and not copied)
        assert numbers == list(range(1, strategy.last_seq + 1)), strategy.name
    for account in TradingAccount.objects.all():
        numbers = sorted(seq for copied, pk, _, seq in events if pk == account.pk and copied)
        assert numbers == list(range(1, account.copy_seq + 1)), account.name
    done = Counter({"opened": answers["opened"], "closed": answers["closed"], "tombstoned": answers["tombstoned"]})
    assert ActiveTrade.objects.count() == done["opened"] - done["closed"]
    assert TradeHistory.objects.filter(kind="TRADE").count() == done["closed"]
    assert Trade.objects.count() == done["opened"] + done["tombstoned"]


# Locks the trade before its stream, against the lock order.
BACKWARDS = """
    create or replace function trade_locked(p_account bigint, p_ticket text) returns trades language plpgsql as $$
    declare
      t trades;
    begin
      select * into t from trades where account_id = p_account and ticket_id = p_ticket for update;
      perform from strategies where account_id = p_account for no key update;
      return t;
    end $$"""


def test_control_random_load_detects_a_deadlock(desk_db: str, lena: TradingAccount, sam: TradingAccount) -> None:
    """One function locks in the opposite order."""
    with connect(desk_db) as connection:
        connection.execute(BACKWARDS)

    answers, _ = hunt(desk_db, 15, until=lambda hunters: any(hunter.answers[DEADLOCK] for hunter in hunters))

    assert answers[DEADLOCK] > 0
