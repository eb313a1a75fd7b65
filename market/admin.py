"""Instruments and their hours, and the files that bring their bars. Candles have no list: their key is composite."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.safestring import SafeString

from audit import services as audit
from audit.actors import actor_of
from audit.admin import AuditedAdmin
from core import formatting
from core.confirmed_actions import ConfirmedAction, ConfirmedActionsAdmin, change_url, link, list_url
from core.errors import DomainError, Invalid
from core.formatting import number
from market import services
from market.clocks import clock_of
from market.models import AssetClass, CandleImport, Holiday, ImportState, Instrument, TradingCalendar
from market.remarks import remarks
from market.services import candles, uploads

LENGTHS = [
    (1, "1 minute"), (5, "5 minutes"), (15, "15 minutes"), (30, "30 minutes"), (60, "1 hour"), (240, "4 hours"),
    (1440, "1 day"), (10080, "1 week"), (43200, "1 month"),
]  # fmt: skip
CHIPS = {ImportState.STORED: "good", ImportState.REFUSED: "bad", ImportState.TAKEN_BACK: ""}
AT_WORK = (ImportState.UPLOADED, ImportState.WAITING, ImportState.RUNNING)
STORE = ConfirmedAction("store", "Store these bars", "A worker stores the file, whole or not at all.", forms.Form)
TAKE_BACK = ConfirmedAction(
    "take_back", "Take back", "Deletes all bars that this import brought. Import the file again to have them back.",
    forms.Form, grave=True,
)  # fmt: skip


class HolidayInline(admin.TabularInline):
    model = Holiday
    extra = 0
    ordering = ("date",)


@admin.register(TradingCalendar)
class TradingCalendarAdmin(AuditedAdmin):
    audit_subject = "calendar"
    list_display = ["name", "zone", "sessions"]
    ordering = ["name"]
    inlines = [HolidayInline]


@admin.register(Instrument)
class InstrumentAdmin(AuditedAdmin):
    audit_subject = "instrument"
    list_display = ["symbol", "description", "asset_class", "hours", "step", "size", "allows_nonpositive_prices"]
    list_filter = ["asset_class", "calendar"]
    list_select_related = ["calendar"]
    search_fields = ["symbol", "description"]
    ordering = ["symbol"]
    change_form_template = "admin/instrument.html"
    fields = [
        "symbol", "description", "asset_class", "calendar", "point", "contract_size", "min_volume", "volume_step",
        "max_volume", "allows_nonpositive_prices", "metadata",
    ]  # fmt: skip

    def get_readonly_fields(self, request: HttpRequest, obj: Instrument | None = None) -> list[str]:
        return ["symbol"] if obj else []

    def page_context(self, request: HttpRequest, obj: Instrument | None) -> dict[str, Any]:
        """The table of an existing instrument's stored bars."""
        if obj is None:
            return {}
        return {"series": services.series_of(symbol=obj.pk), "most": services.MOST_COUNTED}

    @admin.display(description="trading hours", ordering="calendar")
    def hours(self, instrument: Instrument) -> SafeString | str:
        return link(instrument.calendar)

    @admin.display(description="point", ordering="point")
    def step(self, instrument: Instrument) -> SafeString:
        return number(instrument.point)

    @admin.display(description="contract size", ordering="contract_size")
    def size(self, instrument: Instrument) -> SafeString:
        return number(instrument.contract_size)


class UploadForm(forms.Form):
    """A file of bars, and what the person who uploads it knows of it."""

    file = forms.FileField(help_text="CSV, plain or as .gz or .zip, of at most 32 MB.")
    symbol = forms.CharField(label="Instrument", max_length=32)
    minutes = forms.TypedChoiceField(label="Length of a bar", choices=LENGTHS, coerce=int, initial=60)
    clock = forms.CharField(
        required=False, max_length=64,
        help_text="Of times without a zone: +02:00, EET, or America/New_York+7 for a server seven hours ahead of New "
        "York. Empty: UTC, unless the file states its zone.",
    )  # fmt: skip
    ticker = forms.CharField(
        label="Name in the file",
        required=False,
        max_length=32,
        help_text="If it is another.",
    )
    columns = forms.CharField(
        required=False, max_length=200,
        help_text="Of a table without a header: time,open,high,low,close,volume; - for one without a meaning.",
    )  # fmt: skip
    is_rounded = forms.BooleanField(label="Round prices to the instrument's point", required=False)
    is_sparse = forms.BooleanField(label="The bars are so rare that no two are neighbours", required=False)
    keeps_stored = forms.BooleanField(label="Keep stored bars that the file contradicts", required=False)
    point = forms.DecimalField(required=False, help_text="The smallest price step. Only for a new instrument.")
    contract_size = forms.DecimalField(required=False, help_text="Units in one lot. Only for a new instrument.")
    asset_class = forms.ChoiceField(
        label="Class", required=False, choices=[("", "by its symbol"), *AssetClass.choices],
        help_text="Only for a new instrument.",
    )  # fmt: skip

    def groups(self) -> list[tuple[str, list[Any]]]:
        named = {
            "The file": ("file", "symbol", "minutes", "clock"),
            "Where the file needs it": ("ticker", "columns", "is_rounded", "is_sparse", "keeps_stored"),
            "A new instrument": ("point", "contract_size", "asset_class"),
        }
        return [(title, [self[name] for name in names]) for title, names in named.items()]

    def clean_file(self) -> Any:
        file = self.cleaned_data["file"]
        if file.size > uploads.LARGEST:
            raise ValidationError("The file is larger than 32 MB: compress it, or use manage.py import_candles.")
        return file

    def clean_clock(self) -> Any:
        text = self.cleaned_data["clock"].strip()
        try:
            return clock_of(text) if text else None
        except ValueError as fault:
            raise ValidationError(str(fault)) from fault

    def clean_columns(self) -> tuple[str, ...]:
        text = self.cleaned_data["columns"]
        return tuple(name.strip().lower() for name in text.split(",")) if text else ()

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        self.is_new = "symbol" in data and not Instrument.objects.filter(symbol=data["symbol"]).exists()
        if self.is_new and not (data.get("point") and data.get("contract_size")):
            raise ValidationError(
                f"There is no instrument {data['symbol']}. State its point and contract size to add it."
            )
        return data

    def source(self) -> candles.Source:
        names = ("symbol", "minutes", "clock", "ticker", "columns", "is_rounded", "is_sparse", "keeps_stored")
        return candles.Source(**{name: self.cleaned_data[name] for name in names})


@admin.register(CandleImport)
class CandleImportAdmin(ConfirmedActionsAdmin):
    """Files of bars: uploaded here or imported by the command. A file that was stored can be taken back."""

    change_form_template = "admin/market/import.html"
    list_display = ["file", "instrument", "length", "state_", "added_", "clock", "started_at"]
    list_filter = ["state"]
    list_select_related = ["instrument"]
    search_fields = ["instrument__symbol__startswith", "file__startswith"]
    search_help_text = "Symbol or name of the file"
    ordering = ["-pk"]
    fields = ["state_", "instrument", "length", "clock", "bars_", "added_", "started_at", "finished_at", "by"]
    readonly_fields = ["state_", "length", "clock", "bars_", "added_", "by"]
    actions = ["store", "take_back"]
    confirmation_columns = ["named", "symbol", "length", "added_"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("market.add_candleimport")

    def has_store_permission(self, request: HttpRequest) -> bool:
        return self.has_add_permission(request)

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = UploadForm(request.POST or None, request.FILES or None)
        if request.method == "POST" and form.is_valid():
            try:
                return redirect(change_url(self._upload(request, form)))
            except Invalid as refusal:
                faults = refusal.extra["fields"].items()
                form.add_error(None, "; ".join(f"{name}: {texts[0]}" for name, texts in faults))
            except DomainError as refusal:
                form.add_error(None, refusal.message)
        context = {
            **self.admin_site.each_context(request), "opts": self.opts, "title": "Import bars", "form": form,
            "back": list_url(CandleImport),
            "symbols": Instrument.objects.order_by("pk").values_list("pk", flat=True)[:1000],
        }  # fmt: skip
        return TemplateResponse(request, "admin/market/upload.html", context)

    def _upload(self, request: HttpRequest, form: UploadForm) -> CandleImport:
        data, actor = form.cleaned_data, actor_of(request)
        if form.is_new:
            services.create_instrument(
                symbol=data["symbol"], point=data["point"], contract_size=data["contract_size"],
                asset_class=data["asset_class"], actor=actor,
            )  # fmt: skip
        return uploads.upload(
            name=data["file"].name, content=data["file"].read(), source=form.source(), actor=actor, now=timezone.now()
        )

    def offered_actions(self, row: CandleImport) -> Sequence[ConfirmedAction]:
        if row.state == ImportState.LOOKED:
            return (STORE,)
        return (TAKE_BACK,) if row.state in (ImportState.RUNNING, ImportState.STORED) else ()

    def page_context(self, request: HttpRequest, row: CandleImport) -> dict[str, Any]:
        first, last = (str(row.report.get(name) or "").replace("T", " ")[:16] for name in ("first", "last"))
        return {"is_at_work": row.state in AT_WORK, "remarks": remarks(row.report), "first": first, "last": last}

    @admin.display(description="imported by")
    def by(self, row: CandleImport) -> str:
        if row.actor == str(audit.SYSTEM.kind):
            return "a command"
        person = get_user_model().objects.filter(pk=row.actor).first()
        return person.get_username() if person else row.actor

    @admin.display(description="file")
    def named(self, row: CandleImport) -> str:
        return row.file

    @admin.display(description="instrument")
    def symbol(self, row: CandleImport) -> str:
        return row.instrument_id

    @admin.display(description="length", ordering="minutes")
    def length(self, row: CandleImport) -> str:
        return dict(LENGTHS).get(row.minutes, f"{row.minutes} minutes")

    @admin.display(description="state", ordering="state")
    def state_(self, row: CandleImport) -> SafeString:
        return formatting.chip(row.get_state_display(), CHIPS.get(ImportState(row.state), "wait"))

    @admin.display(description="clock")
    def clock(self, row: CandleImport) -> str:
        return row.options.get("clock") or row.report.get("clock") or "–"

    @admin.display(description="bars stored", ordering="added")
    def added_(self, row: CandleImport) -> str:
        return f"{row.added:,}"

    @admin.display(description="bars read")
    def bars_(self, row: CandleImport) -> str:
        return f"{row.bars:,}"

    @admin.action(description="Store these bars", permissions=["store"])
    def store(self, request: HttpRequest, chosen: Any) -> HttpResponse | None:
        return self._act(request, chosen, STORE)

    @admin.action(description="Take back: delete the bars that it brought", permissions=["store"])
    def take_back(self, request: HttpRequest, chosen: Any) -> HttpResponse | None:
        return self._act(request, chosen, TAKE_BACK)

    def _act(self, request: HttpRequest, chosen: Any, action: ConfirmedAction) -> HttpResponse | None:
        row = self.single(request, chosen)
        if row is None:
            return None
        form = action.bound_form(request)
        if not form.is_valid():
            return self.ask_confirmation(request, action, [row], form)
        try:
            if action is STORE:
                uploads.confirm(row=row, actor=actor_of(request))
                return redirect(change_url(row))
            taken = candles.take_back(import_id=row.pk, actor=actor_of(request), now=timezone.now())
        except DomainError as refusal:
            self.show_refusal(request, refusal, subject=str(row))
        else:
            self.message_user(request, f"{taken:,} bars of {row} were deleted.")
        return None
