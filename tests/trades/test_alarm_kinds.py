"""The list of alarms is the same on both sides, and each has words and a way out."""

from copybot import findings
from trades.alarm_kinds import ADVICE, AlarmKind


def test_the_desk_and_the_bots_know_the_same_kinds() -> None:
    assert {kind.value for kind in AlarmKind} == findings.KINDS


def test_each_kind_says_what_it_means_and_what_to_do() -> None:
    assert set(ADVICE) == set(AlarmKind)
    assert all(advice.title and advice.meaning and advice.way_out for advice in ADVICE.values())
