"""A brake that keeps a single snapshot from closing most of the open positions."""

from copybot.limits import Limits


class MassCloseBrake:
    """On from the first snapshot that closes too much until a later one confirms it by closing no more than that."""

    def __init__(self) -> None:
        self._since: tuple[frozenset[str], int] | None = None

    def holds(self, going: frozenset[str], count: int, limits: Limits, now_ms: int) -> bool:
        """Whether to wait. `going`: ids of the positions that would be closed. `count`: how many are open."""
        if len(going) <= max(limits.brake_least, int(count * limits.brake_share)):
            self._since = None
            return False
        if self._since is not None and going <= self._since[0]:
            return abs(now_ms - self._since[1]) < limits.brake_ms  # clocks are set back, too
        self._since = (going, now_ms)
        return True
