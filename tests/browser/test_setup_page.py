"""Setting up a copier in a real browser: the download, and the page that turns green by itself."""

from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from copybot import settings
from copybot.client import Client
from strategies.models import Subscription
from tests.browser.test_live_page import browser, faults, page, pytestmark, sign_in
from tests.conftest import Serving

__all__ = ["browser", "faults", "page", "pytestmark"]


def test_the_download_starts_a_copier_and_the_page_turns_green_by_itself(
    page: Page, web: Serving, cast: dict[str, Any], tmp_path: Path
) -> None:
    sub_id = Subscription.objects.get(account__name="finn-mt5").sub_id
    sign_in(page, web, cast, "finn")
    page.goto(f"{web.url}/copying/")
    page.get_by_role("link", name="Set up your copier").click()
    expect(page.get_by_text("Waiting for the first heartbeat")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="For a paper account").click()
    expect(page.get_by_text("copybot.toml is on its way to your downloads.")).to_be_visible()
    expect(page.get_by_role("button", name="For a paper account")).to_be_hidden()
    file = tmp_path / "copybot.toml"
    download.value.save_as(file)
    file.chmod(0o600)
    configured = settings.load(file, {})
    assert configured.url == web.url
    assert configured.subscriptions[0].sub_id == sub_id

    desk = Client(configured.url, configured.key, configured.secret)
    row = {"strategy": "lena-eurusd", "seq": "0", "standing": "LIVE", "generation": 2, "digest": "0" * 64}
    desk.heartbeat(instance="setup-page-0000001", fence=None, subscriptions=[row])
    desk.hang_up()

    expect(page.get_by_text("Your copier is connected.")).to_be_visible()
    expect(page.locator("#contact .dot.good")).to_be_visible()


def test_a_command_is_copied_with_one_click(page: Page, web: Serving, cast: dict[str, Any]) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    sub_id = Subscription.objects.get(account__name="finn-mt5").sub_id
    sign_in(page, web, cast, "finn")
    page.goto(f"{web.url}/copying/{sub_id}/setup/")
    page.get_by_role("button", name="Copy: copybot doctor").click()

    expect(page.get_by_role("button", name="Copy: copybot doctor")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "copybot doctor"
