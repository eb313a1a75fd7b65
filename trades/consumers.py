"""`WS /ws/v2/active`: who may connect, and which messages a client may send. The hub sends the stream itself."""

import functools
import json
import uuid
from http.cookies import CookieError, SimpleCookie
from typing import Any

import structlog
from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.http.request import split_domain_port, validate_host
from django.utils.crypto import constant_time_compare

from accounts import networks, protocol, signed_http
from accounts.models import TradingAccount, User
from accounts.protocol import ReceivedRequest, SignedCall
from audit import services as audit
from audit.models import AuditLog
from core import limiting, problem
from core.errors import DomainError, NotFound, RequestMalformed
from core.sessions import SessionStore, stored_key
from trades import services
from trades.feed import Watcher
from trades.hub import Hub
from trades.hub_queries import standing_of
from trades.places import TooManySockets

log = structlog.get_logger()
PATH = "/ws/v2/active"
MAX_FRAME = 4096
UNSUPPORTED, POLICY, TOO_BIG = 1003, 1008, 1009  # RFC 6455

Scope = dict[str, Any]


class NotSignedIn(DomainError):
    code = "not_authenticated"
    status = 401
    detail = "Sign in, or sign the handshake with a bot's key."


class OriginDenied(DomainError):
    code = "origin_denied"
    status = 403
    detail = "Pages of this origin may not open sockets here. ALLOWED_ORIGINS lists the origins that may."


@functools.cache
def hub() -> Hub:
    """The hub of this process."""
    return Hub()


class ActiveConsumer(AsyncConsumer):
    """One socket. It is admitted by signature or session and then handed to the hub."""

    channel_layer_alias = "none"  # sockets have no channel of their own: the hub has one for the process
    watcher: Watcher | None = None

    async def websocket_connect(self, message: dict[str, Any]) -> None:
        await hub().start()
        try:
            watcher = await hub().admit(_watcher, self.scope, self.base_send)
            hub().places.take(self.scope["owners"], watcher.owners)
        except DomainError as refusal:
            await refuse(self.scope, self.base_send, refusal)
            return
        await self.base_send({"type": "websocket.accept"})
        self.watcher = watcher
        hub().join(watcher)

    async def websocket_receive(self, message: dict[str, Any]) -> None:
        """Handle a request for a fresh snapshot. Any other message closes the socket."""
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
        message = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(message, dict) and message.get("type") == "resync"


async def refuse(scope: Scope, send: Any, refusal: DomainError) -> None:
    """Answer a handshake with the HTTP error response; where the server cannot do that, close the socket."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": POLICY})
        return
    response = problem.response(problem.of(refusal, scope.get("request_id", "")))
    if isinstance(refusal, protocol.ClockOutsideWindow) and refusal.call is not None:
        signed_http.sign_response(refusal.call, response)
    headers = [(name.lower().encode(), value.encode()) for name, value in response.items()]
    await send({"type": "websocket.http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": response.content})


# --- admission; these functions run in the hub's threads


def _watcher(scope: Scope, send: Any) -> Watcher:
    received = _received(scope)
    is_signed = bool({"x-cd-key", "x-cd-sig"} & received.headers.keys())
    try:
        if is_signed:
            protocol.count(received.ip)
        else:
            limiting.spend("visitor", networks.block_of(received.ip))
        if not validate_host(split_domain_port(received.host)[0], settings.ALLOWED_HOSTS):
            raise RequestMalformed("The desk does not serve this host name. ALLOWED_HOSTS lists those that it serves.")
        if not received.is_secure and not settings.DEBUG:
            raise protocol.HttpsRequired
        if is_signed:
            call = protocol.verify(received)
        else:
            watcher = _person(received, send)
            _log(received, "opened", user=str(watcher.user_id))
            return watcher
    except DomainError as refusal:
        nobody = audit.Actor(AuditLog.Actor.NOBODY, "", received.ip, received.request_id)
        claimed_key = received.headers.get("x-cd-key", "")
        protocol.record_refusal(refusal, actor=nobody, claimed=claimed_key, method="WS", path=received.path)
        _log(received, refusal.code)
        raise
    return _bot(received, call, send)


def _log(received: ReceivedRequest, outcome: str, *, key: str | None = None, user: str | None = None) -> None:
    log.info("socket", outcome=outcome, request_id=received.request_id, ip=received.ip, key=key, user=user)


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


def _bot(received: ReceivedRequest, call: SignedCall, send: Any) -> Watcher:
    """Admit a signed handshake. It consumes a sequence number, as a write does, so that it cannot be replayed."""
    try:
        services.run_signed(call, [])
    except DomainError as refusal:
        _log(received, refusal.code, key=call.credential.key)
        raise
    _log(received, "opened", key=call.credential.key)
    return Watcher(
        send=send,
        accounts=(call.credential.account_id,),
        generation_id=call.credential.generation_id,
        ip=call.ip,
        wants_packets=call.credential.kind == "copier",
        owners=(("key", call.credential.key), ("address", networks.block_of(received.ip))),
    )


def _person(received: ReceivedRequest, send: Any) -> Watcher:
    """Admit a browser by its session. The Origin is checked first, because browsers send cookies from any page."""
    if not origin_is_allowed(received.headers.get("origin", "")):
        raise OriginDenied
    session = _session(received.headers.get("cookie", ""))
    user_id = session.get(SESSION_KEY)
    standing = standing_of(user_id) if user_id else None  # read first: what changes from here on closes the socket
    user = _user(session)
    accounts = TradingAccount.objects.filter(owner=user).order_by("pk").values_list("pk", flat=True)
    session_key = stored_key(session.session_key)
    return Watcher(
        send=send,
        accounts=tuple(accounts),
        session_key=session_key,
        user_id=user.pk,
        standing=standing,
        owners=(("session", session_key), ("user", user.pk), ("address", networks.block_of(received.ip))),
    )


def origin_is_allowed(origin: str) -> bool:
    """Whether the origin is exactly one of ALLOWED_ORIGINS. While DEBUG is on, its port does not matter."""
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
    """The session's user, found by the same rules as in Django's authentication middleware."""
    has_backend = session.get(BACKEND_SESSION_KEY) in settings.AUTHENTICATION_BACKENDS
    user_id = session.get(SESSION_KEY) if has_backend else None
    user = User.objects.filter(pk=user_id, is_active=True).first() if user_id else None
    if user is None or not constant_time_compare(session.get(HASH_SESSION_KEY, ""), user.get_session_auth_hash()):
        raise NotSignedIn
    return user


_active = ActiveConsumer.as_asgi()


async def websocket_application(scope: Scope, receive: Any, send: Any) -> None:
    """Serve the desk's only socket path; answer any other with not_found."""
    try:
        if scope["path"] != PATH:
            raise NotFound
        with hub().places.one() as scope["owners"]:
            await _active(scope, receive, send)
    except (NotFound, TooManySockets) as refusal:
        await receive()
        await refuse(scope, send, refusal)
        await receive()  # wait until the client disconnects
