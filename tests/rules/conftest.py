"""The tests of the source's rules run first, because they are quick and name the file and line."""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "/tests/rules/" not in item.path.as_posix())
