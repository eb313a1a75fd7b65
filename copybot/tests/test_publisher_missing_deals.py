"""Positions whose deals the broker does not show: after a bounded wait their end is reported, and told as such."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

from copybot.broker import Entry, Quote
from copybot.desk_model import MASTER
from copybot.tests.fake_mt5 import FakeMT5
from copybot.tests.publisher_harness import SECOND, Provider, World


def published(volume: float = 0.2, **stops: float) -> tuple[Provider, int]:
    provider = Provider()
    ticket = provider.trade(volume, **stops)
    provider.wait(20)
    assert list(provider.active) == [str(ticket)]
    return provider, ticket


def forget_opening(provider: Provider, ticket: int) -> None:
    """The broker's history no longer reaches back to the open."""
    provider.fake.deals = [deal for deal in provider.fake.deals if deal.position_id != ticket]
    provider.restart()


def reports(provider: Provider, verb: str) -> list[str]:
    """The reports that the desk took, as it fingerprints them."""
    return [text for text, _ in provider.desk.state.answers.values() if f"{MASTER} {verb}" in text]


# --- gone, and no deal says how


def test_a_position_whose_closing_deal_never_comes_is_closed_at_the_price_when_it_went() -> None:
    provider, ticket = published(sl=1.05)
    provider.fake.price("EURUSD", 1.0990)
    provider.wait()
    provider.fake.by_hand(ticket)
    provider.fake.deals.pop()
    provider.wait(2)
    provider.fake.price("EURUSD", 1.2)
    provider.wait(50)
    assert (list(provider.active), provider.kinds()) == ([str(ticket)], ["waiting"])

    provider.wait(10)
    assert provider.closed == {str(ticket): ("1.09900000", "RECONCILED")}
    assert "('profit', '-22.00000000')" in reports(provider, "DELETE")[0]
    (finding,) = provider.position_sync.findings.values()
    assert (finding.kind, finding.ticket) == ("reconciled", str(ticket))
    assert "no deal for 0.2 lots" in finding.words and "profit is the last one seen" in finding.words

    provider.wait(50 * 60)
    assert provider.kinds() == ["reconciled"]
    provider.wait(10 * 60)
    assert provider.kinds() == []


def test_the_wait_is_as_long_on_an_account_that_is_never_quiet() -> None:
    provider, ticket = published()
    provider.fake.by_hand(ticket)
    provider.fake.deals.pop()
    for _ in range(32):
        other = provider.trade(0.01)
        provider.wait(1)
        provider.fake.by_hand(other)
        provider.wait(1)

    assert provider.closed[str(ticket)] == ("1.10000000", "RECONCILED")


def test_a_restart_begins_the_wait_again_and_loses_the_last_profit() -> None:
    provider, ticket = published()
    provider.fake.by_hand(ticket)
    provider.fake.deals.pop()
    provider.wait(50)
    provider.restart()
    provider.wait(50)
    assert list(provider.active) == [str(ticket)]

    provider.wait(12)
    assert provider.closed == {str(ticket): ("1.10000000", "RECONCILED")}
    assert "('profit', '0.00000000')" in reports(provider, "DELETE")[0]
    assert "the profit is not known" in provider.position_sync.findings[str(ticket)].words


def test_a_terminal_that_is_not_connected_ends_no_wait() -> None:
    provider, ticket = published()
    provider.fake.by_hand(ticket)
    provider.fake.deals.pop()
    provider.wait(50)
    provider.fake.connected = False
    provider.wait(600)
    provider.fake.connected = True
    provider.wait(50)
    assert list(provider.active) == [str(ticket)]

    provider.wait(12)
    assert provider.closed == {str(ticket): ("1.10000000", "RECONCILED")}


def test_a_machine_that_slept_did_not_wait() -> None:
    provider, ticket = published()
    provider.fake.by_hand(ticket)
    provider.fake.deals.pop()
    provider.wait(5)
    for slept in (50 * SECOND, 3_600 * SECOND):
        provider.now += slept
        provider.wait(5)

    assert list(provider.active) == [str(ticket)]


def test_a_list_that_shows_the_position_now_and_then_never_closes_it() -> None:
    provider, _ = published()
    held = provider.fake.positions
    for _ in range(10):
        provider.fake.positions = {}
        provider.wait(55)
        provider.fake.positions = held
        provider.wait(1)

    assert (provider.closed, len(provider.active)) == ({}, 1)


def test_deals_that_come_in_time_are_reported_as_they_are() -> None:
    provider, ticket = published()
    provider.fake.by_hand(ticket)
    late = provider.fake.deals.pop()
    provider.wait(55)
    provider.fake.deals.append(late)
    provider.wait(1)

    assert provider.closed == {str(ticket): ("1.10000000", "MANUAL")}
    assert provider.kinds() == []


def test_a_part_that_deals_show_is_reported_by_them_and_only_the_rest_is_assumed() -> None:
    provider, ticket = published()
    provider.fake.by_hand(ticket, 0.05)
    provider.fake.price("EURUSD", 1.11)
    provider.wait()
    provider.fake.price("EURUSD", 1.12)
    provider.fake.by_hand(ticket, 0.05)
    provider.fake.by_hand(ticket)
    provider.fake.deals.pop()
    provider.wait(65)

    assert provider.closed == {str(ticket): ("1.12000000", "RECONCILED")}  # the price of the last deal there is
    assert sorted("'0.15000000'" in text for text in reports(provider, "POST /api/v2/trades/active/1002/reduce")) == [
        False, True,
    ]  # fmt: skip


def test_a_trade_that_the_broker_cancelled_ends_at_its_open_price() -> None:
    provider, ticket = published()
    provider.fake.by_hand(ticket)
    provider.fake.deals = [
        deal._replace(type=deal.type + 13, profit=0.0) if deal.position_id == ticket else deal
        for deal in provider.fake.deals
    ]
    provider.fake.price("EURUSD", 1.2)
    provider.wait(65)

    assert provider.closed == {str(ticket): ("1.10010000", "RECONCILED")}
    assert "('profit', '0.00000000')" in reports(provider, "DELETE")[0]
    assert "cancelled" in provider.position_sync.findings[str(ticket)].words


def test_without_any_price_the_open_price_must_do() -> None:
    provider, ticket = published()
    provider.fake.by_hand(ticket)
    provider.fake.deals.pop()
    provider.fake.symbol_info_tick = lambda symbol: None
    provider.wait(65)

    assert provider.closed == {str(ticket): ("1.10010000", "RECONCILED")}


def test_deals_that_cannot_be_read_are_not_missing() -> None:
    provider, ticket = published()
    provider.fake.by_hand(ticket)

    def unreadable(position: Any) -> Any:
        raise ConnectionError("history_deals_get")

    provider.terminal.deals = unreadable
    provider.wait(600)

    assert list(provider.active) == [str(ticket)]


# --- open, and the opening deal has dropped out of the history


def test_an_old_position_without_its_opening_deal_is_followed_to_its_end() -> None:
    provider, ticket = published(sl=1.05)
    forget_opening(provider, ticket)
    provider.fake.positions[ticket].sl = 1.06
    provider.wait(1)
    assert provider.active[str(ticket)]["sl"] == "1.06000000"
    provider.wait(65)
    assert provider.kinds() == []

    provider.fake.by_hand(ticket, 0.1)
    provider.wait(1)
    assert provider.active[str(ticket)]["volume"] == "0.10000000"
    (reduced,) = reports(provider, f"POST /api/v2/trades/active/{ticket}/reduce")
    assert f"('deal_id', '{provider.fake.deals[-1].ticket}')" in reduced and "'-1.00000000'" in reduced

    provider.fake.by_hand(ticket)
    provider.wait(30)
    assert list(provider.active) == [str(ticket)]  # no opening deal, so its deals prove nothing
    provider.wait(35)
    assert provider.closed == {str(ticket): ("1.10000000", "RECONCILED")}
    assert "opening deal" in provider.position_sync.findings[str(ticket)].words


def test_a_reduction_that_a_closing_deal_explains_does_not_wait() -> None:
    provider, ticket = published()
    forget_opening(provider, ticket)
    provider.wait()
    provider.fake.by_hand(ticket, 0.1)
    provider.wait()

    assert provider.active[str(ticket)]["volume"] == "0.10000000"
    assert f"('deal_id', '{provider.fake.deals[-1].ticket}')" in reports(provider, "POST")[-1]


def test_a_late_deal_is_not_mistaken_for_an_earlier_one() -> None:
    provider, ticket = published(0.3)
    provider.fake.by_hand(ticket, 0.1)
    provider.wait(5)
    provider.fake.by_hand(ticket, 0.1)
    late = provider.fake.deals.pop()
    provider.wait(5)
    assert provider.active[str(ticket)]["volume"] == "0.20000000"

    provider.fake.deals.append(late)
    provider.wait()
    assert provider.active[str(ticket)]["volume"] == "0.10000000"


def test_a_reduction_without_any_deal_is_reported_once_at_the_current_price() -> None:
    provider, ticket = published()
    forget_opening(provider, ticket)
    provider.wait(65)
    provider.fake.by_hand(ticket, 0.05)
    provider.fake.deals.pop()
    provider.fake.price("EURUSD", 1.12)
    provider.wait()
    provider.fake.price("EURUSD", 1.13)
    provider.wait(120)

    (reduced,) = reports(provider, f"POST /api/v2/trades/active/{ticket}/reduce")
    assert f"('deal_id', '{ticket}-0.15000000')" in reduced and "('close_price', '1.12000000')" in reduced
    assert provider.kinds() == ["reconciled"]


def test_a_young_reduction_waits_for_its_deal() -> None:
    provider, ticket = published()
    provider.fake.by_hand(ticket, 0.05)
    late = provider.fake.deals.pop()
    provider.wait(30)
    assert provider.active[str(ticket)]["volume"] == "0.20000000"

    provider.fake.deals.append(late)
    provider.wait()
    assert provider.active[str(ticket)]["volume"] == "0.15000000"
    assert "reconciled" not in provider.kinds()


def test_short_waits_do_not_add_up() -> None:
    provider, ticket = published(2.0)
    for _ in range(40):
        provider.fake.by_hand(ticket, 0.01)
        late = provider.fake.deals.pop()
        provider.wait(5)
        provider.fake.deals.append(late)
        provider.wait(1)

    assert provider.active[str(ticket)]["volume"] == "1.60000000"
    assert not any(f"'{ticket}-" in text for text in reports(provider, "POST"))


def test_a_position_that_grew_without_a_deal_is_told() -> None:
    provider, ticket = published()
    forget_opening(provider, ticket)
    provider.fake.positions[ticket].volume = 0.3
    provider.wait(65)

    assert provider.kinds() == ["grew"]
    assert provider.active[str(ticket)]["volume"] == "0.20000000"


def test_a_position_that_the_desk_does_not_know_is_not_published_without_its_deals() -> None:
    provider = Provider()
    ticket = provider.trade()
    forget_opening(provider, ticket)
    provider.wait(120)

    assert (provider.active, provider.kinds()) == ({}, ["waiting"])


# --- netting accounts: the trades of a symbol are one position


def netting() -> Provider:
    provider = Provider(FakeMT5(hedging=False, balance=1e7))
    provider.position_sync.position_of = str
    provider.trade(0.1)
    provider.wait()
    provider.options["position_of"] = lambda order: next(
        (deal.position for deal in provider.terminal.history() if deal.order == order), order
    )
    provider.restart()
    provider.trade(0.2)
    provider.wait(10)
    assert sorted(row["volume"] for row in provider.active.values()) == ["0.10000000", "0.20000000"]
    return provider


def test_what_a_net_position_lost_without_deals_is_taken_off_its_oldest_trade() -> None:
    provider = netting()
    (position,) = provider.fake.positions
    forget_opening(provider, position)
    provider.wait(65)
    assert len(provider.active) == 2
    provider.fake.by_hand(position, 0.15)
    provider.wait(120)

    assert [row["volume"] for row in provider.active.values()] == ["0.15000000"]
    assert len(provider.closed) == 1


def test_a_trade_that_is_part_of_an_open_position_is_never_taken_for_gone() -> None:
    provider = netting()
    (position,) = provider.fake.positions
    provider.options["of"] = lambda position: None  # the settings leave it out since the restart
    forget_opening(provider, position)
    provider.wait(600)
    assert len(provider.active) == 2

    provider.fake.by_hand(position)
    provider.wait(65)
    assert provider.active == {}
    assert {reason for _, reason in provider.closed.values()} == {"RECONCILED"}


# --- copies


def copies(position: Any) -> dict[str, Any]:
    return {"strategy": "lena-eurusd", "trade_ref": f"ref-{position.id}"}


def test_a_copy_whose_closing_deal_never_comes_ends_at_the_desk_and_names_its_trade() -> None:
    world = World(of=copies, role="copy")
    world.terminal.open("1", "1", "1.1")
    world.sync()
    world.desk.active_rows["1"] |= {"copies": "ref-1"}
    world.position_sync.forget()
    world.terminal.price = Quote(Decimal("1.2"), Decimal("1.3"))
    del world.terminal.held["1"]
    for _ in range(65):
        world.sync(SECOND)

    assert (world.desk.closed["1"]["close_price"], world.desk.closed["1"]["reason"]) == ("1.20000000", "RECONCILED")
    finding = world.position_sync.findings["1"]
    assert (finding.kind, finding.strategy, finding.ref) == ("reconciled", "lena-eurusd", "ref-1")


def test_a_copy_that_was_never_in_the_list_is_reported_by_its_opening_deal() -> None:
    world = World(of=copies, role="copy")
    world.terminal._deal("1", Entry.IN, "1", "1.1", order="1", side="BUY", profit="-2")
    extra = {"strategy": "lena-eurusd", "trade_ref": "ref-1"}
    for _ in range(59):
        world.sync(SECOND)
        assert not world.position_sync.note_gone("1", extra)
    world.sync(5 * SECOND)
    assert world.position_sync.note_gone("1", extra)
    world.sync(SECOND)

    assert [entry[:2] for entry in world.desk.log] == [("open", "1"), ("close", "1")]
    assert world.desk.closed["1"]["reason"] == "RECONCILED"
    assert world.desk.profit("1") == -2


def copied() -> World:
    """A copy of 1.0 lots whose first report is still to come."""
    world = World(of=copies, role="copy")
    world.terminal.open("1", "1", "1.1")
    return world


def test_a_copy_that_was_reduced_without_a_deal_before_its_first_report_gets_its_row() -> None:
    world = copied()
    world.terminal.held["1"] = replace(world.terminal.held["1"], volume=Decimal("0.6"))
    world.terminal.price = Quote(Decimal("1.2"), Decimal("1.3"))
    for _ in range(59):
        world.sync(SECOND)
    assert world.desk.active_rows == {}

    for _ in range(7):
        world.sync(SECOND)
    assert [entry[:2] for entry in world.desk.log] == [("open", "1"), ("reduce", "1")]
    assert (world.desk.active_rows["1"]["volume"], world.desk.active_rows["1"]["open_price"]) == (
        "0.60000000",
        "1.10000000",
    )
    finding = world.position_sync.findings["1"]
    assert finding.kind == "reconciled"
    assert "0.4 lots: reported at 1.2" in finding.words


def test_a_copy_whose_opening_deal_is_missing_before_its_first_report_gets_its_row() -> None:
    world = copied()
    world.terminal.books.clear()
    for _ in range(65):
        world.sync(SECOND)

    row = world.desk.active_rows["1"]
    assert (row["volume"], row["open_price"], row["trade_ref"]) == ("1.00000000", "1.10000000", "ref-1")


def test_a_copy_that_ended_before_its_first_report_and_has_no_deals_is_reported_by_the_guards_record() -> None:
    world = copied()
    extra = copies(world.terminal.held.pop("1"))
    world.terminal.books.clear()
    world.terminal.price = Quote(Decimal("1.2"), Decimal("1.3"))
    known = {"ticket_id": "1", "symbol": "EURUSD", "type": "BUY", "volume": "1.00000000", "open_price": "1.10000000"}
    for _ in range(60):
        world.sync(SECOND)
        assert not world.position_sync.note_gone("1", extra, known)
    world.sync(5 * SECOND)
    assert world.position_sync.note_gone("1", extra, known)
    world.sync(SECOND)

    assert [entry[:2] for entry in world.desk.log] == [("open", "1"), ("close", "1")]
    assert (world.desk.closed["1"]["close_price"], world.desk.closed["1"]["reason"]) == ("1.20000000", "RECONCILED")
    assert world.position_sync.findings["1"].kind == "reconciled"
