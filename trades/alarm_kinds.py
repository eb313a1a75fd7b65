"""The conditions that a bot cannot mend by itself: a closed list, each with its words and what a person can do. Pure.

The bots' side of the list is `copybot/findings.py`; a test holds the two together.
"""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Advice:
    """What the condition is called and means, and the way out of it, for the owner of the bot."""

    title: str
    meaning: str
    way_out: str


class AlarmKind(StrEnum):
    ZOMBIE = "zombie"
    TOO_OLD = "too_old"
    WAITING = "waiting"
    GREW = "grew"
    REFUSED = "refused"
    RECONCILED = "reconciled"
    CLOSING = "closing"
    CLOSE_REFUSED = "close_refused"
    STOP_REFUSED = "stop_refused"
    KEPT_ABOVE_TARGET = "kept_above_target"
    MARKET_CLOSED = "market_closed"
    ORDER_WAITS = "order_waits"
    HALTED = "halted"
    HELD = "held"
    FIFO = "fifo"
    CURRENCY_DIFFERS = "currency_differs"
    CONTRACT_DIFFERS = "contract_differs"
    TERMINAL = "terminal"
    STATE = "state"


ADVICE: dict[str, Advice] = {
    AlarmKind.ZOMBIE: Advice(
        "open at the broker, closed at the desk",
        "The position is open at the broker, but its trade is closed at the desk for ever.",
        "Close the position at your broker, or manage it yourself. It is copied no more.",
    ),
    AlarmKind.TOO_OLD: Advice(
        "not published: opened too long ago",
        "The position was open before the publisher started, so its copies would get another price.",
        "Nothing has to be done. To have it copied, close it and open it again.",
    ),
    AlarmKind.WAITING: Advice(
        "waiting for the broker's records",
        "The broker's records do not yet show all deals of the position, so the bot cannot report it.",
        "Check that the terminal is connected and shows the whole history. It usually resolves within a minute.",
    ),
    AlarmKind.GREW: Advice(
        "larger than published",
        "The position is larger than its trade at the desk. What was added is not copied.",
        "Open additions as positions of their own, if they are to be copied.",
    ),
    AlarmKind.REFUSED: Advice(
        "refused by the desk",
        "The desk refused what the bot reported.",
        "Read the reason beside the ticket. If it does not go away by itself, ask staff.",
    ),
    AlarmKind.RECONCILED: Advice(
        "close published without evidence",
        "The position has ended, but the broker shows no closing deal. Its close has the best known price.",
        "Compare price and profit with your broker's statement. Staff can enter a correction.",
    ),
    AlarmKind.CLOSING: Advice(
        "still open at the broker after its close",
        "The close has arrived, but the position is still open at the broker. The copier tries on.",
        "Check that the market is open and the terminal may trade, or close the position at your broker.",
    ),
    AlarmKind.CLOSE_REFUSED: Advice(
        "the broker refuses the close",
        "The broker refuses to close the position. The copier tries on, less and less often.",
        "Look up the broker's code. Close the position at your broker if the copier cannot.",
    ),
    AlarmKind.STOP_REFUSED: Advice(
        "the broker refuses a stop",
        "The broker refuses a stop loss or a take profit of the position.",
        "Set the stop at your broker if you want it. The close with the provider is not affected.",
    ),
    AlarmKind.KEPT_ABOVE_TARGET: Advice(
        "larger than it should be",
        "The copy cannot become as small as it should be, because the broker's smallest volume is larger.",
        "Nothing has to be done: it closes with the provider. Close it at your broker to be out earlier.",
    ),
    AlarmKind.MARKET_CLOSED: Advice(
        "the market is closed, and a close waits for it",
        "The close has arrived, but the market is closed. The copier closes when it opens.",
        "Nothing can be done before. The position carries the risk of the gap until then.",
    ),
    AlarmKind.ORDER_WAITS: Advice(
        "an order waits at the broker although it is no longer wanted",
        "An order of the copier waits at the broker, although the provider is out of the trade by now.",
        "Delete the waiting order at your broker. If it fills, the copier closes it at once.",
    ),
    AlarmKind.HALTED: Advice(
        "the copier has halted itself",
        "The copier met a contradiction, and opens nothing. It still closes.",
        "Read the copier's log, then start it with --release.",
    ),
    AlarmKind.HELD: Advice(
        "the copier waits for staff",
        "The desk was restored from a backup. The copier opens and closes nothing until staff confirm.",
        "Staff begin a new stream epoch. Watch your open positions at the broker meanwhile.",
    ),
    AlarmKind.FIFO: Advice(
        "the account must close its oldest position first",
        "The broker requires that the oldest position of a symbol is closed first.",
        "Follow one strategy a symbol on this account, or copy on an account without this rule.",
    ),
    AlarmKind.CURRENCY_DIFFERS: Advice(
        "the account's currency is not as registered",
        "The account at the broker is kept in another currency than the desk has on record.",
        "Ask staff to register the account anew. Sizes and fees are not right until then.",
    ),
    AlarmKind.CONTRACT_DIFFERS: Advice(
        "the broker's contract size differs",
        "One lot of the symbol is another amount at this broker than in the desk's list.",
        "Check the size of your copies. Fees count the desk's size: ask staff if that is not right.",
    ),
    AlarmKind.TERMINAL: Advice(
        "the broker's terminal does not answer",
        "The bot cannot read the account or its positions, so it can neither open nor close.",
        "Check that the terminal runs, is connected and is signed in.",
    ),
    AlarmKind.STATE: Advice(
        "the bot's state file cannot be written",
        "The bot cannot write its state file, so it opens nothing. It still closes.",
        "Free space on the bot's disk, or correct the rights of its folder.",
    ),
}  # fmt: skip
