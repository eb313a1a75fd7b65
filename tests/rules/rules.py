"""Rules of the source that no linter checks. Each rule is a function that yields the violations in one file.

ARCHITECTURE.md gives the reasons. `test_rules.py` runs the rules over the tree and over planted violations.
"""

import ast
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.rules import trees

_WRITES = ("save", "create", "update", "delete", "bulk_create", "bulk_update", "get_or_create", "update_or_create")
ORM_WRITES = frozenset((*_WRITES, *(f"a{name}" for name in _WRITES), "save_base", "save_model", "delete_model"))
EDGES = frozenset(("admin", "api", "consumers", "tasks", "management", "templatetags", "forms"))
RAW_SQL = frozenset(("django.db.connection", "django.db.connections", "psycopg", "core.database"))
ABOUT_THE_DATABASE = (Path("config/management/commands/migrate.py"),)
HTTP = ("django.http", "django.shortcuts", "django.forms", "django.contrib.admin", "channels", "celery", "httpx")


@dataclass(frozen=True)
class Source:
    """One file of the desk, by its path in the tree."""

    path: Path
    text: str

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def parts(self) -> frozenset[str]:
        return frozenset(self.path.with_suffix("").parts)

    def calls(self) -> Iterator[tuple[ast.Call, str]]:
        return _method_calls(self.tree)

    def imports(self) -> Iterator[tuple[int, str]]:
        """Yield every imported module or name by its full path, with its line."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _method_calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Yield every method call with the method's name; `update` only with keyword arguments, as QuerySets have it."""
    for call in ast.walk(tree):
        method = call.func.attr if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) else None
        if isinstance(call, ast.Call) and method and (method != "update" or (call.keywords and not call.args)):
            yield call, method


Rule = Callable[[Source], Iterator[tuple[int, str]]]


@functools.cache
def sources(tree: Path) -> list[Source]:
    """Return all Python files of the desk except migrations, which may not change."""
    files = [
        file for app in trees.APPS for file in sorted((tree / app).rglob("*.py")) if "migrations" not in file.parts
    ]
    return [Source(file.relative_to(tree), file.read_text()) for file in files]


def broken(rule: Rule, tree: Path) -> list[str]:
    """Return the violations in the tree as `path:line: description`."""
    return [f"{source.path}:{line}: {problem}" for source in sources(tree) for line, problem in rule(source)]


def writes_outside_services(source: Source) -> Iterator[tuple[int, str]]:
    """Only services write through the ORM."""
    if "services" in source.parts:
        return
    for call, method in source.calls():
        if method in ORM_WRITES:
            yield call.lineno, f"{method}() writes outside services"


def raw_sql_at_an_edge(source: Source) -> Iterator[tuple[int, str]]:
    """Pages, admin, API, sockets, tasks and commands read through querysets and write through services."""
    is_edge = source.path.parts[0] == "portal" or EDGES & source.parts
    if not is_edge or source.path in ABOUT_THE_DATABASE:
        return
    for line, name in source.imports():
        if any(name == raw or name.startswith(f"{raw}.") for raw in RAW_SQL):
            yield line, f"{name} at an edge"
    for call, method in source.calls():
        if method in ("raw", "extra", "cursor") and "objects" in ast.unparse(call.func):
            yield call.lineno, f"{method}() at an edge"


def http_in_services(source: Source) -> Iterator[tuple[int, str]]:
    """Services and models import nothing of HTTP, forms, sockets and workers."""
    if not {"services", "models"} & source.parts:
        return
    for line, name in source.imports():
        if any(name == edge or name.startswith(f"{edge}.") for edge in HTTP):
            yield line, f"{name} in services or models"


def locks_outside_models(source: Source) -> Iterator[tuple[int, str]]:
    """Only QuerySet methods call `select_for_update`, so that the lock order is visible in one place."""
    if "models" in source.parts:
        return
    for call, method in source.calls():
        if method == "select_for_update":
            yield call.lineno, "select_for_update() outside models"


def is_pure(source: Source) -> bool:
    return "Pure" in (ast.get_docstring(source.tree) or "").partition("\n\n")[0]


def pure_modules(tree: Path) -> set[str]:
    """Return the modules whose docstring declares them pure."""
    return {".".join(source.path.with_suffix("").parts) for source in sources(tree) if is_pure(source)}


# --- transactions

_DECLARATIONS = frozenset(("use_case", "part", "use_case_or_part"))


def undeclared_transactions(source: Source) -> Iterator[tuple[int, str]]:
    """Transactions are opened by core.transactions, and only the ledger uses `use_case_or_part`."""
    if source.path == Path("core/transactions.py"):
        return
    for line, name in source.imports():
        if name == "django.db.transaction.atomic":
            yield line, "atomic() instead of use_case()"
        if name == "core.transactions.use_case_or_part" and source.path != Path("wallets/services/ledger.py"):
            yield line, "use_case_or_part() outside the ledger"
    for call in ast.walk(source.tree):
        if isinstance(call, ast.Attribute) and call.attr == "atomic":
            yield call.lineno, "atomic() instead of use_case()"


def verbs_without_a_transaction(source: Source) -> Iterator[tuple[int, str]]:
    """A public verb of several statements is a use case or a part. (A single statement is atomic by itself.)"""
    if "services" not in source.parts:
        return
    functions = {node.name: node for node in source.tree.body if isinstance(node, ast.FunctionDef)}
    for name, function in functions.items():
        if not name.startswith("_") and not _is_declared(function) and _steps(function, functions, frozenset()) > 1:
            yield function.lineno, f"{name}() is neither a use case nor a part"


def _is_declared(function: ast.FunctionDef) -> bool:
    """Whether the function has a decorator of core.transactions or opens a transaction itself."""
    return any(isinstance(node, ast.Name) and node.id in _DECLARATIONS for node in ast.walk(function))


def _steps(function: ast.FunctionDef, functions: dict[str, ast.FunctionDef], seen: frozenset[str]) -> int:
    """Count the locks, writes and audit rows of a verb and of the private functions that it calls."""
    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    steps = sum(ast.unparse(called) == "audit.record" for called in calls)
    steps += sum(method in ORM_WRITES or method in ("lock", "locked") for _, method in _method_calls(function))
    for called in {node.id for node in calls if isinstance(node, ast.Name) and node.id.startswith("_")} - seen:
        if called in functions and not _is_declared(functions[called]):
            steps += _steps(functions[called], functions, seen | {called})
    return steps
