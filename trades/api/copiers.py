"""Bots' reports besides trades and orders (heartbeat, skipped trades, equity, alarms), and the key's account."""

from collections.abc import Mapping
from typing import Any

import structlog
from django.http import HttpResponse
from rest_framework.request import Request

from accounts import operations
from core.responses import json_response
from strategies import services as strategies
from trades import api, bot_setup, parsers, reconciliation, schema, snapshot
from trades.api import ANY_KIND, COPIER, BotView
from trades.services import CurrencyDiffers

log = structlog.get_logger()
AT_ONCE = 50  # terms that one report renews; a periodic task renews the others of a provider with many followers


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
    """The key's account: its setup as the desk knows it, and what the bot finds at its broker: funds, currency, kind of
    account, and the conditions of its symbols.
    """

    kinds = {"GET": ANY_KIND, "POST": ANY_KIND}

    @operations.signed("account", "The account, its copier's lease and its subscriptions", {200: schema.BOT_ACCOUNT})
    def get(self, request: Request) -> HttpResponse:
        call = api.call_of(request)
        version = api.version_of(call)
        current = snapshot.cached(call.credential.account_id, version)
        return json_response(bot_setup.of_account(call.credential.account_id, current))

    @operations.signed(
        "tell_account",
        "Balance, equity, currency and symbols of the account",
        {200: schema.ACCOUNT_ANSWER},
        schema.ACCOUNT,
        refuses=["currency_differs", "symbol_grammar"],
    )
    def post(self, request: Request) -> HttpResponse:
        call = api.call_of(request)
        try:
            outcome = api.done(call, "account_tell", parsers.account(api.body_of(request)))
        except CurrencyDiffers as refusal:
            changed = refusal.extra.pop("changed")
            log.warning("account.currency_differs", account=call.credential.account_name, **refusal.extra)
            if changed:
                strategies.revalue(account_id=call.credential.account_id, limit=AT_ONCE)
            raise
        if outcome["changed"]:
            strategies.revalue(account_id=call.credential.account_id, limit=AT_ONCE)
        return json_response(
            {"status": outcome["code"], "currency": outcome["currency"], "symbols": outcome["symbols"]}
        )


class Alarms(BotView):
    """The conditions at the account that its bot cannot mend by itself: all that are present, not events."""

    kinds = {"POST": ANY_KIND}

    @operations.signed("report_alarms", "What the bot cannot mend by itself", {200: schema.NOTED}, schema.ALARMS)
    def post(self, request: Request) -> HttpResponse:
        call = api.call_of(request)
        alarms = parsers.alarms(api.body_of(request))
        return api.answer(api.done(call, "account_alarms", {"bot": call.credential.kind, **alarms}))
