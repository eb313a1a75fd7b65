"""The loop around a copier. Packets come first; other work that is due runs when no packet is waiting."""

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Protocol

from copybot import keys
from copybot.copier import Copier
from copybot.errors import DeskError
from copybot.state_store import Copy
from copybot.stream import Event, Gap, Lost, Message

log = logging.getLogger(__name__)

UNSIGNED_S = 60.0  # anybody on the way can send an unsigned refusal; one that lasts is the desk's
_LONGEST_S = 1.0


class Events(Protocol):
    """The part of a stream that the loop needs."""

    def next(self, timeout_s: float) -> Event | None: ...

    def restart(self) -> None: ...


def run(copier: Copier, stream: Events, stop: threading.Event, *, step_s: float = 1.0, again_s: float = 30.0) -> None:
    """Run until `stop`, then return the lease and close the state files.

    Raises KeyRefused or ScopeDenied if the desk refuses the key and no copy is open. While copies are open, the loop
    goes on: closes that were decided before still reach the broker, and the loop ends once the last copy is closed.
    `again_s`: the wait after a refused handshake. Its refusal is not signed, so it decides nothing.
    """
    next_s = stream_due_s = 0.0
    watch = _KeyWatch(copier)
    try:
        while not stop.is_set():
            wait_s = max(0.0, next_s - time.monotonic())
            if time.monotonic() < stream_due_s:
                stop.wait(wait_s)
            else:
                try:
                    _take_all(copier, stream, wait_s)
                except DeskError as refused:
                    copier.faults["stream"] = str(refused)
                    copier.lost_touch()
                    stream.restart()
                    stream_due_s = time.monotonic() + again_s
            copier.step()
            watch.check()
            next_s = time.monotonic() + step_s
    finally:
        copier.stop()


@dataclass
class _KeyWatch:
    """Decides whether a refusal of the key ends the loop."""

    copier: Copier
    _since_s: float | None = field(default=None, init=False)
    _warned: str = field(default="", init=False)

    def check(self) -> None:
        """Raise the refusal if it is certain and no copy is open; log it if copies are open."""
        refusal = next(iter(self.copier.refusals.values()), None)
        if refusal is None:
            self._since_s, self._warned = None, ""
            return
        self._since_s = time.monotonic() if self._since_s is None else self._since_s
        if not self._is_certain(refusal):
            return
        copies = [copy for followed in self.copier.followed for copy in followed.guard.unfinished()]
        if not copies:
            raise refusal
        if refusal.code != self._warned:
            self._warned = refusal.code
            log.error("%s", left_alone(refusal, copies))

    def _is_certain(self, refusal: DeskError) -> bool:
        was_accepted = self.copier.lease.takeover_number is not None
        lasts = self._since_s is not None and time.monotonic() - self._since_s >= UNSIGNED_S
        return refusal.is_proven or not was_accepted or lasts


def left_alone(refusal: DeskError, copies: list[Copy]) -> str:
    """What becomes of open copies whose copier learns nothing more from the desk."""
    is_one = len(copies) == 1
    it = "it" if is_one else "them"
    tickets = ", ".join(f"{copy.symbol} {copy.side} {copy.position or '(ordered)'}" for copy in copies)
    return (
        f"the desk refuses this key ({keys.explained(refusal)}). {len(copies)} {'copy is' if is_one else 'copies are'} "
        f"open: {tickets}. This copier no longer closes {it} when the provider does; stops at the broker still hold. "
        f"Close {it} at your broker, or restart with a key that the desk accepts"
    )


def _take_all(copier: Copier, stream: Events, wait_s: float) -> None:
    """Take the waiting events, or the first to arrive within `wait_s`. Bounded, because the guards are due too."""
    event = stream.next(wait_s)
    until_s = time.monotonic() + _LONGEST_S
    while event is not None:
        if isinstance(event, Message):
            copier.on_message(event.body)
        elif isinstance(event, Gap | Lost):
            copier.lost_touch()
            copier.faults["stream"] = event.why if isinstance(event, Lost) else f"a gap in {event.strategy}"
        else:
            copier.faults.pop("stream", None)
        event = stream.next(0) if time.monotonic() < until_s else None
