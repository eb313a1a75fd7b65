"""The conditions that a bot cannot mend by itself: a closed list, each with its words and what a person can do.

The bots' side of the list is `copybot/findings.py`; a test holds the two together.
"""

from dataclasses import dataclass

from django.db import models


@dataclass(frozen=True, slots=True)
class Advice:
    """What the condition means, and the way out of it, for the owner of the bot."""

    meaning: str
    way_out: str


class AlarmKind(models.TextChoices):
    ZOMBIE = "zombie", "open at the broker, closed at the desk"
    TOO_OLD = "too_old", "not published: opened too long ago"
    WAITING = "waiting", "waiting for the broker's records"
    GREW = "grew", "larger than published"
    REFUSED = "refused", "refused by the desk"
    RECONCILED = "reconciled", "close published without evidence"
    CLOSING = "closing", "still open at the broker after its close"
    CLOSE_REFUSED = "close_refused", "the broker refuses the close"
    STOP_REFUSED = "stop_refused", "the broker refuses a stop"
    KEPT_ABOVE_TARGET = "kept_above_target", "larger than it should be"
    MARKET_CLOSED = "market_closed", "the market is closed, and a close waits for it"
    ORDER_WAITS = "order_waits", "an order waits at the broker although it is no longer wanted"
    HALTED = "halted", "the copier has halted itself"
    HELD = "held", "the copier waits for staff"
    FIFO = "fifo", "the account must close its oldest position first"
    CURRENCY_DIFFERS = "currency_differs", "the account's currency is not as registered"
    CONTRACT_DIFFERS = "contract_differs", "the broker's contract size differs"
    TERMINAL = "terminal", "the broker's terminal does not answer"
    STATE = "state", "the bot's state file cannot be written"


ADVICE: dict[str, Advice] = {
    AlarmKind.ZOMBIE: Advice(
        "The position is open at the broker, but its trade is closed at the desk for ever.",
        "Close the position at your broker, or manage it yourself. It is copied no more.",
    ),
    AlarmKind.TOO_OLD: Advice(
        "The position was open before the publisher started, so its copies would get another price.",
        "Nothing has to be done. To have it copied, close it and open it again.",
    ),
    AlarmKind.WAITING: Advice(
        "The broker's records do not yet show all deals of the position, so the bot cannot report it.",
        "Check that the terminal is connected and shows the whole history. It usually resolves within a minute.",
    ),
    AlarmKind.GREW: Advice(
        "The position is larger than its trade at the desk. What was added is not copied.",
        "Open additions as positions of their own, if they are to be copied.",
    ),
    AlarmKind.REFUSED: Advice(
        "The desk refused what the bot reported.",
        "Read the reason beside the ticket. If it does not go away by itself, ask staff.",
    ),
    AlarmKind.RECONCILED: Advice(
        "The position has ended, but the broker shows no closing deal. Its close was told at the best known price.",
        "Compare price and profit with your broker's statement. Staff can enter a correction.",
    ),
    AlarmKind.CLOSING: Advice(
        "The close has arrived, but the position is still open at the broker. The copier tries on.",
        "Check that the market is open and the terminal may trade, or close the position at your broker.",
    ),
    AlarmKind.CLOSE_REFUSED: Advice(
        "The broker refuses to close the position. The copier tries on, less and less often.",
        "Look up the broker's code. Close the position at your broker if the copier cannot.",
    ),
    AlarmKind.STOP_REFUSED: Advice(
        "The broker refuses a stop loss or a take profit of the position.",
        "Set the stop at your broker if you want it. The close with the provider is not affected.",
    ),
    AlarmKind.KEPT_ABOVE_TARGET: Advice(
        "The copy cannot become as small as it should be, because the broker's smallest volume is larger.",
        "Nothing has to be done: it closes with the provider. Close it at your broker to be out earlier.",
    ),
    AlarmKind.MARKET_CLOSED: Advice(
        "The close has arrived, but the market is closed. The copier closes when it opens.",
        "Nothing can be done before. The position carries the risk of the gap until then.",
    ),
    AlarmKind.ORDER_WAITS: Advice(
        "An order of the copier waits at the broker, although the provider is out of the trade by now.",
        "Delete the waiting order at your broker. If it fills, the copier closes it at once.",
    ),
    AlarmKind.HALTED: Advice(
        "The copier met a contradiction, and opens nothing. It still closes.",
        "Read the copier's log, then start it with --release.",
    ),
    AlarmKind.HELD: Advice(
        "The desk was restored from a backup. The copier opens and closes nothing until staff confirm.",
        "Staff begin a new stream epoch. Watch your open positions at the broker meanwhile.",
    ),
    AlarmKind.FIFO: Advice(
        "The broker requires that the oldest position of a symbol is closed first.",
        "Follow one strategy a symbol on this account, or copy on an account without this rule.",
    ),
    AlarmKind.CURRENCY_DIFFERS: Advice(
        "The account at the broker is kept in another currency than the desk has on record.",
        "Ask staff to register the account anew. Sizes and fees are not right until then.",
    ),
    AlarmKind.CONTRACT_DIFFERS: Advice(
        "One lot of the symbol is another amount at this broker than at the provider's.",
        "Check the size of your copies, and set a factor for the symbol in the settings.",
    ),
    AlarmKind.TERMINAL: Advice(
        "The bot cannot read the account or its positions, so it can neither open nor close.",
        "Check that the terminal runs, is connected and is signed in.",
    ),
    AlarmKind.STATE: Advice(
        "The bot cannot write its state file, so it opens nothing. It still closes.",
        "Free space on the bot's disk, or correct the rights of its folder.",
    ),
}  # fmt: skip
