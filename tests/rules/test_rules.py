"""The tree follows the rules of the source, and each rule finds a planted violation."""

import re
from pathlib import Path

import pytest
from django.contrib import admin
from django.contrib.admin import ModelAdmin
from django.test import RequestFactory

from accounts.models import User
from tests.rules import rules, trees
from tests.rules.rules import Rule, Source

UNDECLARED = """
def end(subscription):
    subscription.save(update_fields=["status"])
    audit.record("subscription.ended")
"""
UNDECLARED_BELOW = """
def end(subscription):
    _end(subscription)

def _end(subscription):
    subscription.save(update_fields=["status"])
    audit.record("subscription.ended")
"""
# For each rule: a file, and code that it must not contain.
PLANTED: list[tuple[Rule, str, str]] = [
    (rules.writes_outside_services, "portal/wallet.py", "Wallet.objects.filter(pk=1).update(frozen_at=None)"),
    (rules.writes_outside_services, "trust/admin.py", "held.save(update_fields=['ended_at'])"),
    (rules.writes_outside_services, "trades/api/__init__.py", "CopyOrder.objects.create(account=account)"),
    (rules.writes_outside_services, "trades/tasks.py", "ActiveTrade.objects.all().delete()"),
    (rules.writes_outside_services, "market/admin.py", "super().save_model(request, obj, form, change)"),
    (rules.writes_outside_services, "wallets/statements.py", "Wallet.objects.get_or_create(owner=owner)"),
    (rules.writes_outside_services, "config/tasks.py", "User.objects.bulk_create([User()])"),
    (rules.raw_sql_at_an_edge, "portal/views.py", "from django.db import connection"),
    (rules.raw_sql_at_an_edge, "wallets/admin/fees.py", "from django.db import connections"),
    (rules.raw_sql_at_an_edge, "trust/api.py", "from core import database"),
    (rules.raw_sql_at_an_edge, "trades/admin.py", "ActiveTrade.objects.raw('select 1')"),
    (rules.http_in_services, "wallets/services/__init__.py", "from django.http import HttpRequest"),
    (rules.http_in_services, "trust/services.py", "from celery import shared_task"),
    (rules.http_in_services, "trades/models.py", "import channels.layers"),
    (rules.locks_outside_models, "strategies/services.py", "Strategy.objects.select_for_update().get(pk=1)"),
    (rules.undeclared_transactions, "trust/services.py", "with transaction.atomic(durable=True): pass"),
    (rules.undeclared_transactions, "portal/wallet.py", "from django.db.transaction import atomic"),
    (rules.undeclared_transactions, "strategies/services.py", "from core.transactions import use_case_or_part"),
    (rules.verbs_without_a_transaction, "strategies/services.py", UNDECLARED),
    (rules.verbs_without_a_transaction, "wallets/services/settlement.py", UNDECLARED_BELOW),
]
ALLOWED = [
    (rules.writes_outside_services, "portal/views.py", "context.update({'page': 1})"),
    (rules.writes_outside_services, "wallets/services/__init__.py", "Wallet.objects.create(owner=owner)"),
    (rules.raw_sql_at_an_edge, "trust/evidence.py", "from django.db import connection"),
    (rules.http_in_services, "trust/api.py", "from django.http import HttpRequest"),
    (rules.locks_outside_models, "strategies/models.py", "self.select_for_update()"),
    (rules.undeclared_transactions, "core/transactions.py", "transaction.atomic()"),
    (rules.verbs_without_a_transaction, "strategies/services.py", f"@use_case()\n{UNDECLARED}"),
    (rules.verbs_without_a_transaction, "strategies/services.py", f"@part\n{UNDECLARED}"),
    (rules.verbs_without_a_transaction, "strategies/services.py", "def end(x):\n    x.save()"),
]
HELD = (
    rules.raw_sql_at_an_edge,
    rules.http_in_services,
    rules.locks_outside_models,
    rules.undeclared_transactions,
    rules.verbs_without_a_transaction,
)


def writers_named_in_the_architecture() -> set[str]:
    """Return the files that ARCHITECTURE.md allows to write besides services."""
    text = (trees.ROOT / "ARCHITECTURE.md").read_text()
    section = text.partition("**Writes outside services**")[2].partition("\n\n")[0]
    return set(re.findall(r"`([\w/]+\.py)`", section))


def test_the_architecture_names_what_the_admins_forms_write(rf: RequestFactory) -> None:
    request = rf.get("/admin/")
    request.user = User(username="desk", is_staff=True, is_superuser=True)
    text = (trees.ROOT / "ARCHITECTURE.md").read_text()
    named = text.partition("Django's own forms keep")[2].partition(" in the admin")[0].replace("\n", " ")

    written = {
        str(model._meta.verbose_name_plural)
        for model, page in admin.site._registry.items()
        if (
            (page.has_add_permission(request) and type(page).add_view is ModelAdmin.add_view)
            or page.has_change_permission(request)
        )
        and type(page).save_model is ModelAdmin.save_model
    }

    assert written == set(re.split(", | and ", named.strip()))


def _files(broken: list[str]) -> set[str]:
    return {line.partition(":")[0] for line in broken}


def test_the_architecture_names_every_writer_outside_services() -> None:
    broken = rules.broken(rules.writes_outside_services, trees.ROOT)
    named = writers_named_in_the_architecture()

    assert [line for line in broken if line.partition(":")[0] not in named] == []
    assert named == _files(broken), "ARCHITECTURE.md names a file that no longer writes"


@pytest.mark.parametrize("rule", HELD, ids=lambda rule: rule.__name__)
def test_the_rule_holds(rule: Rule) -> None:
    assert rules.broken(rule, trees.ROOT) == []


@pytest.mark.parametrize(("rule", "path", "line"), PLANTED, ids=lambda part: getattr(part, "__name__", str(part)[:40]))
def test_refuses_a_planted_violation(rule: Rule, path: str, line: str) -> None:
    assert (trees.ROOT / path).exists()
    assert list(rule(Source(Path(path), line)))


@pytest.mark.parametrize(("rule", "path", "line"), ALLOWED, ids=lambda part: getattr(part, "__name__", str(part)[:40]))
def test_allows_the_same_code_where_it_belongs(rule: Rule, path: str, line: str) -> None:
    assert list(rule(Source(Path(path), line))) == []


def test_every_module_that_is_declared_pure_is_in_the_contract() -> None:
    pure = next(contract for contract in trees.contracts(trees.ROOT) if contract["name"].startswith("Pure"))

    assert rules.pure_modules(trees.ROOT) <= set(pure["source_modules"])


LONG_LINES = ("bench/",)  # pgbench's scripts: a statement a line


def long_lines(tree: Path) -> list[str]:
    """Lines of SQL, templates, styles and scripts that are longer than a line of Python may be."""
    listed = trees.files(tree, ".sql", ".html", ".css", ".js", ".mjs")
    return [
        f"{path}:{number}"
        for path in listed
        if not path.as_posix().startswith(LONG_LINES)
        for number, line in enumerate((tree / path).read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 120
    ]


def test_sql_and_templates_have_lines_of_pythons_length() -> None:
    assert long_lines(trees.ROOT) == []


def test_finds_a_long_line_of_sql(tmp_path: Path) -> None:
    (tmp_path / "trades").mkdir()
    (tmp_path / "trades/close.sql").write_text(f"select 1;\n{'x' * 121}\n")

    assert long_lines(tmp_path) == ["trades/close.sql:2"]
