"""What copiers say besides their trades: the beat, why something was not copied, what their account is worth."""

from collections.abc import Mapping
from typing import Any

from django.http import HttpResponse
from rest_framework.request import Request

from accounts import operations
from core.responses import json_response
from trades import api, parsers, reconciliation, schema, snapshot
from trades.api import COPIER, OWNERS, BotView


class Heartbeat(BotView):
    """A copier's sign of life: it holds the account's lease, and learns whether it holds what it must."""

    kinds = {"POST": frozenset({COPIER})}

    @operations.signed(
        "copier_beat",
        "A copier's heartbeat: lease, sync, limits",
        {200: schema.HEARTBEAT_ANSWER},
        schema.HEARTBEAT,
        refuses=["lease_lost"],
    )
    def post(self, request: Request) -> HttpResponse:
        call = api.call_of(request)
        heartbeat = parsers.heartbeat(api.body_of(request))
        told = heartbeat.pop("subscriptions")
        found = snapshot.cached(call.credential.account_id, snapshot.current_version(call))
        known = reconciliation.copier_record(call.credential.account_id, found)
        answered = reconciliation.answers(found, known, told)
        outcome = api.done(call, "copier_beat", {**heartbeat, "told": reconciliation.summary(answered, told)})
        reconciliation.activate_next_secrets(known, found, told)
        fields: Mapping[str, Any] = outcome
        lease = {name: fields[name] for name in ("fence", "lease_ms", "may_open_in_ms")}
        return json_response({**lease, "subscriptions": answered})


class Skips(BotView):
    """A master's trade that was not copied, and why."""

    kinds = {"POST": frozenset({COPIER})}

    @operations.signed(
        "report_skip", "Why a trade was not copied", {201: schema.NOTED}, schema.SKIP, refuses=schema.REPORTING
    )
    def post(self, request: Request) -> HttpResponse:
        return api.answer(api.done(api.call_of(request), "copy_skip", parsers.skip(api.body_of(request))))


class Account(BotView):
    """What the account is worth. Those who copy by equity need to know it of both sides."""

    kinds = {"POST": OWNERS}

    @operations.signed("tell_account", "Balance and equity of the account", {200: schema.NOTED}, schema.ACCOUNT)
    def post(self, request: Request) -> HttpResponse:
        return api.answer(api.done(api.call_of(request), "account_tell", parsers.account(api.body_of(request))))
