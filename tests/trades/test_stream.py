"""The WebSocket stream, with a real server and a real client: its messages, and who may connect."""

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import Group, Permission
from django.db import transaction
from websockets.exceptions import ConnectionClosed, InvalidStatus

from accounts import protocol
from accounts import services as accounts
from accounts.models import BotKey, TradingAccount, User
from audit import services as audit
from audit.models import AuditLog
from copybot import packets
from copybot.protocol import Answer
from core.sessions import SessionStore
from strategies import services as strategies
from strategies.models import Subscription
from tests.conftest import Serving
from tests.signed import LONG_AGO, opening
from tests.sockets import PATH, watch, watch_as_bot
from tests.transactions import committed
from trades import consumers, hub
from trades.models import ActiveTrade
from trades.services import staff as verbs


def session_of(username: Any) -> SessionStore:
    user = User.objects.get(username=username)
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    return session


def browser(web: Serving, username: Any, origin: Any = None) -> Any:
    headers = {"Cookie": f"sessionid={session_of(username).session_key}"}
    return watch(web.url, headers, origin=web.url if origin is None else origin)


def closed_with(watching: Any) -> Any:
    return closing(watching)[0]


def closing(watching: Any) -> Any:
    """The close code of the socket, and the number of heartbeats received before."""
    heartbeats = 0
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            heartbeats += watching.next(heartbeats=True)["type"] == "heartbeat"
    return closed.value.rcvd.code, heartbeats


def refused(opens: Any) -> Any:
    with pytest.raises(InvalidStatus) as no, opens:
        pass
    return no.value.response.status_code, json.loads(no.value.response.body)["code"]


# --- what is seen


def test_a_snapshot_comes_first_and_deltas_follow_consecutively(web: Serving) -> None:
    lena = web.bot("lena", "master")
    lena.open(**opening("1"))
    with watch_as_bot(web.bot("finn", "copier")) as finn:
        first = finn.next()
        lena.modify("1", sl="1.10100000")
        lena.reduce("1", deal_id="1", volume="0.04", close_price="1.10800000", profit="3")
        lena.close("1", close_price="1.11", profit="5")
        following = [finn.next() for _ in range(3)]

    assert first["type"] == "snapshot"
    assert first["as_of"] == {"lena-eurusd": "1"}
    assert [trade["ticket_id"] for trade in first["trades"]] == ["1"]
    assert [(m["type"], m["seq"]) for m in following] == [
        ("trade.modified", "2"),
        ("trade.reduced", "3"),
        ("trade.closed", "4"),
    ]


def test_only_people_are_told_what_a_closed_trade_has_made(web: Serving) -> None:
    lena = web.bot("lena", "master")
    lena.open(**opening("1"))
    with (
        watch_as_bot(web.bot("finn", "copier")) as copier,
        watch_as_bot(web.bot("lena", "master")) as provider,
        browser(web, "finn") as finn,
        browser(web, "lena") as owner,
    ):
        sockets = {"copier": copier, "provider": provider, "finn": finn, "lena": owner}
        for socket in sockets.values():
            socket.next()
        lena.reduce("1", deal_id="1", volume="0.04", close_price="1.10800000", profit="3")
        lena.close("1", close_price="1.11", profit="5")
        closes = {name: socket.until(lambda m: m["type"] == "trade.closed") for name, socket in sockets.items()}

    for name in ("finn", "lena"):
        assert closes[name]["trade"]["profit"] == "8.00000000"
    for name in ("copier", "provider"):
        assert not {"profit", "closing_profit"} & closes[name]["trade"].keys()
        assert "8.00000000" not in json.dumps(closes[name])
        assert closes[name]["trade"]["close_price"] == "1.11000000"


def test_an_ordered_close_is_pushed_to_its_copier_alone(web: Serving, staff: User) -> None:
    opened = web.bot("lena", "master").open(**opening("1"))["trade"]
    finn_bot = web.bot("finn", "copier")
    finn_bot.open(**opening("501"), strategy="lena-eurusd", trade_ref=opened["trade_id"])
    copy = ActiveTrade.objects.get(ticket_id="501")
    with watch_as_bot(web.bot("finn", "copier")) as finn, watch_as_bot(web.bot("lena", "master")) as lena:
        finn.next()
        lena.next()
        verbs.order_close(copy_id=copy.pk, note="margin call", by=staff, actor=audit.SYSTEM)
        message = finn.next(hub.HEARTBEAT_S / 2)  # sooner than any check of the hub
        verbs.order_close(copy_id=copy.pk, note="again", by=staff, actor=audit.SYSTEM)

        (target,) = [trade for trade in message["trades"] if trade["role"] == "master"]
        assert (message["type"], target["copy"]["volume"], target["copy"]["opens"]) == ("snapshot", "0.00000000", False)
        assert lena.nothing_for(1)
        assert finn.nothing_for(1)


def test_a_copier_gets_valid_packets_with_its_own_volume(
    web: Serving, cast: dict[str, Any], finn: TradingAccount
) -> None:
    follows = Subscription.objects.get(account=finn)
    strategies.set_terms(subscription=follows, multiplier=Decimal("0.5"), actor=audit.SYSTEM, since=LONG_AGO)
    secret = cast["subscriptions"][0]["packet_secret"]
    lena = web.bot("lena", "master")
    with watch_as_bot(web.bot("finn", "copier")) as finn_watches:
        finn_watches.next()
        lena.open(**opening("1"))
        delta = finn_watches.next()

    packet = delta["packet"]
    fields = [packet[name] for name in ("sub_id", "seq", "timestamp", "symbol", "type", "volume", "price", "sl", "tp")]
    assert packet["signature"] == hmac.new(secret.encode(), "|".join(fields).encode(), hashlib.sha256).hexdigest()
    derived = hmac.new(secret.encode(), b"copydesk/packet/v1", hashlib.sha256).hexdigest()
    bound = "|".join([*fields, "CP1", "OPEN", delta["trade"]["trade_id"], "1"])
    assert packet["signature_v1"] == hmac.new(derived.encode(), bound.encode(), hashlib.sha256).hexdigest()
    assert (packet["volume"], delta["trade"]["copy_volume"]) == ("0.05000000", "0.05000000")
    assert (packet["sub_id"], packet["seq"]) == (follows.sub_id, delta["seq"])


def test_a_close_packet_has_volume_zero(web: Serving) -> None:
    lena = web.bot("lena", "master")
    lena.open(**opening("1"))
    with watch_as_bot(web.bot("finn", "copier")) as finn:
        finn.next()
        lena.close("1", close_price="1.11", profit="5")
        packet = finn.next()["packet"]

    assert (packet["action"], packet["volume"], packet["price"]) == ("CLOSE", "0.00000000", "1.11000000")


def test_a_stranger_sees_nothing_of_it(web: Serving) -> None:
    with watch_as_bot(web.bot("sam", "copier")) as sam:
        assert sam.next()["as_of"] == {"sam-xauusd": "0"}
        web.bot("lena", "master").open(**opening("1"))
        assert sam.nothing_for(1)


def test_a_browser_sees_its_streams_without_packets(web: Serving) -> None:
    with browser(web, "finn") as finn:
        assert finn.next()["as_of"] == {"lena-eurusd": "0"}
        web.bot("lena", "master").open(**opening("1"))
        delta = finn.next()

    assert delta["type"] == "trade.opened"
    assert "packet" not in delta


def test_a_heartbeat_with_the_numbers_comes_within_five_seconds(web: Serving) -> None:
    assert hub.HEARTBEAT_S < 5
    with watch_as_bot(web.bot("finn", "copier")) as finn:
        finn.next()
        assert finn.next(heartbeats=True) == {"type": "heartbeat", "as_of": {"lena-eurusd": "0"}}


def test_a_resync_is_answered_with_a_fresh_snapshot(web: Serving) -> None:
    with watch_as_bot(web.bot("finn", "copier")) as finn:
        finn.next()
        finn.say({"type": "resync"})
        assert finn.next()["type"] == "snapshot"


def test_a_delta_that_never_arrived_is_repaired_by_a_snapshot(web: Serving, lena: TradingAccount) -> None:
    """The close commits here without a publisher, as if its process had died before publishing."""
    web.bot("lena", "master").open(**opening("1"))
    with watch_as_bot(web.bot("finn", "copier")) as finn:
        finn.next()
        close_without_publishing(lena, "1")
        repaired = finn.until(lambda message: message["type"] == "snapshot")

    assert (repaired["trades"], repaired["as_of"]) == ([], {"lena-eurusd": "2"})


def test_a_gap_is_followed_by_a_snapshot_and_never_by_a_later_delta(web: Serving, lena: TradingAccount) -> None:
    master = web.bot("lena", "master")
    master.open(**opening("1"))
    with watch_as_bot(web.bot("finn", "copier")) as finn:
        finn.next()
        close_without_publishing(lena, "1")
        master.open(**opening("2"))
        following = finn.next()

    assert following["type"] == "snapshot"
    assert [trade["ticket_id"] for trade in following["trades"]] == ["2"]


def close_without_publishing(account: Any, ticket: Any) -> None:
    from trades import services

    with transaction.atomic():
        caller = {"kind": "system", "account": account.pk}
        services._ask(
            "trade_close", caller, {"ticket_id": ticket, "close_price": "1", "profit": "0", "reason": "MANUAL"}
        )


def test_a_strategy_followed_while_watching_appears_with_a_snapshot(
    web: Serving, sam: TradingAccount, lena: TradingAccount
) -> None:
    with watch_as_bot(web.bot("sam", "copier")) as watching:
        watching.next()
        committed(strategies.subscribe, account=sam, strategy=lena.strategy, actor=audit.SYSTEM)
        renewed = watching.until(lambda message: message["type"] == "snapshot")

    assert "lena-eurusd" in renewed["as_of"]


def test_a_paused_subscription_still_gets_its_closes_but_no_packet_to_open(web: Serving, finn: TradingAccount) -> None:
    lena = web.bot("lena", "master")
    lena.open(**opening("1"))
    strategies.pause(subscription=Subscription.objects.get(account=finn), actor=audit.SYSTEM)
    with watch_as_bot(web.bot("finn", "copier")) as watching:
        watching.next()
        lena.open(**opening("2"))
        lena.close("1", close_price="1.11", profit="5")
        opened, closed = watching.next(), watching.next()

    assert (opened["packet"]["action"], opened["packet"]["trade_ref"]) == ("GAPFILL", "3")
    assert (opened["type"], opened["trade"]) == ("trade.hidden", {})
    assert closed["packet"]["action"] == "CLOSE"


def test_a_rotated_secret_signs_on_an_open_socket(web: Serving, finn: TradingAccount) -> None:
    follows = Subscription.objects.get(account=finn)
    with watch_as_bot(web.bot("finn", "copier")) as watching:
        watching.next()
        secret = strategies.rotate_packet_secret(subscription=follows, actor=audit.SYSTEM, at_once=True)
        assert watching.next()["type"] == "snapshot"  # it follows under another key now
        web.bot("lena", "master").open(**opening("1"))
        packet = watching.next()["packet"]

    assert packets.read(packet, secrets={2: secret}, sub_id=follows.sub_id).trade_ref


def test_a_browser_sees_its_own_copies_open_and_close_and_nothing_else(web: Serving) -> None:
    lena, finn = web.bot("lena", "master"), web.bot("finn", "copier")
    ref = lena.open(**opening("1"))["trade"]["trade_id"]
    with browser(web, "finn") as watching:
        watching.next()
        finn.open(**opening("501"), strategy="lena-eurusd", trade_ref=ref)
        held = watching.next()
        finn.close("501", close_price="1.1", profit="0")
        gone = watching.next()
        assert watching.nothing_for(5)

    roles = [[trade["role"] for trade in message["trades"]] for message in (held, gone)]
    assert roles == [["master", "copy"], ["master"]]


def test_two_processes_send_the_same_stream(serve: Callable[..., Serving]) -> None:
    first, second = serve(), serve()
    with watch_as_bot(second.bot("finn", "copier")) as finn:
        finn.next()
        first.bot("lena", "master").open(**opening("1"))
        assert finn.next()["type"] == "trade.opened"


def test_an_idle_socket_stays_open(web: Serving) -> None:
    with watch_as_bot(web.bot("finn", "copier")) as finn:
        finn.next()
        for _ in range(6):  # 24 seconds: a library's own pings would have ended the socket after 20
            assert finn.next(heartbeats=True)["type"] == "heartbeat"
        web.bot("lena", "master").open(**opening("1"))
        assert finn.next()["type"] == "trade.opened"


# --- who may watch


def test_a_handshake_cannot_be_replayed(web: Serving) -> None:
    finn = web.bot("finn", "copier")
    headers = finn.headers("GET", PATH)
    with watch(web.url, headers):
        pass

    assert refused(watch(web.url, headers)) == (409, "seq_replayed")


def test_a_handshakes_refusal_of_the_clock_is_signed(web: Serving) -> None:
    finn = web.bot("finn", "copier", wall_ms=lambda: time.time_ns() // 1_000_000 - 3_600_000)
    handshake = finn.attempt("GET", PATH, "", b"", "")
    with pytest.raises(InvalidStatus) as refused, watch(web.url, handshake.headers):
        pass

    response = refused.value.response
    headers = {name.lower(): value for name, value in response.headers.raw_items()}
    assert finn.is_proven(Answer(response.status_code, headers, bytes(response.body)), handshake)
    assert abs(finn.desk_ms() - time.time_ns() // 1_000_000) < 5_000
    with watch_as_bot(finn):
        pass


def test_a_tampered_handshake_is_refused_and_audited(web: Serving) -> None:
    headers = web.bot("finn", "copier").headers("GET", PATH)
    headers["X-Cd-Seq"] = str(int(headers["X-Cd-Seq"]) + 1)

    assert refused(watch(web.url, headers)) == (401, "signature_invalid")
    assert AuditLog.objects.filter(action="request.refused", code="signature_invalid").count() == 1


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1.evil.example:443"])
def test_refuses_a_page_of_another_origin_even_with_the_cookie(web: Serving, origin: str) -> None:
    assert refused(browser(web, "finn", origin)) == (403, "origin_denied")


def test_refuses_a_cookie_without_an_origin(web: Serving) -> None:
    headers = {"Cookie": f"sessionid={session_of('finn').session_key}"}

    assert refused(watch(web.url, headers)) == (403, "origin_denied")


def test_an_anonymous_handshake_is_refused_with_not_authenticated(web: Serving) -> None:
    assert refused(watch(web.url, origin=web.url)) == (401, "not_authenticated")


# A sweep comes each second, a heartbeat every four: at most one heartbeat comes between the end of a right and the
# end of its socket.


def test_a_revoked_key_closes_its_socket_with_the_next_sweep(web: Serving, finn: TradingAccount) -> None:
    with watch_as_bot(web.bot("finn", "copier")) as watching:
        watching.next()
        accounts.revoke_key(key=BotKey.objects.get(account=finn), actor=audit.SYSTEM)
        code, heartbeats = closing(watching)

    assert (code, heartbeats <= 1) == (1008, True)
    assert 2 * hub.SWEEP_S < hub.HEARTBEAT_S


def test_signing_out_closes_the_socket_with_the_next_sweep(web: Serving) -> None:
    with browser(web, "finn") as watching:
        watching.next()
        SessionStore.get_model_class().objects.all().delete()
        code, heartbeats = closing(watching)

    assert (code, heartbeats <= 1) == (1008, True)


def test_a_narrowed_address_list_closes_the_sockets_of_other_addresses(web: Serving, finn: TradingAccount) -> None:
    key = BotKey.objects.get(account=finn)
    with watch_as_bot(web.bot("finn", "copier")) as watching:
        watching.next()
        key.allowed_networks = ["127.0.0.0/8"]
        committed(accounts.change_key, key=key, changed=["allowed_networks"], actor=audit.SYSTEM)
        assert watching.nothing_for(2.5)  # the caller is on the list
        key.allowed_networks = ["203.0.113.0/24"]
        committed(accounts.change_key, key=key, changed=["allowed_networks"], actor=audit.SYSTEM)
        code, heartbeats = closing(watching)

    assert (code, heartbeats <= 2) == (1008, True)


def test_a_deactivated_person_loses_all_sockets(web: Serving, finn: TradingAccount) -> None:
    bot = web.bot("finn", "copier")
    with watch_as_bot(bot) as copier, browser(web, "finn") as page:
        copier.next(), page.next()
        User.objects.filter(pk=finn.owner_id).update(is_active=False)
        ends = [closing(copier), closing(page)]

    assert all((code, heartbeats <= 1) == (1008, True) for code, heartbeats in ends)
    assert refused(watch_as_bot(bot)) == (403, "owner_inactive")
    assert refused(browser(web, "finn")) == (401, "not_authenticated")


def _new_password(user: User) -> None:
    user.set_password("another-word-for-it")
    user.save(update_fields=["password"])


def _no_staff(user: User) -> None:
    user.is_staff = False
    user.save(update_fields=["is_staff"])


RIGHTS: dict[str, Any] = {
    "another password": _new_password,
    "no longer staff": _no_staff,
    "a permission less": lambda user: user.user_permissions.clear(),
    "a group less": lambda user: user.groups.clear(),
    "a group that lost a permission": lambda user: user.groups.get().permissions.clear(),
}


@pytest.mark.parametrize("change", RIGHTS.values(), ids=RIGHTS)
def test_another_password_or_lost_rights_close_the_persons_pages(
    change: Callable[[User], None], web: Serving, finn: TradingAccount
) -> None:
    user = User.objects.using("owner").get(pk=finn.owner_id)
    group = Group.objects.using("owner").create(name="support")
    group.permissions.add(Permission.objects.using("owner").get(codename="view_user"))
    user.groups.add(group)
    user.user_permissions.add(Permission.objects.using("owner").get(codename="view_botkey"))
    user.is_staff = True
    user.save(update_fields=["is_staff"])
    with browser(web, "finn") as watching:
        watching.next()
        change(user)
        code, heartbeats = closing(watching)

    assert (code, heartbeats <= 1) == (1008, True)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("x", 1003),
        ("[]", 1003),
        ('{"type":"open"}', 1003),
        (b"\x00", 1003),
        ('{"type":"resync","pad":"' + "x" * 5000 + '"}', 1009),
    ],
)
def test_anything_but_a_resync_closes_the_socket(web: Serving, message: str | bytes, code: int) -> None:
    with watch_as_bot(web.bot("finn", "copier")) as finn:
        finn.next()
        finn.say(message)
        assert closed_with(finn) == code


@pytest.mark.parametrize(
    "headers", [{"cookie": "sessionid=a", "origin": "https://desk.example"}, {"x-cd-key": "ck_1.1"}]
)
def test_in_production_no_socket_opens_without_tls(headers: dict[str, str], desk_db: str, settings: Any) -> None:
    settings.DEBUG, settings.ALLOWED_HOSTS = False, ["desk.example"]
    lines = [(name.encode(), value.encode()) for name, value in {"host": "desk.example", **headers}.items()]
    scope = {"path": PATH, "scheme": "ws", "client": ("127.0.0.1", 1), "headers": lines}

    with pytest.raises(protocol.HttpsRequired):
        consumers._watcher(scope, None)
