"""A condition of an account that a bot cannot mend by itself, so that a person should know about it."""

from dataclasses import dataclass

# The closed list of kinds; the desk refuses any other. It has words and advice for each.
KINDS = frozenset(
    {
        "zombie", "too_old", "waiting", "grew", "refused", "reconciled", "closing", "close_refused", "stop_refused",
        "kept_above_target", "market_closed", "order_waits", "halted", "held", "fifo", "currency_differs",
        "contract_differs", "terminal", "state",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """`kind`: one of KINDS. `ticket`: the broker's, empty if it is about no position. `words` say what is wrong and
    what to do. `strategy`, `ref`: the copied trade, if it is a copy."""

    ticket: str
    kind: str
    words: str
    strategy: str = ""
    ref: str = ""
