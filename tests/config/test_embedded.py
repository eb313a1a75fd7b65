"""The embedded servers: they keep data, survive kills, serve one desk per folder, and open no folder to other users."""

import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from config import child_processes, embedded, logins
from config.child_processes import CannotServe
from config.postgres import postgres_bin, postmaster
from tests import ports

ROOT = Path(__file__).resolve().parent.parent.parent
KEEP = "import sys, time\nfrom pathlib import Path\nfrom config import embedded\n"
KEEP += (
    "with embedded.serving(Path(sys.argv[1]), port=int(sys.argv[2])):\n    print('kept', flush=True); time.sleep(600)"
)


@pytest.fixture
def var(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for the test's own servers; the environment names none."""
    for name in (*logins.VARIABLES, "REDIS_URL"):
        monkeypatch.setenv(name, "")
    yield tmp_path / "var"
    if (tmp_path / "var").exists():
        embedded.Servers(tmp_path / "var").remove()


@pytest.fixture
def servers(var: Path) -> Iterator[embedded.Servers]:
    started = embedded.Servers(var, fast=True)
    started.start()
    yield started
    started.remove()


def ask(servers: embedded.Servers, query: str) -> object:
    with servers.postgres._connection() as connection:
        row = connection.execute(query).fetchone()
    return row and row[0]


def keep(var: Path) -> "subprocess.Popen[bytes]":
    """Start another process that runs the servers of this folder, as `up` does."""
    command = [sys.executable, "-c", KEEP, str(var), str(ports.free())]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as output:
        while b"kept" not in (line := output.readline()):
            assert line, "it ended"
    return process


def end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()


def test_a_second_start_finds_the_data_of_the_first(servers: embedded.Servers) -> None:
    with servers.postgres._connection() as connection:
        connection.execute("create table kept as select 42 as answer")
    servers.stop()
    servers.postgres.start()

    assert ask(servers, "select answer from kept") == 42


def test_listens_on_private_sockets_only(servers: embedded.Servers) -> None:
    folders = (servers.folder, servers.postgres.sockets, servers.postgres.data)

    assert ask(servers, "show listen_addresses") == ""
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700] * 3


def test_killed_servers_are_restarted(servers: embedded.Servers) -> None:
    assert servers.repair() == []
    for server in (servers.postgres, servers.valkey):
        server.process.kill()
        server.process.wait()

    assert servers.repair() == ["PostgreSQL ended and was restarted", "Valkey ended and was restarted"]
    assert servers.postgres.answers()
    assert servers.valkey.answers()


def test_a_server_killed_during_a_long_query_is_restarted(servers: embedded.Servers) -> None:
    def work() -> None:
        with pytest.raises(psycopg.OperationalError):
            ask(servers, "select count(*) from generate_series(1, 1000000000)")

    busy = threading.Thread(target=work)
    busy.start()
    while not ask(
        servers, "select count(*) from pg_stat_activity where query like '%series(1, 10%' and pid <> pg_backend_pid()"
    ):
        time.sleep(0.02)
    servers.postgres.process.kill()
    servers.postgres.process.wait()

    assert servers.repair() == ["PostgreSQL ended and was restarted"]
    busy.join(60)
    assert not busy.is_alive()


def test_recovers_after_the_process_that_ran_the_servers_was_killed(var: Path) -> None:
    keeper = keep(var)
    pid = postmaster(var / "pg")
    end(keeper)

    with embedded.serving(var):
        assert postmaster(var / "pg") not in (None, pid)
        with psycopg.connect(os.environ["DATABASE_URL"]):
            pass


def test_a_folder_has_one_desk_and_commands_use_its_servers(var: Path) -> None:
    keeper = keep(var)
    try:
        assert embedded.is_up(var)
        with pytest.raises(CannotServe, match="is already up"), embedded.serving(var, port=ports.free()):
            pass
        with embedded.serving(var):
            assert embedded.running is None
            assert os.environ["REDIS_URL"].startswith("unix://")
    finally:
        end(keeper)
    assert not embedded.is_up(var)


def test_two_simultaneous_calls_of_is_up_do_not_see_a_desk_in_each_other(var: Path) -> None:
    var.mkdir()
    (var / "lock").write_text("up /left/by/a/killed/one")
    with (var / "lock").open() as looking:
        assert embedded._locked(looking, fcntl.LOCK_SH)

        assert not embedded.is_up(var)


def test_a_taken_port_is_refused_before_anything_starts(var: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(CannotServe, match=f"Port {number} is taken"), embedded.serving(var, port=number):
            pass

    assert not (var / "pg").exists()


def test_data_of_another_major_version_is_refused(var: Path) -> None:
    (var / "pg").mkdir(parents=True)
    (var / "pg" / "PG_VERSION").write_text("12\n")

    with pytest.raises(CannotServe, match="created by PostgreSQL 12"):
        embedded.Servers(var).start()


def test_a_configured_folder_without_binaries_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COPYDESK_PG_BIN", str(tmp_path))

    with pytest.raises(CannotServe, match="COPYDESK_PG_BIN"):
        postgres_bin()


def test_a_pgport_of_the_shell_changes_nothing(var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "5999")

    with embedded.serving(var):
        sockets = Path(os.environ["REDIS_URL"].removeprefix("unix://")).parent
        assert (sockets / ".s.PGSQL.5432").is_socket()
        assert "PGPORT" not in os.environ


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="how root goes without user namespaces")
def test_without_user_namespaces_no_folder_becomes_accessible(var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    var.parent.chmod(0o700)
    monkeypatch.setenv("COPYDESK_NO_NAMESPACE", "1")
    child_processes.unprivileged.cache_clear()
    try:
        servers = embedded.Servers(var, fast=True)
        servers.postgres.start()
        assert servers.postgres.process is not None
        assert Path(f"/proc/{servers.postgres.process.pid}").stat().st_uid == child_processes.unprivileged().uid != 0
        assert [stat.S_IMODE(folder.stat().st_mode) for folder in (var, var.parent)] == [0o700, 0o700]
        servers.stop()
    finally:
        child_processes.unprivileged.cache_clear()


def test_only_leftover_processes_are_ended(var: Path) -> None:
    var.mkdir()
    ours, reused, member = (
        subprocess.Popen(["sleep", "600"], start_new_session=leads) for leads in (True, True, False)
    )
    child_processes.remember(var, ours.pid)
    child_processes.remember(var, member.pid)  # not a group leader: a signal to its group would reach other processes
    with (var / "processes").open("a") as file:
        file.write(f"{reused.pid} {child_processes.process_start(os.getpid())}\nnonsense\n")

    child_processes.end_leftovers(var)

    assert ours.wait(60) == -signal.SIGTERM
    assert (reused.poll(), member.poll()) == (None, None)
    assert not (var / "processes").exists()
    for process in (reused, member):
        end(process)


def test_secrets_are_generated_once_and_private(tmp_path: Path) -> None:
    generated = []
    threads = [
        threading.Thread(target=lambda: generated.append(embedded.development_secrets(tmp_path / "var")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    stored = json.loads((tmp_path / "var" / "secrets.json").read_text())
    assert generated == [stored] * 8
    assert len(stored["DJANGO_SECRET_KEY"]) >= 50
    assert len(bytes.fromhex(stored["COPYDESK_KEKS"].removeprefix("k1:"))) == 32
    assert stat.S_IMODE((tmp_path / "var" / "secrets.json").stat().st_mode) == 0o600
    assert list((tmp_path / "var").iterdir()) == [tmp_path / "var" / "secrets.json"]
