"""The doctor's checks of the broker's account and its symbols, alone and against what the desk knows."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from copybot.broker import SymbolSpec, Terminal
from copybot.checkup import Checkup, Failed
from copybot.netting import is_copy
from copybot.settings import SettingsError
from copybot.terminals import BrokerUnreachable, check_kind, closed_markets, terminal_of


def broker(checkup: Checkup) -> str:
    settings = checkup.need_settings()
    try:
        checkup.terminal = terminal_of(settings, copies=False)
        checkup.account = account = checkup.terminal.account()
    except (SettingsError, BrokerUnreachable) as fault:
        raise Failed(str(fault)) from fault
    return f"{account.login} on {account.server}, equity {account.equity:,.2f} {account.currency}"


def trading(checkup: Checkup) -> str:
    terminal, account = checkup.need_terminal(), checkup.account
    assert account is not None
    if checkup.follows and not account.may_trade:
        raise Failed("programs may not trade: switch on algorithmic trading in the terminal, for this account")
    netting = checkup.need_settings().broker.netting
    try:
        check_kind(account.is_hedging, netting=netting)
    except SettingsError as mistake:
        raise Failed(str(mistake)) from None
    if checkup.follows and account.is_fifo:
        check_alone(terminal)
    if not terminal.is_settled():
        raise Failed("the terminal is not connected to its server, or its history is not loaded")
    kind = f"a {'netting' if netting else 'hedging'} account, as configured"
    if account.is_fifo:
        kind += ", that closes oldest first (FIFO): copies have no stops at the broker"
    return f"{kind}; {len(terminal.positions())} positions open"


def check_alone(terminal: Terminal) -> None:
    """Fail if a FIFO account has positions and none is a copy's: a copier would not start on it."""
    positions = terminal.positions()
    if positions and not any(is_copy(position.magic) for position in positions):
        raise Failed(
            "the broker closes the oldest position of a symbol first (FIFO), so a copy's close would close positions "
            "that are open now and are no copies: close them, or copy to an account of its own"
        )


def currency(checkup: Checkup) -> str:
    checkup.need_terminal()
    desk = checkup.need_desk_account()
    assert checkup.account is not None
    own, registered = checkup.account.currency, desk["currency"]
    if not registered:
        return f"{own}; the desk registers it with the bot's first report"
    if own != registered:
        raise Failed(
            f"the terminal's account is in {own}, and the desk has {desk['account']} in {registered}: log the terminal "
            "in to the registered account, or ask staff to register the currency. Until then nothing is sized by equity"
        )
    return f"{own}, as registered at the desk for {desk['account']}"


def symbols(checkup: Checkup) -> str:
    terminal = checkup.need_terminal()
    if not checkup.follows:
        return _published_symbols(terminal)
    rows = [row for row in checkup.need_active()["trades"] if row["role"] == "master" and row.get("copy")]
    wanted = {row["copy"]["symbol"]: Decimal(row["copy"]["volume"]) for row in rows}
    specs = _specs(checkup, terminal, wanted)
    if barred := sorted(name for name, spec in specs.items() if not spec.may_open):
        raise Failed(
            f"the broker does not open trades in {', '.join(barred)} on this account: ask the broker, or exclude the "
            "symbol in the subscription's settings"
        )
    small = sorted(name for name, spec in specs.items() if wanted[name] and not spec.lots(wanted[name]))
    if small:
        raise Failed(
            f"the copies of {', '.join(small)} are below the broker's minimum volume: choose a larger copy size"
        )
    closed = closed_markets(terminal, specs, checkup.need_settings().names, checkup.desk_ms())
    if closed and len(closed) == len(specs):
        return f"the market of {', '.join(closed)} is closed now: trades that open meanwhile are not copied"
    note = f"; the market of {', '.join(closed)} is closed now" if closed else ""
    return f"{', '.join(sorted(wanted))} can be traded{note}" if wanted else "no trade is open at the desk now"


def _published_symbols(terminal: Terminal) -> str:
    names = {position.symbol for position in terminal.positions()}
    if nameless := sorted(symbol[1:] for symbol in names if symbol.startswith("~")):
        raise Failed(f"{', '.join(nameless)} has no name at the desk: add one in [symbols.table]")
    return "each open position's symbol has a name at the desk"


def _specs(checkup: Checkup, terminal: Terminal, wanted: Iterable[str]) -> Mapping[str, SymbolSpec]:
    names = checkup.need_settings().names
    if ambiguous := sorted(symbol for symbol in wanted if names.at_broker(symbol) is None):
        raise Failed(f"{', '.join(ambiguous)}: [symbols] gives the broker's name to another symbol: correct the table")
    specs = {symbol: terminal.spec(symbol) for symbol in wanted}
    if unknown := sorted(symbol for symbol, spec in specs.items() if spec is None):
        raise Failed(f"the broker has no {', '.join(unknown)}: give the broker's name in [symbols.table]")
    return {symbol: spec for symbol, spec in specs.items() if spec is not None}


def contracts(checkup: Checkup) -> str:
    """Compare the units of one lot: this terminal's, the desk's of this account, and the provider's."""
    terminal, rows = checkup.need_terminal(), checkup.need_desk_account()["symbols"]
    notes, compared = [], 0
    for row in rows:
        spec = terminal.spec(row["symbol"])
        if spec is None:
            continue
        compared += 1
        _check_desks_size(row, spec)
        theirs = row["provider_contract_size"]
        if theirs is not None and Decimal(theirs) != spec.contract_size:
            notes.append(
                f"{row['symbol']}: a lot is {spec.contract_size.normalize():f} here and "
                f"{Decimal(theirs).normalize():f} at the provider of {row['strategy']}"
            )
    if notes:
        return f"{'; '.join(notes)}: the desk sizes copies by the reported sizes, so look at the planned volumes there"
    return f"of {compared} symbols: as the desk knows them" if compared else "none is known yet"


def _check_desks_size(row: Mapping[str, Any], spec: SymbolSpec) -> None:
    known = row["contract_size"]
    if known is not None and Decimal(known) != spec.contract_size:
        factor = (spec.contract_size / Decimal(known)).normalize()
        raise Failed(
            f"a lot of {row['symbol']} is {spec.contract_size.normalize():f} at this broker, and the desk has "
            f"{Decimal(known).normalize():f}: copies would be {factor:f} times as large as planned. Is the terminal "
            "logged in to the registered account? Then start the bot, which reports the size, and run the doctor again"
        )
