"""The right to open: lent by the desk to one instance of an account's copier at a time, and only for a while."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Lease:
    """`instance` names the place where this runs. `monotonic_ms`: this machine's; `clock_ms`: the desk's time.

    `last`: the number of the last lease that this place had. One that follows it directly, and at once, was nobody
    else's meanwhile, so that what that one covered (`since_ms`) is still this place's to open.
    """

    instance: str
    monotonic_ms: Callable[[], int]
    clock_ms: Callable[[], int]
    last: int = 0
    since_ms: int = 0
    fence: str | None = field(default=None, init=False)
    is_lost: bool = field(default=False, init=False)
    _from_ms: int = field(default=0, init=False, repr=False)
    _until_ms: int = field(default=0, init=False, repr=False)

    def grant(self, answer: Mapping[str, Any], *, sent_ms: int) -> bool:
        """Whether it is a new one. `sent_ms`: when the request left, by the monotonic clock."""
        wait, fence = int(answer["may_open_in_ms"]), str(answer["fence"])
        is_new = fence != self.fence
        if is_new:
            if wait or int(fence) != self.last + 1:
                self.since_ms = self.clock_ms() + wait
            self.fence, self.last = fence, int(fence)
        self._from_ms = self.monotonic_ms() + wait
        self._until_ms = sent_ms + int(answer["lease_ms"])
        return is_new

    def lose(self) -> None:
        self.is_lost = True

    def begin_anew(self) -> None:
        """The desk was restored, and may have forgotten whose the lease was: ask as one who has just started."""
        self.fence, self.last, self.is_lost, self._until_ms = None, -1, False, 0

    @property
    def is_live(self) -> bool:
        return not self.is_lost and self._from_ms <= self.monotonic_ms() < self._until_ms

    def covers(self, born_ms: int) -> bool:
        """Whether a trade may be opened under it. One that was born before was the former holder's to open."""
        return self.is_live and born_ms >= self.since_ms
