"""People's wallets: what is in them, what moved, and taking money out."""

from decimal import Decimal
from typing import Any

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request

from accounts import signing
from accounts.protocol import IdempotencyKeyMissing
from accounts.session_views import PeopleView
from audit import services as audit
from audit.actors import actor_of
from core import money, paging, parsing, responses
from core.errors import RequestMalformed
from core.responses import json_response
from trades import schema
from wallets import services, statements
from wallets.models import MoneyRequest

CURRENCY = OpenApiParameter("currency", {"type": "string", "pattern": "^[A-Z]{3}$"})
MONTH = OpenApiParameter("month", {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"}, required=True)
WALLET = schema.obj(
    {
        "currency": {"type": "string"},
        "balance": schema.AMOUNT,
        "held": {**schema.AMOUNT, "description": "Set aside; it cannot be spent."},
        "available": schema.AMOUNT,
        "version": {"type": "integer", "description": "Grows by one with each entry."},
        "frozen": {"type": "boolean"},
        "currencies": {"type": "array", "items": {"type": "string"}, "description": "All that there are wallets in."},
    }
)
ENTRY = schema.obj(
    {
        "at": schema.MOMENT,
        "kind": {"type": "string"},
        "amount": {**schema.AMOUNT, "description": "Below zero: it went out."},
        "balance_after": schema.AMOUNT,
        "currency": {"type": "string"},
        "note": {"type": "string"},
        "version": {"type": "integer"},
        "transfer_id": {"type": "string", "format": "uuid"},
    }
)
ENTRIES = schema.obj(
    {
        "data": {"type": "array", "items": ENTRY},
        "next": {"type": ["string", "null"], "description": "The cursor of the next page."},
        "has_more": {"type": "boolean"},
    }
)
WITHDRAWAL = schema.obj(
    {
        "id": {"type": "string", "format": "uuid"},
        "state": {"type": "string", "enum": MoneyRequest.State.values},
        "amount": schema.AMOUNT,
        "currency": {"type": "string"},
        "reason": {"type": "string"},
        "created_at": schema.MOMENT,
    }
)
ASKED = schema.obj(
    {
        "amount": schema.POSITIVE_IN,
        "currency": {"type": "string", "pattern": "^[A-Z]{3}$", "description": "Absent: of the first wallet."},
        "note": {"type": "string", "maxLength": 200},
    },
    ["amount"],
)
ERRORS = {**schema.PEOPLE_ERRORS, 404: "wallet_not_found"}
MOVING_ERRORS = {
    **ERRORS,
    400: "request_malformed, idempotency_key_missing",
    403: "csrf_failed, history_closed_to_bots, https_required",
    409: "wallet_busy, concurrent_modification",
    415: "unsupported_media_type",
    422: "invalid, insufficient_funds, amount_invalid, wallet_frozen, idempotency_conflict",
    503: "unavailable, ledger_halted",
}


class Wallet(PeopleView):
    """One's own wallet."""

    @extend_schema(
        operation_id="wallet",
        tags=["people"],
        parameters=[CURRENCY],
        responses={**schema.good(WALLET), **schema.errors(ERRORS)},
    )
    def get(self, request: Request) -> HttpResponse:
        wallet = statements.mine(request.user, request.GET.get("currency"))  # type: ignore[arg-type]
        currencies = [one.currency for one in statements.of(request.user)]  # type: ignore[arg-type]
        return json_response({**statements.told(wallet), "currencies": currencies})


class Entries(PeopleView):
    """What moved in it, newest first, by cursor."""

    @extend_schema(
        operation_id="wallet_entries",
        tags=["people"],
        parameters=[CURRENCY, OpenApiParameter("cursor", OpenApiTypes.STR), schema.LIMIT],
        responses={**schema.good(ENTRIES), **schema.errors(ERRORS)},
    )
    def get(self, request: Request) -> HttpResponse:
        limit, cursor = paging.limit(request.GET.get("limit")), paging.cursor(request.GET.get("cursor"))
        wallet = statements.mine(request.user, request.GET.get("currency"))  # type: ignore[arg-type]
        found, following = statements.page(wallet, cursor, limit)
        rows = [statements.row(entry, wallet.currency) for entry in found]
        return json_response({"data": rows, "next": following, "has_more": following is not None})


class StatementCsv(PeopleView):
    """A month of it as CSV."""

    @extend_schema(
        operation_id="wallet_statement_csv",
        tags=["people"],
        parameters=[CURRENCY, MONTH],
        responses={(200, "text/csv"): OpenApiTypes.STR, **schema.errors(ERRORS)},
    )
    def get(self, request: Request) -> HttpResponseBase:
        begins = statements.month(request.GET.get("month", ""))
        wallet = statements.mine(request.user, request.GET.get("currency"))  # type: ignore[arg-type]
        rows = (statements.row(entry, wallet.currency) for entry in statements.statement(wallet, begins).entries)
        audit.record("statement.exported", actor=actor_of(request._request), subject=f"wallet:{wallet.pk}")
        return responses.csv_response(f"{wallet.currency}-{begins:%Y-%m}.csv", statements.COLUMNS, rows)


class Withdrawals(PeopleView):
    """Taking money out: at once up to a limit, above it once staff approve."""

    @extend_schema(
        operation_id="withdraw",
        summary="Ask for money to be paid out",
        tags=["people"],
        parameters=[schema.IDEMPOTENCY],
        request={"application/json": ASKED},
        responses={**schema.good(WITHDRAWAL, 201), **schema.errors(MOVING_ERRORS)},
    )
    def post(self, request: Request) -> HttpResponse:
        amount, currency, note = _asked(parsing.json_object(request._request.body))
        asked = services.request_money(
            wallet=statements.mine(request.user, currency),  # type: ignore[arg-type]
            kind=MoneyRequest.Kind.WITHDRAWAL,
            amount=amount,
            reason=note,
            idempotency_key=_idempotency_key(request),
            by=request.user,  # type: ignore[arg-type]
            actor=actor_of(request._request),
        )
        return json_response(_told(asked), 201)


def _asked(fields: dict[str, Any]) -> tuple[Decimal, str | None, str]:
    form = parsing.Form(fields)
    amount = form.need("amount", parsing.positive)
    currency = form.may("currency", parsing.matching("[A-Z]{3}", "must be a currency such as USD"))
    note = form.may("note", parsing.text(200), default="")
    form.done()
    return amount, currency, note


def _idempotency_key(request: Request) -> str:
    given = request.headers.get("Idempotency-Key", "")
    if not given:
        raise IdempotencyKeyMissing
    if not signing.IDEMPOTENCY_KEY.fullmatch(given):
        raise RequestMalformed("Idempotency-Key must be 16 to 64 of A-Z a-z 0-9 _ -.", header="Idempotency-Key")
    return given


def _told(asked: MoneyRequest) -> dict[str, Any]:
    return {
        "id": str(asked.pk),
        "state": asked.state,
        "amount": money.text(asked.amount),
        "currency": asked.wallet.currency,
        "reason": asked.reason,
        "created_at": responses.iso(asked.created_at),
    }
