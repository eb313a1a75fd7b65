"""Writes a configuration from answers, each checked at once: is the desk there, is the key right, is the secret right?

Secrets come from prompts that do not echo, or from the environment, never from the command line, which others can read.
"""

import getpass
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from copybot import keys, packets, settings
from copybot.client import Client
from copybot.errors import AnswerForged, DeskError, KeyRefused, Transport
from copybot.settings import SettingsError

KEY, SECRET, SIGNAL_SECRETS = "COPYBOT_KEY", "COPYBOT_SECRET", "COPYBOT_SIGNAL_SECRETS"
_TRIES = 3


class Unanswered(SettingsError):
    """A question that cannot be asked, because there is no terminal or the run is not interactive."""


class Wrong(Exception):
    """An answer that is not right; the message says why."""


@dataclass
class Questions:
    """Asks for what was not given. `given`: answers by the name of their flag. `is_interactive`: whether to ask."""

    given: Mapping[str, str]
    environ: Mapping[str, str]
    console: Console
    is_interactive: bool
    ask: Callable[[str], str] = input
    ask_secretly: Callable[[str], str] = getpass.getpass

    def answer(
        self, name: str, question: str, read: Callable[[str], Any], *, variable: str = "", default: str = ""
    ) -> Any:
        """The checked answer. `variable`: of the environment, for an answer that is not shown when it is typed."""
        given = self.environ.get(variable, "") if variable else self.given.get(name, "")
        if given or not self.is_interactive:
            return self._read_given(given or default, f"{variable or '--' + name}", read)
        for _ in range(_TRIES):
            try:
                return read(self._typed(question, default, is_secret=bool(variable) and variable != KEY))
            except (Wrong, ValueError) as fault:
                self.console.print(f"  {fault}", style="yellow", markup=False)
        raise SettingsError(f"{name}: no right answer in {_TRIES} attempts")

    def _read_given(self, value: str, source: str, read: Callable[[str], Any]) -> Any:
        if not value:
            raise Unanswered(f"{source} is missing: give it, or run copybot init on a terminal, which asks")
        try:
            return read(value)
        except (Wrong, ValueError) as fault:
            raise SettingsError(f"{source}: {fault}") from None

    def _typed(self, question: str, default: str, *, is_secret: bool) -> str:
        ask = self.ask_secretly if is_secret else self.ask
        try:
            typed = ask(f"{question}{f' [{default}]' if default else ''}: ").strip()
        except EOFError:
            raise Unanswered(f"no answer to {question!r}: there is no terminal") from None
        return typed or default


@dataclass
class Init:
    """One run. `role`: follow or publish."""

    file: Path
    role: str
    questions: Questions
    _client: Client | None = field(default=None, init=False)

    def run(self) -> None:
        """Ask, check and write. Raises SettingsError, KeyRefused or ScopeDenied, or Transport if the desk is silent."""
        if self.file.exists():
            raise SettingsError(f"{self.file} exists: move it away first, or name another one with --config")
        try:
            local = "http://127.0.0.1:8000" if self.questions.is_interactive else ""
            url = self.questions.answer("url", "The desk's address", self._desk, default=local)
            key, secret, desk = self._key(url)
            text = _text(url, key, secret, self._subscriptions(desk), self._broker(desk))
        finally:
            if self._client is not None:
                self._client.hang_up()
        write(self.file, text)
        self._say(f"Wrote {self.file}, readable by you alone. Next:")
        more = "" if self.file.name == "copybot.toml" and self.file.parent == Path() else f" --config {self.file}"
        self._say(f"  copybot doctor{more}\n  copybot {self.role}{more}")

    def _say(self, words: str) -> None:
        self.questions.console.print(words, markup=False, soft_wrap=True)

    # --- the desk

    def _desk(self, typed: str) -> str:
        url = settings.read_url(typed)
        client = Client(url, "", "", timeout_s=10, attempts=1)
        try:
            int(client.time()["server_time"])
        except (Transport, ValueError, KeyError, TypeError) as fault:
            raise Wrong(f"no desk answers at {url} ({fault})") from None
        finally:
            client.hang_up()
        self._say(f"  a desk answers at {url}")
        return url

    def _key(self, url: str) -> tuple[str, str, Mapping[str, Any]]:
        """Key and secret are right together only, so both are asked again."""
        for attempt in range(_TRIES):
            key = self.questions.answer("key", f"The {keys.NEEDED[self.role]} key", settings.read_key, variable=KEY)
            secret = self.questions.answer("secret", "Its secret (not shown)", settings.read_secret, variable=SECRET)
            if self._client is not None:
                self._client.hang_up()
            self._client = Client(url, key, secret, timeout_s=10, attempts=2)
            try:
                keys.check_kind(self._client, self.role)
                desk = self._client.account()
            except KeyRefused as refusal:
                if not self.questions.is_interactive or attempt == _TRIES - 1:
                    raise
                self._say(f"  {keys.explained(refusal)}")
                continue
            except AnswerForged as fault:
                raise Transport(str(fault)) from fault
            except DeskError as refusal:
                if refusal.code != "method_not_allowed":
                    raise
                raise SettingsError(
                    "this desk is of an older version: write copybot example to a file instead"
                ) from None
            self._say(f"  the key is for {desk['account']}")
            return key, secret, desk
        raise AssertionError

    def _subscriptions(self, desk: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], int, str]]:
        """Each subscription of the account with the generation and the secret that were found right."""
        if self.role == "publish":
            if not desk["publishes"]:
                raise SettingsError(f"{desk['account']} publishes no strategy: create one at the desk")
            self._say(f"  it publishes {desk['publishes']}")
            return []
        if not desk["subscriptions"]:
            raise SettingsError(f"{desk['account']} follows no strategy: subscribe at the desk")
        given = dict(
            pair.split("=", 1) for pair in self.questions.environ.get(SIGNAL_SECRETS, "").split() if "=" in pair
        )
        self._say(f"  it follows {', '.join(row['strategy'] for row in desk['subscriptions'])}")
        return [(row, *self._signal_secret(row, given.get(row["strategy"], ""))) for row in desk["subscriptions"]]

    def _signal_secret(self, row: Mapping[str, Any], given: str) -> tuple[int, str]:
        def read(typed: str) -> tuple[int, str]:
            secret = settings.read_secret(typed)
            for generation, check in row["checks"].items():
                if packets.secret_check(secret, sub_id=row["sub_id"], generation=int(generation)) == check:
                    return int(generation), secret
            raise Wrong(f"this is not the signal secret of {row['strategy']}: create a new one on the Copying page")

        questions = Questions(
            {}, {SIGNAL_SECRETS: given}, self.questions.console, self.questions.is_interactive, self.questions.ask,
            self.questions.ask_secretly,
        )  # fmt: skip
        question = f"The signal secret of {row['strategy']} (not shown)"
        found: tuple[int, str] = questions.answer("signal-secret", question, read, variable=SIGNAL_SECRETS)
        return found

    # --- the broker

    def _broker(self, desk: Mapping[str, Any]) -> str:
        default = "paper" if self.questions.is_interactive else ""
        read = settings.read_one_of("mt5", "paper")
        kind = self.questions.answer("broker", "Broker: mt5 or paper (play money)", read, default=default)
        if kind == "paper":
            currency = desk["currency"] or "USD"
            return (
                f'[broker]\nkind = "paper"   # real prices of EURUSD, play money\ncurrency = "{currency}"\n\n'
                "[broker.symbols.EURUSD]\n"
            )
        login = self.questions.answer("login", "The account's number in MetaTrader 5", _login)
        netting = self.questions.answer(
            "netting", "One position per symbol (netting): yes or no", _yes_or_no, default="no"
        )
        return f'[broker]\nkind = "mt5"\nlogin = {login}\nnetting = {str(netting).lower()}\n'


def _login(typed: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,11}", typed):
        raise Wrong("must be a number, as the terminal shows it")
    return int(typed)


def _yes_or_no(typed: str) -> bool:
    if typed not in ("yes", "no"):
        raise Wrong("must be yes or no")
    return typed == "yes"


def _text(url: str, key: str, secret: str, rows: list[tuple[Mapping[str, Any], int, str]], broker: str) -> str:
    followed = "".join(
        f'[subscriptions.{row["strategy"]}]\nsub_id = "{row["sub_id"]}"\nsecrets = {{ {generation} = "{signal}" }}\n\n'
        for row, generation, signal in rows
    )
    return (
        "# Made by copybot init. copybot example explains every further setting.\n\n"
        f'url = "{url}"\nkey = "{key}"\nsecret = "{secret}"\n\n{followed}{broker}'
    )


def write(file: Path, text: str) -> None:
    """Create the file for this user alone. Raises SettingsError if it exists or cannot be written."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as opened:  # noqa: PTH123 - a descriptor
            opened.write(text)
    except FileExistsError:
        raise SettingsError(f"{file} exists: move it away first, or name another one with --config") from None
    except OSError as fault:
        raise SettingsError(f"{file} cannot be written ({fault.strerror}): name another one with --config") from fault
