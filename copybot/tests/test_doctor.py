"""The doctor: all checks pass on a working setup, and each problem is named with its remedy."""

import io
import json
import socket
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from copybot import account_checks, doctor
from copybot.broker import Position, SymbolSpec
from copybot.desk_model import COPIER, MASTER, SUB_ID
from copybot.desk_model import SECRET as PACKET_SECRET
from copybot.doctor import Checkup, Failed
from copybot.lease import instance_of
from copybot.mt5 import MetaTrader
from copybot.packets import secret_check
from copybot.symbols import Names
from copybot.terminals import closed_markets
from copybot.tests.desk_server import KEYS, Clerk, DeskServer
from copybot.tests.hostile_desk import problem
from copybot.tests.test_cli import account, config

D = Decimal


@pytest.fixture
def office() -> Iterator[Any]:
    with DeskServer() as office:
        yield office


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PATIENCE_S", 3.0)


def examined(file: Any, role: Any = None, **more: Any) -> dict[Any, Any]:
    checkup = Checkup(file, role, environ={}, **more)
    results = {result.name: result for result in doctor.examine(checkup)}
    if checkup.client is not None:
        checkup.client.hang_up()
    return results


def sick(results: Any) -> dict[Any, Any]:
    return {what: result.words for what, result in results.items() if result.good is False}


def changed(file: Any, old: Any, new: Any) -> Any:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    return file


def publish(office: Any, symbol: str = "EURUSD", volume: str = "1.00000000") -> None:
    opening = {"ticket_id": "1", "symbol": symbol, "type": "BUY", "volume": volume, "open_price": "1.1"}
    with office.lock:
        office.desk.send(MASTER, "POST", "/api/v2/trades/active", opening, "open-1-0123456789")


@pytest.mark.parametrize("who", [COPIER, MASTER])
def test_a_working_setup_passes_every_check(office: Any, tmp_path: Path, who: Any) -> None:
    publish(office)
    results = examined(config(tmp_path, office, who))

    assert sick(results) == {}
    assert [result.name for result in results.values() if result.good is None] == []


def test_the_checks_change_nothing_at_the_desk(office: Any, tmp_path: Path) -> None:
    examined(config(tmp_path, office, COPIER))

    assert office.desk.state.answers == {}
    assert office.desk.state.takeover_number == 0


def test_each_check_is_a_line_and_the_exit_code_reports_problems(office: Any, tmp_path: Path) -> None:
    file, output = config(tmp_path, office, COPIER), io.StringIO()
    console = Console(file=output, width=200)
    assert doctor.run(file, console) == 0
    assert output.getvalue().count("✓") == 17
    assert "ready" in output.getvalue()

    file.chmod(0o644)
    assert doctor.run(file, console) == 1
    assert "1 to fix, 16 could not be checked" in output.getvalue()


# --- one problem at a time


def test_reports_a_configuration_that_others_may_read(office: Any, tmp_path: Path) -> None:
    file = config(tmp_path, office, COPIER)
    file.chmod(0o644)

    results = examined(file)
    assert "chmod 600" in sick(results)["configuration"]
    assert list(sick(results)) == ["configuration"]


def test_reports_a_folder_that_cannot_be_made(office: Any, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file", encoding="ascii")

    assert "cannot be written to" in sick(examined(config(tmp_path, office, COPIER)))["folder"]


def test_reports_a_full_disk(office: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = doctor.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage._replace(free=1024))

    assert "free at least" in sick(examined(config(tmp_path, office, COPIER)))["folder"]


def test_reports_a_state_file_in_use_without_using_up_a_number_of_the_key(office: Any, tmp_path: Path) -> None:
    file = config(tmp_path, office, COPIER)
    (tmp_path / "state").mkdir()
    holder = sqlite3.connect(tmp_path / "state" / f"{SUB_ID}.sqlite3", isolation_level=None)
    holder.execute("pragma locking_mode = exclusive")
    holder.execute("pragma journal_mode = wal")
    holder.execute("create table if not exists guard (x)")
    results = examined(file)
    holder.close()

    assert "a copier is running here" in sick(results)["state"]
    assert list(sick(results)) == ["state"]
    assert results["stream"].good is None
    assert (office.handshakes, office.last) == (0, {})
    assert sick(examined(file)) == {}


def test_reports_a_damaged_state_file(office: Any, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / f"{SUB_ID}.sqlite3").write_bytes(b"this is no database" * 100)

    assert "is damaged" in sick(examined(config(tmp_path, office, COPIER)))["state"]


def test_reports_an_unknown_host(office: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(doctor.socket, "create_connection", unknown)
    assert "is not a known name" in sick(examined(config(tmp_path, office, COPIER)))["connection"]


def test_reports_an_unreachable_desk(office: Any, tmp_path: Path) -> None:
    file = config(tmp_path, office, COPIER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        changed(file, office.url, f"http://127.0.0.1:{free.getsockname()[1]}")
        results = examined(file)

    assert "cannot be reached" in sick(results)["connection"]
    assert {"clock", "key"} <= sick(results).keys()
    assert {results[what].good for what in ("kind", "stream", "subscriptions")} == {None}
    assert results["broker"].good


def test_reports_a_desk_without_tls(office: Any, tmp_path: Path) -> None:
    file = changed(config(tmp_path, office, COPIER), "http://", "https://")

    assert "no certificate that is trusted" in sick(examined(file))["connection"]


def test_reports_a_clock_that_is_off(office: Any, tmp_path: Path) -> None:
    office.clock_ahead_ms = 5_000

    output = sick(examined(config(tmp_path, office, COPIER)))
    assert "switch on time synchronisation" in output["clock"]
    assert list(output) == ["clock"]


def test_reports_a_wrong_secret(office: Any, tmp_path: Path) -> None:
    file = changed(config(tmp_path, office, COPIER), 'secret = "0123', 'secret = "ffff')

    assert "copy both again" in sick(examined(file))["key"]


def test_reports_a_revoked_key(office: Any, tmp_path: Path) -> None:
    office.revoked.add(KEYS[COPIER])

    assert "create a new one" in sick(examined(config(tmp_path, office, COPIER)))["key"]


@pytest.mark.parametrize(
    ("who", "role", "words"),
    [
        (MASTER, "follow", "this is a master key; to follow, create a copier key"),
        (COPIER, "publish", "this is a copier key; to publish, create a master key"),
        ("readonly", "publish", "this is a readonly key; to publish, create a master key"),
    ],
)
def test_reports_a_key_of_another_kind(office: Any, tmp_path: Path, who: Any, role: str, words: str) -> None:
    assert words in sick(examined(config(tmp_path, office, who), role))["kind"]


def test_reports_subscriptions_unknown_to_the_desk_or_missing_in_the_file(office: Any, tmp_path: Path) -> None:
    file = changed(config(tmp_path, office, COPIER), "subscriptions.lena-eurusd", "subscriptions.lena")
    assert "does not subscribe to lena:" in sick(examined(file))["subscriptions"]

    changed(file, "subscriptions.lena]", "subscriptions.lena-eurusd]")
    real = office.desk.active
    office.desk.active = lambda who: real(who) | {"as_of": {"lena-eurusd": "1", "otto": "2"}}
    assert "otto would not be copied: add [subscriptions.otto]" in sick(examined(file))["subscriptions"]


def test_reports_a_proxy_that_stops_the_stream(office: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    office.RequestHandlerClass = type(
        "Proxied", (office.RequestHandlerClass,), {"stream": lambda self: self.write(502, b"no", kind="text/plain")}
    )
    assert "does a proxy or firewall block WebSockets" in sick(examined(config(tmp_path, office, COPIER)))["stream"]


def test_reports_a_netting_account_that_is_configured_as_hedging(
    office: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = config(tmp_path, office, COPIER)
    monkeypatch.setattr(account_checks, "terminal_of", _with_account(is_hedging=False))
    assert "this is a netting account: write netting = true" in sick(examined(file))["trading"]

    monkeypatch.setattr(account_checks, "terminal_of", _with_account(may_trade=False))
    assert "switch on algorithmic trading" in sick(examined(file))["trading"]


def test_reports_a_fifo_account(office: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_checks, "terminal_of", _with_account(is_fifo=True))
    trading = examined(config(tmp_path, office, COPIER))["trading"]
    assert trading.good
    assert "FIFO" in trading.words


def test_reports_other_positions_on_a_fifo_account() -> None:
    other = Position("1", 0, "EURUSD", "BUY", Decimal(1), None, None)
    terminal: Any = SimpleNamespace(positions=lambda: [other])
    with pytest.raises(Failed, match="FIFO"):
        account_checks.check_alone(terminal)
    terminal.positions = lambda: [other, replace(other, magic=0x43 << 56)]
    account_checks.check_alone(terminal)


def test_reports_an_account_of_another_currency(office: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_checks, "terminal_of", _with_account(currency="USC"))

    words = sick(examined(config(tmp_path, office, COPIER)))["currency"]
    assert "is in USC, and the desk has finn-mt5 in USD" in words
    assert "ask staff" in words


def _with_account(spec: Any = None, **facts: Any) -> Callable[..., Any]:
    """The real account with one property changed."""
    real = account_checks.terminal_of

    def create(settings: Any, **more: Any) -> Any:
        terminal = real(settings, **more)
        account = terminal.account()
        changed = type(account)(**{name: facts.get(name, getattr(account, name)) for name in account.__slots__})
        return type(
            "Other",
            (),
            {
                "account": lambda _: changed,
                "spec": lambda _, name: spec or terminal.spec(name),
                "__getattr__": lambda _, name: getattr(terminal, name),
            },
        )()

    return create


def test_reports_a_missing_metatrader(office: Any, tmp_path: Path) -> None:
    file = config(tmp_path, office, COPIER)
    text = file.read_text(encoding="utf-8")
    begins, ends = text.index("[broker]"), text.index("[subscriptions")
    file.write_text(f'{text[:begins]}[broker]\nkind = "mt5"\nlogin = 1\n{text[ends:]}', encoding="utf-8")
    results = examined(file)

    assert "MetaTrader5 package is missing" in sick(results)["broker"]
    assert results["trading"].good is None


def test_reports_a_symbol_that_the_broker_does_not_have(office: Any, tmp_path: Path) -> None:
    publish(office, "XAUUSD")

    assert (
        "the broker has no XAUUSD: give the broker's name"
        in sick(examined(config(tmp_path, office, COPIER)))["symbols"]
    )


# --- what the desk and the broker say of each other


def test_reports_a_wrong_signal_secret_without_waiting_for_a_trade(office: Any, tmp_path: Path) -> None:
    file = changed(config(tmp_path, office, COPIER), PACKET_SECRET, "f" * 64)

    output = sick(examined(file))
    assert "the signal secret of generation 1 in [subscriptions.lena-eurusd] is wrong" in output["secrets"]
    assert list(output) == ["secrets"]


def test_reports_a_signal_secret_that_is_missing(office: Any, tmp_path: Path) -> None:
    file = changed(config(tmp_path, office, COPIER), "{ 1 = ", "{ 2 = ")

    assert "has no generation 1" in sick(examined(file))["secrets"]


def test_the_next_secret_alone_is_enough_but_must_not_be_missing(office: Any, tmp_path: Path) -> None:
    """As after a second download: the desk signs with the old one until the first heartbeat."""
    checks = {str(number): secret_check(PACKET_SECRET, sub_id=SUB_ID, generation=number) for number in (1, 2)}
    row = {"strategy": "lena-eurusd", "sub_id": SUB_ID, "status": "ACTIVE", "generation": 1, "checks": checks}
    office.setup = {"subscriptions": [row]}
    file = config(tmp_path, office, COPIER)
    assert "has no generation 2" in sick(examined(file))["secrets"]

    assert "secrets" not in sick(examined(changed(file, "{ 1 = ", "{ 2 = ")))


def test_reports_the_id_of_another_subscription(office: Any, tmp_path: Path) -> None:
    file = changed(config(tmp_path, office, COPIER), f'sub_id = "{SUB_ID}"', 'sub_id = "s-2"')

    assert f"must be {SUB_ID}" in sick(examined(file))["secrets"]


def copier(leased_s: float, instance: str = "4c1d7f0a9be2460d") -> dict[str, Any]:
    now = datetime.now(UTC)
    until = now + timedelta(seconds=leased_s)
    return {"instance": instance, "heartbeat_at": now.isoformat(), "leased_until": until.isoformat()}


def test_reports_another_copier_that_holds_the_lease_and_takes_none(office: Any, tmp_path: Path) -> None:
    file = config(tmp_path, office, COPIER)
    office.setup = {"copier": copier(30)}
    assert "another copier runs for this account" in sick(examined(file))["lease"]

    office.setup = {"copier": copier(-1)}
    assert examined(file)["lease"].words.startswith("free: ")
    office.setup = {"copier": copier(30, instance_of(tmp_path / "state"))}
    assert sick(examined(file)) == {}
    assert office.desk.state.takeover_number == 0


def known(own: Any, theirs: Any) -> dict[str, Any]:
    symbol = {"symbol": "EURUSD", "strategy": "lena-eurusd", "provider_symbol": "EURUSD"}
    return {"symbols": [symbol | {"contract_size": own, "provider_contract_size": theirs}]}


def test_reports_a_contract_size_that_the_desk_has_otherwise(office: Any, tmp_path: Path) -> None:
    office.setup = known("1000.00000000", None)

    words = sick(examined(config(tmp_path, office, COPIER)))["contracts"]
    assert "a lot of EURUSD is 100000 at this broker, and the desk has 1000" in words
    assert "copies would be 100 times as large" in words


def test_names_a_providers_other_contract_size(office: Any, tmp_path: Path) -> None:
    office.setup = known("100000.00000000", "1000.00000000")
    result = examined(config(tmp_path, office, COPIER))["contracts"]

    assert result.good
    assert "a lot is 100000 here and 1000 at the provider of lena-eurusd" in result.words


def test_a_desk_of_an_older_version_fails_no_check(office: Any, tmp_path: Path) -> None:
    office.RequestHandlerClass = type("Older", (office.RequestHandlerClass,), {"done": _without_account})
    results = examined(config(tmp_path, office, COPIER))

    assert sick(results) == {}
    assert {name for name, result in results.items() if result.good is None} == {
        "account", "secrets", "lease", "currency", "contracts"
    }  # fmt: skip


def _without_account(self: Any, account: Any, parts: Any) -> Any:
    if parts.path == "/api/v2/account":
        return problem(405, "method_not_allowed")
    return Clerk.done(self, account, parts)


SPEC = SymbolSpec(D("0.00001"), D("0.01"), D("0.01"), D(100), D(100_000))


def test_reports_a_symbol_in_which_no_trade_may_be_opened(
    office: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(office)
    monkeypatch.setattr(account_checks, "terminal_of", _with_account(spec=replace(SPEC, may_open=False)))

    assert "does not open trades in EURUSD" in sick(examined(config(tmp_path, office, COPIER)))["symbols"]


def test_says_that_a_market_is_closed(office: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(office, "XAUUSD")  # the paper broker has no price of it, as where its market is closed
    monkeypatch.setattr(account_checks, "terminal_of", _with_account(spec=SPEC))
    result = examined(config(tmp_path, office, COPIER))["symbols"]

    assert result.good
    assert "the market of XAUUSD is closed now" in result.words


def test_a_price_from_before_the_weekend_shows_a_closed_market() -> None:
    """MetaTrader still has Friday's price on Saturday."""
    module, now_ms, hour_ms = SimpleNamespace(), 1_767_600_000_000, 3_600_000
    terminal = MetaTrader.__new__(MetaTrader)
    terminal.module = module
    ticks: dict[str, int] = {"EURUSD": now_ms + 2 * hour_ms - 1_000, "BTCUSD": now_ms + 2 * hour_ms - 1_000}
    module.symbol_info_tick = lambda name: SimpleNamespace(time_msc=ticks[name])
    assert closed_markets(terminal, ticks, Names(), now_ms) == []
    ticks["EURUSD"] -= 20 * hour_ms
    assert closed_markets(terminal, ticks, Names(), now_ms) == ["EURUSD"]
    ticks["BTCUSD"] -= 20 * hour_ms + 400_000
    assert closed_markets(terminal, ticks, Names(), now_ms) == ["BTCUSD", "EURUSD"]


def test_reports_a_copy_too_small_for_the_broker(office: Any, tmp_path: Path) -> None:
    publish(office, volume="0.01000000")

    assert "below the broker's minimum volume" in sick(examined(config(tmp_path, office, COPIER)))["symbols"]


def test_reports_a_providers_position_in_a_symbol_without_a_name_at_the_desk(office: Any, tmp_path: Path) -> None:
    file = config(tmp_path, office, MASTER, '[symbols]\nsuffix = ".m"\n')
    bare = account(config(tmp_path, office, MASTER))
    bare.open(magic=1, symbol="EURUSD", side="BUY", volume=1, sl=None, tp=None)
    config(tmp_path, office, MASTER, '[symbols]\nsuffix = ".m"\n')

    assert "EURUSD has no name at the desk" in sick(examined(file))["symbols"]


def test_reports_an_unforeseen_error(office: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> Any:
        raise RuntimeError("surprise")

    monkeypatch.setattr(office.desk, "active", lambda who: json.loads("{}"))
    monkeypatch.setattr(doctor, "_CHECKS", (("key", doctor.key), ("odd", broken)))
    checkup = Checkup(config(tmp_path, office, COPIER), "follow", environ={})
    doctor.configuration(checkup)

    assert [result.words for result in doctor.examine(checkup) if result.good is False] == ["RuntimeError: surprise"]
    checkup.client.hang_up()
