"""A condition of an account that a bot cannot mend by itself, so that a person should know about it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """`kind`: zombie, too_old, waiting, grew or refused (a report); of a copier also kept_above_target, close_refused,
    market_closed, stop_refused, order_waits, held or halted. `ticket`: the broker's, empty if the finding is about no
    position. `words` say what is wrong and what to do. `strategy`, `ref`: the copied trade, if it is a copy."""

    ticket: str
    kind: str
    words: str
    strategy: str = ""
    ref: str = ""
