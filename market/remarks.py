"""What is worth saying about a file of bars that was read: what was left out, put in order or assumed. Pure."""

from collections.abc import Mapping
from typing import Any


def remarks(report: Mapping[str, Any]) -> list[str]:
    """A sentence each, from a report as market.services.candles.Report writes it."""
    sentences = [
        ("doubled", "{:,} lines were the same as another and were left out."),
        ("without_prices", "{:,} lines without prices were left out."),
        ("idle", "{:,} bars without a trade in closed hours were left out."),
        ("unfinished", "The last bar has not ended yet and was left out."),
        ("was_sorted", "The lines were not in order; they were sorted."),
    ]
    found = [sentence.format(report[name]) for name, sentence in sentences if report.get(name)]
    if not report.get("has_volume", True):
        found.append("The file has no column of volumes; they are zero.")
    return found
