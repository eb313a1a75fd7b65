"""Each feature on an example made by hand; and what holds for all: no order, no cliff, nothing on too little."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.trust import flows
from trust import detector
from trust.detector import wilson
from trust.evidence_types import Bar, Copy, Deal, Evidence, Fill, Position

T0 = datetime(2026, 1, 5, tzinfo=UTC)
NOW = T0 + timedelta(days=30)
HOUR = timedelta(hours=1)


def deal(
    number: Any,
    *,
    minutes: int = 60,
    held: int = 30,
    side: str = "BUY",
    volume: str = "1",
    opened: str = "1.10000",
    gained: str = "0.00100",
    symbol: str = "EURUSD",
    seconds: int = 0,
) -> Deal:
    begins = T0 + timedelta(minutes=minutes * number)
    open_price = Decimal(opened)
    moved = Decimal(gained) if side == "BUY" else -Decimal(gained)
    profit = Decimal(gained) * Decimal(volume) * 100_000
    return Deal(
        begins, begins + timedelta(minutes=held, seconds=seconds), symbol, side, Decimal(volume), open_price,
        open_price + moved, profit, f"{number:05}",
    )  # fmt: skip


def assess(deals: Any, **more: Any) -> Any:
    return detector.assess(Evidence(deals=deals, since=T0, until=NOW, **more), now=NOW)


def feature(deals: Any, name: Any, **more: Any) -> Any:
    return next(one for one in assess(deals, **more).features if one.name == name)


def test_nothing_known_is_nothing_against() -> None:
    assert assess([]).score == 100
    assert all(one.contribution == 0 for one in assess([]).features)


@pytest.mark.parametrize(
    ("wins", "n", "bound"), [(27, 30, 0.744), (45, 50, 0.786), (90, 100, 0.826), (9, 10, 0.596), (0, 0, 0)]
)
def test_the_lower_bound_is_wilsons(wins: int, n: int, bound: float | int) -> None:
    assert wilson(wins, n) == pytest.approx(bound, abs=0.0005)


def test_slippage_is_worse_than_asked() -> None:
    assert Fill(T0, "EURUSD", "BUY", Decimal("1.10000"), Decimal("1.10008")).slippage_bps == pytest.approx(
        0.727, abs=0.001
    )
    assert Fill(T0, "EURUSD", "SELL", Decimal("1.10000"), Decimal("1.10008")).slippage_bps < 0


@pytest.mark.parametrize("kind", [*flows.HONEST, *flows.TOXIC])
@pytest.mark.parametrize(
    "told",
    [
        lambda deal: abs(deal.profit),
        lambda deal: -deal.profit,
        lambda deal: Decimal(0),
        lambda deal: deal.profit * (1000 if deal.profit > 0 else Decimal("0.001")),
    ],
    ids=["losses as wins", "wins as losses", "nothing", "large wins, small losses"],
)
def test_what_is_told_of_a_profit_changes_no_score(kind: Any, told: Callable[..., Any]) -> None:
    evidence = flows.flow(kind, 7)
    lied = replace(evidence, deals=[replace(deal, profit=told(deal)) for deal in evidence.deals])

    assert detector.assess(lied, now=lied.until).score == detector.assess(evidence, now=evidence.until).score


def test_a_symbol_whose_wins_are_told_large_outweighs_no_loser_where_the_desk_knows_its_contract() -> None:
    won = [replace(deal(number, gained="0.0001"), profit=Decimal(100_000)) for number in range(40)]
    yen = [Position(T0, "USDJPY", "BUY", Decimal(1), Decimal("150"), Decimal("-1.50"))]
    worth = {"EURUSD": Decimal(100_000), "USDJPY": Decimal(667)}

    assert feature(won, "hidden_loss", positions=yen, worth=worth).value == pytest.approx(2.5, abs=0.01)


def test_quick_wins_are_a_share_of_the_profit() -> None:
    quick = [deal(number, held=0, seconds=30, gained="0.00100") for number in range(10)]
    slow = [deal(number, gained="0.00300") for number in range(10, 20)]

    assert feature([*quick, *slow], "quick_wins").value == pytest.approx(0.25, abs=0.01)


def test_a_martingale_raises_after_each_loss() -> None:
    rows = [deal(number, volume=str(2**number), gained="-0.001") for number in range(5)]

    found = feature(rows, "martingale")
    assert (found.value, found.n) == (1.0, 4)
    assert feature([deal(number, gained="-0.001") for number in range(5)], "martingale").value == 0


def test_a_grid_is_four_in_a_row_at_worse_prices() -> None:
    rows = [deal(number, held=1000, opened=str(Decimal("1.1") - number * Decimal("0.0002"))) for number in range(6)]

    assert feature(rows, "grid").value == pytest.approx(0.5)
    assert feature(rows, "averaging_down").value == 1.0
    rising = [deal(number, held=1000, opened=str(Decimal("1.1") + number * Decimal("0.0002"))) for number in range(6)]
    assert feature(rising, "grid").value == feature(rising, "averaging_down").value == 0


def bars(*lows: Any, high: str = "1.20000") -> dict[str, Any]:
    return {
        "EURUSD": [
            Bar(T0 + timedelta(hours=number), 60, Decimal("1.1"), Decimal(high), Decimal(low), Decimal("1.1"))
            for number, low in enumerate(lows)
        ]
    }


def test_an_excursion_is_how_far_a_winner_was_under_water() -> None:
    rows = [deal(0, held=180, gained="0.00100")]

    assert feature(rows, "excursion", bars=bars("1.099", "1.095", "1.099", "1.000")).value == pytest.approx(5.0)
    assert feature(rows, "excursion").n == 0


def test_a_loss_hides_in_what_is_open() -> None:
    won = [deal(number) for number in range(5)]
    losing = [Position(T0, "EURUSD", "BUY", Decimal(1), Decimal("1.1"), Decimal("-0.00250"))]

    assert feature(won, "hidden_loss", positions=losing).value == pytest.approx(0.5)
    assert feature(won, "hidden_loss", positions=[replace(losing[0], floating=None)]).n == 0


def test_losers_that_are_held_for_long() -> None:
    rows = [deal(number, held=10) for number in range(10)] + [
        deal(number, held=90, gained="-0.001") for number in range(10, 20)
    ]

    assert feature(rows, "disposition").value == pytest.approx(9.0)


def test_many_small_wins_and_a_large_loss() -> None:
    rows = [deal(number, gained="0.0001") for number in range(45)] + [
        deal(number, gained="-0.001") for number in range(45, 50)
    ]

    assert feature(rows, "shape").value == pytest.approx(1.0, abs=0.01)


def test_the_best_day() -> None:
    rows = [deal(number, minutes=24 * 60, gained="0.001") for number in range(10)]
    rows[3] = deal(3, minutes=24 * 60, gained="0.009")

    assert feature(rows, "concentration").value == pytest.approx(0.5)


def fills_at(price: Any, owners: int = 3) -> list[Any]:
    asked = Decimal("1.1")
    return [Fill(T0, "EURUSD", "BUY", asked, Decimal(price), str(number % owners)) for number in range(60)]


def test_fills_that_slip_one_way() -> None:
    fills = fills_at("1.0999")

    assert feature([], "slippage_skew", fills=fills).value == 1.0
    assert feature([deal(1)], "uncopyable", fills=fills).value == 0


def test_what_copying_costs_against_what_a_trade_moves() -> None:
    fills = fills_at("1.1005")

    assert feature([deal(number) for number in range(5)], "uncopyable", fills=fills).value == pytest.approx(0.5)


def copies(count: Any, close_price: Any, owners: int = 3) -> list[Any]:
    opened, closed = Decimal("1.1"), Decimal(close_price)
    return [Copy(f"{number:05}", "BUY", Decimal(1), opened, closed, str(number % owners)) for number in range(count)]


@pytest.mark.parametrize(("owners", "counts"), [(2, False), (3, True)])
def test_what_copiers_report_counts_from_three_of_them_on(owners: int, counts: bool) -> None:
    rows = [deal(number, opened="1.1", gained="0.00100") for number in range(60)]
    reports = {"fills": fills_at("1.1005", owners), "copies": copies(60, "1.10040", owners)}

    for name in ("uncopyable", "not_captured"):
        found = feature(rows, name, **reports)
        assert (found.contribution > 0, found.n) == (counts, 60 if counts else 0), name
    assert feature(rows, "slippage_skew", fills=fills_at("1.0999", owners)).n == (60 if counts else 0)


def test_copies_that_win_less_than_what_they_copy() -> None:
    rows = [deal(number, opened="1.1", gained="0.00100") for number in range(40)]

    assert feature(rows, "not_captured", copies=copies(40, "1.10040")).value == pytest.approx(0.6)
    assert feature(rows, "not_captured", copies=copies(40, "1.09950")).value == pytest.approx(1.5)
    assert feature(rows, "not_captured", copies=copies(40, "1.10200")).value == 0
    assert feature(rows, "not_captured", copies=copies(60, "1.10040")).n == 40  # the rest copies what is not known


def test_who_copies_in_reverse_says_nothing_of_what_copies_miss() -> None:
    rows = [deal(number, opened="1.1", gained="0.00100") for number in range(40)]
    reversed_copies = [replace(one, side="SELL") for one in copies(40, "1.10100")]

    assert feature(rows, "not_captured", copies=reversed_copies).n == 0
    assert feature(rows, "not_captured", copies=[*reversed_copies, *copies(40, "1.10100")]).value == 0


def test_where_nothing_was_won_copies_missed_nothing() -> None:
    rows = [deal(number, opened="1.1", gained="-0.00100") for number in range(40)]

    assert feature(rows, "not_captured", copies=copies(40, "1.09000")).value == 0


def test_a_markout_is_where_the_price_went() -> None:
    rows = [deal(0, opened="1.08900")]

    assert feature(rows, "markout_1h", bars=bars("1", "1", "1")).value == pytest.approx(101.01, abs=0.01)
    assert feature(rows, "markout_24h", bars=bars("1", "1", "1")).n == 0


def relate(rows: Any, others: Any) -> Any:
    return detector.relate(Evidence(deals=rows, since=T0, until=NOW, others=others))


def twin(rows: Any, seconds: int = 2, side: str = "BUY") -> list[Any]:
    return [replace(one, opened_at=one.opened_at + timedelta(seconds=seconds), side=side) for one in rows]


def test_one_hand_in_two_accounts() -> None:
    rows = [deal(number, minutes=700) for number in range(20)]

    assert relate(rows, {"twin": twin(rows)}).score == 10
    assert relate(rows, {"twin": twin(rows, seconds=6)}).score == 100
    assert relate(rows, {"twin": [replace(one, volume=one.volume * 2) for one in twin(rows)]}).score == 100
    assert relate(rows[:5], {"twin": twin(rows[:5])}).score == 100  # five may be chance
    day = [deal(number, minutes=1) for number in range(20)]
    assert relate(day, {"twin": twin(day)}).score == 100  # and so may one day


def test_a_hand_is_a_share_of_ones_own_trades() -> None:
    """Ten trades beside a thousand of mine are no hand of mine, whoever put them there."""
    rows = [deal(number, minutes=40) for number in range(1000)]

    assert relate(rows, {"stalker": twin(rows[::80])}).score == 100
    assert relate(rows[::80], {"busy": twin(rows)}).score < 100


def test_a_hand_keeps_to_one_side() -> None:
    rows = [deal(number, minutes=700) for number in range(40)]
    against = relate(rows, {"twin": twin(rows, side="SELL")})
    mixed = twin(rows[::2]) + twin(rows[1::2], side="SELL")

    assert against.score == 10
    assert "opened together against those of one other account" in against.features[0].says
    assert relate(rows, {"chance": mixed}).features[0].value == 0.5
    assert relate(rows, {"chance": mixed[:12] + mixed[-11:]}).score == 100


def test_a_score_is_a_product_and_each_part_says_what_it_costs() -> None:
    found = assess([deal(number, volume=str(2 ** (number % 8)), gained="-0.001") for number in range(100)])
    worst = max(found.features, key=lambda one: one.contribution)

    assert worst.name == "martingale"
    assert worst.says
    assert worst.remedy == "Do not raise the volume after a loss."
    assert float(found.score) + worst.contribution == pytest.approx(100, abs=15)


def test_old_faults_fade() -> None:
    old = [replace(deal(number, volume=str(2 ** (number % 5)), gained="-0.001")) for number in range(60)]
    new = NOW + timedelta(days=300)
    fresh = [
        replace(deal(number, gained="-0.001"), opened_at=new + number * HOUR, closed_at=new + number * HOUR + HOUR / 2)
        for number in range(60)
    ]
    later = NOW + timedelta(days=303)
    evidence = Evidence(deals=[*old, *fresh], since=T0, until=later)

    now = next(one for one in assess(old).features if one.name == "martingale").value
    then = next(one for one in detector.assess(evidence, now=later).features if one.name == "martingale").value
    assert now > 0.7 > 0.3 > then


@pytest.mark.parametrize("kind", [*flows.HONEST, *flows.TOXIC])
def test_the_order_of_the_deals_does_not_matter(kind: Any) -> None:
    evidence = flows.flow(kind, 7)
    deals = list(evidence.deals)
    random.Random(1).shuffle(deals)

    mixed = replace(evidence, deals=deals)
    assert detector.assess(mixed, now=evidence.until) == detector.assess(evidence, now=evidence.until)


@pytest.mark.parametrize("kind", [*flows.HONEST, *flows.TOXIC])
def test_no_single_trade_is_a_cliff(kind: Any) -> None:
    evidence = replace(flows.flow(kind, 3), positions=())
    before = detector.assess(replace(evidence, deals=evidence.deals[:5]), now=evidence.until).score
    assert before == 100  # on five trades nothing is said
    steps = []
    for count in range(6, min(len(evidence.deals), 160)):
        after = detector.assess(replace(evidence, deals=evidence.deals[:count]), now=evidence.until).score
        steps.append(abs(after - before))
        before = after

    assert max(steps) <= 20


def test_what_is_open_counts_in_full_from_a_score_of_trades_on() -> None:
    losing = [Position(T0, "EURUSD", "BUY", Decimal(1), Decimal("1.1"), Decimal("-0.05"))]

    assert assess([deal(number) for number in range(9)], positions=losing).score == 100
    assert assess([deal(number) for number in range(20)], positions=losing).score == 10


def test_an_ordinary_loser_of_another_symbol_hides_nothing() -> None:
    won = [deal(number) for number in range(60)]
    yen = [Position(T0, "USDJPY", "BUY", Decimal(1), Decimal("150"), Decimal("-0.10"))]
    assert assess(won, positions=yen).score == 100

    known = [replace(deal(60, symbol="USDJPY", opened="150", gained="0.10"), profit=Decimal("66"))]
    assert feature([*won, *known], "hidden_loss", positions=yen).value < 0.02


def test_one_report_that_is_far_out_says_nothing() -> None:
    fills = fills_at("1.1")
    forged = Fill(T0, "EURUSD", "BUY", Decimal("1.1"), Decimal("110"))
    assert feature([deal(number) for number in range(5)], "uncopyable", fills=[*fills, forged]).value == 0

    rows = [deal(number, opened="1.1", gained="0.00100") for number in range(60)]
    honest = copies(60, "1.10100")
    huge = replace(honest[0], volume=Decimal(1_000_000), close_price=Decimal("0.5"))
    assert feature(rows, "not_captured", copies=[*honest[1:], huge]).value < 0.1
