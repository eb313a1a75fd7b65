"""Builds the broker account that a configuration names."""

from collections.abc import Callable, Iterable
from pathlib import Path

from copybot import mt5
from copybot.broker import Terminal
from copybot.candles import PAPER_BEGAN_MS, Candles, Clock, Instrument
from copybot.fifo import Fifo
from copybot.netting import NetTerminal, Netting
from copybot.paper import PaperBroker
from copybot.rebooking import Rebooked
from copybot.settings import MetaTrader, Paper, Settings, SettingsError
from copybot.symbols import Named, Names

_QUARTER_MS = 15 * 60_000
_STALE_MS = 60_000
_QUIET_MS = 15 * 60_000
_FURTHEST_ZONE_MS = 14 * 3_600_000


class BrokerUnreachable(Exception):
    """The account cannot be used; the message says what to do."""


def terminal_of(settings: Settings, *, copies: bool) -> Terminal:
    """The account, with the desk's names of symbols. Raises SettingsError or BrokerUnreachable.

    `copies`: give each copy a position of its own, even on a netting account.
    """
    broker = settings.broker
    terminal = _paper(broker, settings.folder) if isinstance(broker, Paper) else _metatrader(broker)
    return Named(of_account(terminal, copies=copies, netting=broker.netting), settings.names)


def of_account(terminal: NetTerminal, *, copies: bool, netting: bool) -> Terminal:
    """A Terminal over an account as its broker books it, by the account's kind. Raises SettingsError.

    `netting`: the configured kind; whether the broker closes oldest first (FIFO) it says itself.
    """
    if copies:
        account = terminal.account()
        check_kind(account.is_hedging, netting=netting)
        if netting:
            return Netting(terminal)
        if account.is_fifo:
            return _fifo(terminal)
    return Rebooked(terminal) if isinstance(terminal, mt5.MetaTrader) else terminal


def _fifo(terminal: NetTerminal) -> Fifo:
    fifo = Fifo(terminal)
    if not fifo.is_alone():
        raise SettingsError(
            "this account closes the positions of a symbol oldest first (FIFO), and has positions that are no copies: "
            "a copy's close would close them. Close them first, or copy on an account of its own"
        )
    return fifo


def check_kind(is_hedging: bool, *, netting: bool) -> None:
    """Raise SettingsError if the account is not of the configured kind, because copies would then be mixed up."""
    if is_hedging == netting:
        kind = "hedging" if is_hedging else "netting"
        raise SettingsError(f"this is a {kind} account: write netting = {str(not is_hedging).lower()} in [broker]")


def _paper(broker: Paper, folder: Path) -> NetTerminal:
    folder.mkdir(parents=True, exist_ok=True)
    instruments = [
        Instrument(
            name, _candles(name, symbol.bars, symbol.digits, broker.repeats), symbol.spread_points, symbol.contract
        )
        for name, symbol in broker.symbols.items()
    ]
    clock = Clock(min(instrument.candles.starts_at for instrument in instruments), broker.speed, PAPER_BEGAN_MS)
    try:
        return PaperBroker(
            folder / f"paper-{broker.login}.sqlite3", instruments, clock, broker.login, broker.currency, broker.deposit,
            broker.leverage, is_hedging=not broker.netting,
            is_fifo=broker.fifo, stamp=clock.wall_at,
        )  # fmt: skip
    except ValueError as fault:
        raise SettingsError(f"[broker.symbols] does not fit currency {broker.currency}: {fault}") from fault


def _candles(name: str, bars: Path, digits: int, repeats: bool) -> Candles:
    try:
        return Candles.read(bars, digits=digits, repeats=repeats)
    except FileNotFoundError:
        raise SettingsError(f"bars in [broker.symbols.{name}] is {bars}, which does not exist: name a CSV") from None
    except (OSError, ValueError, KeyError, ArithmeticError) as fault:
        raise SettingsError(
            f"bars in [broker.symbols.{name}] cannot be read ({fault}): it needs time, open, high, low, close"
        ) from fault


def _metatrader(broker: MetaTrader) -> NetTerminal:
    more = {"password": broker.password, "server": broker.server}
    try:
        return mt5.MetaTrader.connect(
            login=broker.login, path=str(broker.terminal or ""), timeout=broker.timeout_ms,
            deviation=broker.deviation_points, **{name: value for name, value in more.items() if value},
        )  # fmt: skip
    except ImportError:
        raise BrokerUnreachable("the MetaTrader5 package is missing: pip install copybot[mt5], on Windows") from None
    except ConnectionError as fault:
        raise BrokerUnreachable(
            f"MetaTrader does not answer ({fault}): start it, log in to {broker.login}, and look at terminal, password "
            "and server in [broker]"
        ) from fault


def ahead_ms_of(terminal: Terminal, clock_ms: Callable[[], int]) -> Callable[[], int | None]:
    """By how many ms the account's clock is ahead of `clock_ms`; None while that cannot be determined."""
    inner = _innermost(terminal)
    if not isinstance(inner, mt5.MetaTrader):
        return lambda: 0
    return lambda: zone_of(_last_tick_ms(inner), clock_ms())


def position_finder_of(terminal: Terminal) -> Callable[[str], str]:
    """The position that an order opened or increased, by the account's deals; the order's own number if none did."""
    booked = terminal
    while isinstance(booked, Named | Netting):
        booked = booked.terminal
    if not isinstance(booked, mt5.MetaTrader | PaperBroker | Rebooked):
        return str
    return lambda order: next((deal.position for deal in booked.history() if deal.order == order), order)


def _innermost(terminal: Terminal) -> Terminal:
    while isinstance(terminal, Named | Netting | Rebooked):
        terminal = terminal.terminal
    return terminal


def zone_of(newest_ms: int, now_ms: int) -> int | None:
    """A trade server's offset in ms, in whole quarters of an hour, from the time of its latest price.

    None if the latest price is not current: then the market is closed and shows no offset.
    """
    zone_ms = round((newest_ms - now_ms) / _QUARTER_MS) * _QUARTER_MS
    is_now = abs(newest_ms - now_ms - zone_ms) <= _STALE_MS
    return zone_ms if is_now and abs(zone_ms) <= _FURTHEST_ZONE_MS else None


def closed_markets(terminal: Terminal, symbols: Iterable[str], names: Names, now_ms: int) -> list[str]:
    """The symbols that cannot be traded now, though the broker knows them: no price, or only one from earlier."""
    inner = _innermost(terminal)
    if not isinstance(inner, mt5.MetaTrader):
        return sorted(symbol for symbol in symbols if terminal.quote(symbol) is None)
    ticks = {symbol: inner.module.symbol_info_tick(names.at_broker(symbol)) for symbol in symbols}
    times_ms = {symbol: 0 if tick is None else int(tick.time_msc) for symbol, tick in ticks.items()}
    zone_ms = zone_of(max(times_ms.values(), default=0), now_ms)
    return sorted(
        symbol for symbol, at_ms in times_ms.items() if zone_ms is None or now_ms + zone_ms - at_ms > _QUIET_MS
    )


def _last_tick_ms(terminal: mt5.MetaTrader) -> int:
    ticks = (
        terminal.module.symbol_info_tick(symbol) for symbol in {position.symbol for position in terminal.positions()}
    )
    return max((int(tick.time_msc) for tick in ticks if tick is not None), default=0)
