"""With an unsafe configuration no command, web process or worker starts, and each says what to set."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.hashers import make_password
from django.core.checks import ERROR
from django.db import OperationalError, connections
from django.test import Client, RequestFactory
from pytest_django import Settings

from accounts.models import TradingAccount
from config import checks
from core.confidential import Secret
from tests import databases, ports
from tests.signed import HOST

ROOT = Path(__file__).resolve().parent.parent.parent
_KEK = f"k2:{secrets.token_hex(32)}"
SAFE: dict[str, Any] = {
    "DEBUG": "0",
    "DJANGO_SECRET_KEY": secrets.token_urlsafe(50),
    "COPYDESK_KEKS": f"k1:{secrets.token_hex(32)}",
    "ALLOWED_HOSTS": "desk.example.com",
    "DATABASE_URL": "postgres://nobody@127.0.0.1:1/desk",
    "DATABASE_BOT_URL": "postgres://nobody@127.0.0.1:1/desk",
    "REDIS_URL": "redis://127.0.0.1:1/0",
}
UNSAFE = {
    "no secret key": ({"DJANGO_SECRET_KEY": ""}, "E001", "DJANGO_SECRET_KEY is missing or shorter"),
    "a short secret key": ({"DJANGO_SECRET_KEY": "s" * 49}, "E001", "secrets.token_urlsafe(50)"),
    "a secret key of one letter": ({"DJANGO_SECRET_KEY": "a" * 63}, "E001", "or is not random"),
    "a secret key of one word": ({"DJANGO_SECRET_KEY": "copydesk" * 8}, "E001", "or is not random"),
    "a kek of zeros": ({"COPYDESK_KEKS": f"k1:{'0' * 64}"}, "E002", "k1 is not random"),
    "a kek that repeats": ({"COPYDESK_KEKS": f"k1:{'deadbeef' * 8}"}, "E002", "k1 is not random"),
    "one weak kek of two": ({"COPYDESK_KEKS": f"{_KEK},k1:{'0' * 64}"}, "E002", "k1 is not random"),
    "debugging in public": (
        {"DEBUG": "1", "ALLOWED_HOSTS": "desk.example.com"},
        "E006",
        "Set DEBUG=0",
    ),
    "no kek": ({"COPYDESK_KEKS": ""}, "E002", "COPYDESK_KEKS is missing or malformed"),
    "a kek without a name": ({"COPYDESK_KEKS": "0" * 64}, "E002", "newest first, separated by commas"),
    "a short kek": ({"COPYDESK_KEKS": f"k1:{'0' * 62}"}, "E002", "secrets.token_hex(32)"),
    "one malformed kek of two": ({"COPYDESK_KEKS": f"{_KEK},k1:"}, "E002", "COPYDESK_KEKS"),
    "no host": ({"ALLOWED_HOSTS": ""}, "E003", "ALLOWED_HOSTS is empty"),
    "any host": ({"ALLOWED_HOSTS": "desk.example.com,*"}, "E004", "ALLOWED_HOSTS allows every name"),
    "no database": ({"DATABASE_URL": ""}, "E005", "DATABASE_URL is missing"),
    "no login of bots": ({"DATABASE_BOT_URL": ""}, "E008", "DATABASE_BOT_URL is missing"),
    "no login of bots, in DEBUG": ({"DATABASE_BOT_URL": "", "DEBUG": "1", "ALLOWED_HOSTS": ""}, "E008", "roles.sql"),
}


def run(*command: Any, tmp_path: Path, **environ: Any) -> Any:
    """Run a process of the desk with this environment only."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={
            **inherited,
            "COPYDESK_VAR": str(tmp_path),
            "DJANGO_SETTINGS_MODULE": "config.settings",
            **SAFE,
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_a_safe_configuration_passes(tmp_path: Path) -> None:
    done = run("-m", "django", "check", "--fail-level", "ERROR", tmp_path=tmp_path)

    assert (done.returncode, done.stderr.count("ERROR")) == (0, 0), done.stderr


def test_djangos_deployment_checks_pass(tmp_path: Path) -> None:
    done = run("-m", "django", "check", "--deploy", "--fail-level", "WARNING", tmp_path=tmp_path)

    assert (done.returncode, "WARNING" in done.stderr) == (0, False), done.stderr


def test_pages_have_the_security_headers(client: Client, settings: Settings, tmp_path: Path, desk_db: str) -> None:
    settings.DEBUG, settings.STATIC_ROOT = False, tmp_path

    answer = client.get("/login/", HTTP_HOST=HOST, secure=True)

    assert answer["Strict-Transport-Security"].startswith("max-age=31536000")
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Referrer-Policy"] == "same-origin"
    assert answer["Cross-Origin-Opener-Policy"] == "same-origin"
    assert answer["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in answer["Content-Security-Policy"]
    assert "unsafe" not in answer["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path", ["/", "/login/", "/wallet/", "/api/v2/wallets/me", "/api/v2/trades/active", "/healthz"]
)
def test_no_answer_may_be_kept_by_browsers_or_proxies(client: Client, lena: TradingAccount, path: str) -> None:
    client.force_login(lena.owner)

    assert "no-store" in client.get(path, HTTP_HOST=HOST)["Cache-Control"]


def test_signing_out_clears_what_the_browser_kept(client: Client, lena: TradingAccount) -> None:
    client.force_login(lena.owner)

    assert client.post("/logout/", HTTP_HOST=HOST)["Clear-Site-Data"] == '"cache"'


@pytest.mark.parametrize("path", ["/", "/login/", "/healthz", "/metrics", "/api/v2/time", "/admin/login/", "/static/"])
@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND"])
def test_methods_that_no_page_has_are_refused(client: Client, desk_db: str, method: str, path: str) -> None:
    assert client.generic(method, path, HTTP_HOST=HOST).status_code == 405


@pytest.mark.parametrize("path", ["/static/", "/static/css/", "/static/admin/", "/docs/", "/.git/config", "/.env"])
def test_folders_are_not_listed_and_sources_not_served(client: Client, desk_db: str, path: str) -> None:
    answer = client.get(path, HTTP_HOST=HOST)

    assert answer.status_code == (200 if path == "/docs/" else 404)
    assert b"Index of" not in answer.content


@pytest.mark.parametrize(
    "path", ["/login/", "/metrics", "/no/such/page", "/%00/", "/docs/protocol/", "/api/schema/", "/api/v2/time"]
)
def test_every_text_states_its_charset(client: Client, desk_db: str, path: str) -> None:
    kind = client.get(path, HTTP_HOST=HOST)["Content-Type"]

    assert kind.startswith("application/") or "charset=utf-8" in kind


def test_passwords_are_hashed_by_scrypt_as_todays_guidance_asks() -> None:
    algorithm, work, _, block, parallel, _ = make_password("a password").split("$")

    assert (algorithm, int(work), int(block), int(parallel)) >= ("scrypt", 2**14, 8, 5)


def test_in_production_no_page_is_served_and_no_form_taken_over_plain_http(
    client: Client, settings: Settings, tmp_path: Path, desk_db: str
) -> None:
    settings.DEBUG, settings.STATIC_ROOT = False, tmp_path

    page = client.get("/login/?next=/wallet/", HTTP_HOST=HOST)
    assert (page.status_code, page["Location"]) == (301, f"https://{HOST}/login/?next=/wallet/")
    sign_in = client.post("/login/", {"username": "lena", "password": "a password"}, HTTP_HOST=HOST)
    assert (sign_in.status_code, "https://" in sign_in.content.decode()) == (403, True)
    api = client.get("/api/v2/trades/history", HTTP_HOST=HOST)
    assert (api.status_code, api.json()["code"]) == (403, "https_required")
    assert client.get("/login/", HTTP_HOST="evil.example").status_code == 400  # no redirect to a name that is not ours
    assert client.get("/healthz", HTTP_HOST=HOST).status_code == 200


@pytest.mark.parametrize(
    "path", ["/strategies/%00/copies/", "/copying/a%00b/settings/", "/wallet/statements/%00/", "/login/?next=%00"]
)
def test_a_nul_in_an_address_is_no_page(client: Client, desk_db: str, lena: TradingAccount, path: str) -> None:
    client.force_login(lena.owner)

    assert client.get(path, HTTP_HOST=HOST).status_code == 404


def test_the_page_of_an_error_shows_no_secret(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch, desk_db: str
) -> None:
    from django.views import debug

    secret_values = [secrets.token_hex(12) for _ in range(4)]
    settings.DEBUG = True
    settings.REDIS_URL = f"redis://:{secret_values[0]}@127.0.0.1:6379/0"
    request = RequestFactory().post("/login/", {"username": "lena", "password": secret_values[2]})

    def fails() -> None:
        packet_secret, held = secret_values[3], Secret(secret_values[3])
        raise RuntimeError(len(packet_secret) + len(held))

    try:
        fails()
    except RuntimeError as fault:
        trace = fault.__traceback__
        assert trace is not None
        with monkeypatch.context() as other:
            other.setitem(settings.DATABASES["default"], "PASSWORD", secret_values[1])
            page = debug.technical_500_response(request, RuntimeError, fault, trace.tb_next).content.decode()

    for secret in (settings.COPYDESK_KEKS.partition(":")[2], settings.SECRET_KEY, *secret_values):
        assert secret not in page
    assert "RuntimeError" in page


def test_a_secret_hides_in_the_repr_of_what_holds_it() -> None:
    secret = Secret("swordfish")

    assert "swordfish" not in repr({"key": [secret]})
    assert (secret, f"{secret}", secret.partition("f")[0]) == ("swordfish", "swordfish", "sword")


def test_a_copy_of_the_database_opens_no_session(client: Client, desk_db: str, lena: TradingAccount) -> None:
    client.force_login(lena.owner)
    with connections["default"].cursor() as cursor:
        cursor.execute("select session_key from django_session")
        ((stored,),) = cursor.fetchall()

    assert client.get("/", HTTP_HOST=HOST).status_code == 200
    assert stored not in (client.cookies["sessionid"].value, "")
    client.cookies["sessionid"] = stored
    assert client.get("/", HTTP_HOST=HOST).status_code == 302
    client.force_login(lena.owner)
    client.post("/logout/", HTTP_HOST=HOST)
    with connections["default"].cursor() as cursor:
        cursor.execute("select count(*) from django_session where session_key <> %s", [stored])
        assert cursor.fetchone() == (0,)


def test_a_form_without_its_csrf_token_is_refused(desk_db: str, lena: TradingAccount) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(lena.owner)

    for path in ("/login/", "/logout/", "/admin/login/"):
        assert browser.post(path, {"username": "lena"}, HTTP_HOST=HOST).status_code == 403, path
    refused = browser.post("/api/v2/trades/history", {}, HTTP_HOST=HOST)
    assert (refused.status_code, refused.json()["code"]) == (403, "csrf_failed")


@pytest.mark.parametrize("what", UNSAFE)
def test_no_command_runs_with_an_unsafe_setting(what: str, tmp_path: Path) -> None:
    environ, code, says = UNSAFE[what]

    done = run("-m", "django", "check", tmp_path=tmp_path, **environ)

    assert done.returncode != 0
    assert f"copydesk.{code}" in done.stderr
    assert says in done.stderr
    assert "HINT: " in done.stderr
    for value in SAFE["DJANGO_SECRET_KEY"], "0" * 62:
        assert value not in done.stdout + done.stderr


def several(tmp_path: Path, *command: Any) -> Any:
    """With several unsafe settings, all their messages are shown, not only the first."""
    done = run(*command, tmp_path=tmp_path, DJANGO_SECRET_KEY="short", COPYDESK_KEKS="", ALLOWED_HOSTS="*")

    assert done.returncode != 0, done.stdout + done.stderr
    for code in ("E001", "E002", "E004"):
        assert f"copydesk.{code}" in done.stderr, done.stderr
    assert "Set it to the output of" in done.stderr
    assert "short" not in done.stderr.replace("shorter", "")
    return done.stderr


def test_no_web_process_starts_with_an_unsafe_setting(tmp_path: Path) -> None:
    port = str(ports.free())

    output = several(tmp_path, "-m", "uvicorn", "config.asgi:application", "--host", "127.0.0.1", "--port", port)

    assert "Uvicorn running" not in output


def test_no_wsgi_application_loads_with_an_unsafe_setting(tmp_path: Path) -> None:
    several(tmp_path, "-c", "import config.wsgi")


def test_no_worker_starts_with_an_unsafe_setting(tmp_path: Path) -> None:
    output = several(tmp_path, "-m", "celery", "-A", "config", "worker", "--pool", "solo", "--loglevel", "ERROR")

    assert " ready." not in output


def test_no_scheduler_starts_with_an_unsafe_setting(tmp_path: Path) -> None:
    several(tmp_path, "-m", "celery", "-A", "config", "beat", "--schedule", str(tmp_path / "schedule"))


def test_nothing_secret_has_a_default_outside_debug(tmp_path: Path) -> None:
    """Not even where the folder has a developer's secrets."""
    stored = {"DJANGO_SECRET_KEY": "d" * 60, "COPYDESK_KEKS": f"k1:{'0' * 64}"}
    (tmp_path / "secrets.json").write_text(json.dumps(stored))

    done = run("-m", "django", "check", tmp_path=tmp_path, DJANGO_SECRET_KEY="", COPYDESK_KEKS="")

    assert "E001" in done.stderr
    assert "E002" in done.stderr


# --- the database


@pytest.fixture
def database_says(desk_db: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Replace what the check reads from the database."""
    truth = "on", "on", "on", 180000
    names = "fsync", "commit", "pages", "version"

    def say(**lies: Any) -> list[Any]:
        row = tuple({**dict(zip(names, truth, strict=True)), **lies}.values())

        class Cursor:
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: Any) -> None:
                pass

            def execute(self, *_: Any) -> None:
                pass

            def fetchall(self) -> list[Any]:
                return [row]

        with monkeypatch.context() as lying:
            lying.setattr(connections["default"], "cursor", Cursor)
            return [fault.id for fault in checks.database_is_durable(None, ["default"])]

    return say


def test_a_database_without_durable_commits_is_refused_in_production(
    database_says: Callable[..., Any], settings: Settings
) -> None:
    settings.DEBUG = False

    assert database_says() == []
    assert database_says(fsync="off") == ["copydesk.E010"]
    assert database_says(pages="off") == ["copydesk.E010"]
    assert database_says(commit="off") == ["copydesk.E011"]
    assert database_says(commit="local") == ["copydesk.E011"]
    assert database_says(commit="remote_apply") == []
    settings.DEBUG = True
    assert database_says(fsync="off", commit="off") == []


def test_a_database_of_an_unsupported_version_is_reported(database_says: Callable[..., Any]) -> None:
    assert database_says(version=140000) == ["copydesk.W010"]
    assert database_says(version=190000) == ["copydesk.W010"]


def test_the_check_is_silent_where_the_database_does_not_answer(desk_db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Any:
        raise OperationalError

    with monkeypatch.context() as offline:
        offline.setattr(connections["default"], "cursor", away)

        assert checks.database_is_durable(None, ["default"]) == []


def test_a_web_process_refuses_a_database_without_durable_commits(desk_db: str, tmp_path: Path) -> None:
    """Without a replacement, where the tests' own server has fsync off."""
    with connections["default"].cursor() as cursor:
        cursor.execute("select current_setting('fsync')")
        forgets = cursor.fetchone() == ("off",)

    done = run("-c", "import config.wsgi", tmp_path=tmp_path, **databases.urls(desk_db))

    assert (done.returncode != 0) is forgets, done.stderr
    assert ("E010" in done.stderr) is forgets


def test_the_tests_themselves_are_configured_safely(desk_db: str) -> None:
    assert [fault for fault in checks.secrets_are_set(None) if fault.level >= ERROR] == []
