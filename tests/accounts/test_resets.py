"""A new password by a link in an e-mail: one use, one hour, the same answer to everybody."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core import mail
from django.test import Client
from django.utils import timezone
from structlog.testing import capture_logs

from accounts.models import TradingAccount, User
from audit.models import AuditLog
from core import limiting
from core.limiting import RateLimited
from tests.answers import text
from tests.people import promote
from tests.signed import HOST

WORD = "an-entirely-new-word"


@pytest.fixture
def stranger() -> Client:
    return Client(headers={"Host": HOST})


@pytest.fixture(autouse=True)
def _unlimited(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test is a first visit."""
    monkeypatch.setattr(limiting, "seen_before", lambda *_, **__: False)
    monkeypatch.setattr(limiting, "spend", lambda *_: None)
    yield


def ask(browser: Client, address: str) -> Any:
    return browser.post("/password-reset/", {"email": address}, follow=True)


def link() -> str:
    found = re.search(r"http://[^/]+(/password-reset/\S+)", str(mail.outbox[-1].body))
    assert found is not None
    return found[1]


def choose(browser: Client, url: str, word: str = WORD) -> Any:
    page = browser.get(url, follow=True)
    where = page.redirect_chain[-1][0] if page.redirect_chain else url
    return browser.post(where, {"new_password1": word, "new_password2": word}, follow=True)


def test_a_link_sets_a_password_once(stranger: Client, lena: TradingAccount) -> None:
    before = Client(headers={"Host": HOST})
    before.force_login(lena.owner)
    assert "a link is on its way" in text(ask(stranger, lena.owner.email.upper()))
    assert mail.outbox[0].to == [lena.owner.email]
    assert mail.outbox[0].alternatives

    assert "Your password is set" in text(choose(stranger, link()))
    assert User.objects.get(pk=lena.owner_id).check_password(WORD)
    assert before.get("/wallet/").status_code == 302  # the sessions of the account have ended
    assert "This link does not hold" in text(choose(stranger, link(), "another-word-of-mine"))
    assert User.objects.get(pk=lena.owner_id).check_password(WORD)


def test_a_link_ends_after_an_hour(stranger: Client, lena: TradingAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(stranger, lena.owner.email)
    later = timezone.now().replace(tzinfo=None) + timedelta(hours=1, minutes=1)
    monkeypatch.setattr("django.contrib.auth.tokens.PasswordResetTokenGenerator._now", lambda _: later)

    assert "This link does not hold" in text(choose(stranger, link()))


def test_a_weak_password_is_not_set(stranger: Client, lena: TradingAccount) -> None:
    ask(stranger, lena.owner.email)

    assert "too short" in text(choose(stranger, link(), "short"))
    assert not User.objects.get(pk=lena.owner_id).check_password("short")


def test_everybody_gets_the_same_answer(stranger: Client, lena: TradingAccount, finn: TradingAccount) -> None:
    promote(finn.owner_id, is_staff=True)
    answers = [text(ask(stranger, address)) for address in (lena.owner.email, "nobody@x.example", finn.owner.email)]

    assert len(set(answers)) == 1
    assert [message.to for message in mail.outbox] == [[lena.owner.email]]
    facts = AuditLog.objects.filter(action__startswith="password.reset").order_by("id")
    assert [(fact.action, fact.subject, fact.code, fact.ip) for fact in facts] == [
        ("password.reset_sent", f"user:{lena.owner_id}", "", "127.0.0.1"),
        ("password.reset_refused", "", "address_unknown", "127.0.0.1"),
        ("password.reset_refused", f"user:{finn.owner_id}", "two_people_needed", "127.0.0.1"),
    ]


def test_a_deactivated_person_gets_no_link(stranger: Client, lena: TradingAccount) -> None:
    User.objects.filter(pk=lena.owner_id).update(is_active=False)
    ask(stranger, lena.owner.email)

    assert mail.outbox == []


def test_a_mailbox_is_not_flooded(stranger: Client, lena: TradingAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    monkeypatch.setattr(limiting, "seen_before", lambda name, **_: name in seen or bool(seen.add(name)))
    for _ in range(5):
        ask(stranger, lena.owner.email)

    assert len(mail.outbox) == 1


def test_an_address_that_asks_too_often_is_limited(stranger: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def spent(bucket: str, *_: Any) -> None:
        if bucket == "reset":
            raise RateLimited(retry_after_ms=1000, limit=5)

    monkeypatch.setattr(limiting, "spend", spent)
    answer = stranger.post("/password-reset/", {"email": "a@x.example"})

    assert (answer.status_code, answer["Retry-After"]) == (429, "60")
    assert mail.outbox == []


def test_the_link_is_in_no_log_line(stranger: Client, lena: TradingAccount) -> None:
    ask(stranger, lena.owner.email)
    token = link().rstrip("/").rsplit("/", 1)[-1]
    with capture_logs() as logs:
        choose(stranger, link())

    assert logs and token not in str(logs)
    assert token not in repr(list(AuditLog.objects.values()))
