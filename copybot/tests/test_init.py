"""copybot init: each answer is checked, secrets are not shown, and the file is one that the doctor accepts."""

import io
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from copybot import cli, doctor
from copybot.desk_model import SECRET as PACKET_SECRET
from copybot.errors import KeyRefused, ScopeDenied
from copybot.init import Init, Questions
from copybot.settings import MetaTrader, Paper, SettingsError, load
from copybot.tests.desk_server import COPIER, KEYS, MASTER, SECRET, DeskServer
from copybot.tests.test_cli import ROOT

SIGNAL = f"lena-eurusd={PACKET_SECRET}"


@pytest.fixture
def office() -> Iterator[Any]:
    with DeskServer() as office:
        yield office


class Person:
    """Types these answers, in turn. `seen`: what the screen shows, with what is typed openly."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.seen = list(answers), io.StringIO()
        self.asked: list[str] = []

    def type(self, question: str) -> str:
        answer = self.type_secretly(question)
        self.seen.write(answer + "\n")
        return answer

    def type_secretly(self, question: str) -> str:
        self.asked.append(question)
        self.seen.write(question)
        if not self.answers:
            raise EOFError
        return self.answers.pop(0)


def run(file: Path, person: Person, role: str = "follow", **given: str) -> str:
    console = Console(file=person.seen, width=200)
    Init(file, role, Questions(given, {}, console, True, person.type, person.type_secretly)).run()
    return person.seen.getvalue()


def without_input(file: Path, role: str = "follow", environ: Any = None, **given: str) -> None:
    Init(file, role, Questions(given, environ or {}, Console(file=io.StringIO()), False)).run()


def environ_of(account: str, **more: str) -> dict[str, str]:
    return {"COPYBOT_KEY": KEYS[account], "COPYBOT_SECRET": SECRET, "COPYBOT_SIGNAL_SECRETS": SIGNAL, **more}


def sick(file: Path) -> Any:
    checkup = doctor.Checkup(file, None, environ={})
    faults = [result for result in doctor.examine(checkup) if result.good is False]
    checkup.client.hang_up()
    return faults


def test_a_copiers_answers_make_a_file_that_the_doctor_accepts(office: Any, tmp_path: Path) -> None:
    file = tmp_path / "copybot.toml"
    shown = run(file, Person(office.url, KEYS[COPIER], SECRET, PACKET_SECRET, "paper"))

    assert sick(file) == []
    assert isinstance(load(file, {}).broker, Paper)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "the key is for finn-mt5" in shown and "it follows lena-eurusd" in shown
    assert f"copybot doctor --config {file}" in shown


def test_secrets_are_not_shown(office: Any, tmp_path: Path) -> None:
    shown = run(tmp_path / "copybot.toml", Person(office.url, KEYS[COPIER], SECRET, PACKET_SECRET, "paper"))

    assert SECRET not in shown
    assert PACKET_SECRET not in shown


def test_a_wrong_answer_is_explained_and_asked_again(office: Any, tmp_path: Path) -> None:
    file = tmp_path / "copybot.toml"
    person = Person(
        "ftp://desk", "http://127.0.0.1:1", office.url,  # the address
        "finn", KEYS[COPIER], "f" * 64, KEYS[COPIER], SECRET,  # the key: no key, then a wrong secret
        SECRET, PACKET_SECRET,  # the signal secret: the key's secret instead
        "mt4", "mt5", "finn", "5001", "no",
    )  # fmt: skip
    shown = run(file, person)

    for words in (
        "must be the desk's address", "no desk answers at http://127.0.0.1:1", "must look like ck_",
        "key or secret is wrong", "this is not the signal secret of lena-eurusd", "must be one of mt5, paper",
        "must be a number",
    ):  # fmt: skip
        assert words in shown
    settings = load(file, {})
    assert isinstance(settings.broker, MetaTrader)
    assert (settings.broker.login, settings.broker.netting) == (5001, False)


def test_a_providers_file(office: Any, tmp_path: Path) -> None:
    file = tmp_path / "copybot.toml"
    shown = run(file, Person(office.url, KEYS[MASTER], SECRET, "paper"), "publish")

    assert "it publishes lena-eurusd" in shown
    assert "copybot publish" in shown
    assert sick(file) == []
    assert load(file, {}).subscriptions == ()


@pytest.mark.parametrize(("account", "role", "needed"), [(MASTER, "follow", "copier"), (COPIER, "publish", "master")])
def test_a_key_of_the_wrong_kind_ends_it(office: Any, tmp_path: Path, account: str, role: str, needed: str) -> None:
    with pytest.raises(ScopeDenied, match=f"create a {needed} key"):
        without_input(tmp_path / "copybot.toml", role, environ_of(account), url=office.url, broker="paper")
    assert not (tmp_path / "copybot.toml").exists()


def test_an_account_that_follows_nothing_is_told_what_to_do(office: Any, tmp_path: Path) -> None:
    office.setup = {"subscriptions": []}

    with pytest.raises(SettingsError, match="subscribe at the desk"):
        without_input(tmp_path / "copybot.toml", "follow", environ_of(COPIER), url=office.url, broker="paper")


def test_an_existing_file_is_left_alone_and_nothing_is_asked(office: Any, tmp_path: Path) -> None:
    file, person = tmp_path / "copybot.toml", Person(office.url)
    file.write_text("mine", encoding="ascii")

    with pytest.raises(SettingsError, match="exists"):
        run(file, person)
    assert (file.read_text(encoding="ascii"), person.asked) == ("mine", [])


def test_it_runs_without_questions(office: Any, tmp_path: Path) -> None:
    file = tmp_path / "copybot.toml"
    without_input(file, "follow", environ_of(COPIER), url=office.url, broker="mt5", login="5001")

    settings = load(file, {})
    assert settings.subscriptions[0].secrets == {1: PACKET_SECRET}
    assert settings.broker.login == 5001


@pytest.mark.parametrize(
    ("environ", "given", "words"),
    [
        ({}, {}, "--url is missing"),
        ({}, {"url": "URL"}, "COPYBOT_KEY is missing"),
        ({"COPYBOT_KEY": KEYS[COPIER]}, {"url": "URL"}, "COPYBOT_SECRET is missing"),
        (environ_of(COPIER), {"url": "URL"}, "--broker is missing"),
        (environ_of(COPIER), {"url": "URL", "broker": "mt5"}, "--login is missing"),
        (environ_of(COPIER, COPYBOT_SIGNAL_SECRETS=""), {"url": "URL"}, "COPYBOT_SIGNAL_SECRETS is missing"),
        (environ_of(COPIER, COPYBOT_SIGNAL_SECRETS=f"lena-eurusd={SECRET}"), {"url": "URL"}, "not the signal secret"),
    ],
)
def test_without_questions_a_missing_or_wrong_answer_is_named(
    office: Any, tmp_path: Path, environ: Any, given: dict[str, str], words: str
) -> None:
    given = {name: value.replace("URL", office.url) for name, value in given.items()}

    with pytest.raises(SettingsError, match=words):
        without_input(tmp_path / "copybot.toml", "follow", environ, **given)
    assert not (tmp_path / "copybot.toml").exists()


def test_a_revoked_key_ends_it(office: Any, tmp_path: Path) -> None:
    office.revoked.add(KEYS[COPIER])

    with pytest.raises(KeyRefused):
        without_input(tmp_path / "copybot.toml", "follow", environ_of(COPIER), url=office.url, broker="paper")


def test_the_command_itself(office: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "copybot", "init", "--config", str(tmp_path / "copybot.toml"), "--url", office.url]
    answer: dict[str, Any] = {"cwd": ROOT, "capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
    done = subprocess.run([*command, "--broker", "paper"], env={**os.environ, **environ_of(COPIER)}, **answer)
    again = subprocess.run([*command, "--broker", "paper"], env={**os.environ, **environ_of(COPIER)}, **answer)

    assert (done.returncode, done.stderr) == (0, "")
    assert SECRET not in done.stdout
    assert again.returncode == cli.MISUSED
    assert "exists: move it away first" in again.stderr
