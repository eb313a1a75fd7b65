"""Why a trade was not copied: one list for skips, failed orders and the score of a bot's reliability."""

from django.db import models


class SkipReason(models.TextChoices):
    """Why a provider's trade was not copied."""

    MISSED = "missed", "the signal came too late for the provider's price"
    SLIPPAGE = "slippage", "the price had moved further than the settings allow"
    SYMBOL_UNKNOWN = "symbol_unknown", "the broker has no such symbol"
    MARKET_CLOSED = "market_closed", "the broker's market was closed"
    NO_MONEY = "no_money", "insufficient margin"
    VOLUME_TOO_SMALL = "volume_too_small", "the volume was below the smallest"
    TOO_MANY_OPEN = "too_many_open", "the largest number of open copies was reached"
    REJECTED = "rejected", "the broker rejected the order"
    LOST = "lost", "the broker's answer was lost, and the broker shows no such order"
    NEW_INSTALL = "new_install", "the trade was open before the copier was set up"
    HALTED = "halted", "the copier had halted itself"
    MAGIC_TAKEN = "magic_taken", "another trade at the broker has its magic number"
    CLOSED = "closed", "the provider closed it before it could be copied"
    NOT_LEASED = "not_leased", "the copier had lost contact with the desk, or another instance was running"
    PAUSED = "paused", "the subscription was paused"
    UNPAID = "unpaid", "a fee was unpaid"
    TRUST = "trust", "copying was restricted because of the bot's trust score"
    DRAWDOWN = "drawdown", "the drawdown stop was reached"
    SYMBOL_NOT_ALLOWED = "symbol_not_allowed", "the settings exclude this symbol"
    NOT_SIZABLE = "not_sizable", "the volume could not be calculated: equity or stop loss unknown"
    STOP_PASSED = "stop_passed", "the broker's price had already passed the stop or the target"
    OTHER = "other", "another reason, which the detail names"
    NOT_REPORTED = "not_reported", "not reported: the copier was not running"


# What a bot may report. The desk itself records that nothing was reported.
REPORTED = [reason.value for reason in SkipReason if reason != SkipReason.NOT_REPORTED]
READ_AS = {"awaiting_stop": SkipReason.NOT_SIZABLE.value}  # a copier's own word for a copy that cannot be sized yet
