"""Customers' destinations of withdrawals in the admin: masked, until somebody who pays out asks for one."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.safestring import SafeString

from audit.actors import actor_of
from core import formatting
from core.confirmed_actions import ConfirmedAction, change_url
from wallets.admin.base import LedgerAdmin
from wallets.admin.confirmed_actions import REMOVE, REVEAL
from wallets.models import Destination
from wallets.services import destinations


@admin.register(Destination)
class DestinationAdmin(LedgerAdmin):
    list_display = ["created_at", "owner", "name", "kind", "masked", "state", "usable_at"]
    list_filter = ["kind", "usable_at"]
    list_select_related = ["owner"]
    search_fields = ["owner__username", "name"]
    search_help_text = "Owner or name"
    ordering = ["-id"]
    actions = ["reveal", "remove"]
    confirmation_columns = ["owner_", "name_", "masked_", "state"]
    fields = ["owner", "name", "kind", "masked", "state", "created_at", "usable_at", "removed_at"]
    readonly_fields = ["state"]

    @admin.display(description="state")
    def state(self, destination: Destination) -> SafeString:
        if destination.removed_at:
            return formatting.chip("removed", "bad")
        is_confirmed = destination.is_confirmed(timezone.now())
        return formatting.chip("confirmed", "good") if is_confirmed else formatting.chip("cooling", "wait")

    @admin.display(description="owner")
    def owner_(self, destination: Destination) -> str:
        return destination.owner.get_username()

    @admin.display(description="name")
    def name_(self, destination: Destination) -> str:
        return destination.name

    @admin.display(description="details")
    def masked_(self, destination: Destination) -> str:
        return destination.masked

    def offered_actions(self, destination: Destination) -> Sequence[ConfirmedAction]:
        return (REVEAL,) if destination.removed_at else (REVEAL, REMOVE)

    @admin.action(description="Show details", permissions=["decide"])
    def reveal(self, request: HttpRequest, chosen: QuerySet[Destination]) -> HttpResponse | None:
        def show(destination: Destination, form: Any) -> str:
            details = destinations.reveal(destination=destination, actor=actor_of(request))
            return f"{destination.name} of {destination.owner.get_username()}: {details}"

        return self._confirm_and_do(request, chosen, REVEAL, show)

    @admin.action(description="Remove", permissions=["decide"])
    def remove(self, request: HttpRequest, chosen: QuerySet[Destination]) -> HttpResponse | None:
        def end(destination: Destination, form: Any) -> str:
            destinations.remove(destination=destination, reason=form.cleaned_data["reason"], actor=actor_of(request))
            return f"Removed: {destination}."

        return self._confirm_and_do(request, chosen, REMOVE, end)

    def _confirm_and_do(
        self, request: HttpRequest, chosen: QuerySet[Destination], action: ConfirmedAction, do: Any
    ) -> HttpResponse | None:
        destination = self.single(request, chosen.select_related("owner"))
        if destination is None:
            return None
        form = action.bound_form(request)
        if not form.is_valid():
            return self.ask_confirmation(request, action, [destination], form)
        self.message_user(request, do(destination, form))
        return redirect(change_url(destination))
