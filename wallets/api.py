"""People's wallets: what is in them, what moved, and taking money out."""

from typing import Any

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from accounts import operations, signing
from accounts.protocol import IdempotencyKeyMissing
from accounts.session_views import PeopleView, person_of
from audit import services as audit
from audit.actors import actor_of
from core import bodies, money, paging, parsing, responses, shapes
from core.bodies import Body, may, need
from core.errors import RequestMalformed
from core.responses import json_response
from core.shapes import AMOUNT, MOMENT, described, obj
from wallets import services, statements
from wallets.models import MoneyRequest

CURRENCY = shapes.parameter("currency", {"type": "string", "pattern": "^[A-Z]{3}$"})
MONTH = shapes.parameter("month", {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"}, required=True)
WALLET = shapes.schema(
    "Wallet",
    obj(
        {
            "currency": {"type": "string"},
            "balance": AMOUNT,
            "held": described(AMOUNT, "Set aside; it cannot be spent."),
            "available": AMOUNT,
            "version": {"type": "integer", "description": "Grows by one with each entry."},
            "frozen": {"type": "boolean"},
            "currencies": described(shapes.array({"type": "string"}), "The currencies of all your wallets."),
        }
    ),
)
ENTRY = shapes.schema(
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
            "transfer_id": shapes.UUID,
        }
    ),
)
ENTRIES = shapes.schema("EntriesPage", shapes.page(ENTRY))
WITHDRAWAL = shapes.schema(
    "Withdrawal",
    obj(
        {
            "id": shapes.UUID,
            "state": {"type": "string", "enum": MoneyRequest.State.values},
            "amount": AMOUNT,
            "currency": {"type": "string"},
            "reason": {"type": "string"},
            "created_at": MOMENT,
        }
    ),
)
WITHDRAW = Body(
    need("amount", parsing.positive),
    may(
        "currency",
        parsing.matching("[A-Z]{3}", "must be a currency such as USD"),
        "By default that of the first wallet.",
    ),
    may("note", parsing.text(200), default=""),
)
ASKED = WITHDRAW.published("WithdrawalRequest")
REFUSES = ("wallet_not_found",)
MOVING = (
    *REFUSES, "idempotency_key_missing", "unsupported_media_type", "wallet_busy", "concurrent_modification",
    "insufficient_funds", "amount_invalid", "wallet_frozen", "idempotency_conflict", "ledger_halted",
)  # fmt: skip


class Wallet(PeopleView):
    """One's own wallet."""

    @operations.personal("wallet", "Your wallet", {200: WALLET}, parameters=[CURRENCY], refuses=REFUSES)
    def get(self, request: Request) -> HttpResponse:
        wallet = statements.mine(person_of(request), request.GET.get("currency"))
        currencies = [one.currency for one in statements.of(person_of(request))]
        return json_response({**statements.wallet_body(wallet), "currencies": currencies})


class Entries(PeopleView):
    """What moved in it, newest first, by cursor."""

    @operations.personal(
        "wallet_entries",
        "What moved in your wallet, newest first",
        {200: ENTRIES},
        parameters=[CURRENCY, shapes.CURSOR, shapes.LIMIT],
        refuses=REFUSES,
    )
    def get(self, request: Request) -> HttpResponse:
        limit, cursor = paging.limit(request.GET.get("limit")), paging.cursor(request.GET.get("cursor"))
        wallet = statements.mine(person_of(request), request.GET.get("currency"))
        found, following = statements.page(wallet, cursor, limit)
        rows = [statements.row(entry, wallet.currency) for entry in found]
        return json_response({"data": rows, "next": following, "has_more": following is not None})


class StatementCsv(PeopleView):
    """A month of it as CSV."""

    @operations.personal(
        "wallet_statement_csv",
        "A month of your wallet as CSV",
        {200: shapes.CSV},
        parameters=[CURRENCY, MONTH],
        refuses=REFUSES,
    )
    def get(self, request: Request) -> HttpResponseBase:
        begins = statements.month(request.GET.get("month", ""))
        wallet = statements.mine(person_of(request), request.GET.get("currency"))
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
        wanted = bodies.json_body(WITHDRAW, request._request.body)
        asked = services.request_money(
            wallet=statements.mine(person_of(request), wanted["currency"]),
            kind=MoneyRequest.Kind.WITHDRAWAL,
            amount=wanted["amount"],
            reason=wanted["note"],
            idempotency_key=_idempotency_key(request),
            by=person_of(request),
            actor=actor_of(request._request),
        )
        return json_response(_request_body(asked), 201)


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
