"""The desk's page, as it is first painted."""

import pytest
from django.urls import reverse

from accounts.models import User
from config import cast as cast_module
from tests.signed import opening


def signed_in(client, name):
    client.force_login(User.objects.get(username=name))
    return client.get("/").content.decode()


def test_a_visitor_is_asked_to_sign_in(client, cast):
    assert client.get("/")["Location"] == "/login/?next=/"


def test_a_subscriber_sees_the_open_trades_of_its_strategies(client, lena_bot):
    lena_bot.send("POST", fields=opening("1", symbol="GBPUSD"))

    assert "GBPUSD" in signed_in(client, "finn")


def test_a_stranger_sees_none_of_them(client, lena_bot):
    lena_bot.send("POST", fields=opening("1", symbol="GBPUSD"))

    page = signed_in(client, "sam")

    assert "GBPUSD" not in page
    assert "Nothing is open at the moment" in page


def test_a_closed_trade_is_listed_as_closed(client, lena_bot):
    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("POST", "/api/v2/signal/close", {"ticket_id": "1", "close_price": "1.11", "profit": "50"})

    page = signed_in(client, "finn")

    assert "+50.00" in page
    assert "Nothing is open at the moment" in page


def test_a_demos_visitor_is_its_guest_on_this_machine_alone(client, cast, settings):
    cast_module.make_demo()
    settings.DEMO_GUEST = cast_module.DEMO_GUEST

    assert client.get("/", REMOTE_ADDR="203.0.113.7").status_code == 302
    page = client.get("/").content.decode()

    assert "You are looking in as <b>guest</b>" in page
    assert client.get(reverse("logout-and-in"))["Location"] == "/login/"
    assert "_auth_user_id" not in client.session


def test_a_guest_is_nobody_where_there_is_no_demo(client, cast):
    cast_module.make_demo()

    assert client.get("/").status_code == 302


@pytest.mark.parametrize("path", ["/", "/login/", "/admin/login/"])
def test_pages_carry_a_policy_without_anything_inline(client, cast, path):
    policy = client.get(path)["Content-Security-Policy"]

    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
