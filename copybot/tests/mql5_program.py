"""The MQL5 reference as a program: a C++ compiler, and a stand-in for the terminal (mql5_terminal.h), make it one.

What MetaEditor would say of it nobody knows until it is compiled there.
"""

import atexit
import functools
import hmac
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
MQL5 = HERE.parent / "mql5"
SOURCES = sorted(MQL5.glob("*.mqh"))
VECTORS = json.loads((HERE.parent / "vectors.json").read_text())
PACKET_SECRET = VECTORS["packet_secret"]
NOON = 1_767_600_000_000
SUB = "s-1"


def translated(source: Any) -> Any:
    """Translate MQL5 to C++: arrays become templates, text literals become strings."""
    lines = []
    for line in source.splitlines():
        if line.startswith("#include"):
            lines.append(line.replace(".mqh", ".h"))
            continue
        line = re.sub(r'"(?:[^"\\]|\\.)*"', lambda text: f"string({text[0]})", line)
        line = re.sub(r"(\w+) &(\w+)\[\]", r"Array<\1> &\2", line)
        lines.append(re.sub(r"^(\s*)(\w+)\s+(\w+)\[\];", r"\1Array<\2> \3;", line))
    return "\n".join(lines)


@functools.cache
def program() -> Path:
    """The program, compiled once. Skips the test with the reason if there is no compiler."""
    compiler = shutil.which("g++")
    if compiler is None or not Path("/usr/include/sqlite3.h").exists():
        pytest.skip("THE MQL5 REFERENCE WAS NOT RUN: no g++, or no sqlite3.h")
    folder = Path(tempfile.mkdtemp(prefix="mql5-"))
    atexit.register(shutil.rmtree, folder)
    for source in SOURCES:
        (folder / f"{source.stem}.h").write_text(translated(source.read_text()))
    shutil.copy(HERE / "mql5_terminal.h", folder / "terminal.h")
    shutil.copy(HERE / "mql5_driver.cpp", folder / "driver.cpp")
    compiled = subprocess.run(
        [compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-o", "driver",
         "driver.cpp", "-lsqlite3"],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert compiled.returncode == 0, compiled.stderr[:4000]
    return folder / "driver"


class Terminal:
    """A running program: each command and each answer is one line."""

    def __init__(self, program: Any) -> None:
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, *words: Any) -> Any:
        escaped = [str(word).replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r") for word in words]
        self.process.stdin.write("\t".join(escaped) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"it ended at {words[0]}"
        return answer.rstrip("\n").replace("~", "\n").replace("^", "\r")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def terminals() -> Iterator[Callable[..., Any]]:
    """A function that starts terminals; they end with the test."""
    started = []

    def start() -> Any:
        started.append(Terminal(program()))
        return started[-1]

    yield start
    for terminal in started:
        terminal.kill()


def signed(fields: Any, secret: Any = PACKET_SECRET) -> Any:
    payload = "|".join([*fields[:9], "CP1", *fields[9:]])
    key = hmac.new(secret.encode(), b"copydesk/packet/v1", "sha256").hexdigest().encode()
    return hmac.new(key, payload.encode(), "sha256").hexdigest()


def fields_of(
    seq: Any, at_ms: Any, action: Any, ref: Any, volume: str = "0.10000000", sl: str = "1.09000000"
) -> list[Any]:
    if action == "CLOSE":
        volume, sl = "0.00000000", ""
    return [SUB, str(seq), str(at_ms), "EURUSD", "BUY", volume, "1.10000000", sl, "", action, ref, "1"]
