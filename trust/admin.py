"""Trust scores in the admin: their reasons, holds by staff, and answers to appeals."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.postgres.expressions import ArraySubquery
from django.db import OperationalError
from django.db.models import Exists, F, OuterRef, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from audit.actors import actor_of
from audit.admin import with_user_names
from audit.models import AuditLog
from core import formatting
from core.confirmed_actions import ConfirmedAction, ConfirmedActionsAdmin, caller, change_url, link, wrapped_text
from core.errors import DomainError
from trust import explanations, services
from trust.models import Band, ScoreKind, TrustAppeal, TrustAssessment, TrustHold, TrustScore

ROWS = 20  # in a table on a page
POINTS = 30  # of the trend line in the list
CHIPS = {Band.FINE: "good", Band.NOTE: "", Band.WATCH: "wait", Band.CLOSE_ONLY: "bad"}
SPARK = '<svg class="spark" viewBox="-1 -1 92 24" aria-hidden="true"><polyline points="{}"/></svg>'
TIMELINE_ACTIONS = [
    "trust.restricted",
    "trust.restored",
    "trust.held",
    "trust.hold_ended",
    "trust.appealed",
    "trust.answered",
]
DAYS = [(1, "a day"), (7, "a week"), (30, "30 days"), (90, "90 days")]


class HoldForm(forms.Form):
    effect = forms.ChoiceField(choices=TrustHold.Effect.choices)
    days = forms.TypedChoiceField(label="For", choices=DAYS, coerce=int, initial=7)
    reason = forms.CharField(
        max_length=500, widget=forms.Textarea(attrs={"rows": 3}),
        help_text="Shown to the user and, with your name, in the audit log.",
    )  # fmt: skip


class AnswerForm(forms.Form):
    text = forms.CharField(
        label="Answer", max_length=2000, widget=forms.Textarea(attrs={"rows": 5}),
        help_text="Shown to the user on their Trust page. It cannot be changed.",
    )  # fmt: skip


RECALCULATE = ConfirmedAction("recalculate", "Recalculate", "", forms.Form)
HOLD = ConfirmedAction("hold", "Hold", "Your decision overrides the score until a day. Closes always pass.", HoldForm)
END_HOLD = ConfirmedAction(
    "end_hold", "End hold", "The score decides again. A restriction by the hold alone ends at once.", forms.Form
)
ANSWER = ConfirmedAction("answer", "Answer", "An appeal can be answered once.", AnswerForm)


class RestrictedFilter(admin.SimpleListFilter):
    title, parameter_name = "restriction", "follows"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        return [("closed", "close-only"), ("held", "held by staff")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "closed":
            return queryset.filter(restricted_at__isnull=False)
        return queryset.filter(is_held=True) if self.value() == "held" else queryset


@admin.register(TrustScore)
class TrustScoreAdmin(ConfirmedActionsAdmin):
    change_form_template = "admin/trust/score.html"
    list_display = ["whose", "kind", "score_", "band_", "restriction", "trend", "calculated_at"]
    list_filter = ["kind", "band", RestrictedFilter]
    list_select_related = ["user"]
    search_fields = ["user__username"]
    search_help_text = "User name"
    ordering = ["score", "user__username", "kind"]
    fields = ["whose", "kind", "version", "as_of", "restricted_at", "clean_since", "calculated_at"]
    readonly_fields = ["whose"]
    actions = ["recalculate", "hold", "end_hold"]
    confirmation_columns = ["whose", "kind_", "score_", "band_", "restriction"]

    def has_decide_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("trust.change_trustscore")

    def get_queryset(self, request: HttpRequest) -> Any:
        same_score = {"user": OuterRef("user"), "kind": OuterRef("kind")}
        latest_scores = TrustAssessment.objects.filter(**same_score).order_by("-version").values("score")[:POINTS]
        holds = TrustHold.objects.filter(**same_score, ended_at=None, expires_at__gt=timezone.now())
        queryset = super().get_queryset(request)
        return queryset.annotate(latest_scores=ArraySubquery(latest_scores), is_held=Exists(holds))

    @admin.display(description="user", ordering="user__username")
    def whose(self, score: TrustScore) -> str:
        return score.user.get_username()

    @admin.display(description="score kind")
    def kind_(self, score: TrustScore) -> str:
        return score.get_kind_display()

    @admin.display(description="score", ordering="score")
    def score_(self, score: TrustScore) -> SafeString:
        return formatting.number(score.score, 2)

    @admin.display(description="band", ordering="score")
    def band_(self, score: TrustScore) -> SafeString:
        return formatting.chip(score.get_band_display(), CHIPS[Band(score.band)])

    @admin.display(description="restriction", ordering="restricted_at")
    def restriction(self, score: Any) -> SafeString | str:
        held = formatting.chip("held", "wait") if score.is_held else ""
        restricted = formatting.chip("close-only", "bad") if score.restricted_at else ""
        return format_html("{} {}", restricted, held) if held or restricted else "–"

    @admin.display(description="trend")
    def trend(self, score: Any) -> SafeString:
        return format_html(SPARK, explanations.line(score.latest_scores[::-1], 90, 22))

    def offered_actions(self, score: Any) -> Sequence[ConfirmedAction]:
        return RECALCULATE, HOLD, *([END_HOLD] if score.is_held else [])

    def page_context(self, request: HttpRequest, score: TrustScore) -> dict[str, Any]:
        assessments = TrustAssessment.objects.filter(user=score.user, kind=score.kind)
        number = request.GET.get("version", "")
        version = int(number) if number.isdecimal() and len(number) < 19 else score.version
        assessment = assessments.filter(version=version).first() or assessments.get(version=score.version)
        holds = TrustHold.objects.filter(user=score.user, kind=score.kind, ended_at=None, expires_at__gt=timezone.now())
        hold = holds.select_related("by").first()
        audit_rows = AuditLog.objects.filter(
            subject=f"user:{score.user_id}", action__in=TIMELINE_ACTIONS, detail__kind=score.kind
        )
        recent = services.trend(score.user, score.kind, 200)
        return {
            "score": score,
            "assessment": assessment,
            "is_latest": assessment.version == score.version,
            "question": explanations.QUESTIONS[ScoreKind(score.kind)],
            "nothing": explanations.NOTHING[ScoreKind(score.kind)],
            "reasons": explanations.reasons(assessment),
            "inputs": {name: count for name, count in assessment.inputs.items() if name != "strategy"},
            "band_chip": self.band_(score),
            "line": explanations.line([assessment.score for assessment in recent], 600, 100),
            "first": recent[0].at,
            "history": assessments.order_by("-version").defer("features")[:ROWS],
            "hold": hold,
            "consequence": explanations.consequence(score, hold),
            "appeals": TrustAppeal.objects.filter(user=score.user, kind=score.kind).order_by("-pk")[:ROWS],
            "timeline": with_user_names(audit_rows.order_by("-id")[:ROWS]),
        }

    @admin.action(description="Recalculate: one now, several with the next sweep", permissions=["decide"])
    def recalculate(self, request: HttpRequest, chosen: QuerySet[TrustScore]) -> HttpResponse | None:
        rows = list(chosen.select_related("user")[:2])
        if not rows:
            return None
        if len(rows) > 1:
            count = services.make_due(chosen.values("user"))
            self.message_user(request, f"The next sweep recalculates {count} users, within a minute.")
            return None
        try:
            services.recalculate(user_id=rows[0].user_id)
        except OperationalError:
            self.message_user(
                request, "A worker is recalculating this score. Look again in a moment.", messages.WARNING
            )
        else:
            services.enforce()
            self.message_user(request, f"Recalculated: {rows[0].user}.")
        return redirect(change_url(rows[0]))

    @admin.action(description="Hold: override the score", permissions=["decide"])
    def hold(self, request: HttpRequest, chosen: QuerySet[TrustScore]) -> HttpResponse | None:
        def decide(score: TrustScore, answers: dict[str, Any]) -> str:
            until = timezone.now() + timedelta(days=answers["days"])
            hold = services.hold(
                user=score.user, kind=score.kind, effect=answers["effect"], reason=answers["reason"], expires_at=until,
                by=caller(request), actor=actor_of(request),
            )  # fmt: skip
            return f"{score.user} {hold.get_effect_display()}, until {hold.expires_at:%Y-%m-%d %H:%M} UTC."

        return self._confirm_and_do(request, chosen, HOLD, decide)

    @admin.action(description="End a hold: the score decides again", permissions=["decide"])
    def end_hold(self, request: HttpRequest, chosen: QuerySet[TrustScore]) -> HttpResponse | None:
        def end(score: TrustScore, answers: dict[str, Any]) -> str:
            hold = TrustHold.objects.filter(user=score.user, kind=score.kind, ended_at=None).first()
            if hold is None:
                return "There is no hold to end."
            services.end_hold(held=hold, by=caller(request), actor=actor_of(request))
            return f"The score of {score.user} decides again."

        return self._confirm_and_do(request, chosen, END_HOLD, end)

    def _confirm_and_do(
        self, request: HttpRequest, chosen: QuerySet[TrustScore], action: ConfirmedAction, do: Any
    ) -> HttpResponse | None:
        score = self.single(request, chosen.select_related("user"))
        if score is None:
            return None
        form = action.bound_form(request)
        if not form.is_valid():
            return self.ask_confirmation(request, action, [score], form)
        try:
            self.message_user(request, do(score, form.cleaned_data))
        except DomainError as refusal:
            self.show_refusal(request, refusal)
        except OperationalError:
            self.message_user(
                request,
                "A worker is recalculating this score, so nothing was changed. Try again in a moment.",
                messages.WARNING,
            )
        return redirect(change_url(score))


@admin.register(TrustAppeal)
class TrustAppealAdmin(ConfirmedActionsAdmin):
    list_display = ["created_at", "state", "whose", "kind", "note_", "answered_by"]
    list_filter = [("answered_at", admin.EmptyFieldListFilter), "kind", "created_at"]
    list_select_related = ["user", "answered_by"]
    search_fields = ["user__username", "note"]
    search_help_text = "User name or text of the appeal"
    ordering = [F("answered_at").desc(nulls_first=True), "-created_at"]
    fields = ["whose", "kind", "assessed", "note_", "created_at", "answer_", "answered_by", "answered_at"]
    readonly_fields = ["whose", "assessed", "note_", "answer_"]
    actions = ["answer"]
    confirmation_columns = ["whose", "kind_", "note_"]

    def has_decide_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("trust.change_trustappeal")

    @admin.display(description="state", ordering="answered_at")
    def state(self, appeal: TrustAppeal) -> SafeString:
        return formatting.chip("answered", "good") if appeal.answered_at else formatting.chip("unanswered", "wait")

    @admin.display(description="user", ordering="user__username")
    def whose(self, appeal: TrustAppeal) -> str:
        return appeal.user.get_username()

    @admin.display(description="score kind")
    def kind_(self, appeal: TrustAppeal) -> str:
        return appeal.get_kind_display()

    @admin.display(description="appeal")
    def note_(self, appeal: TrustAppeal) -> SafeString:
        return wrapped_text(appeal.note)

    @admin.display(description="answer")
    def answer_(self, appeal: TrustAppeal) -> SafeString:
        return wrapped_text(appeal.answer)

    @admin.display(description="score")
    def assessed(self, appeal: TrustAppeal) -> SafeString | str:
        score = TrustScore.objects.filter(user=appeal.user, kind=appeal.kind).first()
        if score is None:
            return "–"
        return format_html('<a href="{}?version={}">version {}</a>', change_url(score), appeal.version, appeal.version)

    def offered_actions(self, appeal: TrustAppeal) -> Sequence[ConfirmedAction]:
        return () if appeal.answered_at else (ANSWER,)

    @admin.action(description="Answer", permissions=["decide"])
    def answer(self, request: HttpRequest, chosen: QuerySet[TrustAppeal]) -> HttpResponse | None:
        appeal = self.single(request, chosen.select_related("user"))
        if appeal is None:
            return None
        form = ANSWER.bound_form(request)
        if not form.is_valid():
            return self.ask_confirmation(request, ANSWER, [appeal], form)
        try:
            services.answer(
                appealed=appeal, text=form.cleaned_data["text"], by=caller(request), actor=actor_of(request)
            )
            self.message_user(request, f"The appeal of {appeal.user} is answered.")
        except DomainError as refusal:
            self.show_refusal(request, refusal)
        return redirect(change_url(appeal))


@admin.register(TrustHold)
class TrustHoldAdmin(ConfirmedActionsAdmin):
    """Read-only: staff set and end a hold on the score's page."""

    list_display = ["created_at", "state", "whose", "kind", "effect", "reason_", "by", "expires_at"]
    list_filter = ["effect", "kind", "created_at"]
    list_select_related = ["user", "by"]
    search_fields = ["user__username", "by__username", "reason"]
    search_help_text = "User name, staff member or reason"
    ordering = ["-created_at"]
    fields = ["whose", "kind", "effect", "reason_", "by", "created_at", "expires_at", "ended_at", "score_"]
    readonly_fields = ["whose", "reason_", "score_"]

    @admin.display(description="state", ordering="expires_at")
    def state(self, hold: TrustHold) -> SafeString:
        in_force = hold.ended_at is None and hold.expires_at > timezone.now()
        return formatting.chip("in force", "wait") if in_force else formatting.chip("ended")

    @admin.display(description="user", ordering="user__username")
    def whose(self, hold: TrustHold) -> str:
        return hold.user.get_username()

    @admin.display(description="reason")
    def reason_(self, hold: TrustHold) -> SafeString:
        return wrapped_text(hold.reason)

    @admin.display(description="score")
    def score_(self, hold: TrustHold) -> SafeString | str:
        return link(TrustScore.objects.filter(user=hold.user, kind=hold.kind).first())
