"""`WS /ws/v2/active`: who may watch, and what a watcher may say. What it is sent is the hub's."""

import functools
import json
import uuid
from http.cookies import CookieError, SimpleCookie
from typing import Any

from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from django.http.request import split_domain_port, validate_host
from django.utils.crypto import constant_time_compare

from accounts import networks, protocol
from accounts.models import TradingAccount, User
from accounts.protocol import ReceivedRequest
from audit import services as audit
from audit.models import AuditLog
from core import problem
from core.errors import DomainError, NotFound, RequestMalformed
from trades import services
from trades.feed import Watcher
from trades.hub import Hub

PATH = "/ws/v2/active"
MAX_FRAME = 4096
UNSUPPORTED, POLICY, TOO_BIG = 1003, 1008, 1009  # RFC 6455

Scope = dict[str, Any]


class NotSignedIn(DomainError):
    code = "not_authenticated"
    status = 401
    detail = "Sign in, or sign the handshake."


class OriginDenied(DomainError):
    code = "origin_denied"
    status = 403
    detail = "This page may not open sockets here."


@functools.cache
def hub() -> Hub:
    """This process's hub."""
    return Hub()


class ActiveConsumer(AsyncConsumer):
    """One socket: let in by signature or session, then the hub's."""

    channel_layer_alias = "none"  # no channel a socket: the hub has one for the process
    watcher: Watcher | None = None

    async def websocket_connect(self, message: dict[str, Any]) -> None:
        await hub().start()
        try:
            watcher = await hub().read(_watcher, self.scope, self.base_send)
        except DomainError as no:
            await refuse(self.scope, self.base_send, no)
            return
        await self.base_send({"type": "websocket.accept"})
        self.watcher = watcher
        hub().join(watcher)

    async def websocket_receive(self, message: dict[str, Any]) -> None:
        """A client may ask for a fresh snapshot. It has nothing else to say."""
        text = message.get("text")
        if self.watcher is None or self.watcher.is_gone:
            return
        if text is None:
            hub().close(self.watcher, UNSUPPORTED, "text frames only")
        elif len(text) > MAX_FRAME:
            hub().close(self.watcher, TOO_BIG, "frame too long")
        elif _is_resync(text):
            hub().resync(self.watcher)
        else:
            hub().close(self.watcher, UNSUPPORTED, 'the only message is {"type": "resync"}')

    async def websocket_disconnect(self, message: dict[str, Any]) -> None:
        if self.watcher is not None:
            hub().leave(self.watcher)
        raise StopConsumer


def _is_resync(text: str) -> bool:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("type") == "resync"


async def refuse(scope: Scope, send: Any, no: DomainError) -> None:
    """Answer a handshake as an HTTP request is answered, where the server can."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": POLICY})
        return
    answer = problem.response(problem.of(no, scope.get("request_id", "")))
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.items()]
    await send({"type": "websocket.http.response.start", "status": answer.status_code, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": answer.content})


# --- who it is; these run in the hub's threads


def _watcher(scope: Scope, send: Any) -> Watcher:
    received = _received(scope)
    try:
        if not validate_host(split_domain_port(received.host)[0], settings.ALLOWED_HOSTS):
            raise RequestMalformed("The desk is not known under this host.")
        if {"x-cd-key", "x-cd-sig"} & received.headers.keys():
            return _bot(received, send)
        return _person(received, send)
    except DomainError as no:
        nobody = audit.Actor(AuditLog.Actor.NOBODY, "", received.ip, received.request_id)
        claimed = received.headers.get("x-cd-key", "")
        protocol.record_refusal(no, actor=nobody, claimed=claimed, method="WS", path=received.path)
        raise


def _received(scope: Scope) -> ReceivedRequest:
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    scope["request_id"] = uuid.uuid4().hex
    proxied_tls = bool(settings.TRUSTED_PROXIES) and headers.get("x-forwarded-proto") == "https"
    return ReceivedRequest(
        method="GET",
        host=protocol.canonical_host(headers.get("host", "")),
        path=(scope.get("raw_path") or scope["path"].encode()).decode("latin-1"),
        query=scope.get("query_string", b"").decode("latin-1"),
        headers=headers,
        body=b"",
        ip=networks.client_address(
            (scope.get("client") or ("", 0))[0], headers.get("x-forwarded-for", ""), settings.TRUSTED_PROXIES
        ),
        is_secure=scope.get("scheme") == "wss" or proxied_tls,
        request_id=scope["request_id"],
    )


def _bot(received: ReceivedRequest, send: Any) -> Watcher:
    """A signed handshake. It uses up a number, as a write does, so that it cannot be replayed."""
    call = protocol.verify(received)
    services.run_signed(call, [])
    return Watcher(
        send=send,
        accounts=(call.credential.account_id,),
        generation_id=call.credential.generation_id,
        wants_packets=call.credential.kind == "copier",
    )


def _person(received: ReceivedRequest, send: Any) -> Watcher:
    """A browser, by its session. The Origin is checked first: cookies come along from any page."""
    if not origin_is_allowed(received.headers.get("origin", "")):
        raise OriginDenied
    session = _session(received.headers.get("cookie", ""))
    user = _user(session)
    accounts = TradingAccount.objects.filter(owner=user).order_by("pk").values_list("pk", flat=True)
    return Watcher(send=send, accounts=tuple(accounts), session_key=session.session_key, user_id=user.pk)


def origin_is_allowed(origin: str) -> bool:
    """One of ALLOWED_ORIGINS, to the letter; while DEBUG is on, on any port."""
    if origin in settings.ALLOWED_ORIGINS:
        return True
    portless, colon, port = origin.rpartition(":")
    return bool(settings.DEBUG and colon and port.isdigit() and portless in settings.ALLOWED_ORIGINS)


def _session(cookie: str) -> SessionStore:
    try:
        morsel = SimpleCookie(cookie).get(settings.SESSION_COOKIE_NAME)
    except CookieError:
        morsel = None
    return SessionStore(morsel.value if morsel else None)


def _user(session: SessionStore) -> User:
    """The session's user, as Django's own middleware would find it."""
    known = session.get(SESSION_KEY) if session.get(BACKEND_SESSION_KEY) in settings.AUTHENTICATION_BACKENDS else None
    user = User.objects.filter(pk=known, is_active=True).first() if known else None
    if user is None or not constant_time_compare(session.get(HASH_SESSION_KEY, ""), user.get_session_auth_hash()):
        raise NotSignedIn
    return user


_active = ActiveConsumer.as_asgi()


async def websocket_application(scope: Scope, receive: Any, send: Any) -> None:
    """The desk's one socket; any other path is not found."""
    if scope["path"] == PATH:
        await _active(scope, receive, send)
        return
    await receive()
    await refuse(scope, send, NotFound())
    await receive()  # until the client has gone
