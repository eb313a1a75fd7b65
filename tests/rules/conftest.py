"""The rules of the tree run first: they are the quickest to say what is wrong."""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "/tests/rules/" not in item.path.as_posix())
