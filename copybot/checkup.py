"""The state and the results that the doctor's checks share."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from copybot.broker import Account, Terminal
from copybot.client import Client
from copybot.settings import Settings


@dataclass(frozen=True, slots=True)
class Result:
    """One check's result. `good` None: it was not checked, because an earlier check failed."""

    name: str
    good: bool | None
    words: str


class Failed(Exception):
    """A check failed; the message says what is wrong and how to fix it."""


class Skipped(Exception):
    """A check was not made; the message says why."""


@dataclass
class Checkup:
    """The state shared by the checks. Each check adds what later ones need."""

    file: Path
    role: str | None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    settings: Settings | None = None
    client: Client | None = None
    terminal: Terminal | None = None
    account: Account | None = None
    active: dict[str, Any] | None = None
    desk_account: dict[str, Any] | None = None
    is_running: bool = False

    @property
    def follows(self) -> bool:
        return self.role == "follow"

    def need_settings(self) -> Settings:
        if self.settings is None:
            raise Skipped("needs the configuration")
        return self.settings

    def need_active(self) -> dict[str, Any]:
        if self.active is None:
            raise Skipped("needs an answer of the desk")
        return self.active

    def need_desk_account(self) -> dict[str, Any]:
        if self.desk_account is None:
            raise Skipped("needs the desk's answer about this account")
        return self.desk_account

    def desk_ms(self) -> int:
        return self.client.desk_ms() if self.client is not None else time.time_ns() // 1_000_000

    def need_terminal(self) -> Terminal:
        if self.terminal is None or self.account is None:
            raise Skipped("needs the broker")
        return self.terminal


Check = Callable[[Checkup], str]
