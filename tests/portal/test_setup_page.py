"""Setting up a copier: one download of a filled configuration, each secret once, then the first heartbeat."""

import re
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from accounts.models import BotKey, TradingAccount
from audit.models import AuditLog
from copybot import settings as copybot_settings
from copybot.settings import MetaTrader, Paper
from strategies import services as strategies
from strategies.models import Subscription
from tests.answers import text
from tests.conftest import Serving
from tests.portal.copying import heartbeat
from tests.signed import HOST, Bot

HEX = re.compile("[0-9a-f]{64}")


@pytest.fixture
def page(follows: Subscription) -> str:
    return f"/copying/{follows.sub_id}/setup/"


def token_of(answer: Any) -> str:
    found = re.search(r'name="token" value="([0-9a-f]+)"', answer.content.decode())
    assert found
    return found[1]


def download(client: Client, page: str, broker: str = "paper", token: str = "") -> Any:
    token = token or token_of(client.get(page))
    return client.post(page, {"token": token, "broker": broker}, HTTP_HOST=HOST)


def loaded(answer: Any, folder: Path) -> Any:
    file = folder / "copybot.toml"
    file.write_bytes(answer.content)
    file.chmod(0o600)
    return copybot_settings.load(file, {})


def test_the_copying_page_leads_there(as_finn: Client, page: str) -> None:
    assert f'href="{page}"' in as_finn.get("/copying/").content.decode()


def test_the_download_is_a_configuration_that_copybot_reads(as_finn: Client, page: str, tmp_path: Path) -> None:
    answer = download(as_finn, page)
    settings = loaded(answer, tmp_path)

    assert answer["Content-Disposition"] == 'attachment; filename="copybot.toml"'
    assert "no-store" in answer["Cache-Control"]
    assert settings.url == f"http://{HOST}"
    assert [each.strategy for each in settings.subscriptions] == ["lena-eurusd"]
    assert isinstance(settings.broker, Paper)
    assert settings.broker.symbols["EURUSD"].bars.exists()


def test_its_key_and_its_signal_secret_are_right(
    as_finn: Client, page: str, follows: Subscription, tmp_path: Path
) -> None:
    settings = loaded(download(as_finn, page), tmp_path)

    follows.refresh_from_db()
    (subscription,) = settings.subscriptions
    assert subscription.secrets == {follows.packet_generation: strategies.packet_secret(follows)}
    assert Bot({"key": settings.key, "secret": settings.secret}).send("GET", "/api/v2/account").status_code == 200
    assert BotKey.objects.get(key_id=settings.key.partition(".")[0]).kind == "copier"


def test_for_metatrader_it_has_the_registered_login(
    as_finn: Client, page: str, finn: TradingAccount, tmp_path: Path
) -> None:
    TradingAccount.objects.filter(pk=finn.pk).update(login="5001")
    settings = loaded(download(as_finn, page, "mt5"), tmp_path)

    assert isinstance(settings.broker, MetaTrader)
    assert settings.broker.login == 5001


def test_no_page_shows_a_secret(as_finn: Client, page: str) -> None:
    secrets = HEX.findall(download(as_finn, page).content.decode())
    assert len(secrets) == 2

    for answer in (as_finn.get(page), as_finn.get("/copying/")):
        assert not any(secret in answer.content.decode() for secret in secrets)


def test_a_form_that_is_sent_twice_makes_no_second_key(as_finn: Client, page: str) -> None:
    token = token_of(as_finn.get(page))
    assert download(as_finn, page, token=token).status_code == 200
    keys, rotations = BotKey.objects.count(), AuditLog.objects.filter(action="subscription.secret_rotated").count()
    again = download(as_finn, page, token=token)

    assert (again.status_code, again["Location"]) == (302, page)
    assert "This was done already" in text(as_finn.get(page))
    assert BotKey.objects.count() == keys
    assert AuditLog.objects.filter(action="subscription.secret_rotated").count() == rotations


def test_a_download_that_fails_half_way_leaves_nothing(
    as_finn: Client, page: str, follows: Subscription, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, before = token_of(as_finn.get(page)), strategies.packet_secret(follows)
    keys, facts = BotKey.objects.count(), AuditLog.objects.count()
    monkeypatch.setattr(strategies, "activate_next_secrets", lambda **_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        download(as_finn, page, token=token)

    follows.refresh_from_db()
    assert (follows.next_generation, strategies.packet_secret(follows)) == (None, before)
    assert (BotKey.objects.count(), AuditLog.objects.count()) == (keys, facts)
    monkeypatch.undo()
    assert download(as_finn, page, token=token).status_code == 200  # the same page still makes its one file


def test_a_lost_download_leaves_no_open_key(as_finn: Client, page: str, tmp_path: Path) -> None:
    lost = loaded(download(as_finn, page), tmp_path)
    used = loaded(download(as_finn, page), tmp_path)
    heartbeat(Bot({"key": used.key, "secret": used.secret}))
    download(as_finn, page)

    revoked = {key.key_id for key in BotKey.objects.filter(revoked_at__isnull=False)}
    assert revoked == {lost.key.partition(".")[0]}  # and not the key in use


def test_a_copier_that_ran_before_keeps_its_secret_until_the_new_one_reports(
    as_finn: Client, page: str, finn_bot: Bot, follows: Subscription, tmp_path: Path
) -> None:
    heartbeat(finn_bot)
    settings = loaded(download(as_finn, page), tmp_path)

    follows.refresh_from_db()
    assert follows.packet_generation == 1
    assert list(settings.subscriptions[0].secrets) == [follows.next_generation]


def test_a_form_without_a_token_makes_nothing(as_finn: Client, page: str) -> None:
    keys = BotKey.objects.count()

    assert download(as_finn, page, token="x").status_code == 302
    assert as_finn.post(page, {"token": "a" * 24, "broker": "mt4"}).status_code == 302
    assert BotKey.objects.count() == keys


def test_the_page_turns_green_with_the_first_heartbeat(as_finn: Client, page: str, finn_bot: Bot) -> None:
    assert "Waiting for the first heartbeat" in text(as_finn.get(page))
    heartbeat(finn_bot)
    connected = text(as_finn.get(page))
    assert "Your copier is connected. Last contact 0 s ago." in connected

    heartbeat(finn_bot, ends=True)
    assert "Your copier is offline" in text(as_finn.get(page))


def test_only_the_owner_sees_the_page(client: Client, page: str, lena: TradingAccount, sam: TradingAccount) -> None:
    for stranger in (lena, sam):
        client.force_login(stranger.owner)
        assert client.get(page).status_code == 404
        assert client.post(page, {"token": "a" * 24, "broker": "paper"}).status_code == 404


def test_the_doctor_is_content_with_the_download(as_finn: Client, page: str, web: Serving, tmp_path: Path) -> None:
    """From the page to a working copier, with the real commands' code."""
    from copybot import doctor

    answer = download(as_finn, page)
    answer.content = answer.content.replace(f"http://{HOST}".encode(), web.url.encode())
    loaded(answer, tmp_path)
    checkup = doctor.Checkup(tmp_path / "copybot.toml", None, environ={})
    results = list(doctor.examine(checkup))
    checkup.client.hang_up()

    assert [result for result in results if result.good is not True] == []
