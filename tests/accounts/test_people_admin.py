"""Staff cannot take an account over: no password is set for another, and rights take a request and its approval."""

import threading
from contextlib import suppress
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission
from django.core import mail
from django.db import DatabaseError, connections, transaction
from django.test import Client
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from accounts import services
from accounts.models import RightsRequest, TradingAccount, User
from audit import services as audit
from audit.models import AuditLog
from core.errors import DomainError, RequestDecided, RequestPending, SecondPersonNeeded
from tests.answers import text
from tests.people import colleague
from tests.signed import HOST

USERS, REQUESTS = "admin:accounts_user_changelist", "admin:accounts_rightsrequest_changelist"
ALL = services.Rights(is_active=True, is_staff=True, is_superuser=True)
WHERE = {"HTTP_HOST": HOST}


@pytest.fixture
def vera(cast: dict[str, Any]) -> User:
    """A second superuser."""
    return colleague("vera", superuser=True)


@pytest.fixture
def clara(cast: dict[str, Any]) -> User:
    """Support: she may change users."""
    return colleague("clara", "view_user", "change_user", "add_user")


def browser_of(user: User) -> Client:
    client = Client(headers={"Host": HOST})
    client.force_login(user)
    return client


def page_of(person: User) -> str:
    return reverse("admin:accounts_user_change", args=[person.pk])


def act(browser: Client, action: str, row: Any, **fields: Any) -> str:
    url = reverse(REQUESTS if isinstance(row, RightsRequest) else USERS)
    return text(browser.post(url, {"action": action, "_selected_action": str(row.pk), **fields}, follow=True))


def requested(person: User, by: User, rights: services.Rights = ALL) -> RightsRequest:
    return services.request_rights(person=person, rights=rights, reason="Promoted", by=by, actor=audit.SYSTEM)


# --- passwords


def test_no_page_of_the_admin_sets_anothers_password(staff: User, lena: TradingAccount) -> None:
    browser, before = browser_of(staff), lena.owner.password
    with pytest.raises(NoReverseMatch):
        reverse("admin:auth_user_password_change", args=[lena.owner_id])

    word = {"password1": "a-Very-new-passw0rd", "password2": "a-Very-new-passw0rd", "usable_password": "true"}
    assert browser.post(f"/admin/accounts/user/{lena.owner_id}/password/", word, follow=True).status_code in (404, 200)
    form = {"username": "lena", "email": lena.owner.email, "is_active": "on", "password": "x", **word}
    assert browser.post(page_of(lena.owner), form).status_code == 302

    assert User.objects.get(pk=lena.owner_id).password == before
    page = browser.get(page_of(lena.owner)).content.decode()
    assert 'name="email"' in page
    assert 'name="password' not in page and "scrypt" not in page


def test_a_password_cannot_be_guessed_by_filters_of_the_list(staff: User, lena: TradingAccount) -> None:
    answer = browser_of(staff).get(reverse(USERS), {"password__startswith": "scrypt"})

    assert answer.status_code in (302, 400)


def test_a_new_user_has_no_password_and_gets_a_link(clara: User) -> None:
    browser = browser_of(clara)
    assert "E-mail" in text(browser.get(reverse("admin:accounts_user_add"))).replace("Email", "E-mail")
    form = {"username": "nora", "email": "nora@copydesk.example", "first_name": "", "last_name": ""}
    assert browser.post(reverse("admin:accounts_user_add"), form).status_code == 302

    nora = User.objects.get(username="nora")
    assert not nora.has_usable_password()
    assert "is on its way to nora@" in act(browser, "send_link", nora, confirmed="1")
    assert mail.outbox[0].to == ["nora@copydesk.example"]


def test_staff_send_a_link_and_never_see_it(clara: User, lena: TradingAccount) -> None:
    shown = act(browser_of(clara), "send_link", lena.owner)
    assert "holds for an hour" in shown and not mail.outbox

    done = act(browser_of(clara), "send_link", lena.owner, confirmed="1")

    assert [message.to for message in mail.outbox] == [[lena.owner.email]]
    link = next(line for line in str(mail.outbox[0].body).splitlines() if "://" in line)
    assert link.rsplit("/", 2)[-2] not in done
    row = AuditLog.objects.get(action="password.reset_sent")
    assert (row.actor, row.subject) == (str(clara.pk), f"user:{lena.owner_id}")


def test_a_link_for_staff_takes_two_colleagues(clara: User, vera: User, staff: User) -> None:
    User.objects.filter(pk=vera.pk).update(email="vera@copydesk.example")
    browser = browser_of(staff)
    assert "request the link" in act(browser, "send_link", vera, confirmed="1")
    assert "a superuser has to approve" in act(browser, "request_reset", vera, confirmed="1", reason="Lost")
    request = RightsRequest.objects.get()
    form = {"action": "approve", "_selected_action": str(request.pk), "confirmed": "1"}
    for nobody in (staff, vera, clara):
        browser_of(nobody).post(reverse(REQUESTS), form)
        assert not mail.outbox

    third = colleague("theo", superuser=True)
    assert "approved" in act(browser_of(third), "approve", request, confirmed="1")
    assert [message.to for message in mail.outbox] == [["vera@copydesk.example"]]


# --- rights


@pytest.mark.parametrize("person", ["clara", "lena", "desk"])
def test_no_form_gives_rights(person: str, staff: User, clara: User, lena: TradingAccount) -> None:
    user = User.objects.get(username=person)
    powers = {"is_staff": "on", "is_superuser": "on", "user_permissions": [Permission.objects.all()[0].pk]}
    before = services.rights_of(user)
    form = {"username": person, "email": user.email, "is_active": "on", **powers}
    for by in (clara, staff):
        browser_of(by).post(page_of(user), form)

    assert services.rights_of(User.objects.get(pk=user.pk)) == before


def test_rights_hold_once_a_second_person_approved_them(
    staff: User, vera: User, lena: TradingAccount, clara: User
) -> None:
    group = Group.objects.create(name="support")
    permission = Permission.objects.get(codename="view_botkey")
    wanted = {"is_active": "on", "is_staff": "on", "member_of": [group.pk], "permissions": [permission.pk]}
    asked = act(browser_of(clara), "request_rights", lena.owner)
    assert "Staff: may use the back office" in asked and "support" in asked
    assert "approve the rights" in act(
        browser_of(clara), "request_rights", lena.owner, confirmed="1", reason="She joins us", **wanted
    )
    request = RightsRequest.objects.get()
    assert not User.objects.get(pk=lena.owner_id).is_staff

    page = text(browser_of(vera).get(reverse("admin:accounts_rightsrequest_change", args=[request.pk])))
    assert "staff, group support (allows nothing), may view bot key" in page
    assert "approved" in act(browser_of(vera), "approve", request, confirmed="1")

    now = services.rights_of(User.objects.get(pk=lena.owner_id))
    assert now == services.Rights(True, True, False, [group.pk], [permission.pk])
    facts = AuditLog.objects.filter(subject=f"user:{lena.owner_id}", action__startswith="rights.").order_by("id")
    assert [(fact.action, fact.actor) for fact in facts] == [
        ("rights.requested", str(clara.pk)),
        ("rights.request_decided", str(vera.pk)),
        ("rights.changed", str(vera.pk)),
    ]
    assert facts[2].detail["is_staff"] is True


def test_nobody_grants_themselves_rights(staff: User, vera: User, clara: User) -> None:
    with pytest.raises(SecondPersonNeeded):
        requested(clara, by=clara)
    request = requested(clara, by=staff)
    for person in (staff, clara):
        with pytest.raises(SecondPersonNeeded):
            services.approve(request=request, by=person, actor=audit.SYSTEM)

    assert not User.objects.get(pk=clara.pk).is_superuser
    services.approve(request=request, by=vera, actor=audit.SYSTEM)
    assert User.objects.get(pk=clara.pk).is_superuser


def test_only_a_superuser_approves(staff: User, clara: User, lena: TradingAccount) -> None:
    request = requested(lena.owner, by=staff)

    with pytest.raises(SecondPersonNeeded):
        services.approve(request=request, by=clara, actor=audit.SYSTEM)


def test_a_requester_who_was_deactivated_meanwhile_has_no_say(staff: User, vera: User, clara: User, lena: Any) -> None:
    request = requested(lena.owner, by=clara)
    User.objects.filter(pk=clara.pk).update(is_active=False)

    with pytest.raises(SecondPersonNeeded):
        services.approve(request=request, by=vera, actor=audit.SYSTEM)
    assert not User.objects.get(pk=lena.owner_id).is_staff


def test_a_request_is_decided_once_and_only_one_waits(staff: User, vera: User, lena: TradingAccount) -> None:
    request = requested(lena.owner, by=staff)
    with pytest.raises(RequestPending):
        requested(lena.owner, by=vera)
    services.reject(request=request, by=staff, reason="A mistake", actor=audit.SYSTEM)

    with pytest.raises(RequestDecided):
        services.approve(request=request, by=vera, actor=audit.SYSTEM)
    assert not User.objects.get(pk=lena.owner_id).is_staff


def test_a_group_with_members_gets_no_more_permissions(staff: User, clara: User) -> None:
    group = Group.objects.using("owner").create(name="support")
    group.user_set.add(User.objects.using("owner").get(pk=clara.pk))
    permission = Permission.objects.get(codename="change_wallet")
    url = reverse("admin:auth_group_change", args=[group.pk])

    page = text(browser_of(staff).post(url, {"name": "support", "permissions": [permission.pk]}))

    assert "This group has members" in page
    assert not group.permissions.exists()


# --- the database


GRANTS = {
    "update users set is_staff = true where username = 'lena'": "need a request",
    "update users set is_superuser = true where username = 'lena'": "need a request",
    "update users set is_superuser = true where username = 'clara'": "need a request",
    "update users set is_active = true where username = 'gone'": "need a request",
    "insert into users select (jsonb_populate_record(u, jsonb_build_object('id', gen_random_uuid(), 'username', 'eve',"
    " 'is_staff', true))).* from users u where username = 'lena'": "need a request",
    "insert into users_user_permissions (user_id, permission_id) select u.id, p.id from users u, auth_permission p"
    " where username = 'clara' and codename = 'change_wallet'": "need a request",
    "insert into users_groups (user_id, group_id) select u.id, g.id from users u, auth_group g"
    " where username = 'clara'": "need a request",
    "update users set is_superuser = false": "the last superuser stays",
    "update users set is_active = false where is_superuser": "the last superuser stays",
}


@pytest.mark.parametrize("statement", GRANTS)
def test_the_database_refuses_rights_without_an_approved_request(
    statement: str, staff: User, clara: User, lena: TradingAccount
) -> None:
    colleague("gone")
    User.objects.filter(username="gone").update(is_active=False)
    Group.objects.create(name="support")
    with pytest.raises(DatabaseError, match=GRANTS[statement]), connections["default"].cursor() as cursor:
        cursor.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "update public.users set is_superuser = true where username = 'lena'",
        "insert into users_user_permissions (user_id, permission_id) select u.id, p.id from public.users u,"
        " auth_permission p where username = 'lena' and codename = 'change_wallet'",
    ],
)
def test_a_table_of_the_session_does_not_stand_before_the_users(
    statement: str, staff: User, lena: TradingAccount
) -> None:
    with (
        pytest.raises(DatabaseError, match="need a request"),
        transaction.atomic(),
        connections["default"].cursor() as cursor,
    ):
        cursor.execute("create temporary table users as select * from public.users where false")
        cursor.execute(statement)


def test_two_superusers_who_remove_each_other_at_the_same_time_leave_one(staff: User, vera: User) -> None:
    updated = threading.Barrier(2)

    def deactivate(person: User) -> None:
        with suppress(DatabaseError), transaction.atomic():
            User.objects.select_for_update().get(pk=person.pk)
            updated.wait()
            User.objects.filter(pk=person.pk).update(is_active=False)
            with suppress(threading.BrokenBarrierError):
                updated.wait(1)
        connections.close_all()

    threads = [threading.Thread(target=deactivate, args=(person,)) for person in (staff, vera)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert User.objects.filter(is_superuser=True, is_active=True).count() == 1


def test_an_approval_of_another_transaction_grants_nothing(staff: User, vera: User, lena: TradingAccount) -> None:
    services.approve(request=requested(lena.owner, by=staff), by=vera, actor=audit.SYSTEM)
    User.objects.filter(pk=lena.owner_id).update(is_staff=False, is_superuser=False)

    with pytest.raises(DatabaseError, match="need a request"):
        User.objects.filter(pk=lena.owner_id).update(is_staff=True, is_superuser=True)


FORGED = {
    "insert ready": "insert into rights_requests (id, kind, person_id, is_active, is_staff, is_superuser, email,"
    " groups, permissions, reason, requested_by_id, state, decided_by_id, decided_at) select gen_random_uuid(),"
    " 'RIGHTS', l.id, true, true, true, '', '{}', '{}', 'x', d.id, 'DONE', v.id, now() from users l, users d, users v"
    " where l.username = 'lena' and d.username = 'desk' and v.username = 'vera'",
    "one person twice": "update rights_requests set state = 'DONE', decided_by_id = requested_by_id,"
    " decided_at = now()",
    "the person": "update rights_requests set state = 'DONE', decided_by_id = person_id, decided_at = now()",
    "no superuser": "update rights_requests set state = 'DONE', decided_at = now(),"
    " decided_by_id = (select id from users where username = 'clara')",
    "other rights": "update rights_requests set is_superuser = not is_superuser",
    "deleted": "delete from rights_requests",
}


@pytest.mark.parametrize("statement", FORGED.values(), ids=FORGED)
def test_the_database_refuses_forged_requests(
    statement: str, staff: User, vera: User, clara: User, lena: TradingAccount
) -> None:
    requested(lena.owner, by=staff)

    with pytest.raises(DatabaseError), connections["default"].cursor() as cursor:
        cursor.execute(statement)
    assert RightsRequest.objects.get().state == "PENDING"


# --- e-mail addresses


def test_a_changed_address_is_recorded_told_to_the_old_one_and_of_no_use_for_a_reset(
    clara: User, lena: TradingAccount, client: Client
) -> None:
    old = lena.owner.email
    form = {"username": "lena", "email": "thief@copydesk.example", "is_active": "on"}
    assert browser_of(clara).post(page_of(lena.owner), form).status_code == 302

    assert [(message.to, "no longer belongs to it" in str(message.body)) for message in mail.outbox] == [([old], True)]
    row = AuditLog.objects.get(action="email.changed")
    assert (row.actor, row.ip, row.subject) == (str(clara.pk), "127.0.0.1", f"user:{lena.owner_id}")
    mail.outbox.clear()
    assert "email_changed_recently" in act(browser_of(clara), "send_link", lena.owner, confirmed="1")
    client.post("/password-reset/", {"email": "thief@copydesk.example"}, **WHERE)
    assert mail.outbox == []

    User.objects.update(email_changed_at=timezone.now() - services.COOLING)
    assert "is on its way" in act(browser_of(clara), "send_link", lena.owner, confirmed="1")


def test_the_address_of_a_staff_account_changes_by_two_people(staff: User, vera: User, clara: User) -> None:
    form = {"username": "vera", "email": "thief@copydesk.example", "is_active": "on"}
    assert browser_of(staff).post(page_of(vera), form).status_code == 302
    assert User.objects.get(pk=vera.pk).email == ""

    rights = services.Rights(True, True, False, email="clara@copydesk.example")
    request = requested(clara, staff, rights)
    act(browser_of(vera), "approve", request, confirmed="1")
    changed = User.objects.get(pk=clara.pk)
    assert (changed.email, changed.email_changed_at is not None) == ("clara@copydesk.example", True)


def test_a_colleague_is_deactivated_at_once_and_comes_back_by_two_people(staff: User, vera: User, clara: User) -> None:
    browser_of(staff).post(page_of(clara), {"username": "clara"})
    assert not User.objects.get(pk=clara.pk).is_active

    browser_of(staff).post(page_of(clara), {"username": "clara", "is_active": "on"})
    assert not User.objects.get(pk=clara.pk).is_active


def test_a_refusal_of_the_database_is_no_success(staff: User, vera: User, lena: TradingAccount) -> None:
    """The verb alone, without the trigger's help, writes nothing either."""
    request = requested(lena.owner, by=staff)
    with pytest.raises(DomainError), transaction.atomic():
        services._decide(request, RightsRequest.State.DONE, vera, audit.SYSTEM)
        raise RequestDecided
    assert RightsRequest.objects.get().state == "PENDING"
