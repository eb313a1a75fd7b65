"""The loop around a copier. Packets come first; other work that is due runs when no packet is waiting."""

import logging
import threading
import time
from typing import Protocol

from copybot.copier import Copier
from copybot.errors import DeskError
from copybot.stream import Event, Gap, Lost, Message

log = logging.getLogger(__name__)

_LONGEST_S = 1.0


class Events(Protocol):
    """The part of a stream that the loop needs."""

    def next(self, timeout_s: float) -> Event | None: ...


def run(copier: Copier, stream: Events, stop: threading.Event, *, step_s: float = 1.0) -> None:
    """Run until `stop`, then return the lease and close the state files.

    If the desk refuses the key, no more messages come; the held copies are still brought to their targets.
    """
    source: Events | None = stream
    next_s = 0.0
    try:
        while not stop.is_set():
            wait_s = max(0.0, next_s - time.monotonic())
            if source is None:
                stop.wait(wait_s)
            else:
                try:
                    _take_all(copier, source, wait_s)
                except DeskError as refused:
                    log.error("the desk refuses this key: %s", refused)
                    copier.faults["stream"] = str(refused)
                    copier.lost_touch()
                    source = None
            copier.step()
            next_s = time.monotonic() + step_s
    finally:
        copier.stop()


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
