"""A bot's report of its account: what it holds, when it is sent, and what happens where the desk refuses it."""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from copybot.account_report import AccountReport
from copybot.broker import Account, SymbolSpec
from copybot.errors import DeskError, refusal

D = Decimal
SPEC = SymbolSpec(D("0.1"), D("0.1"), D("0.1"), D(50), D(25))
ACCOUNT = Account("5001", "Broker-Live", "USD", D(10000), D("10012.5"), is_hedging=True, may_trade=True)


class Answer:
    def __init__(self, body: Any) -> None:
        self.body = body

    def json(self) -> Any:
        return self.body


class Bot:
    """A report with its desk and its terminal."""

    def __init__(self) -> None:
        self.now = 0
        self.sent: list[Any] = []
        self.keys: set[str] = set()
        self.wanted: list[str] = []
        self.refusal: DeskError | None = None
        self.found, self.specs = ACCOUNT, {"US30": SPEC}
        self.report = AccountReport(self, self, lambda: self.now)

    def send(self, method: str, path: str, fields: Any = None, *, idempotency_key: str = "") -> Answer:
        assert (method, path) == ("POST", "/api/v2/account")
        self.sent.append(fields)
        self.keys.add(idempotency_key)
        if self.refusal is not None and not (self.refusal.code == "invalid" and fields.keys() == {"balance", "equity"}):
            raise self.refusal
        return Answer({"status": "told", "currency": "USD", "symbols": [{"symbol": name} for name in self.wanted]})

    def account(self) -> Account:
        return self.found

    def spec(self, symbol: str) -> SymbolSpec | None:
        return self.specs.get(symbol)

    def after(self, seconds: int, *held: str) -> list[Mapping[str, Any]]:
        """The reports of these seconds."""
        before = len(self.sent)
        for _ in range(seconds):
            self.report.report(held)
            self.now += 1000
        return self.sent[before:]


@pytest.fixture
def bot() -> Bot:
    return Bot()


US30 = {
    "symbol": "US30", "contract_size": "25.00000000", "volume_min": "0.10000000", "volume_step": "0.10000000",
    "volume_max": "50.00000000",
}  # fmt: skip


def test_reports_funds_currency_kind_and_place_each_minute(bot: Bot) -> None:
    (first, second) = bot.after(90)

    assert first == second == {
        "balance": "10000.00000000", "equity": "10012.50000000", "currency": "USD", "kind": "hedging",
        "login": "5001", "server": "Broker-Live",
    }  # fmt: skip
    assert len(bot.keys) == 2


@pytest.mark.parametrize(("fifo", "hedging", "kind"), [(True, True, "fifo"), (False, False, "netting")])
def test_reports_the_kind_of_account(bot: Bot, fifo: bool, hedging: bool, kind: str) -> None:
    bot.found = replace(ACCOUNT, is_fifo=fifo, is_hedging=hedging)

    assert bot.after(1)[0]["kind"] == kind


def test_a_symbol_that_the_desk_wants_is_reported_within_seconds_and_once(bot: Bot) -> None:
    bot.wanted = ["US30", "UNKNOWN"]

    reports = bot.after(180)

    assert [report.get("symbols") for report in reports] == [None, [US30], None, None]


def test_the_symbol_of_a_new_position_is_reported_within_seconds(bot: Bot) -> None:
    bot.after(20)

    (report,) = bot.after(5, "US30")

    assert report["symbols"] == [US30]


def test_a_symbol_whose_conditions_changed_is_reported_again(bot: Bot) -> None:
    bot.after(10, "US30")
    bot.specs["US30"] = replace(SPEC, contract_size=D(1))

    assert [report["symbols"][0]["contract_size"] for report in bot.after(60) if "symbols" in report] == ["1.00000000"]


def test_a_report_has_at_most_256_symbols_and_the_others_follow(bot: Bot) -> None:
    bot.wanted = [f"S{number:03}" for number in range(300)]
    bot.specs = dict.fromkeys(bot.wanted, SPEC)

    assert [len(report.get("symbols", ())) for report in bot.after(20)] == [0, 256, 44]


def test_names_and_sizes_that_the_desk_refuses_are_left_out(bot: Bot) -> None:
    bot.specs = {"a b": SPEC, "ZERO": replace(SPEC, contract_size=D(0)), "NOMAX": replace(SPEC, volume_max=D(0))}

    (report,) = bot.after(1, *bot.specs)

    assert [row["symbol"] for row in report["symbols"]] == ["NOMAX"]
    assert "volume_max" not in report["symbols"][0]


def test_an_older_desk_gets_balance_and_equity_alone(bot: Bot) -> None:
    bot.refusal = refusal(422, {"code": "invalid", "fields": {"currency": ["is unknown"]}})

    reports = bot.after(90, "US30")

    assert [set(report) for report in reports[1:]] == [{"balance", "equity"}] * 2


def test_another_currency_is_a_finding_until_the_desk_agrees(bot: Bot) -> None:
    bot.refusal = refusal(409, {"code": "currency_differs", "registered": "USD", "reported": "USC"})
    bot.after(1, "US30")

    assert bot.report.finding is not None
    assert (bot.report.finding.kind, "USC" in bot.report.finding.words) == ("currency_differs", True)
    bot.refusal = None
    (report,) = bot.after(60)
    assert (bot.report.finding, report["symbols"]) == (None, [US30])


def test_a_report_without_an_answer_is_sent_again_with_its_symbols(bot: Bot) -> None:
    bot.refusal = refusal(503, {"code": "unavailable"})
    with pytest.raises(DeskError):
        bot.after(1, "US30")
    bot.refusal = None

    (report,) = bot.after(61)

    assert report["symbols"] == [US30]


def test_a_restored_desk_is_told_everything_again(bot: Bot) -> None:
    bot.after(10, "US30")
    bot.report.begin_anew()

    assert bot.after(1)[0]["symbols"] == [US30]
