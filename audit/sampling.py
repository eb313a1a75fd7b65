"""Bounds the rows that refused callers can add to the audit log, whose rows stay for ever.

Of each kind of refusal the first few a minute become rows. The others are counted, and the next row of the kind has
their number. The counts are a process's own: they need no Redis, which a flood may take away as well.
"""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from prometheus_client import Counter

UNRECORDED = Counter("copydesk_refusals_unrecorded", "Refusals that the audit log only counted.")

WINDOW_S = 60.0
MOST_KINDS = 4096  # the oldest is forgotten; its count passes to the next row of any kind


@dataclass(slots=True)
class _Window:
    began: float
    rows: int = 0
    unrecorded: int = 0


class Sampler:
    """`of_a_kind`, `of_all`: how many rows a window admits of one kind, and of all kinds together."""

    def __init__(self, *, of_a_kind: int, of_all: int) -> None:
        self.of_a_kind, self.of_all = of_a_kind, of_all
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Begin anew, with no row counted."""
        self._all, self._kinds = _Window(time.monotonic()), OrderedDict[str, _Window]()

    def admit(self, kind: str) -> int | None:
        """Return None where a refusal of this kind is only counted; else how many were only counted before this row."""
        with self._lock:
            window = self._window_of(kind, time.monotonic())
            if window.rows >= self.of_a_kind or self._all.rows >= self.of_all:
                window.unrecorded += 1
                UNRECORDED.inc()
                return None
            window.rows += 1
            self._all.rows += 1
            unrecorded = window.unrecorded + self._all.unrecorded
            window.unrecorded = self._all.unrecorded = 0
            return unrecorded

    def _window_of(self, kind: str, now: float) -> _Window:
        if kind not in self._kinds and len(self._kinds) >= MOST_KINDS:
            _, oldest = self._kinds.popitem(last=False)
            self._all.unrecorded += oldest.unrecorded
        window = self._kinds.setdefault(kind, _Window(now))
        for each in (window, self._all):
            if now - each.began >= WINDOW_S:
                each.began, each.rows = now, 0
        return window


# Anybody can be nobody, from any number of addresses; a verified caller is one of the desk's own customers.
of_nobody = Sampler(of_a_kind=20, of_all=60)
of_the_verified = Sampler(of_a_kind=20, of_all=1000)
