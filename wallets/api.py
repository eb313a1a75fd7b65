"""People's wallets: what is in them, what moved, and taking money out."""

from decimal import Decimal
from typing import Any

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from accounts import operations, signing
from accounts.protocol import IdempotencyKeyMissing
from accounts.session_views import PeopleView
from audit import services as audit
from audit.actors import actor_of
from core import money, openapi, paging, parsing, responses
from core.errors import RequestMalformed
from core.openapi import AMOUNT, MOMENT, described, obj
from core.responses import json_response
from wallets import services, statements
from wallets.models import MoneyRequest

CURRENCY = openapi.parameter("currency", {"type": "string", "pattern": "^[A-Z]{3}$"})
MONTH = openapi.parameter("month", {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"}, required=True)
WALLET = openapi.schema(
    "Wallet",
    obj(
        {
            "currency": {"type": "string"},
            "balance": AMOUNT,
            "held": described(AMOUNT, "Set aside; it cannot be spent."),
            "available": AMOUNT,
            "version": {"type": "integer", "description": "Grows by one with each entry."},
            "frozen": {"type": "boolean"},
            "currencies": described(openapi.array({"type": "string"}), "The currencies of all your wallets."),
        }
    ),
)
ENTRY = openapi.schema(
    "Entry",
    obj(
        {
            "at": MOMENT,
            "kind": {"type": "string"},
            "amount": described(AMOUNT, "Below zero: it went out."),
            "balance_after": AMOUNT,
            "currency": {"type": "string"},
            "note": {"type": "string"},
            "version": {"type": "integer"},
            "transfer_id": openapi.UUID,
        }
    ),
)
ENTRIES = openapi.schema("EntriesPage", openapi.page(ENTRY))
WITHDRAWAL = openapi.schema(
    "Withdrawal",
    obj(
        {
            "id": openapi.UUID,
            "state": {"type": "string", "enum": MoneyRequest.State.values},
            "amount": AMOUNT,
            "currency": {"type": "string"},
            "reason": {"type": "string"},
            "created_at": MOMENT,
        }
    ),
)
ASKED = openapi.schema(
    "WithdrawalRequest",
    obj(
        {
            "amount": openapi.POSITIVE_IN,
            "currency": {"type": "string", "pattern": "^[A-Z]{3}$", "description": "Absent: of the first wallet."},
            "note": {"type": "string", "maxLength": 200},
        },
        ["amount"],
    ),
)
REFUSES = ("wallet_not_found",)
MOVING = (
    *REFUSES, "idempotency_key_missing", "unsupported_media_type", "wallet_busy", "concurrent_modification",
    "insufficient_funds", "amount_invalid", "wallet_frozen", "idempotency_conflict", "ledger_halted",
)  # fmt: skip


class Wallet(PeopleView):
    """One's own wallet."""

    @operations.personal("wallet", "Your wallet", {200: WALLET}, parameters=[CURRENCY], refuses=REFUSES)
    def get(self, request: Request) -> HttpResponse:
        wallet = statements.mine(request.user, request.GET.get("currency"))  # type: ignore[arg-type]
        currencies = [one.currency for one in statements.of(request.user)]  # type: ignore[arg-type]
        return json_response({**statements.wallet_body(wallet), "currencies": currencies})


class Entries(PeopleView):
    """What moved in it, newest first, by cursor."""

    @operations.personal(
        "wallet_entries",
        "What moved in your wallet, newest first",
        {200: ENTRIES},
        parameters=[CURRENCY, openapi.CURSOR, openapi.LIMIT],
        refuses=REFUSES,
    )
    def get(self, request: Request) -> HttpResponse:
        limit, cursor = paging.limit(request.GET.get("limit")), paging.cursor(request.GET.get("cursor"))
        wallet = statements.mine(request.user, request.GET.get("currency"))  # type: ignore[arg-type]
        found, following = statements.page(wallet, cursor, limit)
        rows = [statements.row(entry, wallet.currency) for entry in found]
        return json_response({"data": rows, "next": following, "has_more": following is not None})


class StatementCsv(PeopleView):
    """A month of it as CSV."""

    @operations.personal(
        "wallet_statement_csv",
        "A month of your wallet as CSV",
        {200: openapi.CSV},
        parameters=[CURRENCY, MONTH],
        refuses=REFUSES,
    )
    def get(self, request: Request) -> HttpResponseBase:
        begins = statements.month(request.GET.get("month", ""))
        wallet = statements.mine(request.user, request.GET.get("currency"))  # type: ignore[arg-type]
        rows = (statements.row(entry, wallet.currency) for entry in statements.statement(wallet, begins).entries)
        audit.record("statement.exported", actor=actor_of(request._request), subject=f"wallet:{wallet.pk}")
        return responses.csv_response(f"{wallet.currency}-{begins:%Y-%m}.csv", statements.COLUMNS, rows)


class Withdrawals(PeopleView):
    """Taking money out: at once up to a limit, above it once staff approve."""

    @operations.personal(
        "withdraw",
        "Ask for money to be paid out",
        {201: WITHDRAWAL},
        ASKED,
        parameters=[operations.IDEMPOTENCY_KEY],
        refuses=MOVING,
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
        return json_response(_request_body(asked), 201)


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


def _request_body(asked: MoneyRequest) -> dict[str, Any]:
    return {
        "id": str(asked.pk),
        "state": asked.state,
        "amount": money.text(asked.amount),
        "currency": asked.wallet.currency,
        "reason": asked.reason,
        "created_at": responses.iso(asked.created_at),
    }
