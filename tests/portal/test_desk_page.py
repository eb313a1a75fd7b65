"""The desk's page, as the server renders it."""

import re
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.template.loader import render_to_string
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries, Settings

from accounts.models import TradingAccount, User
from audit import services as audit
from config import demo_data
from strategies import services as strategies
from tests.signed import LONG_AGO, Bot, opening


def signed_in(client: Any, name: Any) -> Any:
    client.force_login(User.objects.get(username=name))
    return client.get("/").content.decode()


def test_a_visitor_is_asked_to_sign_in(client: Client, cast: dict[str, Any]) -> None:
    assert client.get("/")["Location"] == "/login/?next=/"


def test_a_subscriber_sees_the_open_trades_of_its_strategies(client: Client, lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1", symbol="GBPUSD"))

    assert "GBPUSD" in signed_in(client, "finn")


def test_a_stranger_sees_no_open_trades_of_others(client: Client, lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1", symbol="GBPUSD"))

    page = signed_in(client, "sam")

    assert "GBPUSD" not in page
    assert "No open trades." in page


def test_a_closed_trade_is_listed_as_closed(client: Client, lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("POST", "/api/v2/signal/close", {"ticket_id": "1", "close_price": "1.11", "profit": "50"})

    page = signed_in(client, "finn")

    assert "+50.00" in page
    assert "No open trades." in page


def closed_by(bot: Any, ticket: Any, profit: str = "5", **more: Any) -> None:
    bot.send("POST", fields=opening(ticket, **more))
    bot.send("POST", "/api/v2/signal/close", {"ticket_id": ticket, "close_price": "1.11", "profit": profit})


def headings(page: Any) -> Any:
    return re.findall("<h2>(.*?)</h2>", page)


def test_a_subscriber_sees_the_size_of_its_copy_and_the_copies_that_are_open(
    client: Client, finn: TradingAccount, lena_bot: Bot, finn_bot: Bot
) -> None:
    strategies.set_terms(
        subscription=finn.subscriptions.get(), multiplier=Decimal("0.5"), actor=audit.SYSTEM, since=LONG_AGO
    )
    lena_bot.send("POST", fields=opening("1"))
    finn_bot.send("POST", fields={**opening("51", volume="0.05"), "master_ticket": "1", "strategy": "lena-eurusd"})

    page = signed_in(client, "finn")

    assert '<td data-label="Your copy" class="n">0.05</td>' in page
    assert '<span class="chip">copy open</span>' in page
    assert "<title>(1) Desk" in page
    assert '<dd id="copies">1</dd>' in page


def test_closes_of_followed_strategies_and_of_own_accounts_are_separate_lists(
    client: Client, lena_bot: Bot, finn_bot: Bot
) -> None:
    lena_bot.send("POST", fields=opening("1"))
    copy = {**opening("51"), "master_ticket": "1", "strategy": "lena-eurusd"}
    finn_bot.send("POST", fields=copy)
    for bot, ticket, profit in ((lena_bot, "1", "50"), (finn_bot, "51", "25")):
        bot.send("POST", "/api/v2/signal/close", {"ticket_id": ticket, "close_price": "1.11", "profit": profit})

    page = signed_in(client, "finn")

    assert headings(page) == ["Live events", "Closed by strategies you follow", "Closed on your accounts"]
    followed, own = page.split("Closed on your accounts", 1)
    assert ("+50.00" in followed, "+25.00" in followed) == (True, False)
    assert ("+50.00" in own, "+25.00" in own) == (False, True)


def test_a_provider_sees_her_own_closed_trades_once(client: Client, lena_bot: Bot) -> None:
    closed_by(lena_bot, "1", profit="50")

    page = signed_in(client, "lena")

    assert headings(page) == ["Live events", "Closed on your accounts"]
    assert page.count("+50.00") == 1


def test_prices_have_the_decimals_of_their_symbol_and_zero_has_no_sign(client: Client, lena_bot: Bot) -> None:
    closed_by(lena_bot, "1", profit="0")
    lena_bot.send("POST", fields=opening("2", open_price="1.1", sl="1.09", symbol="USDJPY"))

    page = signed_in(client, "lena")

    assert '<td data-label="Profit" class="n ">0.00</td>' in page
    assert '<td data-label="Close" class="n">1.11000</td>' in page
    assert '<td data-label="Open price" class="n">1.100</td>' in page


def test_a_user_without_subscriptions_is_told_what_to_do(client: Client, cast: dict[str, Any]) -> None:
    User.objects.create_user("nora", password=None)

    page = signed_in(client, "nora")

    assert "You follow no strategy yet. Ask staff for a subscription" in page
    assert headings(page) == ["Live events"]


def test_the_number_of_queries_does_not_depend_on_the_number_of_trades(
    client: Client, lena_bot: Bot, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    closed_by(lena_bot, "1")
    client.force_login(User.objects.get(username="finn"))
    with CaptureQueriesContext(connection) as of_one:
        client.get("/")
    cost = len(of_one)
    for number in range(2, 8):
        closed_by(lena_bot, str(number))
        lena_bot.send("POST", fields=opening(str(number + 50)))

    with django_assert_num_queries(cost):
        client.get("/")
    assert cost <= 8


def test_text_from_a_bot_is_escaped(client: Client, lena_bot: Bot) -> None:
    closed_by(lena_bot, "1", symbol="A&B")

    page = signed_in(client, "lena")

    assert "A&amp;B" in page
    assert "A&B<" not in page


def test_error_pages_render_without_a_request(cast: dict[str, Any]) -> None:
    page = render_to_string("500.html")

    assert "Something went wrong" in page
    assert "style=" not in page
    assert "Page not found" in render_to_string("404.html")


@pytest.mark.parametrize("path", ["/", "/login/"])
def test_pages_have_no_inline_scripts_or_styles(client: Client, cast: dict[str, Any], path: str) -> None:
    page = signed_in(client, "finn") if path == "/" else client.get(path).content.decode()

    assert not re.findall(r"<style|style=|\son\w+=|<script(?![^>]*\ssrc=)", page)


def test_a_visitor_of_a_demo_is_signed_in_as_guest_from_this_machine_alone(
    client: Client, cast: dict[str, Any], settings: Settings
) -> None:
    demo_data.make_demo()
    settings.DEMO_GUEST = demo_data.DEMO_GUEST

    assert client.get("/", REMOTE_ADDR="203.0.113.7").status_code == 302
    assert client.get("/", HTTP_X_FORWARDED_FOR="203.0.113.7").status_code == 302  # a tunnel on this machine
    settings.ALLOWED_HOSTS = ["desk.example", "localhost"]
    assert client.get("/", HTTP_HOST="desk.example").status_code == 302
    page = client.get("/", HTTP_HOST="localhost:8000").content.decode()

    assert "You are signed in as <b>guest</b>" in page
    assert client.get(reverse("logout-and-in"), HTTP_HOST="localhost")["Location"] == "/login/"
    assert "_auth_user_id" not in client.session


def test_no_visitor_is_signed_in_without_a_demo(client: Client, cast: dict[str, Any], settings: Settings) -> None:
    demo_data.make_demo()
    settings.DEMO_GUEST = ""

    assert client.get("/").status_code == 302


@pytest.mark.parametrize("path", ["/", "/login/", "/admin/login/"])
def test_the_content_security_policy_allows_nothing_inline(client: Client, cast: dict[str, Any], path: str) -> None:
    policy = client.get(path)["Content-Security-Policy"]

    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
