"""Fee terms of strategies, and the fee agreements of subscribers."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from django.contrib import admin
from django.db.models import Exists, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.utils.safestring import SafeString

from audit.admin import AuditedAdmin
from core import formatting, money
from wallets.admin.base import ROWS, LedgerAdmin
from wallets.models import FeeAgreement, FeeTerms, Settlement


@admin.register(FeeTerms)
class FeeTermsAdmin(AuditedAdmin):
    """Terms are added and never changed, because agreements refer to them."""

    audit_subject = "fee_terms"
    list_display = ["strategy", "state", "performance", "monthly", "platform", "created_at"]
    list_filter = ["strategy"]
    list_select_related = ["strategy"]
    list_per_page = 50
    search_fields = ["strategy__name"]
    search_help_text = "Strategy"
    autocomplete_fields = ["strategy"]
    fields = ["strategy", "performance_bps", "subscription_fee", "platform_bps"]
    ordering = ["strategy__name", "-id"]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> Any:
        newer_terms = FeeTerms.objects.filter(strategy=OuterRef("strategy"), pk__gt=OuterRef("pk"))
        return super().get_queryset(request).annotate(is_old=Exists(newer_terms))

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        maximum = {"performance_bps": 5000, "platform_bps": 10_000}.get(db_field.name)
        bounds = {"max_value": maximum} if maximum else {}
        if db_field.name == "subscription_fee":
            bounds = {"min_value": 0}
        return super().formfield_for_dbfield(db_field, request, **kwargs, **bounds) if bounds else field

    @admin.display(description="state")
    def state(self, terms: Any) -> SafeString:
        return formatting.chip("replaced") if terms.is_old else formatting.chip("offered", "good")

    @admin.display(description="performance fee, %", ordering="performance_bps")
    def performance(self, terms: FeeTerms) -> SafeString:
        return percent(terms.performance_bps)

    @admin.display(description="fee per month", ordering="subscription_fee")
    def monthly(self, terms: FeeTerms) -> SafeString:
        return formatting.amount(terms.subscription_fee)

    @admin.display(description="platform's share, %", ordering="platform_bps")
    def platform(self, terms: FeeTerms) -> SafeString:
        return percent(terms.platform_bps)


def percent(bps: int) -> SafeString:
    return formatting.number(Decimal(bps) / 100)


class PostponedFilter(admin.SimpleListFilter):
    title = parameter_name = "postponed"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        return [("yes", "Yes"), ("no", "No")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[FeeAgreement]) -> QuerySet[FeeAgreement]:
        if self.value() == "yes":
            return queryset.exclude(postponed="")
        return queryset.filter(postponed="") if self.value() else queryset


@admin.register(FeeAgreement)
class FeeAgreementAdmin(LedgerAdmin):
    change_form_template = "admin/wallets/agreement.html"
    list_display = ["subscriber", "strategy", "agreed", "high_water_mark_", "currency", "due_at", "postponed_"]
    list_filter = [PostponedFilter, "due_at", "strategy"]
    list_select_related = ["subscriber", "strategy", "terms__strategy"]
    search_fields = ["subscriber__username", "strategy__name"]
    search_help_text = "Subscriber or strategy"
    ordering = ["due_at", "id"]
    fields = [
        "subscriber",
        "strategy",
        "currency",
        "agreed",
        "agreed_next",
        "high_water_mark_",
        "started_at",
        "due_at",
        "postponed",
    ]
    readonly_fields = ["agreed", "agreed_next", "high_water_mark_"]

    def get_queryset(self, request: HttpRequest) -> Any:
        settlements = Settlement.objects.filter(agreement=OuterRef("pk")).order_by("-period_no")
        return (
            super()
            .get_queryset(request)
            .annotate(latest_high_water_mark=Subquery(settlements.values("high_water_mark")[:1]))
        )

    @admin.display(description="terms")
    def agreed(self, agreement: FeeAgreement) -> str:
        return describe_terms(agreement.terms)

    @admin.display(description="terms from the next period on")
    def agreed_next(self, agreement: FeeAgreement) -> str:
        return describe_terms(agreement.next_terms)

    @admin.display(description="high-water mark", ordering="latest_high_water_mark")
    def high_water_mark_(self, agreement: Any) -> SafeString:
        return formatting.amount(agreement.latest_high_water_mark)

    @admin.display(description="postponed", ordering="postponed")
    def postponed_(self, agreement: FeeAgreement) -> SafeString | str:
        return formatting.chip(agreement.postponed, "wait") if agreement.postponed else "–"

    def page_context(self, request: HttpRequest, agreement: FeeAgreement) -> dict[str, Any]:
        claims = agreement.claims.order_by("-created_at")
        return {"settlements": agreement.settlements.order_by("-period_no")[:ROWS], "claims": claims[:ROWS]}


def describe_terms(terms: FeeTerms) -> str:
    return f"{terms.performance_bps / 100:g} %, {money.grouped(terms.subscription_fee)} a month"
