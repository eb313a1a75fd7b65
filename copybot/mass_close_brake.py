"""What keeps a single answer of the desk from closing nearly all that is open."""

from copybot.limits import Limits


class MassCloseBrake:
    """On from the first snapshot that would close too much, until one that closes no more than that one comes later."""

    def __init__(self) -> None:
        self._since: tuple[frozenset[str], int] | None = None

    def holds(self, going: frozenset[str], count: int, limits: Limits, now_ms: int) -> bool:
        """Whether to wait. `going`: the positions that would be closed, of so many (`count`)."""
        if len(going) <= max(limits.brake_least, int(count * limits.brake_share)):
            self._since = None
            return False
        if self._since is not None and going <= self._since[0]:
            return now_ms - self._since[1] < limits.brake_ms
        self._since = (going, now_ms)
        return True
