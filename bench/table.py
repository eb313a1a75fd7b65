"""Turns, rounds, and the table of their ratios."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Turn = Callable[[], float]
Found = dict[str, list[float]]


@dataclass(frozen=True)
class Line:
    """One row: a turn against another of the same round. Without another it is the figure itself."""

    work: str
    ours: str
    other: str
    called: str
    at_least: float | None = None
    at_most: float | None = None

    def ratio(self, found: Found) -> float:
        """The median of the rounds' own ratios: what disturbs the machine for a while disturbs both."""
        if not self.other:
            return statistics.median(found[self.ours])
        return statistics.median(one / two for one, two in zip(found[self.ours], found[self.other], strict=True))

    def cells(self, found: Found, **words: object) -> list[str]:
        ratio = self.ratio(found)
        other = f"{statistics.median(found[self.other]):,.0f}" if self.other else ""
        ours = f"{statistics.median(found[self.ours]):,.0f}"
        return [self.work.format(**words), self.called, ours, other, f"{ratio:.2f}", *self.verdict(ratio)]

    def verdict(self, ratio: float) -> tuple[str, str]:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}", "met" if ratio >= self.at_least else "not met"
        if self.at_most is not None:
            return f"≤ {self.at_most:g}", "met" if ratio <= self.at_most else "not met"
        return "", ""


HEAD = ["work", "against", "ours", "other", "ratio", "goal", ""]


def rounds(turns: dict[str, Turn], count: int, say: Callable[[str], None]) -> Found:
    """All turns once without counting, then each once a round."""
    found: Found = {name: [] for name in turns}
    for number in range(count + 1):
        say(f"round {number} of {count}" if number else "warming up")
        for name, turn in turns.items():
            figure = turn()
            if number:
                found[name].append(figure)
    return found


def written(lines: Iterable[Line], found: Found, **words: object) -> str:
    rows = [HEAD, *(line.cells(found, **words) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )
