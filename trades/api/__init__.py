"""The endpoints of trades. One class for each route: parse the request, call one service, write the response."""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

import orjson
from django.conf import settings
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from rest_framework.permissions import BasePermission
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from accounts import operations, protocol, signed_http, signing
from accounts.authentication import SignatureAuthentication, http_request
from accounts.protocol import ScopeDenied, SeqReplayed, SignedCall
from accounts.session_views import EXPORTS, PeopleView, person_of
from audit import services as audit
from audit.actors import actor_of
from core import errors, limiting, paging, parsing, problem, shapes
from core.errors import DomainError, Invalid
from core.limiting import RateLimited
from core.responses import iso, json_response
from trades import history, parsers, schema, services, snapshot
from trades.services import Operation, Outcome

MASTER, COPIER, READONLY = "master", "copier", "readonly"
ANY_KIND = frozenset({MASTER, COPIER, READONLY})
OWNERS = frozenset({MASTER, COPIER})

# The HTTP status of each successful outcome.
DONE = {
    "opened": 201,
    "open_already": 200,
    "modified": 200,
    "ignored": 200,
    "unchanged": 200,
    "reduced": 200,
    "closed": 200,
    "closed_already": 200,
    "tombstoned": 202,
    "told": 200,
    "noted": 201,
    "reported": 201,
    "reported_late": 202,
}


class KindAllowed(BasePermission):
    """Allow a method only to the kinds of keys that the view lists for it."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        assert isinstance(view, BotView)
        call = call_of(request)
        if call.credential.kind not in view.kinds.get(request.method or "", frozenset()):
            refusal = ScopeDenied()
            signed_http.record_refusal(refusal, http_request(request))
            raise refusal
        return True


class KeyRate(BaseThrottle):
    """Limit the requests of one key, and those of all rate-limited keys of its account together."""

    def allow_request(self, request: Request, view: APIView) -> bool:
        credential = call_of(request).credential
        if credential.rate_per_minute:
            try:
                room = limiting.spend("key", credential.key.partition(".")[0], credential.rate_per_minute)
                limiting.spend("account", str(credential.account_id))
            except RateLimited as refusal:
                protocol.refuse(call_of(request), refusal)
            http_request(request).rate_allowance = room
        return True


class BotView(APIView):
    """A route for signed requests. The response to a request with a valid signature is signed too."""

    authentication_classes = [SignatureAuthentication]
    permission_classes = [KindAllowed]
    throttle_classes = [KeyRate]
    kinds: ClassVar[dict[str, frozenset[str]]]
    max_body = signed_http.MAX_BODY
    _renderer = JSONRenderer()

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        return self._renderer, self._renderer.media_type  # JSON is the only one, and bodies arrive here encoded

    def check_permissions(self, request: Request) -> None:
        if request.method in self.allowed_methods:
            super().check_permissions(request)

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        answer = super().finalize_response(request, response, *args, **kwargs)
        call = getattr(request._request, "signed_call", None) or getattr(request._request, "untimely_call", None)
        if call is not None:
            signed_http.sign_response(call, answer)
        room = getattr(request._request, "rate_allowance", None)
        for name, value in (room.headers() if room else {}).items():
            answer[name] = value
        return answer


def call_of(request: Request) -> SignedCall:
    call = request.auth
    assert isinstance(call, SignedCall)
    return call


def body_of(request: Request) -> dict[str, Any]:
    return parsing.json_object(http_request(request).signed_body)


def query_of(request: Request) -> dict[str, str]:
    """The query's parameters by name. Checking the signature has already refused repeated names."""
    pairs = [pair.partition("=") for pair in request.META.get("QUERY_STRING", "").split("&") if pair]
    return {name: value for name, _, value in pairs}


def done(call: SignedCall, verb: str, args: dict[str, Any]) -> Outcome:
    """Execute the request's single operation; raise its refusal."""
    operation = Operation(call.signable.idempotency_key, call.signable.fingerprint(), verb, args)
    outcome = services.run_signed(call, [operation])[0]
    if (refusal := errors.of_outcome(outcome)) is not None:
        raise refusal
    return outcome


def answer(outcome: Outcome, body: dict[str, Any] | None = None, status: int | None = None) -> HttpResponse:
    response = json_response(body or response_body(outcome), status or DONE[outcome["code"]])
    if "replayed" in outcome or outcome["code"] == "open_already":
        response["Idempotency-Replayed"] = "true"
    return response


def response_body(outcome: Outcome) -> dict[str, Any]:
    """The body of a response of the v2 routes."""
    code = outcome["code"]
    body: dict[str, Any] = {"status": _STATUS.get(code, code)}
    if code == "closed_already":  # the caller has just named its price and reason: there is no more to tell a bot
        body |= {"ticket_id": outcome["trade"]["ticket_id"], "already": True}
    elif "trade" in outcome:
        body |= {"ticket_id": outcome["trade"]["ticket_id"], "seq": outcome["trade"]["seq"], "trade": outcome["trade"]}
    if code == "ignored":
        body["ignored"] = True
    fields: Mapping[str, Any] = outcome
    return body | {name: fields[name] for name in _ORDER_FIELDS if name in fields}


_STATUS = {"opened": "broadcasted", "open_already": "broadcasted", "closed": "CLOSED", "closed_already": "CLOSED"}
_ORDER_FIELDS = ("order_id", "slippage_points", "slippage_bps")


def is_copy(call: SignedCall) -> bool:
    return call.credential.kind == COPIER


# --- reading


def active(request: Request) -> tuple[SignedCall, snapshot.Snapshot | None, str]:
    """The call, the snapshot of the caller's account (None if the caller already has it), and the ETag."""
    call = call_of(request)
    version = version_of(call)
    etag = snapshot.etag(version)
    if etag in [tag.strip() for tag in request.META.get("HTTP_IF_NONE_MATCH", "").split(",")]:
        return call, None, etag
    current = snapshot.cached(call.credential.account_id, version)
    return call, current, snapshot.etag(current.version)


def version_of(call: SignedCall) -> str:
    """The version of the caller's snapshot. Refuses a key that may not read now, and a read that was made before."""
    version = snapshot.current_version(call)
    if limiting.seen_before(call.signature, for_ms=call.signable.window_ms + signing.AHEAD_MS):
        protocol.refuse(call, SeqReplayed("This request was already made: sign a new one."))
    return version


class Time(APIView):
    """The server's time, by which bots correct their clocks."""

    @operations.public("time", "The server's time", {200: schema.TIME})
    def get(self, request: Request) -> HttpResponse:
        return json_response({"server_time": time.time_ns() // 1_000_000, "iso": iso(datetime.now(UTC))})


class Active(BotView):
    """The active trades: the snapshot, and opening."""

    kinds = {"GET": ANY_KIND, "POST": OWNERS}

    @operations.signed("active_snapshot", "What is active now", {200: schema.SNAPSHOT, 304: None})
    def get(self, request: Request) -> HttpResponse:
        _, current, etag = active(request)
        response = HttpResponse(status=304) if current is None else json_response(current.body())
        response["ETag"] = etag
        return response

    @operations.signed(
        "open_trade",
        "Open a trade, or report a copy as open",
        {200: schema.DONE, 201: schema.DONE},
        schema.OPEN,
        refuses=schema.OPENING,
    )
    def post(self, request: Request) -> HttpResponse:
        call = call_of(request)
        return answer(done(call, "trade_open", parsers.opening(body_of(request), copy=is_copy(call))))


class ActiveOne(BotView):
    """One open trade of the caller's account: changing its stops, and closing it."""

    kinds = {"PATCH": OWNERS, "DELETE": OWNERS}

    @operations.signed(
        "modify_trade",
        "Set or remove stops",
        {200: schema.DONE},
        schema.MODIFY,
        parameters=[schema.TICKET_OF_PATH],
        refuses=schema.MODIFYING,
    )
    def patch(self, request: Request, ticket: str) -> HttpResponse:
        return answer(done(call_of(request), "trade_modify", parsers.modification(body_of(request), ticket)))

    @operations.signed(
        "close_trade",
        "Close: the atomic move to history",
        {200: schema.DONE, 202: schema.DONE},
        parameters=[schema.TICKET_OF_PATH, *schema.CLOSE_QUERY],
        refuses=schema.CLOSING,
    )
    def delete(self, request: Request, ticket: str) -> HttpResponse:
        query = query_of(request)
        if query.get("ticket_id", ticket) != ticket:
            raise Invalid({"ticket_id": ["is not the ticket of the path"]})
        return answer(done(call_of(request), "trade_close", parsers.closing({**query, "ticket_id": ticket})))


class Reduce(BotView):
    """A partial close."""

    kinds = {"POST": OWNERS}

    @operations.signed(
        "reduce_trade",
        "Close a part: volume is the lots that must remain",
        {200: schema.DONE, 202: schema.DONE},
        schema.REDUCE,
        parameters=[schema.TICKET_OF_PATH],
        refuses=schema.REDUCING,
    )
    def post(self, request: Request, ticket: str) -> HttpResponse:
        return answer(done(call_of(request), "trade_reduce", parsers.reduction(body_of(request), ticket)))


class Batch(BotView):
    """Up to 500 operations in one request and one transaction, each with its own idempotency key and result."""

    kinds = {"POST": OWNERS}
    max_body = signed_http.MAX_BATCH_BODY

    @operations.signed("batch", "Up to 500 operations, in order", {200: schema.BATCH_RESULT}, schema.BATCH)
    def post(self, request: Request) -> HttpResponse:
        call = call_of(request)
        items = parsers.BATCH.read(body_of(request)).done()["operations"]
        parsed = [_operation(item, copy=is_copy(call)) for item in items]
        operations = [operation for operation in parsed if isinstance(operation, Operation)]
        outcomes = iter(services.run_signed(call, operations))
        return json_response({"results": [_result(item, outcomes, call.request_id) for item in parsed]})


_VERBS: dict[str, tuple[str, Callable[..., dict[str, Any]]]] = {
    "open": ("trade_open", lambda fields, copy: parsers.opening(fields, copy=copy)),
    "modify": ("trade_modify", lambda fields, copy: parsers.modification(fields, fields.get("ticket_id"))),
    "reduce": ("trade_reduce", lambda fields, copy: parsers.reduction(fields, fields.get("ticket_id"))),
    "close": ("trade_close", lambda fields, copy: parsers.closing(fields)),
}


def _operation(item: Any, *, copy: bool) -> Operation | DomainError:
    """One operation of a batch, or the refusal of a malformed one."""
    try:
        if not isinstance(item, dict):
            raise Invalid({"operations": ["must be a JSON object"]})
        key, action, fields = parsers.operation(item)
        verb, read = _VERBS[action]
        args = read(fields, copy=copy)
    except DomainError as refusal:
        return refusal
    return Operation(key, signing.sha256_hex(orjson.dumps([verb, args], option=orjson.OPT_SORT_KEYS)), verb, args)


def _result(item: Operation | DomainError, outcomes: Iterator[Outcome], request_id: str) -> dict[str, Any]:
    if isinstance(item, DomainError):
        return {"status": item.status, "problem": problem.of(item, request_id)}
    outcome = next(outcomes)
    key = {"idempotency_key": item.idempotency_key, "replayed": "replayed" in outcome}
    if (refusal := errors.of_outcome(outcome)) is not None:
        return {**key, "status": refusal.status, "problem": problem.of(refusal, request_id)}
    return {**key, "status": DONE[outcome["code"]], "result": response_body(outcome)}


class Orders(BotView):
    """A copier's execution reports."""

    kinds = {"POST": frozenset({COPIER})}

    @operations.signed(
        "report_order",
        "Report an order; the response holds its slippage",
        {201: schema.ORDER, 202: schema.ORDER},
        schema.ORDER_REPORT,
        refuses=schema.REPORTING,
    )
    def post(self, request: Request) -> HttpResponse:
        return answer(done(call_of(request), "order_report", parsers.order(body_of(request))))


# --- routes of earlier versions of the API


class Actives(BotView):
    """`/actives`: snapshot and open in the earlier form: a bare list, tickets as numbers, always 200."""

    kinds = {"GET": ANY_KIND, "POST": OWNERS}

    @operations.signed("actives", "What is active now, as a bare list", {200: schema.BARE_LIST})
    def get(self, request: Request) -> HttpResponse:
        _, current, etag = active(request)
        if current is None:
            response = HttpResponse(status=304)
        else:
            response = json_response([{**trade, "ticket_id": int(trade["ticket_id"])} for trade in current.trades])
        response["ETag"] = etag
        return response

    @operations.signed("actives_open", "Open a trade", {200: schema.BROADCASTED}, schema.OPEN, refuses=schema.OPENING)
    def post(self, request: Request) -> HttpResponse:
        call = call_of(request)
        outcome = done(call, "trade_open", parsers.opening(body_of(request), copy=is_copy(call), strict=False))
        return answer(outcome, {"status": "broadcasted", "ticket": int(outcome["trade"]["ticket_id"])}, 200)


class SignalClose(BotView):
    """`/signal/close`: the atomic close with a JSON body."""

    kinds = {"POST": OWNERS}

    @operations.signed(
        "signal_close",
        "Close: the atomic move to history",
        {200: schema.CLOSED, 202: schema.CLOSED},
        schema.CLOSE,
        refuses=schema.CLOSING,
    )
    def post(self, request: Request) -> HttpResponse:
        outcome = done(call_of(request), "trade_close", parsers.closing(body_of(request), strict=False))
        body = {"status": _STATUS.get(outcome["code"], outcome["code"]), "ticket": int(outcome["trade"]["ticket_id"])}
        return answer(outcome, body | ({"already": True} if outcome["code"] == "closed_already" else {}))


class _V1(BotView):
    """A route of version 1. Its responses announce the deprecation and the date on which the route ends."""

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        final = super().finalize_response(request, response, *args, **kwargs)
        final["Deprecation"] = "@1767225600"  # 2026-01-01, RFC 9745
        final["Sunset"] = settings.V1_SUNSET
        final["Link"] = '</api/docs/>; rel="deprecation"'
        return final


class V1Signals(_V1, Actives):
    kinds = {"GET": ANY_KIND}
    http_method_names = ["get", "options"]

    @operations.signed("v1_signals", "What is active now (V1)", {200: schema.BARE_LIST}, deprecated=True)
    def get(self, request: Request) -> HttpResponse:
        response: HttpResponse = super().get(request)
        return response


class V1Broadcast(_V1, Actives):
    kinds = {"POST": OWNERS}
    http_method_names = ["post", "options"]

    @operations.signed(
        "v1_broadcast",
        "Open a trade (V1)",
        {200: schema.BROADCASTED},
        schema.OPEN,
        refuses=schema.OPENING,
        deprecated=True,
    )
    def post(self, request: Request) -> HttpResponse:
        response: HttpResponse = super().post(request)
        return response


class V1Close(_V1, SignalClose):
    @operations.signed(
        "v1_close",
        "Close (V1)",
        {200: schema.CLOSED, 202: schema.CLOSED},
        schema.CLOSE,
        refuses=schema.CLOSING,
        deprecated=True,
    )
    def post(self, request: Request) -> HttpResponse:
        response: HttpResponse = super().post(request)
        return response


# --- people


class History(PeopleView):
    """The caller's own closed trades, newest first, in pages by cursor."""

    @operations.personal(
        "history",
        "Your closed trades, newest first",
        {200: schema.HISTORY_PAGE},
        parameters=[*schema.HISTORY_FILTERS, shapes.CURSOR, shapes.LIMIT],
    )
    def get(self, request: Request) -> HttpResponseBase:
        rows = history.filtered(request._request, history.own(person_of(request)))
        limit = paging.limit(request.GET.get("limit"))
        cursor = paging.cursor(request.GET.get("cursor"))
        trades = list((history.after(cursor, rows) if cursor else rows)[: limit + 1])
        page = trades[:limit]
        has_more = len(trades) > limit
        following = paging.Cursor(page[-1].closed_at, page[-1].trade_id).text() if has_more else None
        return json_response(
            {"data": [history.row(closed) for closed in page], "next": following, "has_more": has_more}
        )


class HistoryCsv(PeopleView):
    """All of the caller's closed trades as CSV, streamed."""

    throttle_classes = EXPORTS

    @operations.personal(
        "history_csv", "Your closed trades as CSV", {200: shapes.CSV}, parameters=schema.HISTORY_FILTERS
    )
    def get(self, request: Request) -> HttpResponseBase:
        rows = history.filtered(request._request, history.own(person_of(request)))
        audit.record("history.exported", actor=actor_of(request._request), subject=f"user:{request.user.pk}")
        return history.csv_response(rows)
