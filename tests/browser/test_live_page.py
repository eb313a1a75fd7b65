"""The desk's page in a real browser, while a bot trades."""

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests import chromium
from tests.conftest import Serving
from tests.signed import opening

pytestmark = pytest.mark.browser
PATIENCE_MS = 60_000  # a busy machine may be slow
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # Playwright keeps an event loop in this thread, in which Django would not ask the database.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    yield from launched()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


def launched() -> Iterator[Any]:
    path = chromium.find()
    if path is None:
        pytest.skip("NO CHROMIUM: install one (Debian: apt install chromium) or name it in COPYDESK_CHROMIUM")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=chromium.ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def faults() -> list[str]:
    """Errors and warnings on the browser's console. A test ends with none."""
    return []


@pytest.fixture
def page(browser: Any, faults: list[str], web: Serving) -> Iterator[Page]:  # the page goes before the desk does
    context = browser.new_context()
    context.set_default_timeout(PATIENCE_MS)
    opened = context.new_page()
    opened.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    opened.on("pageerror", lambda fault: faults.append(str(fault)))
    yield opened
    context.close()
    assert faults == []


def sign_in(page: Any, web: Serving, cast: Any, name: Any) -> None:
    page.goto(f"{web.url}/login/")
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(cast["users"][name]["password"])
    page.get_by_role("main").get_by_role("button", name="Sign in").click()
    expect(page.locator("#state")).to_have_text("live")


def test_a_trade_appears_changes_and_disappears_without_a_reload(
    page: Page, web: Serving, cast: dict[str, Any]
) -> None:
    sign_in(page, web, cast, "finn")
    lena = web.bot("lena", "master")
    rows = page.locator("#trades tr")

    lena.open(**opening("1", symbol="GBPUSD"))
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("GBPUSD")
    expect(page).to_have_title(re.compile(r"^\(1\)"))
    lena.modify("1", sl="1.10120000")
    expect(rows).to_contain_text("1.1012")
    lena.close("1", close_price="1.11", profit="12.40")
    expect(rows).to_have_count(0)
    expect(page.locator("#events li").first).to_contain_text("+12.40")
    expect(page.locator("#closed")).to_have_text("1")


def test_the_page_shows_a_lost_connection_and_recovers(
    page: Page, web: Serving, cast: dict[str, Any], faults: list[str]
) -> None:
    sign_in(page, web, cast, "finn")
    web.kill()
    expect(page.locator("#state")).to_contain_text("reconnecting")
    web.start()
    web.bot("lena", "master").open(**opening("1", symbol="GBPUSD"))

    expect(page.locator("#state")).to_have_text("live")
    expect(page.locator("#trades tr")).to_contain_text("GBPUSD")
    assert all("WebSocket" in fault or "ERR_CONNECTION" in fault for fault in faults)
    faults.clear()


def test_a_stranger_sees_no_trades(page: Page, web: Serving, cast: dict[str, Any]) -> None:
    web.bot("lena", "master").open(**opening("1", symbol="GBPUSD"))
    sign_in(page, web, cast, "sam")

    expect(page.locator("#trades tr")).to_have_count(0)
    expect(page.locator("#no-trades")).to_be_visible()


def test_signing_out_ends_the_stream(page: Page, web: Serving, cast: dict[str, Any]) -> None:
    sign_in(page, web, cast, "finn")
    page.get_by_role("button", name="Sign out").click()

    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
