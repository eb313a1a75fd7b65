"""Bots' keys are created, rotated and revoked; their secrets are stored encrypted."""

import io
import json
import logging
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import IntegrityError, connections, models, transaction
from django.test.utils import isolate_apps
from django.utils import timezone
from pytest_django import Settings
from structlog.testing import capture_logs

from accounts import credentials, networks, services
from accounts.models import BotKey, BotKeyGeneration, TradingAccount
from audit import services as audit
from audit.models import AuditLog
from copybot.client import DeskError
from core import crypto
from core.fields import SealedField
from tests import databases
from tests.answers import refusal
from tests.conftest import Serving
from tests.signed import Bot, opening
from tests.transactions import committed

ROOT = Path(__file__).resolve().parent.parent.parent
ACTOR = audit.Actor(AuditLog.Actor.STAFF, "desk", "192.0.2.1", "a-request")


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., Any]]:
    """A function that returns all log lines so far, the libraries' included."""
    caplog.set_level(logging.DEBUG)
    with capture_logs() as lines:
        yield lambda: caplog.text + json.dumps(lines, default=repr)


def make(account: Any, kind: str = "master", **more: Any) -> Any:
    key, secret = committed(services.create_key, account=account, kind=kind, actor=ACTOR, **more)
    return key, Bot({"key": secret.key, "secret": secret.secret})


def rotate(key: Any, **more: Any) -> Bot:
    secret = committed(services.rotate_key, key=key, actor=ACTOR, **more)
    return Bot({"key": secret.key, "secret": secret.secret})


def facts(subject: Any) -> list[Any]:
    return list(AuditLog.objects.filter(subject=subject).order_by("id").values_list("action", flat=True))


# --- the verbs


def test_a_new_key_works_at_once(lena: TradingAccount) -> None:
    key, bot = make(lena)

    assert bot.key == f"{key.key_id}.1"
    assert len(bot.secret) == 64
    assert bot.send("POST", fields=opening("1")).status_code == 201
    assert facts(f"key:{key.key_id}") == ["key.created"]


def test_a_key_has_one_of_three_kinds(lena: TradingAccount) -> None:
    with pytest.raises(ValidationError):
        make(lena, kind="history")
    with pytest.raises(IntegrityError), transaction.atomic():
        BotKey.objects.bulk_create([BotKey(account=lena, kind="admin")])


def test_a_rotated_key_has_a_new_secret_whose_sequence_starts_anew(lena: TradingAccount) -> None:
    key, old = make(lena)
    old.send("POST", fields=opening("1"))

    new = rotate(key)

    assert (new.key, new.secret != old.secret) == (f"{key.key_id}.2", True)
    assert new.send("POST", fields=opening("2"), seq=1).status_code == 201
    assert facts(f"key:{key.key_id}") == ["key.created", "key.rotated"]


def test_both_generations_work_during_the_overlap(lena: TradingAccount) -> None:
    key, old = make(lena)

    new = rotate(key, overlap=timedelta(hours=2))

    assert old.send("POST", fields=opening("1")).status_code == 201
    assert new.send("POST", fields=opening("2")).status_code == 201
    assert old.send("POST", fields=opening("3")).status_code == 201


def test_an_overlap_lasts_a_day_and_never_more_than_a_week(lena: TradingAccount) -> None:
    for asked, lasts in ((None, timedelta(hours=24)), (timedelta(days=90), timedelta(days=7))):
        key, _ = make(lena)
        rotate(key, **({} if asked is None else {"overlap": asked}))

        left = key.generations.get(generation=1).retires_at - timezone.now()
        assert lasts - timedelta(minutes=1) < left <= lasts


def test_the_old_generation_retires_an_hour_after_the_first_use_of_the_new(lena: TradingAccount) -> None:
    key, old = make(lena)
    new = rotate(key, overlap=timedelta(days=7))

    new.send("POST", fields=opening("1"))

    left = key.generations.get(generation=1).retires_at - timezone.now()
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    assert old.send("POST", fields=opening("2")).status_code == 201


def test_a_forged_use_of_the_new_generation_retires_no_generation(lena: TradingAccount) -> None:
    key, _ = make(lena)
    new = rotate(key, overlap=timedelta(days=7))

    Bot({"key": new.key, "secret": "0" * 64}).send("POST", fields=opening("1"))

    assert key.generations.get(generation=1).retires_at - timezone.now() > timedelta(days=6)


def test_a_rotation_does_not_postpone_an_earlier_retirement(lena: TradingAccount) -> None:
    key, _ = make(lena)
    new = rotate(key, overlap=timedelta(days=7))
    new.send("POST", fields=opening("1"))

    rotate(key, overlap=timedelta(days=7))

    assert key.generations.get(generation=1).retires_at - timezone.now() <= timedelta(hours=1)


def test_a_retired_generation_is_refused(lena: TradingAccount) -> None:
    key, old = make(lena)
    new = rotate(key, overlap=timedelta(0))

    for method, fields in (("POST", opening("1")), ("GET", None)):
        assert refusal(old.send(method, fields=fields)) == (401, "key_generation_retired")
    assert new.send("GET").status_code == 200


def test_a_generation_that_does_not_exist_is_unknown(lena: TradingAccount) -> None:
    _, bot = make(lena)

    assert refusal(Bot({"key": bot.key[:-1] + "2", "secret": bot.secret}).send("GET")) == (401, "signature_invalid")


def test_the_absence_of_a_key_is_not_cached(lena: TradingAccount) -> None:
    """A key may be created a moment after a request for it."""
    key, bot = make(lena)
    guessed = Bot({"key": f"{key.key_id}.2", "secret": bot.secret})
    assert refusal(guessed.send("GET")) == (401, "signature_invalid")

    assert rotate(key).send("GET").status_code == 200


def test_a_revoked_key_is_refused_in_every_generation_for_ever(lena: TradingAccount) -> None:
    key, old = make(lena)
    new = rotate(key)
    assert new.send("GET").status_code == 200

    services.revoke_key(key=key, actor=ACTOR)
    services.revoke_key(key=key, actor=ACTOR)

    for bot in (old, new):
        for method, fields in (("POST", opening("1")), ("GET", None)):
            assert refusal(bot.send(method, fields=fields)) == (401, "key_revoked")
    with pytest.raises(services.KeyIsRevoked):
        rotate(key)
    assert facts(f"key:{key.key_id}").count("key.revoked") == 1


def test_a_revoked_key_is_refused_on_the_next_request_of_a_running_process(
    web: Serving, cast: dict[str, Any], lena: TradingAccount
) -> None:
    bot = web.bot("lena", "master")
    bot.open(**opening("1"))

    services.revoke_key(key=BotKey.objects.get(account=lena, kind="master"), actor=ACTOR)

    with pytest.raises(DeskError) as refused:
        bot.open(**opening("2"))
    assert refused.value.code == "key_revoked"
    with pytest.raises(DeskError) as refused:
        bot.active()
    assert refused.value.code == "key_revoked"
    bot.hang_up()


def test_a_key_expires(lena: TradingAccount) -> None:
    _, bot = make(lena, expires_at=timezone.now() - timedelta(seconds=1))
    _, later = make(lena, expires_at=timezone.now() + timedelta(hours=1))

    assert refusal(bot.send("POST", fields=opening("1"))) == (401, "key_expired")
    assert refusal(bot.send("GET")) == (401, "key_expired")
    assert later.send("POST", fields=opening("1")).status_code == 201


def test_only_a_verified_signature_learns_that_its_key_is_revoked_or_expired(lena: TradingAccount) -> None:
    key, bot = make(lena)
    services.revoke_key(key=key, actor=ACTOR)

    assert refusal(Bot({"key": bot.key, "secret": "0" * 64}).send("GET")) == (401, "signature_invalid")


# --- addresses


LISTS = [
    ([], "203.0.113.9", True),
    (["203.0.113.0/24"], "203.0.113.9", True),
    (["203.0.113.0/24"], "203.0.114.9", False),
    (["203.0.113.9"], "203.0.113.9", True),
    (["203.0.113.9"], "::ffff:203.0.113.9", True),
    (["0.0.0.0/0"], "2001:db8::1", False),
    (["2001:db8::/32"], "2001:db8:1::7", True),
    (["2001:db8::/32"], "2001:db9::7", False),
    (["2001:db8::/32", "203.0.113.0/24"], "203.0.113.9", True),
    (["fe80::/10"], "fe80::1%eth0", True),
    (["203.0.113.0/24"], "nobody", False),
]


def test_a_key_works_only_from_its_networks(lena: TradingAccount, settings: Settings) -> None:
    settings.SECURE_PROXY_SSL_HEADER, settings.TRUSTED_PROXIES = ("HTTP_X_FORWARDED_PROTO", "https"), 1
    for ticket, (listed, address, passes) in enumerate(LISTS, 1):
        _, bot = make(lena, allowed_networks=listed)
        headers = {"X-Forwarded-For": f"198.51.100.1, {address}", "X-Forwarded-Proto": "https"}

        for method, fields in (("POST", opening(ticket)), ("GET", None)):
            answer = bot.send(method, fields=fields, but={"headers": headers, "ip": "10.0.0.1"})

            assert (answer.status_code < 300) is passes, (listed, address)
            assert passes or refusal(answer) == (403, "ip_denied")


def test_the_leftmost_forwarded_address_is_never_trusted(lena: TradingAccount, settings: Settings) -> None:
    settings.SECURE_PROXY_SSL_HEADER, settings.TRUSTED_PROXIES = ("HTTP_X_FORWARDED_PROTO", "https"), 1
    _, bot = make(lena, allowed_networks=["203.0.113.0/24"])
    proxied = {"X-Forwarded-Proto": "https"}

    lied = bot.send("GET", but={"headers": {"X-Forwarded-For": "203.0.113.9, 198.51.100.1", **proxied}})
    none = bot.send("GET", but={"headers": proxied, "ip": "198.51.100.1"})

    assert refusal(lied) == refusal(none) == (403, "ip_denied")


def test_without_trusted_proxies_no_forwarded_address_is_used(lena: TradingAccount) -> None:
    _, bot = make(lena, allowed_networks=["203.0.113.0/24"])

    answer = bot.send("GET", but={"headers": {"X-Forwarded-For": "203.0.113.9"}})

    assert refusal(answer) == (403, "ip_denied")


def test_bots_need_tls_except_on_a_developers_machine(lena_bot: Bot, settings: Settings, tmp_path: Path) -> None:
    remote = {"ip": "203.0.113.9"}
    assert refusal(lena_bot.send("GET", but=remote)) == (403, "https_required")
    assert lena_bot.send("GET").status_code == 200

    settings.DEBUG, settings.STATIC_ROOT = False, tmp_path

    assert refusal(lena_bot.send("GET")) == (403, "https_required")
    over_tls = {"headers": {"X-Forwarded-Proto": "https"}}
    assert refusal(lena_bot.send("GET", but=over_tls)) == (403, "https_required")


MALFORMED = [
    "", "nonsense", "203.0.113.9/24", "203.0.113.0/33", "203.0.113.0/255.255.255.0", "203.0.113.0/0.0.0.255",
    "fe80::%eth0/64", "2001:db8::1/32", " 203.0.113.0/24", "203.0.113.0/24,", "0x7f.1",
]  # fmt: skip


def test_a_malformed_network_is_refused(lena: TradingAccount) -> None:
    """A network that PostgreSQL cannot read would make each request of the key fail."""
    for entry in MALFORMED:
        with pytest.raises(ValidationError):
            make(lena, allowed_networks=[entry])


def test_a_key_has_at_most_fifty_networks(lena: TradingAccount) -> None:
    assert make(lena, allowed_networks=[f"203.0.113.{last}" for last in range(50)])
    with pytest.raises(ValidationError):
        make(lena, allowed_networks=[f"203.0.113.{last}" for last in range(51)])


@pytest.mark.parametrize(
    ("peer", "forwarded", "proxies", "address"),
    [
        ("198.51.100.1", "203.0.113.9", 0, "198.51.100.1"),
        ("10.0.0.1", "203.0.113.9", 1, "203.0.113.9"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.9", 1, "203.0.113.9"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.9, 10.0.0.2", 2, "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9", 2, "10.0.0.1"),
        ("10.0.0.1", "", 1, "10.0.0.1"),
        ("10.0.0.1", "1.1.1.1, <script>", 1, "10.0.0.1"),
        ("10.0.0.1", "1.1.1.1,", 1, "10.0.0.1"),
        ("", "", 0, "0.0.0.0"),
        ("::ffff:198.51.100.1", "", 0, "198.51.100.1"),
        ("fe80::1%eth0", "", 0, "fe80::1"),
    ],
)
def test_the_callers_address_is_read_behind_trusted_proxies_only(
    peer: str, forwarded: str, proxies: int, address: str
) -> None:
    assert networks.client_address(peer, forwarded, proxies) == address


# --- secrets in the database


def sealed(key: Any) -> Any:
    return key.generations.get(generation=1)


def forget_keys() -> None:
    credentials._look_up.cache_clear()


def test_each_encrypted_secret_has_its_own_nonce(lena: TradingAccount) -> None:
    key, bot = make(lena)
    ciphertext = bytes(sealed(key).sealed_secret)

    name, _, rest = ciphertext.partition(b":")
    assert name.decode() == next(iter(crypto.keyring()))
    assert len(rest) == 12 + 64 + 16
    assert bot.secret.encode() not in ciphertext
    assert bytes.fromhex(bot.secret) not in ciphertext
    assert crypto.encrypt("x", bound_to="y") != crypto.encrypt("x", bound_to="y")


def test_every_flipped_bit_of_an_encrypted_secret_is_detected() -> None:
    ciphertext = crypto.encrypt("s" * 64, bound_to="here")

    for at in range(len(ciphertext)):
        flipped = ciphertext[:at] + bytes([ciphertext[at] ^ 1]) + ciphertext[at + 1 :]
        with pytest.raises(crypto.SecretUnreadable):
            crypto.decrypt(flipped, bound_to="here")
    for cut in (b"", ciphertext[:3], ciphertext[:14], ciphertext[:-1], b":" + ciphertext):
        with pytest.raises(crypto.SecretUnreadable):
            crypto.decrypt(cut, bound_to="here")


def test_a_secret_copied_to_another_row_does_not_sign(
    lena: TradingAccount, sam: TradingAccount, logged: Callable[..., Any]
) -> None:
    """With write access to the table, a person still cannot sign as another with their own secret."""
    hers, his = make(lena), make(sam)
    moved = {lena: sealed(hers[0]), sam: sealed(his[0])}
    for row, other in ((moved[lena], moved[sam].sealed_secret), (moved[sam], moved[lena].sealed_secret)):
        BotKeyGeneration.objects.filter(pk=row.pk).update(sealed_secret=other)
    forget_keys()
    as_her = Bot({"key": hers[1].key, "secret": his[1].secret})

    for bot in (as_her, hers[1], his[1]):
        answer = bot.send("POST", fields=opening("1"))

        assert refusal(answer) == (503, "key_unreadable")
        assert "X-Cd-Response-Sig" not in answer
    assert AuditLog.objects.filter(code="key_unreadable").count() == 3
    assert AuditLog.objects.filter(action="trade.opened").count() == 0
    assert "key.unreadable" in logged()
    assert not any(bot.secret in logged() for bot in (hers[1], his[1]))


def test_a_secret_copied_to_another_generation_does_not_sign(lena: TradingAccount) -> None:
    key, old = make(lena)
    new = rotate(key)
    BotKeyGeneration.objects.filter(key=key, generation=2).update(sealed_secret=sealed(key).sealed_secret)
    forget_keys()

    assert refusal(Bot({"key": new.key, "secret": old.secret}).send("GET")) == (503, "key_unreadable")


def test_a_wrong_kek_refuses_the_request_and_shows_no_secret(
    lena_bot: Bot, settings: Settings, logged: Callable[..., Any]
) -> None:
    settings.COPYDESK_KEKS = f"k1:{secrets.token_hex(32)}"
    forget_keys()

    answer = lena_bot.send("POST", fields=opening("1"))

    assert refusal(answer) == (503, "key_unreadable")
    assert answer.json()["retry"] == "same_key"  # a bot repeats until the right one is loaded
    for secret in (lena_bot.secret, settings.COPYDESK_KEKS, settings.COPYDESK_KEKS.partition(":")[2]):
        assert secret not in logged()
    assert "key.unreadable" in logged()


def test_rekey_moves_every_secret_to_the_newest_kek(
    lena: TradingAccount, lena_bot: Bot, settings: Settings, desk_db: str
) -> None:
    from strategies import services as strategies
    from strategies.models import Subscription

    old, new = settings.COPYDESK_KEKS, f"k2:{secrets.token_hex(32)}"
    follows = Subscription.objects.get()
    packet_secret = strategies.packet_secret(follows)
    next_secret = strategies.rotate_packet_secret(subscription=follows, actor=audit.SYSTEM)

    for _ in range(2):  # the second finds nothing to do
        done = rekey(desk_db, f"{new},{old}")
        assert done.returncode == 0, done.stderr
    assert lena_bot.secret not in done.stdout + done.stderr
    forget_keys()
    settings.COPYDESK_KEKS = new

    assert not [row for row in BotKeyGeneration.objects.all() if not crypto.is_current(row.sealed_secret)]
    assert lena_bot.send("POST", fields=opening("1")).status_code == 201
    follows.refresh_from_db()
    assert strategies.packet_secret(follows) == packet_secret
    assert crypto.decrypt(follows.sealed_next_secret, bound_to=follows.binding(2)) == next_secret
    settings.COPYDESK_KEKS = old
    forget_keys()
    assert refusal(lena_bot.send("GET")) == (503, "key_unreadable")


def test_rekey_without_the_old_kek_changes_nothing(lena_bot: Bot, desk_db: str) -> None:
    done = rekey(desk_db, f"k9:{secrets.token_hex(32)}")

    assert done.returncode != 0
    assert lena_bot.send("POST", fields=opening("1")).status_code == 201


def test_rekey_says_so_if_a_process_still_writes_under_the_older_key(
    lena_bot: Bot, desk_db: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from config.management.commands import rekey as command

    older = settings.COPYDESK_KEKS
    settings.COPYDESK_KEKS = f"k2:{secrets.token_hex(32)},{older}"
    monkeypatch.setattr(command, "rekey_batch", lambda *_: None)  # as if each row were written again behind its back

    with pytest.raises(CommandError, match=r"1 in Subscription\.sealed_packet_secret.*Keep the older keys"):
        call_command("rekey", stdout=io.StringIO())


def test_rekey_finds_a_sealed_field_by_itself_and_refuses_one_that_it_cannot_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from config.management.commands.rekey import sealed_fields

    names = {f"{model.__name__}.{field.name}" for model, field in sealed_fields()}
    assert names == {
        "BotKeyGeneration.sealed_secret", "Subscription.sealed_packet_secret", "Subscription.sealed_next_secret",
        "Destination.sealed_details",
    }  # fmt: skip
    with isolate_apps("accounts"):

        class Planted(models.Model):
            sealed_note = SealedField(binding=lambda row: f"note|{row.pk}")

            class Meta:
                app_label = "accounts"

            def __str__(self) -> str:
                return "planted"

        monkeypatch.setattr(apps, "get_models", lambda: [Planted])
        assert [field.name for _, field in sealed_fields()] == ["sealed_note"]

        class Bare(models.Model):
            sealed_note = models.BinaryField()

            class Meta:
                app_label = "accounts"

            def __str__(self) -> str:
                return "bare"

        monkeypatch.setattr(apps, "get_models", lambda: [Bare])
        with pytest.raises(CommandError, match=r"Bare\.sealed_note must be a SealedField"):
            list(sealed_fields())


def rekey(database: Any, keks: Any) -> Any:
    environ = {**os.environ, **databases.urls(database), "COPYDESK_KEKS": keks, "DEBUG": "1"}
    command = [sys.executable, "-m", "django", "rekey"]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=180, check=False)


@pytest.mark.parametrize(
    "spec",
    ["", "k1:", "k1:" + "0" * 63, "k1:" + "G" * 64, "k1:" + "A" * 64, "0" * 64, "k 1:" + "0" * 64,
     "k1:" + "0" * 64 + ",", "k1:" + "0" * 64 + ",k2:short"],
)  # fmt: skip
def test_a_malformed_kek_is_refused(spec: str, settings: Settings) -> None:
    settings.COPYDESK_KEKS = spec

    with pytest.raises(ValueError, match="COPYDESK_KEKS must be"):
        crypto.keyring()


# --- secrets elsewhere


def test_no_secret_appears_in_a_repr_an_audit_row_or_a_log(
    lena: TradingAccount, logged: Callable[..., Any], settings: Settings
) -> None:
    key, bot = make(lena, label="mine")
    rotated = committed(services.rotate_key, key=key, actor=ACTOR)
    new = Bot({"key": rotated.key, "secret": rotated.secret})
    new.send("POST", fields=opening("1"))
    new.send("POST", fields=opening("1", volume="9"))
    Bot({"key": rotated.key, "secret": "f" * 64}).send("GET")
    services.revoke_key(key=key, actor=ACTOR)
    credential = credentials.credential_of(rotated.key)

    shown = [repr(rotated), repr(credential), repr(key), repr(list(key.generations.all())), logged()]
    shown.append(json.dumps(list(AuditLog.objects.values("actor", "subject", "detail", "request_id", "code"))))
    for secret in (bot.secret, new.secret, settings.COPYDESK_KEKS.partition(":")[2]):
        assert not [text for text in shown if secret in text]


def test_the_clients_repr_hides_its_secret(cast: dict[str, Any]) -> None:
    from copybot.client import Client

    client = Client("http://127.0.0.1:1", "ck_0123456789abcdef.1", "s" * 64)

    assert "s" * 64 not in repr(client)


def test_the_bots_role_reads_an_encrypted_secret_only_by_the_keys_name(lena: TradingAccount, desk_db: str) -> None:
    from django.db import ProgrammingError

    with connections["bot"].cursor() as cursor:
        cursor.execute("select session_user")
        assert cursor.fetchone() == ("copydesk_bot",)
        for table in ("bot_keys", "bot_key_generations", "signed_results", "subscriptions", "users"):
            with pytest.raises(ProgrammingError, match="permission denied"):
                cursor.execute(f"select * from {table}")
