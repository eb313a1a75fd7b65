"""Shows on a terminal what a bot is doing: as a page that is redrawn every second, or as a log."""

import io
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

from copybot.findings import Finding

EVENTS_SHOWN = 8
_LEAST_EVENTS, _LEAST_ROWS = 3, 3  # also on a small terminal
_MOST_STRATEGIES = 3  # on a small terminal
_SMALL, _TINY = 30, 20  # lines: below, the page does without frames; below, one strategy is shown
_NARROW, _NARROWEST = 100, 70  # columns: below, the table has no stops; below, neither price nor age
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
    "stop_passed": "your broker's price had already passed the stop or the target",
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
# What a person does about a finding, where its own words do not say it.
WHAT_TO_DO = {
    "zombie": "",
    "too_old": "",
    "waiting": "nothing to do, unless it lasts",
    "grew": "open the rest as a position of its own",
    "refused": "look up the code in docs/errors.md",
    "reconciled": "compare its close at the desk with your broker's statement",
    "closing": "look at your broker, and close it there if the market is open",
    "close_refused": "close it at your broker",
    "stop_refused": "set the stop at your broker",
    "kept_above_target": "",
    "market_closed": "it is closed when the market opens: look at your broker then",
    "order_waits": "cancel the order at your broker",
    "halted": "",
    "held": "ask the desk's staff",
    "fifo": "close the older position of the symbol first",
    "currency_differs": "log the terminal in to the registered account, or ask staff",
    "contract_differs": "look at the planned volumes at the desk",
    "terminal": "look at the terminal: is it running and connected?",
    "state": "free disk space for the state folder, and restart",
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
        width, height = self._live.console.size
        self._live.update(page(view, width, height), refresh=True)

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


def page(view: View, width: int = 0, height: int = 0) -> RenderableType:
    """The page of a view, no higher than `height` lines (0: no limit).

    The state and the newest events come first: on a small terminal the frames go, and then alarms, strategies and the
    oldest positions are left out and counted.
    """
    width = width or 120
    is_small = bool(height) and height < _SMALL
    strategies = list(view.strategies)
    most = 1 if is_small and height < _TINY else _MOST_STRATEGIES if is_small else len(strategies)
    top: list[RenderableType] = [_header(view, width, is_small=is_small)]
    top += [_strategies(strategies[:most], len(strategies) - most)] if strategies else []
    events = view.happenings[-EVENTS_SHOWN:]

    def table(rows: int) -> RenderableType:
        return _lines(view, rows, width, is_small=is_small)

    if not height:
        return Group(*top, *_alarms(view.alarms), table(len(view.lines)), *_event_list(events))
    measure = Console(width=width, file=io.StringIO())
    frame = _height(measure, [table(1)]) - (1 if view.lines else 0)
    least = frame + min(_LEAST_ROWS, len(view.lines)) + 1  # 1: the rule above the events
    left = height - _height(measure, top) - least - min(_LEAST_EVENTS, len(events))
    alarms = _alarms(view.alarms, measure, max(1, left))
    left = height - _height(measure, [*top, *alarms]) - least
    events = events[-max(_LEAST_EVENTS, left * 2 // 3) :]
    below = _event_list(events)
    rows = height - _height(measure, [*top, *alarms, *below]) - frame
    return Group(*top, *alarms, table(max(1, rows)), *below)


def _height(measure: Console, parts: Sequence[RenderableType]) -> int:
    return len(measure.render_lines(Group(*parts), pad=False)) if parts else 0


def _alarms(words: Sequence[str], measure: Console | None = None, room: int = 0) -> list[RenderableType]:
    """All alarms, or those that fit into `room` lines and the number of the others."""
    shown = [Padding(Text(f"▲ {each}", style="bold red"), (0, 1)) for each in words]
    if measure is None or _height(measure, shown) <= room:
        return list(shown)
    while len(shown) > 1 and _height(measure, shown) >= room:
        shown.pop()
    rest = len(words) - len(shown)
    return [*shown, *([Padding(Text(f"▲ and {rest} more", style="bold red"), (0, 1))] if rest else [])]


def _event_list(events: Sequence[Happening]) -> list[RenderableType]:
    return [Rule("events", style="bright_black", align="left"), Padding(_events(events), (0, 1))] if events else []


def _header(view: View, width: int, *, is_small: bool) -> RenderableType:
    title = view.title.removeprefix("copybot ") if width < _NARROW else view.title
    grid = Table.grid(expand=True, padding=(0, 2))
    grid.add_column(ratio=1, no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(
        Text.assemble((title, "bold"), "  ", (view.desk, "cyan")),
        Text.assemble(view.account, "   ", (view.money, "bold")),
    )
    marks = _marks(view.marks, width - 4)
    if is_small:
        return Padding(Group(grid, *marks), (0, 1))
    return Panel(Group(grid, *marks), box=box.ROUNDED, border_style="bright_black", padding=(0, 1))


def _marks(marks: Iterable[tuple[str, bool]], width: int) -> list[Text]:
    """As many to a line as fit, none broken; what needs attention first."""
    rows = [Text()]
    for words, good in sorted(marks, key=lambda mark: mark[1]):
        if rows[-1] and rows[-1].cell_len + len(words) + 2 > width:
            rows.append(Text())
        rows[-1].append("● ", style="green" if good else "bold yellow")
        rows[-1].append(f"{words}  ", style="default" if good else "bold yellow")
    for row in rows:
        row.rstrip()
    return rows


def _strategies(strategies: Iterable[Strategy], left_out: int) -> RenderableType:
    """One line each."""
    grid = Table.grid(padding=(0, 2))
    for _ in range(3):
        grid.add_column(no_wrap=True)
    for strategy in strategies:
        style = "green" if strategy.good else "bold yellow"
        grid.add_row(
            Text(strategy.name, style="bold"),
            Text(strategy.words, style=style),
            Text(strategy.detail, style="bright_black"),
        )
    if left_out > 0:
        grid.add_row(Text(f"and {left_out} more", style="bright_black"))
    return Padding(grid, (0, 1))


def _lines(view: View, room: int, width: int, *, is_small: bool) -> RenderableType:
    if not view.lines:
        return Padding(Text(view.nothing, style="bright_black"), (0, 1, 0 if is_small else 1, 1))
    table = Table(
        box=None if is_small else box.SIMPLE_HEAD, expand=True, padding=(0, 1), header_style="bright_black",
        show_footer=True,
    )  # fmt: skip
    shown = list(view.lines)[-room:]
    left_out = len(view.lines) - len(shown)
    total = sum((line.profit for line in view.lines if line.profit is not None), Decimal(0))
    names = [name for name in _COLUMNS if width >= _COLUMNS[name]]
    footers = {"symbol": Text(f"+{left_out} older" if left_out else ""), "profit": _money(total)}
    for name in names:
        table.add_column(
            (view.currency or name) if name == "profit" else name,
            justify="left" if name in ("symbol", "side", "state") else "right",
            style="bold" if name == "symbol" else "", no_wrap=True, footer=footers.get(name, ""),
        )  # fmt: skip
    for line in shown:
        cells = _row(line)
        table.add_row(*(cells[name] for name in names))
    return table


# The least width of the terminal at which a column is shown.
_COLUMNS = {
    "symbol": 0, "side": 0, "volume": 0, "price": _NARROWEST, "stop": _NARROW, "target": _NARROW, "state": 0,
    "age": _NARROWEST, "profit": 0,
}  # fmt: skip


def _row(line: Line) -> dict[str, RenderableType]:
    words, style = STATES.get(line.state, (line.state.lower(), "default"))
    return {
        "symbol": Text(line.symbol),
        "side": Text(line.side, style="blue" if line.side == "BUY" else "magenta"),
        "volume": _volume(line),
        "price": _price(line.price, line.price),
        "stop": _price(line.sl, line.price),
        "target": _price(line.tp, line.price),
        "state": Text(words, style=style),
        "age": Text(age(line.age_ms), style="bright_black"),
        "profit": Text(NO, style="bright_black") if line.profit is None else _money(line.profit),
    }


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
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(no_wrap=True, min_width=8)
    grid.add_column(no_wrap=True, max_width=24)
    grid.add_column(no_wrap=True, ratio=1)  # one line each, so that the newest are in view
    for happening in happenings:
        clock = Text(_stamp(happening.at_ms)[11:19], style="bright_black")
        grid.add_row(
            clock,
            Text(happening.subject, style="bold"),
            Text(happening.words, style=styles.get(happening.level, "default")),
        )
    return grid


def alarm(finding: Finding) -> str:
    """A finding with its ticket and what to do."""
    subject = " ".join(part for part in (finding.ticket, finding.strategy) if part)
    to_do = WHAT_TO_DO.get(finding.kind, "")
    return ": ".join(part for part in (subject, finding.words) if part) + (f". {to_do.capitalize()}" if to_do else "")


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
