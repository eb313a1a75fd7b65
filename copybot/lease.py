"""The lease: the right to open trades, which the desk lends to one instance of an account's copier at a time."""

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
    """`instance` names the place where the copier runs. `monotonic_ms`: this machine's clock; `clock_ms`: the desk's.

    The lease is live only if both clocks say so: after a sleep of the machine the first may be behind, after a change
    of the system time the second. `last`: the takeover number of this instance's previous lease. If the next lease has
    the following number and starts at once, no other instance had it in between; then trades of the previous lease
    (`since_ms`) may still be opened here.
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
        """The time by the machine's clock and by the desk's, in ms."""
        return self.monotonic_ms(), self.clock_ms()

    def grant(self, answer: Mapping[str, Any], *, sent: tuple[int, int]) -> bool:
        """Take the lease from a heartbeat's answer. Returns whether it is a new lease.

        `sent`: what `now()` returned when the request was sent.
        """
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
        """Ask for the lease as after a fresh start: a restored desk may have forgotten who holds it."""
        self.takeover_number, self.last, self.is_lost, self._until = None, -1, False, (0, 0)

    @property
    def is_live(self) -> bool:
        machine_ms, desk_ms = self.now()
        return not self.is_lost and self._from_ms <= machine_ms < self._until[0] and desk_ms < self._until[1]

    def covers(self, born_ms: int) -> bool:
        """Whether a trade may be opened under this lease. Earlier trades were the previous holder's to open."""
        return self.is_live and born_ms >= self.since_ms


def instance_of(folder: Path) -> str:
    """The name of the place where a copier runs, derived from this machine and this folder.

    The desk lets the same place open again at once and makes another place wait until the previous lease has ended. So
    a folder that was copied to another machine must get another name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "instance"
    if not file.exists():
        file.write_text(secrets.token_hex(16), encoding="ascii")
    place = f"{file.read_text(encoding='ascii')} {platform.node()} {_hardware()} {folder.resolve()}"
    return hashlib.sha256(place.encode()).hexdigest()[:32]


def _hardware() -> str:
    """The address of a network card, which a copied disk does not carry along; empty if Python would invent one."""
    number = uuid.getnode()
    return "" if number >> 40 & 1 else f"{number:x}"
