"""The command line: init, doctor, follow, publish, example."""

import argparse
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from types import FrameType

from rich.console import Console

from copybot import doctor, init, keys, runner
from copybot.broker import Position
from copybot.client import Client
from copybot.display import Happenings, Log, Page, Screen
from copybot.errors import AnswerForged, KeyRefused, ScopeDenied, Transport
from copybot.publisher import PositionSync, Publisher
from copybot.settings import Settings, SettingsError, load
from copybot.state_store import StateInUse, StateOfAnotherVersion, StateUnwritable
from copybot.stream import Stream
from copybot.subscriptions import IndexTaken
from copybot.terminals import BrokerUnreachable, ahead_ms_of, position_finder_of, terminal_of
from copybot.views import CopierView, PublisherView, TimedClient, WatchedCopier, WatchedGuard

DONE, PROBLEM_FOUND, MISUSED, CANNOT_START, KEY_REFUSED = range(5)
_CODES = (
    "exit codes: 0 ended as requested; 1 the doctor found a problem, or an unexpected error; 2 the configuration or "
    "the command is wrong; 3 cannot start (a state file is in use, the broker is unreachable); 4 the desk refuses "
    "the key"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code."""
    options = _parser().parse_args(argv)
    _prepare_output()
    try:
        if options.command == "example":
            sys.stdout.write(resources.files("copybot").joinpath("copybot.example.toml").read_text(encoding="utf-8"))
            return DONE
        if options.command == "doctor":
            return doctor.run(options.config, Console(highlight=False), role=options.role)
        if options.command == "init":
            return _init(options)
        return _run(options)
    except SettingsError as mistake:
        return _fail(MISUSED, str(mistake))
    except (StateInUse, StateOfAnotherVersion, StateUnwritable, IndexTaken, BrokerUnreachable) as fault:
        return _fail(CANNOT_START, str(fault))
    except PermissionError as fault:
        return _fail(CANNOT_START, f"{fault.filename} cannot be written ({fault.strerror}): allow this user to write")
    except Transport as fault:
        return _fail(CANNOT_START, f"{fault}: is the desk there?")
    except (KeyRefused, ScopeDenied) as refused:
        return _fail(KEY_REFUSED, f"the desk refuses this key: {keys.explained(refused)}")


def _prepare_output() -> None:
    """Replace characters that the output cannot show instead of failing, and do not log single requests."""
    for out in (sys.stdout, sys.stderr):
        if isinstance(out, io.TextIOWrapper):
            out.reconfigure(errors="replace")
    for name in ("httpx", "httpcore", "websockets"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("copybot", description="The bot's side of Copydesk.", epilog=_CODES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    follow = commands.add_parser("follow", help="copy the strategies that the account subscribes to", epilog=_CODES)
    follow.add_argument("--release", action="store_true", help="go on after a HALT whose cause you have examined")
    follow.add_argument(
        "--close-ended", action="store_true", help="close the copies of strategies that the desk no longer lists"
    )
    publish = commands.add_parser("publish", help="publish the account's own trades", epilog=_CODES)
    commands.add_parser("example", help="print a configuration to start with: copybot example > copybot.toml")
    begin = commands.add_parser(
        "init", help="ask for what a configuration needs, check each answer, write it", epilog=_CODES,
        description="Secrets are asked for without an echo, or read from COPYBOT_KEY, COPYBOT_SECRET and "
        "COPYBOT_SIGNAL_SECRETS (strategy=secret, separated by spaces).",
    )  # fmt: skip
    begin.add_argument("--publish", action="store_true", help="for a provider's bot; otherwise for a copier")
    begin.add_argument("--no-input", action="store_true", help="ask nothing: fail at the first answer that is missing")
    for flag, words in (
        ("url", "the desk's address"), ("broker", "mt5 or paper"), ("login", "the account's number in MetaTrader 5"),
        ("netting", "yes or no: one position per symbol"),
    ):  # fmt: skip
        begin.add_argument(f"--{flag}", default="", help=words)
    checks = commands.add_parser("doctor", help="check everything that the bot needs to work", epilog=_CODES)
    checks.add_argument(
        "--for", dest="role", choices=("follow", "publish"), help="default: the command that the configuration is for"
    )
    for command in (follow, publish):
        command.add_argument(
            "--plain", action="store_true", help="log lines instead of a page (default if no terminal)"
        )
    for command in (follow, publish, checks, begin):
        command.add_argument("--config", type=Path, default=Path("copybot.toml"), metavar="FILE", help="%(default)s")
    return parser


def _fail(code: int, words: str) -> int:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"copybot: {words}", markup=False)
    return code


def _init(options: argparse.Namespace) -> int:
    given = {name: getattr(options, name) for name in ("url", "broker", "login", "netting")}
    is_interactive = not options.no_input and sys.stdin.isatty()
    questions = init.Questions(given, os.environ, Console(highlight=False), is_interactive)
    init.Init(options.config, "publish" if options.publish else "follow", questions).run()
    return DONE


def _run(options: argparse.Namespace) -> int:
    settings, happenings, stop = load(options.config), Happenings(), threading.Event()
    with _stopped_by_signals(stop), _screen(options.plain, happenings) as screen:
        if options.command == "publish":
            publish(settings, screen, happenings, stop)
        else:
            follow(settings, screen, happenings, stop, release=options.release, closes_ended=options.close_ended)
    return DONE


def follow(
    settings: Settings, screen: Screen, happenings: Happenings, stop: threading.Event, *, release: bool = False,
    closes_ended: bool = False,
) -> None:  # fmt: skip
    """Copy until `stop`. Raises SettingsError, BrokerUnreachable or an error of the state file if it cannot start,
    KeyRefused or ScopeDenied if the desk refuses the key and no copy is open.
    """
    if not settings.subscriptions:
        raise SettingsError("[subscriptions] is empty: add the strategy that you follow, its sub_id and its secrets")
    # Closes wait while a request waits. So a request gets one short attempt, and the copier repeats it in turn.
    client = TimedClient(settings.url, settings.key, settings.secret, timeout_s=5, attempts=1)
    terminal = terminal_of(settings, copies=True)
    copier = WatchedCopier(
        client, terminal, settings.subscriptions, settings.folder, client.desk_ms, settings.limits,
        closes_ended=closes_ended, ahead_ms=ahead_ms_of(terminal, client.desk_ms), guard_of=WatchedGuard,
    )  # fmt: skip
    for followed in copier.followed if release else ():
        followed.guard.release()
    CopierView(copier, client, screen, happenings)
    with _hung_up(client), Stream(client) as stream:
        try:
            runner.run(copier, stream, stop)
        except ScopeDenied:
            keys.check_kind(client, "follow")
            raise


def publish(settings: Settings, screen: Screen, happenings: Happenings, stop: threading.Event) -> None:
    """Publish until `stop`. Raises KeyRefused or ScopeDenied if the desk refuses the key."""
    client = TimedClient(settings.url, settings.key, settings.secret, timeout_s=5, attempts=2)
    publishing = settings.publishing

    def of(position: Position) -> dict[str, str] | None:
        is_selected = (not publishing.magics or position.magic in publishing.magics) and (
            not publishing.symbols or position.symbol in publishing.symbols
        )
        return {} if is_selected else None

    terminal = terminal_of(settings, copies=False)
    position_sync = PositionSync(
        client, terminal, of=of, clock_ms=client.desk_ms, ahead_ms=ahead_ms_of(terminal, client.desk_ms),
        position_of=position_finder_of(terminal),
        max_age_ms=None if publishing.publish_existing else publishing.max_open_age_ms,
    )  # fmt: skip
    publisher = Publisher(position_sync, poll_s=publishing.poll_ms / 1000)
    PublisherView(publisher, client, screen, happenings)
    with _hung_up(client):
        with suppress(Transport, AnswerForged):  # the desk does not answer now: the publisher waits for it
            keys.check_kind(client, "publish")
        publisher.run(stop)


@contextmanager
def _hung_up(client: Client) -> Iterator[None]:
    try:
        yield
    finally:
        client.hang_up()


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """The first signal asks for an orderly end; a second of the same kind has its usual effect."""

    def ask_to_stop(number: int, _: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _screen(plain: bool, happenings: Happenings) -> Iterator[Screen]:
    """A page on a terminal, else a log. Logged warnings are shown there too."""
    console = Console(highlight=False)
    screen: Screen = Log(console) if plain or not console.is_terminal else Page(console)
    handler = _Warnings(happenings)
    happenings.listeners.append(screen)
    logging.getLogger("copybot").addHandler(handler)
    try:
        yield screen
    finally:
        logging.getLogger("copybot").removeHandler(handler)
        screen.close()


class _Warnings(logging.Handler):
    """Shows logged warnings and errors on the screen."""

    def __init__(self, happenings: Happenings) -> None:
        super().__init__(logging.WARNING)
        self._happenings = happenings

    def emit(self, record: logging.LogRecord) -> None:
        self._happenings.add("", record.getMessage(), "alarm" if record.levelno >= logging.ERROR else "warning")


if __name__ == "__main__":
    sys.exit(main())
