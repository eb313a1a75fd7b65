"""What the desk connects to, and what its pages keep in a browser."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
APPS = ("accounts", "audit", "config", "core", "market", "portal", "strategies", "trades", "trust", "wallets")
NETWORK = re.compile(r"^\s*(?:import|from) (httpx|requests|urllib\.request|http\.client|smtplib|ftplib|socket)\b", re.M)
# The web process on loopback is asked whether it answers; the embedded servers and the drill's sandbox run here.
CONNECTS = {"config/web_server.py", "config/embedded.py", "config/valkey.py"}


def connecting(text: str) -> list[str]:
    return NETWORK.findall(text)


def test_the_desk_connects_to_nothing_but_its_database_redis_and_mail() -> None:
    """The operator configures those; no user names an address."""
    files = [file for app in APPS for file in (ROOT / app).rglob("*.py")]
    found = {str(file.relative_to(ROOT)) for file in files if connecting(file.read_text())}

    assert {path for path in found if not path.startswith("config/drill/")} <= CONNECTS


def test_control_a_module_that_connects_is_found() -> None:
    assert connecting("import httpx\n") == ["httpx"]
    assert connecting("def f():\n    from urllib.request import urlopen\n") == ["urllib.request"]


def test_a_browser_keeps_the_choice_of_a_theme_alone() -> None:
    scripts = "".join(file.read_text() for file in (ROOT / "static/js").glob("*.js"))

    assert set(re.findall(r"(?:local|session)Storage\.(?:get|set)Item\(([^,)]+)", scripts)) == {'"theme"'}
    assert not re.search(r"indexedDB|document\.cookie\s*=", scripts)


def test_scripts_write_no_property_that_a_message_names() -> None:
    """Such a name may be `__proto__`: what is kept by a name of a message is a Map."""
    scripts = "".join(file.read_text() for file in (ROOT / "static/js").glob("*.js"))

    assert re.findall(r"\w+\[[a-z]\w*(?:\.\w+)*\] = ", scripts) in ([], ["dataset[format] = "])
