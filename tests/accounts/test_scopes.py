"""Who may do what: every route of the URL conf against every caller, held against a table that a person reviewed.

A route that is not in the table fails the test: whoever adds one says here who may use it.
"""

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.test import Client as DjangoClient
from django.urls import URLPattern, get_resolver

from accounts import services
from accounts.models import TradingAccount
from audit import services as audit
from audit.models import AuditLog
from core import limiting
from tests.conftest import key_of
from tests.people import colleague
from tests.signed import HOST, Bot, opening
from tests.transactions import committed

ACTIVE = "/api/v2/trades/active"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


CALLERS = ("anonymous", "readonly", "copier", "master", "stranger", "subscriber", "staff", "superuser")

# What each caller is answered: a status, or a code of the API. unsigned = request_malformed, scope = scope_denied,
# closed = history_closed_to_bots, absent = trade_unknown. A foreign trade is an absent one, and a close of an absent
# trade is a tombstone (202), which keeps its late open out. People's withdrawals name no Idempotency-Key here.
TABLE = """
#                                          anonymous readonly copier master stranger subscriber staff  superuser
GET    api/v2/time                            200      200      200    200    200      200      200      200
GET    api/v2/trades/active                 unsigned   200      200    200    200    unsigned unsigned unsigned
POST   api/v2/trades/active                 unsigned  scope     201    201    201    unsigned unsigned unsigned
POST   api/v2/trades/active/batch           unsigned  scope     200    200    200    unsigned unsigned unsigned
PATCH  api/v2/trades/active/<str:ticket>    unsigned  scope   absent   200   absent  unsigned unsigned unsigned
DELETE api/v2/trades/active/<str:ticket>    unsigned  scope     202    200    202    unsigned unsigned unsigned
POST   api/v2/trades/active/<str:ticket>/reduce unsigned scope absent  200   absent  unsigned unsigned unsigned
POST   api/v2/trades/orders                 unsigned  scope     201   scope  scope   unsigned unsigned unsigned
POST   api/v2/copier/beat                   unsigned  scope     200   scope  scope   unsigned unsigned unsigned
POST   api/v2/copier/skips                  unsigned  scope   absent  scope  scope   unsigned unsigned unsigned
GET    api/v2/account                       unsigned   200      200    200    200    unsigned unsigned unsigned
POST   api/v2/account                       unsigned   200      200    200    200    unsigned unsigned unsigned
POST   api/v2/account/alarms                unsigned   200      200    200    200    unsigned unsigned unsigned
GET    api/v2/actives                       unsigned   200      200    200    200    unsigned unsigned unsigned
POST   api/v2/actives                       unsigned  scope     200    200    200    unsigned unsigned unsigned
POST   api/v2/signal/close                  unsigned  scope     202    200    202    unsigned unsigned unsigned
GET    signals                              unsigned   200      200    200    200    unsigned unsigned unsigned
POST   signal/broadcast                     unsigned  scope     200    200    200    unsigned unsigned unsigned
POST   signal/close                         unsigned  scope     202    200    202    unsigned unsigned unsigned
GET    api/v2/trades/history                  401     closed   closed closed closed    200      200      200
GET    api/v2/trades/history.csv              401     closed   closed closed closed    200      200      200
GET    api/v2/candles/<path:symbol>           401     closed   closed closed closed    200      200      200
GET    api/v2/wallets/me                      401     closed   closed closed closed    200    nowallet nowallet
GET    api/v2/wallets/me/entries              401     closed   closed closed closed    200    nowallet nowallet
GET    api/v2/wallets/me/statement.csv        401     closed   closed closed closed    200    nowallet nowallet
POST   api/v2/wallets/me/withdrawals          401     closed   closed closed closed  nokey    nowallet nowallet
GET    api/v2/trust/me                        401     closed   closed closed closed    200      200      200
POST   api/v2/trust/me/appeals                401     closed   closed closed closed   noscore noscore  noscore
GET    api/schema/                            200      200      200    200    200      200      200      200
GET    api/docs/                              200      200      200    200    200      200      200      200
GET    healthz                                200      200      200    200    200      200      200      200
GET    readyz                                 200      200      200    200    200      200      200      200
GET    metrics                                200      200      200    200    200      200      200      200
GET    login/                                 200      200      200    200    200      302      302      302
POST   login/other/                           302      302      302    302    302      302      302      302
POST   logout/                                302      302      302    302    302      302      302      302
GET    password-reset/                        200      200      200    200    200      200      200      200
POST   password-reset/                        200      200      200    200    200      200      200      200
GET    password-reset/sent/                   200      200      200    200    200      200      200      200
GET    password-reset/done/                   200      200      200    200    200      200      200      200
GET    password-reset/<slug:uidb64>/<slug:token>/ 200      200      200    200    200      200      200      200
GET    /                                      302      302      302    302    302      200      200      200
GET    docs/                                  200      200      200    200    200      200      200      200
GET    docs/<slug:name>/                      200      200      200    200    200      200      200      200
GET    docs/vectors.json                      200      200      200    200    200      200      200      200
GET    wallet/                                302      302      302    302    302      200      200      200
POST   wallet/withdraw/                       302      302      302    302    302      422      404      404
POST   wallet/destinations/                   302      302      302    302    302      422      422      422
POST   wallet/destinations/<uuid:ref>/remove/ 302      302      302    302    302      404      404      404
POST   wallet/requests/<uuid:request_id>/take-back/ 302 302     302    302    302      404      404      404
GET    copying/<str:sub_id>/fees/             302      302      302    302    302      200      404      404
POST   copying/<str:sub_id>/fees/             302      302      302    302    302      409      404      404
GET    wallet/statements/<str:month>/         302      302      302    302    302      200      404      404
GET    wallet/fees/<int:agreement_id>/<int:period_no>/ 302 302  302    302    302      404      404      404
GET    copying/                               302      302      302    302    302      200      200      200
GET    copying/<str:sub_id>/settings/         302      302      302    302    302      200      404      404
POST   copying/<str:sub_id>/pause/            302      302      302    302    302      302      404      404
POST   copying/<str:sub_id>/resume/           302      302      302    302    302      302      404      404
GET    copying/<str:sub_id>/setup/            302      302      302    302    302      200      404      404
POST   copying/<str:sub_id>/secret/           302      302      302    302    302      200      404      404
GET    copying/<str:sub_id>/receipts/<uuid:trade_id>/ 302 302  302    302    302      404      404      404
GET    copying/<str:sub_id>/overdue/<uuid:trade_id>/ 302 302   302    302    302      404      404      404
POST   copying/<str:sub_id>/end/              302      302      302    302    302      302      404      404
GET    strategies/<str:name>/copies/          302      302      302    302    302      404      404      404
GET    trust/                                 302      302      302    302    302      200      200      200
POST   trust/appeal/                          302      302      302    302    302      302      302      302
GET    admin/                                 302      302      302    302    302      302      200      200
"""
WORDS = {
    "unsigned": "request_malformed",
    "scope": "scope_denied",
    "closed": "history_closed_to_bots",
    "absent": "trade_unknown",
    "nowallet": "wallet_not_found",
    "noscore": "not_found",
    "nokey": "idempotency_key_missing",
}
closed = WORDS["closed"]


@dataclass(frozen=True)
class Row:
    method: str
    route: str
    answers: dict[str, str]


def read(line: Any) -> Row:
    method, route, *answers = line.split()
    expected = dict(zip(CALLERS, [WORDS.get(answer, answer) for answer in answers], strict=True))
    return Row(method, route.removeprefix("/"), expected)


ROWS = [read(line) for line in TABLE.strip().splitlines() if not line.startswith("#")]
UNKNOWN = "^(?:api|signals?)(?:/|$)"  # what answers for all that is no route of the API


def routes(patterns: Any = None, before: str = "") -> Iterator[Any]:
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        path = before + str(pattern.pattern)
        if isinstance(pattern, URLPattern):
            yield path
        else:
            yield from routes(pattern.url_patterns, path)


def test_every_route_has_its_row_in_the_table() -> None:
    documented = {row.route for row in ROWS}

    actual = {path for path in routes() if not path.startswith("admin/")} | {"admin/"}

    assert actual - {UNKNOWN} == documented


# --- the callers


class Person:
    def __init__(self, client: Any) -> None:
        self.client = client

    def send(self, method: Any, path: Any, fields: Any = None, query: str = "") -> Any:
        body = "" if fields is None else json.dumps(fields)
        target = f"{path}?{query}" if query else path
        return self.client.generic(method, target, body, content_type="application/json", HTTP_HOST=HOST)


def session_of(username: Any) -> Person:
    from accounts.models import User

    client = DjangoClient(raise_request_exception=False)
    if username:
        client.force_login(User.objects.get(username=username))
    return Person(client)


@pytest.fixture
def callers(cast: dict[str, Any], lena: TradingAccount) -> dict[str, Any]:
    _, readonly = committed(services.create_key, account=lena, kind="readonly", actor=audit.SYSTEM)
    colleague("clerk")
    return {
        "anonymous": session_of(""),
        "readonly": Bot({"key": readonly.key, "secret": readonly.secret}),
        "copier": Bot(key_of(cast, "finn", "copier")),
        "master": Bot(key_of(cast, "lena", "master")),
        "stranger": Bot(key_of(cast, "sam", "master")),
        "subscriber": session_of("finn"),
        "staff": session_of("clerk"),
        "superuser": session_of("desk"),
    }


CLOSE = {"close_price": "1.1", "profit": "1", "reason": "TP"}


def finns_subscription() -> Any:
    from strategies.models import Subscription

    return Subscription.objects.get(account__name="finn-mt5").sub_id


def asked(row: Any, caller: Any, ticket: Any) -> Any:
    """Path, query and body of an ordinary request for this row; `ticket` is open on lena's account."""
    path = f"/{row.route}".replace("<str:ticket>", ticket).replace("<str:month>", "2026-01")
    path = re.sub("<int:[a-z_]+>", "1", re.sub("<uuid:[a-z_]+>", str(uuid.UUID(int=7)), path))
    path = path.replace("<str:sub_id>", finns_subscription()).replace("<str:name>", "lena-eurusd")
    path = path.replace("<slug:name>", "protocol").replace("<path:symbol>", "EURUSD")
    path = path.replace("<slug:uidb64>/<slug:token>", "x/y")
    fresh = opening(f"9{ticket}")
    if caller == "copier":
        fresh |= {"strategy": "lena-eurusd", "master_ticket": ticket}
    if row.method == "GET":
        queries = {"statement.csv": "month=2026-01", "symbol>": "minutes=60"}
        return path, next((query for ending, query in queries.items() if row.route.endswith(ending)), ""), None
    if row.route.endswith("/withdrawals"):
        return path, "", {"amount": "1"}
    if row.route.endswith("/appeals"):
        return path, "", {"kind": "FLOW", "note": "why?"}
    if row.route.endswith("/batch"):
        return path, "", {"operations": [{"idempotency_key": f"batch-{ticket:0>12}", "action": "open", **fresh}]}
    if row.route.endswith("/reduce"):
        return path, "", {"deal_id": "d1", "volume": "0.05", "close_price": "1.1", "profit": "1"}
    if row.route.endswith("/orders"):
        return path, "", {"strategy": "lena-eurusd", "seq": "1", "master_ticket": ticket, "status": "failed",
                          "requested_price": "1.1", "volume": "0.1"}  # fmt: skip
    if row.route.endswith("/beat"):
        return path, "", {"instance": "i" * 16, "subscriptions": []}
    if row.route.endswith("/skips"):
        return path, "", {"strategy": "lena-eurusd", "trade_ref": str(uuid.UUID(int=7)), "reason": "missed"}
    if row.route.endswith("/alarms"):
        return path, "", {"alarms": []}
    if row.route.endswith("/account"):
        return path, "", {"balance": "1", "equity": "1"}
    if row.route.endswith("signal/close"):
        return path, "", {"ticket_id": ticket, **CLOSE}
    if row.method == "DELETE":
        return path, "&".join(f"{name}={value}" for name, value in CLOSE.items()), None
    return path, "", {"sl": "1.0"} if row.method == "PATCH" else fresh


def answered(response: Any) -> Any:
    """The code where there is one, else the status."""
    if response.headers.get("Content-Type") == "application/problem+json" and response.status_code != 401:
        return response.json()["code"]
    return str(response.status_code)


@pytest.mark.parametrize("caller", CALLERS)
def test_each_caller_may_do_exactly_what_the_table_says(
    caller: str, callers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The limits by address are other tests' matter, and all callers of this table have one address.
    monkeypatch.setattr(limiting, "spend", lambda *_: None)
    for ticket in range(1, len(ROWS) + 1):
        assert callers["master"].send("POST", fields=opening(ticket)).status_code == 201

    actual, expected = {}, {}
    for ticket, row in enumerate(ROWS, 1):
        path, query, fields = asked(row, caller, str(ticket))
        answer = callers[caller].send(row.method, path, fields, query=query)
        if row.route == "login/other/" or row.route == "logout/":
            callers[caller] = session_of({"subscriber": "finn", "staff": "clerk", "superuser": "desk"}.get(caller, ""))
        expected[row.method, row.route] = row.answers[caller]
        actual[row.method, row.route] = answered(answer)

    assert actual == expected
    refused = AuditLog.objects.filter(action="request.refused")
    for code in (WORDS["scope"], closed):
        assert refused.filter(code=code).count() == list(expected.values()).count(code), code
    if caller != "master":  # whose trades are all as she opened them
        assert {trade["sl"] for trade in callers["master"].send("GET").json()["trades"]} == {"1.10000000"}
        assert callers["master"].send("GET").json()["as_of"] == {"lena-eurusd": str(len(ROWS))}


@pytest.mark.parametrize("caller", CALLERS)
def test_the_table_has_every_method_of_every_route(caller: str, callers: dict[str, Any]) -> None:
    listed = {(row.route, row.method) for row in ROWS}
    pages = {"healthz", "readyz", "metrics", "login/", "login/other/", "logout/", "", "admin/"}  # Django's own: forms

    pages |= {
        row.route
        for row in ROWS
        if row.route.startswith(("wallet/", "trust/", "copying/", "strategies/", "password-reset/"))
    }
    for route in {row.route for row in ROWS} - pages:
        for method in METHODS:
            if (route, method) in listed:
                continue
            path = f"/{route}".replace("<str:ticket>", "1").replace("<slug:name>", "protocol")
            answer = callers[caller].send(method, path, None if method == "GET" else {})

            assert answer.status_code in (400, 401, 403, 405), (method, route, answer.status_code)
            if answer.status_code == 405:
                assert method not in answer["Allow"].split(", ")


def test_the_admin_is_for_staff_with_the_permission(callers: dict[str, Any]) -> None:
    """Every page of it that needs no object."""
    pages = [path for path in routes() if path.startswith("admin/") and "<" not in path and "(" not in path]
    assert len(pages) > 10

    for path in pages:
        if path in ("admin/login/", "admin/logout/"):
            continue
        for caller in ("anonymous", "copier", "master", "subscriber"):
            answer = callers[caller].send("GET", f"/{path}")
            assert answer.status_code in (302, 404), (caller, path)
            assert answer.status_code == 404 or "login" in answer["Location"], (caller, path)
        allowed = callers["staff"].send("GET", f"/{path}").status_code
        own = path in ("admin/", "admin/password_change/", "admin/password_change/done/", "admin/jsi18n/")
        assert allowed in ((200,) if own else (302, 400, 403, 404, 405)), path


# --- history is closed to bots


@pytest.mark.parametrize("caller", ["readonly", "copier", "master", "stranger"])
def test_history_is_closed_to_every_kind_of_key_and_each_attempt_is_audited(
    caller: str, callers: dict[str, Any]
) -> None:
    doors = [(method, f"/api/v2/trades/history{ending}") for method in METHODS for ending in ("", ".csv")]
    for method, path in doors:
        answer = callers[caller].send(method, path, None if method == "GET" else {}, query="limit=1")

        assert (answer.status_code, answer.json()["code"]) == (403, closed)
        row = AuditLog.objects.order_by("id").last()
        assert (row.action, row.code, row.detail["path"]) == ("request.refused", closed, path)
        assert row.subject == f"key:{callers[caller].key}"
        if "." not in path:  # which is never signed, so nobody knows who it was
            assert (row.actor_kind, row.actor) == ("bot", callers[caller].key)


def test_a_signed_request_with_a_session_cookie_is_a_bots_request(
    callers: dict[str, Any], finn: TradingAccount
) -> None:
    """A bot cannot borrow its owner's cookie."""
    request = callers["copier"].request("GET", "/api/v2/trades/history")

    answer = callers["subscriber"].client.get(request.path, headers=request.headers(), HTTP_HOST=HOST)

    assert (answer.status_code, answer.json()["code"]) == (403, closed)


def test_a_badly_signed_request_is_not_treated_as_a_persons(callers: dict[str, Any]) -> None:
    for lines in ({"X-Cd-Key": "ck_0123456789abcdef.1"}, {"X-Cd-Sig": "v1=0"}):
        answer = callers["subscriber"].client.get("/api/v2/trades/history", headers=lines, HTTP_HOST=HOST)

        assert answer.status_code in (401, 403)


GUESSES = [
    "/api/v2/history", "/api/v2/history/", "/api/v2/trades/history/", "/api/v2/trades/history.json",
    "/api/v2/trades/", "/api/v2/trades/closed", "/api/v2/trade_history", "/api/v1/history", "/api/history", "/history",
    "/api/v2/trades/history/1", "/api/v2/trades/History", "/signals/history", "/signal/history", "/api/v2/trades",
    "/api/v2/actives/history",
    "/api/v3/trades/history", "/api/v2/trades/active/history/reduce/", "/api", "/api/",
]  # fmt: skip


@pytest.mark.parametrize("caller", ["anonymous", "readonly", "copier", "master", "subscriber"])
def test_no_other_route_leads_to_history(caller: str, callers: dict[str, Any]) -> None:
    for path in GUESSES:
        answer = callers[caller].send("GET", path)

        assert answer.status_code == 404, path
        if path.startswith(("/api", "/signal")):
            assert (answer["Content-Type"], answer.json()["code"]) == ("application/problem+json", "not_found")


SECRETS_OF_HISTORY = ("77.77", "1.05432", "1.08642", "0.13579", "a private analysis", "a private comment")


def test_no_request_of_a_bot_reads_a_closed_trade(callers: dict[str, Any]) -> None:
    """Every route and verb, each with bodies that name the closed trade, and a batch of them: whatever the key."""
    master = callers["master"]
    private = {"comment": "a private comment", "analysis": {"why": "a private analysis"}, "volume": "0.13579"}
    opened = opening("1", open_price="1.05432", sl="1.04", tp="1.2", **private)
    ref = master.send("POST", fields=opened).json()["trade"]["trade_id"]
    master.send("DELETE", f"{ACTIVE}/1", query="close_price=1.08642&profit=77.77")
    part = {"deal_id": "9", "volume": "0", "close_price": "1.3", "profit": "1"}
    close = {"ticket_id": "1", "close_price": "1.3", "profit": "1", "reason": "TP"}
    named = {"strategy": "lena-eurusd", "trade_ref": ref, "master_ticket": "1", "seq": "1"}
    batched = [
        {"action": action, "idempotency_key": f"a-batch-of-guesses-{action}", "ticket_id": "1", **fields}
        for action, fields in (("open", opening("1")), ("modify", {"sl": "1"}), ("reduce", part), ("close", close))
    ]
    bodies: list[Any] = [{**part, **close, **named}, opening("1"), {**opening("2"), **named}, {"operations": batched}]
    paths = {f"/{re.sub('<[^>]+>', '1', route)}" for route in routes() if not route.startswith(("admin", "static"))}

    for caller in ("readonly", "copier", "master", "stranger"):
        for path in sorted(paths):
            for method in METHODS:
                for body in (
                    [None, *bodies] if method in ("POST", "DELETE") else bodies[:1] if method == "PATCH" else [None]
                ):
                    query = "close_price=1.3&profit=1" if method == "DELETE" and body is None else ""
                    answer = callers[caller].send(method, path, body, query=query)
                    content = b"".join(answer) if answer.streaming else answer.content
                    seen = [secret for secret in SECRETS_OF_HISTORY if secret in content.decode(errors="replace")]
                    first_close = caller == "master" and answer.status_code in (200, 409)
                    assert seen in ([], ["1.08642"] if first_close else []), (caller, method, path, body, content)


# --- a stranger sees nothing


def test_equal_tickets_of_two_accounts_are_different_trades(callers: dict[str, Any]) -> None:
    lena, sam = callers["master"], callers["stranger"]
    for ticket in ("1", "2", "3"):
        lena.send("POST", fields=opening(ticket, comment="hers"))
        sam.send("POST", fields=opening(ticket, symbol="XAUUSD", open_price="4000", sl=None, tp=None))

    sam.send("PATCH", f"{ACTIVE}/1", {"sl": "3000"})
    sam.send("DELETE", f"{ACTIVE}/2", query="close_price=4001&profit=1")

    hers, his = lena.send("GET").json(), sam.send("GET").json()
    assert [(trade["ticket_id"], trade["symbol"], trade["sl"]) for trade in hers["trades"]] == [
        (ticket, "EURUSD", "1.10000000") for ticket in ("1", "2", "3")
    ]
    assert [trade["ticket_id"] for trade in his["trades"]] == ["1", "3"]
    assert (set(hers["as_of"]), set(his["as_of"])) == ({"lena-eurusd"}, {"sam-xauusd"})


def test_a_copier_sees_what_it_follows_and_nothing_else(callers: dict[str, Any], cast: dict[str, Any]) -> None:
    callers["master"].send("POST", fields=opening("1"))
    callers["stranger"].send("POST", fields=opening("2", symbol="XAUUSD", sl=None, tp=None))
    not_following = Bot(key_of(cast, "sam", "copier"))

    seen = callers["copier"].send("GET").json()

    assert [trade["ticket_id"] for trade in seen["trades"]] == ["1"]
    assert list(seen["as_of"]) == ["lena-eurusd"]
    assert [trade["ticket_id"] for trade in not_following.send("GET").json()["trades"]] == ["2"]  # his own account's


def test_a_strategy_that_is_not_followed_is_not_found(callers: dict[str, Any], cast: dict[str, Any]) -> None:
    callers["master"].send("POST", fields=opening("1"))
    not_following = Bot(key_of(cast, "sam", "copier"))
    order = {"seq": "1", "master_ticket": "1", "status": "failed", "requested_price": "1.1", "volume": "0.1"}

    answers = [
        not_following.send("POST", fields=opening("7", strategy=strategy, master_ticket="1"))
        for strategy in ("lena-eurusd", "there-is-no-such-strategy")
    ] + [
        not_following.send("POST", "/api/v2/trades/orders", {**order, "strategy": strategy})
        for strategy in ("lena-eurusd", "there-is-no-such-strategy")
    ]

    problems = [{**answer.json(), "request_id": 0, "server_time": 0} for answer in answers]
    assert all(problem == problems[0] for problem in problems)
    assert problems[0]["code"] == "not_found"


def test_people_see_their_own_history_alone(callers: dict[str, Any], cast: dict[str, Any]) -> None:
    callers["master"].send("POST", fields=opening("1"))
    callers["master"].send("DELETE", f"{ACTIVE}/1", query="close_price=1.1&profit=5")

    for username, count in (("lena", 1), ("finn", 0), ("sam", 0), ("desk", 0)):
        person = session_of(username)
        assert len(person.send("GET", "/api/v2/trades/history").json()["data"]) == count
        lines = b"".join(person.client.get("/api/v2/trades/history.csv", HTTP_HOST=HOST)).splitlines()
        assert len(lines) == 1 + count
        named = person.send("GET", "/api/v2/trades/history", query="account=lena-mt5").json()
        assert len(named["data"]) == count


def test_a_deactivated_user_is_refused(callers: dict[str, Any]) -> None:
    from accounts.models import User

    finn = session_of("finn")
    User.objects.filter(username="finn").update(is_active=False)

    assert finn.send("GET", "/api/v2/trades/history").status_code == 401
