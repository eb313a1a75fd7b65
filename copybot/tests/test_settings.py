"""The configuration: the example is accurate, and each mistake is reported in one sentence with its remedy."""

import re
import tomllib
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copybot import settings
from copybot.candles import Candles
from copybot.limits import Limits
from copybot.settings import MetaTrader, Paper, SettingsError, load

EXAMPLE = Path(__file__).parent.parent / "copybot.example.toml"
SECRET = "ab" * 32
GOOD = f"""
url = "https://desk.example"
key = "ck_0123456789abcdef.1"
secret = "{SECRET}"
[broker]
kind = "mt5"
login = 1
"""


def loaded(folder: Any, text: Any = GOOD, environ: Any = None, mode: int = 0o600) -> Any:
    file = folder / "copybot.toml"
    file.write_text(text, encoding="utf-8")
    file.chmod(mode)
    return load(file, environ or {})


def mistake(folder: Any, text: Any, **more: Any) -> str:
    with pytest.raises(SettingsError) as error:
        loaded(folder, text, **more)
    return str(error.value)


def with_broker(lines: Any) -> Any:
    return GOOD.replace('kind = "mt5"\nlogin = 1\n', lines)


def test_reads_the_example(tmp_path: Path) -> None:
    settings = loaded(tmp_path, EXAMPLE.read_text(encoding="utf-8"))

    assert settings.url == "https://desk.example"
    assert settings.folder == tmp_path / "state"
    (subscription,) = settings.subscriptions
    assert (subscription.strategy, subscription.sub_id, list(subscription.secrets)) == ("lena-eurusd", "7", [1])
    assert isinstance(settings.broker, MetaTrader)
    assert settings.limits == Limits()


def test_the_examples_comments_are_the_defaults_and_complete(tmp_path: Path) -> None:
    """Uncommenting a line changes nothing, and every option is documented."""
    text = EXAMPLE.read_text(encoding="utf-8")
    uncommented = re.sub(r"(?m)^# (\w+ = )", r"\1", text.split("# ... or paper")[0])
    rest = re.sub(r"(?m)^# (\w+ = )", r"\1", text[text.index("# --- symbols") :]).replace('XAUUSD = "GOLD"', "")
    paper = re.search(r"(?s)# kind = \"paper\".*?contract = [0-9_]+", text).group()
    settings = loaded(tmp_path, uncommented + rest)

    assert settings == loaded(tmp_path, text)
    documented = set(re.findall(r"(?m)^#? ?(\w+) = ", text))
    assert documented >= {field.name for field in fields(Limits)}
    on_paper = loaded(tmp_path, with_broker(re.sub(r"(?m)^# ?", "", paper)))
    assert on_paper.broker == loaded(tmp_path, with_broker('kind = "paper"\n[broker.symbols.EURUSD]')).broker
    bars = Candles.read(on_paper.broker.symbols["EURUSD"].bars, digits=5, repeats=True)
    hours = range(0, 100 * 24 * 3_600_000, 3_600_000)
    assert all(bars.is_open(bars.starts_at + hour_ms) for hour_ms in hours)  # at a weekend too: it is for a first try
    with pytest.raises(SettingsError, match=r"bars in \[broker.symbols.XAUUSD\] is missing"):
        loaded(tmp_path, with_broker('kind = "paper"\n[broker.symbols.XAUUSD]'))


def test_every_key_that_is_read_is_in_the_example() -> None:
    read = set(re.findall(r'\.get\(\s*"(\w+)"', Path(settings.__file__).read_text(encoding="utf-8")))
    documented = set(re.findall(r"(?m)^#? ?(\w+) = ", EXAMPLE.read_text(encoding="utf-8")))

    assert read - documented == {"table"}  # a table of its own


def test_the_environment_takes_precedence_over_the_file(tmp_path: Path) -> None:
    without = "\n".join(line for line in GOOD.splitlines() if not line.startswith(("key", "secret")))
    settings = loaded(tmp_path, without, {"COPYBOT_KEY": "ck_ffffffffffffffff.2", "COPYBOT_SECRET": "cd" * 32})

    assert (settings.key, settings.secret) == ("ck_ffffffffffffffff.2", "cd" * 32)
    assert loaded(tmp_path, GOOD, {"COPYBOT_SECRET": "cd" * 32}).secret == "cd" * 32


def test_no_secret_is_shown_by_accident(tmp_path: Path) -> None:
    text = GOOD + 'password = "hush"\n[subscriptions.a]\nsub_id = "7"\nsecrets = { 1 = "' + "ef" * 32 + '" }\n'
    shown = repr(loaded(tmp_path, text))

    assert not any(secret in shown for secret in (SECRET, "hush", "ef" * 32))


@pytest.mark.parametrize("mode", [0o604, 0o666, 0o602])
def test_refuses_a_file_that_others_may_read(tmp_path: Path, mode: int) -> None:
    message = mistake(tmp_path, GOOD, mode=mode)

    assert f"chmod 600 {tmp_path / 'copybot.toml'}" in message
    assert loaded(tmp_path, GOOD, mode=0o640).key  # the service's own group may


def test_a_missing_file_is_reported_with_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="copybot example > "):
        load(tmp_path / "none.toml", {})


def broken(old: Any, new: Any) -> Any:
    assert old in GOOD
    return GOOD.replace(old, new)


MISTAKES = [
    ("url = ", broken('url = "https', 'url = "http'), "url must begin with https://"),
    ("path", broken("desk.example", "desk.example/api"), "url must be the desk's address and nothing more"),
    ("key", broken("ck_", "k_"), "key must look like ck_"),
    ("secret", broken(SECRET, SECRET[1:]), "secret must be the 64 characters"),
    ("no key", broken('key = "ck_0123456789abcdef.1"', ""), "key is missing: write it into the file, or set COPYBOT_"),
    ("no broker", GOOD.split("[broker]")[0], "kind in [broker] is missing"),
    ("kind", broken('"mt5"', '"mt4"'), "kind in [broker] must be one of mt5, paper"),
    ("login", broken("login = 1", 'login = "1"'), "login in [broker] must be a whole number"),
    ("misspelt", GOOD + "nettting = true", "nettting in [broker] is unknown: did you mean netting?"),
    ("stray", GOOD + "x = 1", "x in [broker] is unknown: known here: kind, "),
    ("top", "foldr = 'x'\n" + GOOD, "foldr is unknown: did you mean folder?"),
    ("flag", GOOD + 'netting = "no"', "netting in [broker] must be true or false"),
    ("limit", GOOD + "[limits]\nsettle_ms = -1", "settle_ms in [limits] must be a whole number from 0"),
    ("share", GOOD + "[limits]\nbrake_share = 50", "brake_share in [limits] must be a share from 0 to 1"),
    ("magics", GOOD + "[publish]\nmagics = ['a']", "magics in [publish] must be a list of numbers"),
    ("table", GOOD + "[symbols.table]\nEURUSD = 1", "EURUSD in [symbols.table] must be the broker's name"),
    ("twice", GOOD + "[symbols.table]\nA = 'X'\nB = 'X'", "[symbols.table] is ambiguous: X would be both A and B"),
    ("sub", GOOD + "[subscriptions.a]\nsub_id = 7", "sub_id in [subscriptions.a] must be the subscription's id"),
    ("no secrets", GOOD + "[subscriptions.a]\nsub_id = '7'", "secrets in [subscriptions.a] is missing"),
    ("empty", GOOD + "[subscriptions.a]\nsub_id = '7'\nsecrets = {}", "secrets in [subscriptions.a] is empty"),
    ("gen", GOOD + "[subscriptions.a]\nsub_id = '7'\nsecrets = { x = 'a' }", "has 'x', which is not a generation"),
    ("short", GOOD + "[subscriptions.a]\nsub_id = '7'\nsecrets = { 1 = 'a' }", "of generation 1 must be the 64"),
    ("no table", GOOD + "[subscriptions]\na = 1", "a in [subscriptions] must be a table"),
    ("not TOML", GOOD + "login = 1x", "is not TOML"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), [vector[1:] for vector in MISTAKES], ids=[vector[0] for vector in MISTAKES])
def test_a_mistake_is_named_with_its_remedy(tmp_path: Path, text: Any, words: Any) -> None:
    message = mistake(tmp_path, text)

    assert words in message
    assert "\n" not in message
    assert SECRET not in message


def test_a_desk_on_this_machine_needs_no_tls(tmp_path: Path) -> None:
    for host in ("127.0.0.1:8000", "localhost:8000", "[::1]:8000"):
        assert loaded(tmp_path, broken('"https://desk.example"', f'"http://{host}"')).url == f"http://{host}"


def test_amounts_are_decimals_as_written(tmp_path: Path) -> None:
    text = with_broker('kind = "paper"\ndeposit = 1000.10\n[broker.symbols.EURUSD]\nbars = "a.csv"')
    broker = loaded(tmp_path, text).broker

    assert isinstance(broker, Paper)
    assert broker.deposit == Decimal("1000.10")
    assert broker.symbols["EURUSD"].bars == tmp_path / "a.csv"


def test_the_example_is_toml() -> None:
    assert tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
