"""Bots' reports besides trades and orders: the heartbeat, skipped trades, the account's equity, alarms."""

from collections.abc import Mapping
from typing import Any

from django.http import HttpResponse
from rest_framework.request import Request

from accounts import operations
from core.responses import json_response
from trades import api, parsers, reconciliation, schema, snapshot
from trades.api import ANY_KIND, COPIER, OWNERS, BotView


class Heartbeat(BotView):
    """A copier's heartbeat. It renews the account's lease; the response says whether its copies are in sync."""

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
        reports = heartbeat.pop("subscriptions")
        current = snapshot.cached(call.credential.account_id, snapshot.current_version(call))
        record = reconciliation.copier_record(call.credential.account_id, current)
        answers = reconciliation.answers(current, record, reports)
        outcome = api.done(call, "copier_beat", {**heartbeat, "told": reconciliation.summary(answers, reports)})
        reconciliation.activate_next_secrets(record, current, reports)
        fields: Mapping[str, Any] = outcome
        lease = {name: fields[name] for name in ("fence", "lease_ms", "may_open_in_ms")}
        return json_response({**lease, "subscriptions": answers})


class Skips(BotView):
    """The reason why a provider's trade was not copied."""

    kinds = {"POST": frozenset({COPIER})}

    @operations.signed(
        "report_skip", "Why a trade was not copied", {201: schema.NOTED}, schema.SKIP, refuses=schema.REPORTING
    )
    def post(self, request: Request) -> HttpResponse:
        return api.answer(api.done(api.call_of(request), "copy_skip", parsers.skip(api.body_of(request))))


class Account(BotView):
    """Balance and equity of the account. Copying by equity needs those of both accounts."""

    kinds = {"POST": OWNERS}

    @operations.signed("tell_account", "Balance and equity of the account", {200: schema.NOTED}, schema.ACCOUNT)
    def post(self, request: Request) -> HttpResponse:
        return api.answer(api.done(api.call_of(request), "account_tell", parsers.account(api.body_of(request))))


class Alarms(BotView):
    """The conditions at the account that its bot cannot mend by itself: all that are present, not events."""

    kinds = {"POST": ANY_KIND}

    @operations.signed("report_alarms", "What the bot cannot mend by itself", {200: schema.NOTED}, schema.ALARMS)
    def post(self, request: Request) -> HttpResponse:
        call = api.call_of(request)
        alarms = parsers.alarms(api.body_of(request))
        return api.answer(api.done(call, "account_alarms", {"bot": call.credential.kind, **alarms}))
