"""What of the MetaTrader5 package is called: the list in the README against the adapter and the fake."""

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from copybot import mt5, mt5_symbols, terminals
from copybot.mt5 import MetaTrader
from copybot.tests import fake_mt5_structs as structs
from copybot.tests.fake_mt5 import FakeMT5, Fate
from copybot.tests.fake_mt5_server import FakeServer
from copybot.tests.test_mt5 import MAGIC, D, held, order

TITLE = "## MetaTrader 5: what is called"
README = Path(mt5.__file__).with_name("README.md").read_text()
LIST = README[README.index(TITLE) :].removeprefix(TITLE).split("\n## ")[0]
SOURCES = [Path(str(module.__file__)).read_text() for module in (mt5, mt5_symbols, terminals)]


def part(title: str) -> str:
    """The part of the list under one bold title."""
    return LIST[LIST.index(f"**{title}") :].split("\n**")[0]


FUNCTIONS = set(re.findall(r"`([a-z_]+)\(\)`", part("Functions")))
CONSTANTS = {name: int(value) for name, value in re.findall(r"`([A-Z_0-9]+) = (-?\d+)`", LIST)}
CALLED = {name for name in CONSTANTS if name in part("Constants")}
REQUEST = set(re.findall(r"`([a-z_]+)`", part("Request")))
FIELDS = {
    (struct, name)
    for struct, names in re.findall(r"\| `([A-Za-z]+)` \| (.*) \|", part("Fields"))
    for name in re.findall(r"`([a-z_]+)`", names)
}
CODES = {int(code): how for code, how in re.findall(r"\| (\d{5}) \| `[A-Z_]+` \| (\w+)", part("Return codes"))}


def attributes(of: set[str]) -> set[str]:
    """The attributes that the adapter takes from variables of these names, and from `self.module`."""
    nodes = [node for source in SOURCES for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if ast.unparse(node.value) in of}


def test_every_function_and_constant_of_the_package_that_is_used_is_listed() -> None:
    used = attributes({"module", "self.module", "terminal.module"})
    asked = {name for source in SOURCES for name in re.findall(r"_ask\(\s*\"([a-z_]+)\"", source)}
    assert {name for name in used if name.isupper()} == CALLED
    assert {name for name in used if not name.isupper()} | asked == FUNCTIONS


def test_every_field_of_a_request_is_listed() -> None:
    sent = set[str]()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("self._sent", "self._deal"):
                sent |= {keyword.arg for keyword in node.keywords if keyword.arg}
            if isinstance(node, ast.Dict):
                keys = {key.value for key in node.keys if isinstance(key, ast.Constant)}
                sent |= keys if "magic" in keys else set()
    assert sent - {"side"} == REQUEST  # `side` becomes `type`
    assert set(structs.TradeRequest._fields) >= REQUEST


class Recorder:
    """A row that notes which of its fields are read."""

    def __init__(self, row: Any, seen: set[tuple[str, str]]) -> None:
        self._row, self._seen = row, seen

    def __getattr__(self, name: str) -> Any:
        self._seen.add((type(self._row).__name__, name))
        return getattr(self._row, name)


def recording(ask: Callable[..., Any], seen: set[tuple[str, str]]) -> Callable[..., Any]:
    def recorded(*args: Any, **more: Any) -> Any:
        answer = ask(*args, **more)
        if hasattr(answer, "_fields"):
            return Recorder(answer, seen)
        return tuple(Recorder(row, seen) for row in answer) if isinstance(answer, tuple) else answer

    return recorded


def test_every_field_of_an_answer_that_is_read_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, seen = FakeMT5(balance=1e6), set[tuple[str, str]]()
    for name in FUNCTIONS - {"initialize", "last_error", "symbol_select"}:
        monkeypatch.setattr(fake, name, recording(getattr(fake, name), seen))
    terminal: Any = MetaTrader.connect(login=5001, module=fake)
    position = held(terminal, sl="1.09")
    terminal.modify(position, sl=D("1.08"), tp=None)
    terminals.ahead_ms_of(terminal, lambda: 0)()
    terminal.is_settled()
    terminal.deals(position.id)
    terminal.trace(MAGIC)
    terminal.close(position, position.volume)
    fake.fates = [Fate.PLACED]
    order(terminal, magic=MAGIC + 1)
    terminal.cancel(MAGIC + 1)
    terminal.trace(MAGIC + 1)
    terminal.worth("EURUSD")
    assert seen == FIELDS


def test_each_return_code_is_read_as_listed() -> None:
    reads = {code: "done" for code in mt5._DONE} | {code: "refused" for code in mt5._REFUSED}
    assert {code: how for code, how in CODES.items() if how != "unknown"} == reads
    assert not CODES.keys() & {10005, 10037}  # the documentation does not name them
    assert set(range(10_004, 10_047)) - CODES.keys() == {10005, 10037}


def test_the_fake_offers_nothing_that_is_not_listed() -> None:
    names = {name for name in dir(FakeServer) if name.isupper()}
    assert {name: getattr(FakeServer, name) for name in names} == CONSTANTS
    functions = {name for name, value in vars(FakeMT5).items() if callable(value) and not name.startswith("_")}
    assert functions - {"shutdown"} == FUNCTIONS
