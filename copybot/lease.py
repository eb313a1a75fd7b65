"""The right to open: lent by the desk to one instance of an account's copier at a time, and only for a while."""

import hashlib
import platform
import secrets
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Lease:
    """`instance` names the place where this runs. `monotonic_ms`: this machine's; `clock_ms`: the desk's time.

    Both clocks must say that it lasts: of a machine that was asleep the first may be behind, where the time was set the
    other. `last`: the number of the last lease that this place had. One that follows it directly, and at once, was
    nobody else's meanwhile, so that what that one covered (`since_ms`) is still this place's to open.
    """

    instance: str
    monotonic_ms: Callable[[], int]
    clock_ms: Callable[[], int]
    last: int = 0
    since_ms: int = 0
    takeover_number: str | None = field(default=None, init=False)
    is_lost: bool = field(default=False, init=False)
    _from_ms: int = field(default=0, init=False, repr=False)
    _until: tuple[int, int] = field(default=(0, 0), init=False, repr=False)

    def now(self) -> tuple[int, int]:
        """By the machine's clock, and by the desk's."""
        return self.monotonic_ms(), self.clock_ms()

    def grant(self, answer: Mapping[str, Any], *, sent: tuple[int, int]) -> bool:
        """Whether it is a new one. `sent`: what `now` was when the request left."""
        wait, takeover_number = int(answer["may_open_in_ms"]), str(answer["fence"])
        is_new = takeover_number != self.takeover_number
        if is_new:
            if wait or int(takeover_number) != self.last + 1:
                self.since_ms = self.clock_ms() + wait
            self.takeover_number, self.last = takeover_number, int(takeover_number)
        self._from_ms = self.monotonic_ms() + wait
        for_ms = int(answer["lease_ms"])
        self._until = sent[0] + for_ms, sent[1] + for_ms
        return is_new

    def lose(self) -> None:
        self.is_lost = True

    def begin_anew(self) -> None:
        """The desk was restored, and may have forgotten whose the lease was: ask as one who has just started."""
        self.takeover_number, self.last, self.is_lost, self._until = None, -1, False, (0, 0)

    @property
    def is_live(self) -> bool:
        here, there = self.now()
        return not self.is_lost and self._from_ms <= here < self._until[0] and there < self._until[1]

    def covers(self, born_ms: int) -> bool:
        """Whether a trade may be opened under it. One that was born before was the former holder's to open."""
        return self.is_live and born_ms >= self.since_ms


def instance_of(folder: Path) -> str:
    """The name of the place where a copier runs: this machine, and this folder as it was made here.

    The desk lets the same place open again at once, and makes another wait until the lease of the one before has ended;
    so a folder that was copied to another machine must have another name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "instance"
    if not file.exists():
        file.write_text(secrets.token_hex(16), encoding="ascii")
    made = f"{file.read_text(encoding='ascii')} {platform.node()} {_hardware()} {folder.resolve()}"
    return hashlib.sha256(made.encode()).hexdigest()[:32]


def _hardware() -> str:
    """The number of a network card, which a copied disk does not take along; none where it would be made up."""
    number = uuid.getnode()
    return "" if number >> 40 & 1 else f"{number:x}"
