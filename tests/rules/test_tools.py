"""Lint, format, types, import contracts and missing migrations; each finds a planted violation."""

import re
from pathlib import Path

import pytest

from tests.rules import trees
from tests.rules.tools import FORMAT, IMPORTS, LINT, MIGRATIONS, TOOLS, TYPES, Tool

PLANTED = {
    LINT: ("core/planted.py", "import os\n"),
    FORMAT: ("core/planted.py", "PLANTED = 'in single quotes'\n"),
    TYPES: ("core/planted.py", 'def planted() -> int:\n    return "text"\n'),
    MIGRATIONS: ("market/models.py", "\n\nclass Planted(models.Model):\n    name = models.TextField()\n"),
}
# One violation of each import contract: the importing module, and the imported one.
ILLEGAL = {
    "An app imports apps below it, never one above or beside": ("wallets.fees", "trust.endpoint"),
    "Inside an app: edges, then tasks, then services, then models": ("trust.models", "trust.services"),
    "Pure modules import no framework, models or services": ("strategies.sizing", "django.conf"),
    "Services, models and tasks know no REST framework": ("wallets.services", "rest_framework.serializers"),
    "The bots' package imports nothing of the desk": ("copybot.guard", "core.money"),
    "The desk imports nothing of the bots' package, but for the drill": ("market.services", "copybot.packets"),
}


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_the_tree_passes(tool: Tool) -> None:
    result = tool.run(trees.ROOT)

    assert result.returncode == 0, f"{tool.name}: {' '.join(tool.command)}\n{result.stdout}"


@pytest.mark.parametrize("tool", PLANTED, ids=lambda tool: tool.name)
def test_finds_a_planted_violation(tool: Tool, tmp_path: Path) -> None:
    tree = trees.copy_to(tmp_path)
    path, text = PLANTED[tool]
    trees.plant(tree, path, text)

    result = tool.on(path).run(tree)

    assert result.returncode != 0
    assert re.search("planted", result.stdout, re.IGNORECASE), result.stdout


def test_each_import_contract_refuses_a_planted_violation(tmp_path: Path) -> None:
    tree = trees.copy_to(tmp_path)
    for importer, imported in ILLEGAL.values():
        trees.plant(tree, importer.replace(".", "/") + ".py", f"\nimport {imported}  # noqa\n")

    report = IMPORTS.run(tree).stdout

    assert set(ILLEGAL) == {contract["name"] for contract in trees.contracts(tree)}
    for name, (importer, imported) in ILLEGAL.items():
        section = report.partition(f"\n{name}\n---")[2].partition("\n---")[0]
        assert f"{name} BROKEN" in report
        assert re.search(rf"{importer} -> ({imported}|{imported.split('.')[0]}) ", section), report
