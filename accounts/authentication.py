"""DRF's authentication classes: signed requests of bots, and the refusal of bots on people's routes."""

import contextlib
from typing import cast

from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts import signed_http
from accounts.protocol import SignedCall
from accounts.signed_http import SignedRequest
from core.errors import DomainError, RequestMalformed


class HistoryClosedToBots(DomainError):
    code = "history_closed_to_bots"
    status = 403
    detail = "Bots' keys cannot read history or wallets. GET /api/v2/trades/active returns what is open."


def http_request(request: Request) -> SignedRequest:
    """Return Django's request inside REST framework's."""
    return cast(SignedRequest, request._request)


class SignatureAuthentication(BaseAuthentication):
    """Authenticates bots' routes: `request.auth` is the SignedCall."""

    def authenticate(self, request: Request) -> tuple[None, SignedCall]:
        limit = getattr(request.parser_context["view"], "max_body", signed_http.MAX_BODY)
        return None, signed_http.verify(http_request(request), limit)

    def authenticate_header(self, request: Request) -> str:
        return "CD1"


class RefuseBots(BaseAuthentication):
    """Comes before the session on people's routes: refuses each signed request and audits the refusal, in one row."""

    def authenticate(self, request: Request) -> None:
        if not signed_http.is_signed(request._request):
            return
        try:
            with contextlib.suppress(RequestMalformed):  # still a bot, although its request cannot be verified
                signed_http.check(http_request(request))
            raise HistoryClosedToBots
        except DomainError as refusal:
            signed_http.record_refusal(refusal, http_request(request))
            raise
