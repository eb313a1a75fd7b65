"""Users in the admin. Nobody sets another's password: a link is sent. Rights and staff accounts take two people."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import Group, Permission
from django.db import transaction
from django.db.models import Case, QuerySet, Value, When
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from accounts import resets, services
from accounts.models import RightsRequest, User
from audit.actors import actor_of
from audit.admin import AuditedAdmin
from core.confirmed_actions import ConfirmedAction, ConfirmedActionsAdmin, ReasonForm, caller, link, wrapped_text
from core.errors import DomainError
from core.formatting import chip


def _several(label: str, rows: QuerySet[Any], help_text: str = "") -> forms.ModelMultipleChoiceField:
    widget = forms.SelectMultiple(attrs={"size": 10})
    return forms.ModelMultipleChoiceField(rows, label=label, required=False, widget=widget, help_text=help_text)


class RightsForm(ReasonForm):
    """The rights that a person is to have, all of them."""

    is_active = forms.BooleanField(label="Active", required=False)
    is_staff = forms.BooleanField(label="Staff: may use the back office", required=False)
    is_superuser = forms.BooleanField(label="Superuser: has all rights, and approves those of others", required=False)
    email = forms.EmailField(label="New e-mail address", required=False, help_text="Empty: it stays.")
    member_of = _several("Groups", Group.objects.order_by("name"))
    permissions = _several("Permissions", Permission.objects.select_related("content_type"))
    field_order = ("is_active", "is_staff", "is_superuser", "email", "member_of", "permissions", "reason")

    def rights(self) -> services.Rights:
        chosen = self.cleaned_data
        return services.Rights(
            is_active=chosen["is_active"],
            is_staff=chosen["is_staff"],
            is_superuser=chosen["is_superuser"],
            email=chosen["email"],
            groups=[group.pk for group in chosen["member_of"]],
            permissions=[permission.pk for permission in chosen["permissions"]],
        )


SEND_LINK = ConfirmedAction(
    "send_link", "Send a link for a new password",
    "It goes to the e-mail address of the account, holds for an hour, and can be used once. The present password stays "
    "until then.",
    forms.Form,
)  # fmt: skip
REQUEST_RESET = ConfirmedAction(
    "request_reset", "Request a link for a new password",
    "For a staff account. It is sent once a superuser other than you has approved it.",
    ReasonForm,
)  # fmt: skip
REQUEST_RIGHTS = ConfirmedAction(
    "request_rights", "Request other rights",
    "They hold once a superuser other than you has approved them.",
    RightsForm, grave=True,
)  # fmt: skip
APPROVE = ConfirmedAction("approve", "Approve", "It takes effect at once.", forms.Form, grave=True)
REJECT = ConfirmedAction("reject", "Reject", "Nothing changes.", ReasonForm)


@admin.register(User)
class UserAdmin(AuditedAdmin, ConfirmedActionsAdmin):
    """Users are deactivated, never deleted: trades and money refer to them. Only superusers change staff accounts."""

    change_form_template = "admin/accounts/person.html"
    audit_subject = "user"
    list_display = ["username", "email", "is_active", "is_staff", "last_login"]
    list_filter = ["is_active", "is_staff", "is_superuser", "groups"]
    search_fields = ["username", "first_name", "last_name", "email"]
    ordering = ["username"]
    filter_horizontal = ["groups", "user_permissions"]
    actions = ("send_link", "request_reset", "request_rights")
    confirmation_columns: ClassVar[Sequence[str]] = ["username_", "email_", "is_staff_"]
    POWERS = ("is_staff", "is_superuser", "groups", "user_permissions")
    DATES = ("last_login", "date_joined", "email_changed_at")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        person = (None, {"fields": ["username", "first_name", "last_name", "email"]})
        if obj is None:
            return [person]
        return [person, ("Rights", {"fields": ["is_active", *self.POWERS]}), ("Dates", {"fields": self.DATES})]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        of_staff = []
        if obj is not None and obj.is_privileged:  # what gives access to a staff account is requested
            of_staff = ["email"] if obj.is_active and obj.pk != request.user.pk else ["email", "is_active"]
        return [*self.POWERS, *self.DATES, *of_staff]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.add_user")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        is_colleague = obj is not None and obj.is_privileged and obj.pk != request.user.pk
        may_change = request.user.has_perm("accounts.change_user")
        return may_change and (bool(request.user.is_superuser) or not is_colleague)

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        return not lookup.startswith("password") and super().lookup_allowed(lookup, value, request)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        if not change:
            services.add_person(obj)
            return
        old_address = services.change_person(person=obj, changed=form.changed_data, actor=actor_of(request))
        transaction.on_commit(lambda: resets.tell_old_address(old_address, obj))

    def offered_actions(self, person: User | None) -> Sequence[ConfirmedAction]:
        if person is None:
            return ()
        return (REQUEST_RESET if person.is_privileged else SEND_LINK, REQUEST_RIGHTS)

    @admin.display(description="user name")
    def username_(self, person: User) -> str:
        return person.username

    @admin.display(description="e-mail address")
    def email_(self, person: User) -> str:
        return person.email or "–"

    @admin.display(description="staff")
    def is_staff_(self, person: User) -> str:
        return "superuser" if person.is_superuser else "staff" if person.is_staff else "no"

    @admin.action(description="Send a link for a new password", permissions=["change"])
    def send_link(self, request: HttpRequest, chosen: QuerySet[User]) -> HttpResponse | None:
        return self._act(request, chosen, SEND_LINK, self._send_link)

    @admin.action(description="Request a link for the password of a staff account", permissions=["change"])
    def request_reset(self, request: HttpRequest, chosen: QuerySet[User]) -> HttpResponse | None:
        return self._act(request, chosen, REQUEST_RESET, self._request_reset)

    @admin.action(description="Request other rights", permissions=["change"])
    def request_rights(self, request: HttpRequest, chosen: QuerySet[User]) -> HttpResponse | None:
        return self._act(request, chosen, REQUEST_RIGHTS, self._request_rights)

    def _act(
        self, request: HttpRequest, chosen: QuerySet[User], action: ConfirmedAction, do: Callable[..., str]
    ) -> HttpResponse | None:
        person = self.single(request, chosen)
        if person is None:
            return None
        form = action.bound_form(request)
        if action is REQUEST_RIGHTS and not form.is_bound:
            form = RightsForm(initial=_present_rights(person))
        if not form.is_valid():
            return self.ask_confirmation(request, action, [person], form)
        try:
            self.message_user(request, do(request, person, form))
        except DomainError as refusal:
            self.show_refusal(request, refusal, subject=person.username)
        except forms.ValidationError as fault:
            self.message_user(request, f"{person.username}: {fault.messages[0]}", messages.ERROR)
        return None

    def _send_link(self, request: HttpRequest, person: User, form: Any) -> str:
        if person.is_privileged:
            raise forms.ValidationError("For a staff account request the link: a colleague has to approve it.")
        resets.send_link(person, request, actor_of(request))
        return f"A link for a new password is on its way to {person.email}."

    def _request_reset(self, request: HttpRequest, person: User, form: Any) -> str:
        if not person.is_privileged:
            raise forms.ValidationError("This is no staff account: send the link.")
        services.request_reset(person=person, by=caller(request), actor=actor_of(request), **form.cleaned_data)
        return f"{person.username}: a superuser has to approve the link."

    def _request_rights(self, request: HttpRequest, person: User, form: RightsForm) -> str:
        services.request_rights(
            person=person, rights=form.rights(), reason=form.cleaned_data["reason"], by=caller(request),
            actor=actor_of(request),
        )  # fmt: skip
        return f"{person.username}: a superuser has to approve the rights."


def _present_rights(person: User) -> dict[str, Any]:
    rights = services.rights_of(person)
    return {
        "is_active": rights.is_active, "is_staff": rights.is_staff, "is_superuser": rights.is_superuser,
        "member_of": rights.groups, "permissions": rights.permissions,
    }  # fmt: skip


@admin.register(RightsRequest)
class RightsRequestAdmin(ConfirmedActionsAdmin):
    """Rights and resets that await a superuser's approval, pending ones first."""

    list_display = ["created_at", "state_", "kind", "person_", "reason_", "by", "decided"]
    list_filter = ["state", "kind", "created_at"]
    list_select_related = ["person", "requested_by", "decided_by"]
    search_fields = ["person__username", "requested_by__username", "reason"]
    search_help_text = "Person, requester or reason"
    ordering: ClassVar[Any] = [
        Case(When(state=RightsRequest.State.PENDING, then=Value(0)), default=Value(1)), "-created_at"
    ]  # fmt: skip
    actions = ("approve", "reject")
    confirmation_columns: ClassVar[Sequence[str]] = ["kind_", "person_", "now_", "then_", "reason_", "by"]
    fields = ["state_", "kind", "person_", "now_", "then_", "reason", "by", "created_at", "decided", "decided_at"]
    readonly_fields = ["state_", "person_", "now_", "then_", "by", "decided"]

    def has_decide_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.is_superuser)

    def offered_actions(self, row: RightsRequest) -> Sequence[ConfirmedAction]:
        return (APPROVE, REJECT) if row.state == RightsRequest.State.PENDING else ()

    @admin.display(description="state", ordering="state")
    def state_(self, row: RightsRequest) -> SafeString:
        return chip(row.get_state_display(), {"DONE": "good", "PENDING": "wait"}.get(row.state, "bad"))

    @admin.display(description="kind")
    def kind_(self, row: RightsRequest) -> str:
        return row.get_kind_display()

    @admin.display(description="person", ordering="person__username")
    def person_(self, row: RightsRequest) -> SafeString | str:
        return link(row.person)

    @admin.display(description="rights today")
    def now_(self, row: RightsRequest) -> SafeString:
        return wrapped_text(_in_words(services.rights_of(row.person)))

    @admin.display(description="requested rights")
    def then_(self, row: RightsRequest) -> SafeString | str:
        if row.kind == RightsRequest.Kind.RESET:
            return "the same, and a link for a new password"
        rights = services.Rights(
            row.is_active, row.is_staff, row.is_superuser, row.groups, row.permissions, row.email
        )  # fmt: skip
        return wrapped_text(_in_words(rights))

    @admin.display(description="reason")
    def reason_(self, row: RightsRequest) -> SafeString:
        return wrapped_text(row.reason)

    @admin.display(description="requested by", ordering="requested_by__username")
    def by(self, row: RightsRequest) -> str:
        return str(row.requested_by.get_username())

    @admin.display(description="decided by", ordering="decided_by__username")
    def decided(self, row: RightsRequest) -> str:
        return row.decided_by.get_username() if row.decided_by else "–"

    @admin.action(description="Approve: it takes effect at once", permissions=["decide"])
    def approve(self, request: HttpRequest, chosen: QuerySet[RightsRequest]) -> HttpResponse | None:
        return self._decide(request, chosen, APPROVE, services.approve)

    @admin.action(description="Reject", permissions=["decide"])
    def reject(self, request: HttpRequest, chosen: QuerySet[RightsRequest]) -> HttpResponse | None:
        return self._decide(request, chosen, REJECT, services.reject)

    def _decide(
        self, request: HttpRequest, chosen: QuerySet[RightsRequest], action: ConfirmedAction, verb: Callable[..., Any]
    ) -> HttpResponse | None:
        row = self.single(request, chosen.select_related("person", "requested_by"))
        if row is None:
            return None
        form = action.bound_form(request)
        if not form.is_valid():
            return self.ask_confirmation(request, action, [row], form)
        old_address = row.person.email
        try:
            decided = verb(request=row, by=caller(request), actor=actor_of(request), **form.cleaned_data)
            if action is APPROVE:
                self._tell(request, decided, old_address)
        except (DomainError, forms.ValidationError) as refusal:
            words = refusal.message if isinstance(refusal, DomainError) else refusal.messages[0]
            self.message_user(request, f"{row}: {words}", messages.ERROR)
        else:
            self.message_user(request, f"{row}: {action.title.lower()}{'d' if action is APPROVE else 'ed'}.")
        return None

    def _tell(self, request: HttpRequest, decided: RightsRequest, old_address: str) -> None:
        person = User.objects.get(pk=decided.person_id)
        if decided.kind == RightsRequest.Kind.RESET:
            resets.send_link(person, request, actor_of(request))
        elif person.email != old_address:
            resets.tell_old_address(old_address, person)


def _in_words(rights: services.Rights) -> str:
    kind = "superuser" if rights.is_superuser else "staff" if rights.is_staff else "no staff"
    groups = Group.objects.filter(pk__in=rights.groups).order_by("name").prefetch_related("permissions")
    permissions = Permission.objects.filter(pk__in=rights.permissions).select_related("content_type")
    words = ["active" if rights.is_active else "not active", kind, *map(_group_in_words, groups)]
    words += [f"may {permission.name.removeprefix('Can ')}" for permission in permissions]
    return ", ".join([*words, f"e-mail {rights.email}"] if rights.email else words)


def _group_in_words(group: Group) -> str:
    """The group with what it allows today: a name alone could hide what is approved."""
    allowed = ", ".join(permission.name.removeprefix("Can ") for permission in group.permissions.all())
    return f"group {group.name} (may {allowed})" if allowed else f"group {group.name} (allows nothing)"
