"""Turns, rounds, and the table of ratios."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Turn = Callable[[], float]
Found = dict[str, list[float]]


@dataclass(frozen=True)
class Line:
    """One row: a turn compared with another of the same round, or the figure itself if there is no other."""

    work: str
    ours: str
    other: str
    called: str
    at_least: float | None = None
    at_most: float | None = None

    def ratio(self, figures: Found) -> float:
        """The median of the ratios of all rounds: a disturbance of the machine affects both turns of a round."""
        if not self.other:
            return statistics.median(figures[self.ours])
        return statistics.median(one / two for one, two in zip(figures[self.ours], figures[self.other], strict=True))

    def cells(self, figures: Found, **words: object) -> list[str]:
        ratio = self.ratio(figures)
        other = f"{statistics.median(figures[self.other]):,.0f}" if self.other else ""
        ours = f"{statistics.median(figures[self.ours]):,.0f}"
        return [self.work.format(**words), self.called, ours, other, f"{ratio:.2f}", *self.verdict(ratio)]

    def verdict(self, ratio: float) -> tuple[str, str]:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}", "met" if ratio >= self.at_least else "not met"
        if self.at_most is not None:
            return f"≤ {self.at_most:g}", "met" if ratio <= self.at_most else "not met"
        return "", ""


HEAD = ["work", "against", "ours", "other", "ratio", "goal", ""]


def rounds(turns: dict[str, Turn], count: int, say: Callable[[str], None]) -> Found:
    """Run all turns once to warm up, then each once in every round."""
    figures: Found = {name: [] for name in turns}
    for number in range(count + 1):
        say(f"round {number} of {count}" if number else "warming up")
        for name, turn in turns.items():
            figure = turn()
            if number:
                figures[name].append(figure)
    return figures


def written(lines: Iterable[Line], figures: Found, **words: object) -> str:
    rows = [HEAD, *(line.cells(figures, **words) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )
