"""The API of a person's wallets: balances, entries, statements and withdrawals."""

from typing import Any, cast

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from accounts import operations, reauthentication, signing
from accounts.protocol import IdempotencyKeyMissing
from accounts.session_views import EXPORTS, PeopleView, PersonRequest, person_of
from audit import services as audit
from audit.actors import actor_of
from core import bodies, money, paging, parsing, responses, shapes
from core.bodies import Body, may, need
from core.errors import RequestMalformed
from core.responses import json_response
from core.shapes import AMOUNT, MOMENT, described, obj
from wallets import services, statements
from wallets.models import MoneyRequest
from wallets.services import destinations

CURRENCY = shapes.parameter("currency", {"type": "string", "pattern": "^[A-Z]{3}$"})
MONTH = shapes.parameter("month", {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"}, required=True)
WALLET = shapes.schema(
    "Wallet",
    obj(
        {
            "currency": {"type": "string"},
            "balance": AMOUNT,
            "held": described(AMOUNT, "On hold: it cannot be spent."),
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
            "amount": described(AMOUNT, "Negative for a debit."),
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
        "The first wallet's currency by default.",
    ),
    may("note", parsing.text(200), default=""),
    may("destination", parsing.text(64), "Its name; the only confirmed one by default.", default=""),
)
WITHDRAWAL_REQUEST = WITHDRAW.published("WithdrawalRequest")
WALLET_ERRORS = ("wallet_not_found",)
WITHDRAWAL_ERRORS = (
    *WALLET_ERRORS, "idempotency_key_missing", "unsupported_media_type", "wallet_busy", "concurrent_modification",
    "insufficient_funds", "amount_invalid", "wallet_frozen", "idempotency_conflict", "ledger_halted",
    "reauthentication_needed", "destination_not_confirmed", "cooling_time",
)  # fmt: skip


class Wallet(PeopleView):
    """The caller's wallet."""

    @operations.personal("wallet", "Your wallet", {200: WALLET}, parameters=[CURRENCY], refuses=WALLET_ERRORS)
    def get(self, request: Request) -> HttpResponse:
        wallet = statements.own_wallet(person_of(request), request.GET.get("currency"))
        currencies = [owned.currency for owned in statements.wallets_of(person_of(request))]
        return json_response({**statements.wallet_body(wallet), "currencies": currencies})


class Entries(PeopleView):
    """The entries of the wallet, newest first, by cursor."""

    @operations.personal(
        "wallet_entries",
        "The entries of your wallet, newest first",
        {200: ENTRIES},
        parameters=[CURRENCY, shapes.CURSOR, shapes.LIMIT],
        refuses=WALLET_ERRORS,
    )
    def get(self, request: Request) -> HttpResponse:
        limit, cursor = paging.limit(request.GET.get("limit")), paging.cursor(request.GET.get("cursor"))
        wallet = statements.own_wallet(person_of(request), request.GET.get("currency"))
        entries, next_cursor = statements.page(wallet, cursor, limit)
        rows = [statements.row(entry, wallet.currency) for entry in entries]
        return json_response({"data": rows, "next": next_cursor, "has_more": next_cursor is not None})


class StatementCsv(PeopleView):
    """A month of the wallet as CSV."""

    throttle_classes = EXPORTS

    @operations.personal(
        "wallet_statement_csv",
        "A month of your wallet as CSV",
        {200: shapes.CSV},
        parameters=[CURRENCY, MONTH],
        refuses=WALLET_ERRORS,
    )
    def get(self, request: Request) -> HttpResponseBase:
        begins = statements.month(request.GET.get("month", ""))
        wallet = statements.own_wallet(person_of(request), request.GET.get("currency"))
        rows = (statements.row(entry, wallet.currency) for entry in statements.statement(wallet, begins).entries)
        audit.record("statement.exported", actor=actor_of(request._request), subject=f"wallet:{wallet.pk}")
        return responses.csv_response(f"{wallet.currency}-{begins:%Y-%m}.csv", statements.COLUMNS, rows)


class Withdrawals(PeopleView):
    """Withdrawals: up to a limit at once, above it after staff approve."""

    @operations.personal(
        "withdraw",
        "Request a withdrawal",
        {201: WITHDRAWAL},
        WITHDRAWAL_REQUEST,
        parameters=[operations.IDEMPOTENCY_KEY],
        refuses=WITHDRAWAL_ERRORS,
    )
    def post(self, request: Request) -> HttpResponse:
        body = bodies.json_body(WITHDRAW, request._request.body)
        reauthentication.require(cast(PersonRequest, request._request), "")
        wallet = statements.own_wallet(person_of(request), body["currency"])
        withdrawal = services.request_money(
            wallet=wallet,
            kind=MoneyRequest.Kind.WITHDRAWAL,
            amount=body["amount"],
            reason=body["note"],
            idempotency_key=_idempotency_key(request),
            by=person_of(request),
            actor=actor_of(request._request),
            destination=destinations.of_owner(person_of(request), body["destination"]) if body["destination"] else None,
        )
        return json_response(_withdrawal_body(withdrawal), 201)


def _idempotency_key(request: Request) -> str:
    key = request.headers.get("Idempotency-Key", "")
    if not key:
        raise IdempotencyKeyMissing
    if not signing.IDEMPOTENCY_KEY.fullmatch(key):
        raise RequestMalformed("Idempotency-Key must be 16 to 64 characters: A-Z a-z 0-9 _ -", header="Idempotency-Key")
    return key


def _withdrawal_body(withdrawal: MoneyRequest) -> dict[str, Any]:
    return {
        "id": str(withdrawal.pk),
        "state": withdrawal.state,
        "amount": money.text(withdrawal.amount),
        "currency": withdrawal.wallet.currency,
        "reason": withdrawal.reason,
        "created_at": responses.iso(withdrawal.created_at),
    }
