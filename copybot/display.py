"""What a bot is doing, for a person who looks at a terminal: once a second as a page, or line by line as a log."""

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
_FRAME = 12  # the lines of header, headings, sum and rules
NO = "–"

# In a user's words, why a trade was not copied.
WHY_NOT = {
    "missed": "it was too old when it came",
    "slippage": "the price had moved too far",
    "symbol_unknown": "your broker has no such symbol",
    "market_closed": "the market is closed, or there is no price",
    "no_money": "not enough free margin",
    "volume_too_small": "its share is below your broker's smallest volume",
    "too_many_open": "as many trades are open as you allow",
    "rejected": "your broker refused the order",
    "lost": "the order's answer was lost, and nothing came of it",
    "new_install": "it was open before this copier began",
    "halted": "the copier is halted",
    "magic_taken": "its number is another trade's at your broker",
    "closed": "it was closed before it could be copied",
    "not_leased": "another instance follows for this account",
    "paused": "the subscription is paused",
    "unpaid": "a fee is unpaid",
    "trust": "the provider's score is too low",
    "drawdown": "your drawdown limit is reached",
    "symbol_not_allowed": "you do not copy this symbol",
    "not_sizable": "its size cannot be worked out: no equity is known, or it has no stop",
}
STATES = {
    "INTENT": ("ordering", "yellow"),
    "REJECTED": ("refused, trying again", "yellow"),
    "HELD": ("held", "green"),
    "closing": ("closing", "yellow"),
    "reducing": ("reducing", "yellow"),
    "published": ("published", "green"),
    "waiting": ("waiting", "yellow"),
    "too_old": ("left alone", "bright_black"),
    "zombie": ("closed at the desk", "red"),
    "refused": ("refused", "red"),
    "grew": ("grew", "yellow"),
    "new": ("publishing", "yellow"),
}


@dataclass(frozen=True, slots=True)
class Line:
    """One position. `volume` is what is held, `target` what must be. A state is one of STATES."""

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
    """A stream that is followed. `good`: whether all is as it should be; `words` say what it is otherwise."""

    name: str
    words: str
    good: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Happening:
    """`level`: info, good, warning or alarm."""

    at_ms: int
    subject: str
    words: str
    level: str = "info"


@dataclass(frozen=True)
class View:
    """All that is shown at one moment. `marks` are the small facts of the header: words, and whether they are good."""

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
    """The latest of them, oldest first."""

    kept: deque[Happening] = field(default_factory=lambda: deque(maxlen=100))
    listeners: list["Screen"] = field(default_factory=list)

    def add(self, subject: str, words: str, level: str = "info", at_ms: int = 0) -> None:
        one = Happening(at_ms or time.time_ns() // 1_000_000, subject, words, level)
        self.kept.append(one)
        for listener in self.listeners:
            listener.happened(one)


class Screen(Protocol):
    """Where a view goes."""

    def show(self, view: View) -> None: ...

    def happened(self, one: Happening) -> None: ...

    def close(self) -> None: ...


class Page:
    """The whole terminal, redrawn with each view."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, screen=True, transient=True)
        self._live.start()

    def show(self, view: View) -> None:
        self._live.update(page(view, self._live.console.height), refresh=True)

    def happened(self, one: Happening) -> None:
        """It is in the next view."""

    def close(self) -> None:
        self._live.stop()


class Log:
    """A line for each thing that happens, and for what changes of the rest."""

    def __init__(self, console: Console) -> None:
        self._console, self._last = console, ""

    def show(self, view: View) -> None:
        strategies = [f"{one.name} {one.words}" for one in view.strategies]
        bad = [words for words, good in view.marks if not good]
        now = "; ".join([*strategies, *bad, *view.alarms, f"{len(view.lines)} open"])
        if now != self._last:
            self._print(time.time_ns() // 1_000_000, now)
            self._last = now

    def happened(self, one: Happening) -> None:
        self._print(one.at_ms, f"{one.subject}: {one.words}" if one.subject else one.words, one.level)

    def close(self) -> None:
        """Lines are written at once."""

    def _print(self, at_ms: int, words: str, level: str = "info") -> None:
        mark = {"warning": "WARNING ", "alarm": "ALARM "}.get(level, "")
        self._console.out(f"{_stamp(at_ms)} {mark}{words}", highlight=False)


def page(view: View, height: int = 0) -> RenderableType:
    """The page of a view; where it is higher than the terminal, the oldest positions are left out, and counted."""
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
    for one in strategies:
        style = "green" if one.good else "bold yellow"
        grid.add_row(Text(one.name, style="bold"), Text(one.words, style=style), Text(one.detail, style="bright_black"))
    return grid


def _lines(view: View, room: int) -> RenderableType:
    if not view.lines:
        return Padding(Text(view.nothing, style="bright_black"), (0, 1, 1, 1))
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1), header_style="bright_black", show_footer=True)
    shown = list(view.lines)[-room:]
    left_out = len(view.lines) - len(shown)
    total = sum((one.profit for one in view.lines if one.profit is not None), Decimal(0))
    table.add_column("symbol", style="bold", footer=f"and {left_out} older" if left_out else "", no_wrap=True)
    table.add_column("side")
    table.add_column("volume", justify="right", no_wrap=True)
    for name in ("price", "stop", "target"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state")
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column(view.currency or "profit", justify="right", footer=_money(total), no_wrap=True)
    for one in shown:
        table.add_row(*_row(one))
    return table


def _row(one: Line) -> list[RenderableType]:
    words, style = STATES.get(one.state, (one.state.lower(), "default"))
    side = Text(one.side, style="blue" if one.side == "BUY" else "magenta")
    return [
        Text(one.symbol), side, _volume(one), *(_price(each, one.price) for each in (one.price, one.sl, one.tp)),
        Text(words, style=style), Text(age(one.age_ms), style="bright_black"),
        Text(NO, style="bright_black") if one.profit is None else _money(one.profit),
    ]  # fmt: skip


def _volume(one: Line) -> Text:
    """What is held; and what it should be, where that is something else."""
    text = Text(lots(one.volume) if one.volume is not None else NO)
    if one.target is not None and one.target != (one.volume or Decimal(0)):
        text.append(f" → {lots(one.target)}", style="yellow")
    return text


def _price(price: Decimal | None, like: Decimal | None) -> Text:
    return Text(NO, style="bright_black") if price is None else Text(quoted(price, like))


def _money(amount: Decimal) -> Text:
    style = "green" if amount > 0 else "red" if amount < 0 else "default"
    return Text(f"{amount:+,.2f}", style=style)


def _events(happenings: Iterable[Happening]) -> RenderableType:
    styles = {"good": "green", "warning": "yellow", "alarm": "bold red"}
    grid = Table.grid(padding=(0, 2))
    for one in happenings:
        clock = Text(_stamp(one.at_ms)[11:19], style="bright_black")
        grid.add_row(clock, Text(one.subject, style="bold"), Text(one.words, style=styles.get(one.level, "default")))
    return grid


def why_not(reason: str) -> str:
    return WHY_NOT.get(reason, reason.replace("_", " "))


def lots(volume: Decimal) -> str:
    """With two decimals, or as many as it needs."""
    return f"{volume:.2f}" if volume == round(volume, 2) else f"{volume.normalize():f}"


def quoted(price: Decimal, like: Decimal | None = None) -> str:
    """A price with as many decimals as another of its symbol, or as many as it needs."""
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
