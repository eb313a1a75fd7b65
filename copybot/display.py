"""Shows on a terminal what a bot is doing: as a page that is redrawn every second, or as a log."""

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

EVENTS_SHOWN = 8
_FRAME = 12  # lines used by header, headings, sum and rules
NO = "–"

# Why a trade was not copied, in a subscriber's words.
WHY_NOT = {
    "missed": "the signal was too old when it arrived",
    "slippage": "the price had moved too far",
    "symbol_unknown": "your broker does not have this symbol",
    "market_closed": "the market is closed, or there is no price",
    "no_money": "insufficient free margin",
    "volume_too_small": "the copy's volume is below your broker's minimum",
    "too_many_open": "your limit of open trades is reached",
    "rejected": "your broker refused the order",
    "lost": "the broker's answer was lost, and the order was not executed",
    "new_install": "the trade was open before this copier started",
    "halted": "the copier is halted",
    "magic_taken": "another trade has the same magic number at your broker",
    "closed": "the trade was closed before it could be copied",
    "not_leased": "another instance copies for this account",
    "paused": "the subscription is paused",
    "unpaid": "a fee is unpaid",
    "trust": "the provider's score is too low",
    "drawdown": "your drawdown limit is reached",
    "symbol_not_allowed": "you do not copy this symbol",
    "not_sizable": "the volume cannot be calculated: your equity is unknown, or the trade has no stop",
}
STATES = {
    "INTENT": ("ordering", "yellow"),
    "REJECTED": ("refused, trying again", "yellow"),
    "HELD": ("open", "green"),
    "closing": ("closing", "yellow"),
    "reducing": ("reducing", "yellow"),
    "published": ("published", "green"),
    "waiting": ("waiting", "yellow"),
    "too_old": ("not published", "bright_black"),
    "zombie": ("closed at the desk", "red"),
    "refused": ("refused", "red"),
    "grew": ("increased", "yellow"),
    "new": ("publishing", "yellow"),
}


@dataclass(frozen=True, slots=True)
class Line:
    """One position. `volume`: the open lots; `target`: the lots that should be open. `state`: one of STATES."""

    symbol: str
    side: str
    volume: Decimal | None
    target: Decimal | None
    price: Decimal | None
    sl: Decimal | None
    tp: Decimal | None
    state: str
    age_ms: int
    profit: Decimal | None


@dataclass(frozen=True, slots=True)
class Strategy:
    """A followed strategy. `good`: whether it needs no attention. `words`: its condition."""

    name: str
    words: str
    good: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Happening:
    """An entry of the event list. `level`: info, good, warning or alarm."""

    at_ms: int
    subject: str
    words: str
    level: str = "info"


@dataclass(frozen=True)
class View:
    """The whole display at one moment. `marks`: the header's indicators, each with its words and whether it is good."""

    title: str
    desk: str
    account: str
    money: str
    marks: Sequence[tuple[str, bool]]
    strategies: Sequence[Strategy] = ()
    lines: Sequence[Line] = ()
    happenings: Sequence[Happening] = ()
    alarms: Sequence[str] = ()
    currency: str = ""
    nothing: str = "nothing is open"


@dataclass
class Happenings:
    """The latest happenings, oldest first."""

    latest: deque[Happening] = field(default_factory=lambda: deque(maxlen=100))
    listeners: list["Screen"] = field(default_factory=list)

    def add(self, subject: str, words: str, level: str = "info", at_ms: int = 0) -> None:
        happening = Happening(at_ms or time.time_ns() // 1_000_000, subject, words, level)
        self.latest.append(happening)
        for listener in self.listeners:
            listener.happened(happening)


class Screen(Protocol):
    """An output for views and happenings."""

    def show(self, view: View) -> None: ...

    def happened(self, happening: Happening) -> None: ...

    def close(self) -> None: ...


class Page:
    """The whole terminal, redrawn with each view."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, screen=True, transient=True)
        self._live.start()

    def show(self, view: View) -> None:
        self._live.update(page(view, self._live.console.height), refresh=True)

    def happened(self, happening: Happening) -> None:
        """Do nothing: the next view shows it."""

    def close(self) -> None:
        self._live.stop()


class Log:
    """A line for each happening, and a line when the state of the view changes."""

    def __init__(self, console: Console) -> None:
        self._console, self._last = console, ""

    def show(self, view: View) -> None:
        strategies = [f"{strategy.name} {strategy.words}" for strategy in view.strategies]
        bad = [words for words, good in view.marks if not good]
        now = "; ".join([*strategies, *bad, *view.alarms, f"{len(view.lines)} open"])
        if now != self._last:
            self._print(time.time_ns() // 1_000_000, now)
            self._last = now

    def happened(self, happening: Happening) -> None:
        self._print(
            happening.at_ms,
            f"{happening.subject}: {happening.words}" if happening.subject else happening.words,
            happening.level,
        )

    def close(self) -> None:
        """Do nothing: lines are written at once."""

    def _print(self, at_ms: int, words: str, level: str = "info") -> None:
        mark = {"warning": "WARNING ", "alarm": "ALARM "}.get(level, "")
        self._console.out(f"{_stamp(at_ms)} {mark}{words}", highlight=False)


def page(view: View, height: int = 0) -> RenderableType:
    """The page of a view. If it is higher than the terminal, the oldest positions are left out and counted."""
    events = view.happenings[-EVENTS_SHOWN:]
    others = _FRAME + len(view.strategies) + len(view.alarms) + len(events)
    room = max(3, height - others) if height else len(view.lines)
    parts: list[RenderableType] = [_header(view)]
    parts += [Padding(_strategies(view.strategies), (0, 1))] if view.strategies else []
    parts += [Padding(Text(f"▲ {words}", style="bold red"), (0, 1)) for words in view.alarms]
    parts.append(_lines(view, room))
    if events:
        parts += [Rule("events", style="bright_black", align="left"), Padding(_events(events), (0, 1))]
    return Group(*parts)


def _header(view: View) -> RenderableType:
    grid = Table.grid(expand=True, padding=(0, 2))
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(
        Text.assemble((view.title, "bold"), "  ", (view.desk, "cyan")),
        Text.assemble(view.account, "   ", (view.money, "bold")),
    )
    marks = Text()
    for words, good in view.marks:
        marks.append("● ", style="green" if good else "bold yellow")
        marks.append(f"{words}   ", style="default" if good else "bold yellow")
    return Panel(Group(grid, marks), box=box.ROUNDED, border_style="bright_black", padding=(0, 1))


def _strategies(strategies: Iterable[Strategy]) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    for strategy in strategies:
        style = "green" if strategy.good else "bold yellow"
        grid.add_row(
            Text(strategy.name, style="bold"),
            Text(strategy.words, style=style),
            Text(strategy.detail, style="bright_black"),
        )
    return grid


def _lines(view: View, room: int) -> RenderableType:
    if not view.lines:
        return Padding(Text(view.nothing, style="bright_black"), (0, 1, 1, 1))
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1), header_style="bright_black", show_footer=True)
    shown = list(view.lines)[-room:]
    left_out = len(view.lines) - len(shown)
    total = sum((line.profit for line in view.lines if line.profit is not None), Decimal(0))
    table.add_column("symbol", style="bold", footer=f"and {left_out} older" if left_out else "", no_wrap=True)
    table.add_column("side")
    table.add_column("volume", justify="right", no_wrap=True)
    for name in ("price", "stop", "target"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state")
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column(view.currency or "profit", justify="right", footer=_money(total), no_wrap=True)
    for line in shown:
        table.add_row(*_row(line))
    return table


def _row(line: Line) -> list[RenderableType]:
    words, style = STATES.get(line.state, (line.state.lower(), "default"))
    side = Text(line.side, style="blue" if line.side == "BUY" else "magenta")
    return [
        Text(line.symbol), side, _volume(line), *(_price(each, line.price) for each in (line.price, line.sl, line.tp)),
        Text(words, style=style), Text(age(line.age_ms), style="bright_black"),
        Text(NO, style="bright_black") if line.profit is None else _money(line.profit),
    ]  # fmt: skip


def _volume(line: Line) -> Text:
    """The open lots, and the target if it differs."""
    text = Text(lots(line.volume) if line.volume is not None else NO)
    if line.target is not None and line.target != (line.volume or Decimal(0)):
        text.append(f" → {lots(line.target)}", style="yellow")
    return text


def _price(price: Decimal | None, like: Decimal | None) -> Text:
    return Text(NO, style="bright_black") if price is None else Text(quoted(price, like))


def _money(amount: Decimal) -> Text:
    style = "green" if amount > 0 else "red" if amount < 0 else "default"
    return Text(f"{amount:+,.2f}", style=style)


def _events(happenings: Iterable[Happening]) -> RenderableType:
    styles = {"good": "green", "warning": "yellow", "alarm": "bold red"}
    grid = Table.grid(padding=(0, 2))
    for happening in happenings:
        clock = Text(_stamp(happening.at_ms)[11:19], style="bright_black")
        grid.add_row(
            clock,
            Text(happening.subject, style="bold"),
            Text(happening.words, style=styles.get(happening.level, "default")),
        )
    return grid


def why_not(reason: str) -> str:
    return WHY_NOT.get(reason, reason.replace("_", " "))


def lots(volume: Decimal) -> str:
    """A volume with two decimals, or more if it has more."""
    return f"{volume:.2f}" if volume == round(volume, 2) else f"{volume.normalize():f}"


def quoted(price: Decimal, like: Decimal | None = None) -> str:
    """A price with its own decimals, and at least as many as `like`, another price of the symbol."""
    needed = max(0, -int(price.normalize().as_tuple().exponent))
    return f"{price:.{max(needed, 0 if like is None else -int(like.normalize().as_tuple().exponent))}f}"


def age(ms: int) -> str:
    seconds = max(0, ms // 1000)
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"


def summary(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _stamp(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))
