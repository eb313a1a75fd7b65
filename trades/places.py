"""How many sockets one caller may have in this process, and how many all callers may have together."""

import time
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import structlog
from prometheus_client import Counter as Metric

from core.errors import DomainError

REFUSED = Metric("copydesk_sockets_refused", "Handshakes refused because a caller or the process has its most.", ["of"])
LOGGED_EVERY_S = 10.0

log = structlog.get_logger()

Owner = tuple[str, Hashable]


class TooManySockets(DomainError):
    code = "too_many_sockets"
    status = 429
    retry = "after"
    detail = "Too many sockets are open. Close those that are not needed, or wait and try again."


class Places:
    """`most`: of each kind of owner; 0 is no limit. An owner is a kind and a name, as ("key", 17)."""

    def __init__(self, most: Mapping[str, int], most_of_all: int) -> None:
        self.most, self.most_of_all = most, most_of_all
        self.taken: Counter[Owner] = Counter()
        self.all = 0
        self._last_log = 0.0

    @contextmanager
    def one(self) -> Iterator[list[Owner]]:
        """Take one of the process's places for a block: from the handshake until the connection is gone.

        Yields the list to which `take` adds owners; their places are given back at the end too. Raises TooManySockets.
        """
        if self.all >= self.most_of_all:
            raise self._refusal("process")
        owners: list[Owner] = []
        self.all += 1
        try:
            yield owners
        finally:
            self.all -= 1
            for owner in owners:
                self.taken[owner] -= 1
                if not self.taken[owner]:
                    del self.taken[owner]

    def take(self, owners: list[Owner], wanted: Iterable[Owner]) -> None:
        """Take a place of each wanted owner; raise TooManySockets, and take none, where one of them has no more."""
        wanted = tuple(wanted)
        for owner in wanted:
            if 0 < self.most.get(owner[0], 0) <= self.taken[owner]:
                raise self._refusal(owner[0])
        self.taken.update(wanted)
        owners += wanted

    def _refusal(self, of: str) -> TooManySockets:
        REFUSED.labels(of).inc()
        if time.monotonic() - self._last_log >= LOGGED_EVERY_S:
            self._last_log = time.monotonic()
            log.warning("sockets.refused", of=of, sockets=self.all, most=self.most_of_all)
        return TooManySockets(of=of, retry_after_ms=5000)
