"""Each feature on an example; and for all features: order does not matter, no single trade is a cliff."""

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


def assess(deals: Any, **evidence: Any) -> Any:
    return detector.assess(Evidence(deals=deals, since=T0, until=NOW, **evidence), now=NOW)


def feature(deals: Any, name: Any, **evidence: Any) -> Any:
    return next(row for row in assess(deals, **evidence).features if row.name == name)


def test_without_evidence_the_score_is_100() -> None:
    assert assess([]).score == 100
    assert all(row.contribution == 0 for row in assess([]).features)


@pytest.mark.parametrize(
    ("wins", "n", "bound"), [(27, 30, 0.744), (45, 50, 0.786), (90, 100, 0.826), (9, 10, 0.596), (0, 0, 0)]
)
def test_the_lower_bound_is_that_of_wilson(wins: int, n: int, bound: float | int) -> None:
    assert wilson(wins, n) == pytest.approx(bound, abs=0.0005)


def test_positive_slippage_is_worse_than_requested() -> None:
    assert Fill(T0, "EURUSD", "BUY", Decimal("1.10000"), Decimal("1.10008")).slippage_bps == pytest.approx(
        0.727, abs=0.001
    )
    assert Fill(T0, "EURUSD", "SELL", Decimal("1.10000"), Decimal("1.10008")).slippage_bps < 0


@pytest.mark.parametrize("kind", [*flows.HONEST, *flows.TOXIC])
@pytest.mark.parametrize(
    "report",
    [
        lambda deal: abs(deal.profit),
        lambda deal: -deal.profit,
        lambda deal: Decimal(0),
        lambda deal: deal.profit * (1000 if deal.profit > 0 else Decimal("0.001")),
    ],
    ids=["losses as wins", "wins as losses", "nothing", "large wins, small losses"],
)
def test_a_reported_profit_changes_no_score(kind: Any, report: Callable[..., Any]) -> None:
    evidence = flows.flow(kind, 7)
    false = replace(evidence, deals=[replace(deal, profit=report(deal)) for deal in evidence.deals])

    assert detector.assess(false, now=false.until).score == detector.assess(evidence, now=evidence.until).score


def test_wins_that_are_reported_too_large_do_not_hide_a_floating_loss() -> None:
    won = [replace(deal(number, gained="0.0001"), profit=Decimal(100_000)) for number in range(40)]
    yen = [Position(T0, "USDJPY", "BUY", Decimal(1), Decimal("150"), Decimal("-1.50"))]
    move_values = {"EURUSD": Decimal(100_000), "USDJPY": Decimal(667)}

    assert feature(won, "hidden_loss", positions=yen, move_values=move_values).value == pytest.approx(2.5, abs=0.01)


def test_quick_wins_are_a_share_of_the_profit() -> None:
    quick = [deal(number, held=0, seconds=30, gained="0.00100") for number in range(10)]
    slow = [deal(number, gained="0.00300") for number in range(10, 20)]

    assert feature([*quick, *slow], "quick_wins").value == pytest.approx(0.25, abs=0.01)


def test_a_martingale_raises_after_each_loss() -> None:
    rows = [deal(number, volume=str(2**number), gained="-0.001") for number in range(5)]

    measured = feature(rows, "martingale")
    assert (measured.value, measured.n) == (1.0, 4)
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


def test_a_hidden_loss_is_the_floating_loss_of_open_positions() -> None:
    won = [deal(number) for number in range(5)]
    losing = [Position(T0, "EURUSD", "BUY", Decimal(1), Decimal("1.1"), Decimal("-0.00250"))]

    assert feature(won, "hidden_loss", positions=losing).value == pytest.approx(0.5)
    assert feature(won, "hidden_loss", positions=[replace(losing[0], floating=None)]).n == 0


def test_disposition_is_how_much_longer_losers_are_held() -> None:
    rows = [deal(number, held=10) for number in range(10)] + [
        deal(number, held=90, gained="-0.001") for number in range(10, 20)
    ]

    assert feature(rows, "disposition").value == pytest.approx(9.0)


def test_the_shape_of_many_small_wins_and_few_large_losses() -> None:
    rows = [deal(number, gained="0.0001") for number in range(45)] + [
        deal(number, gained="-0.001") for number in range(45, 50)
    ]

    assert feature(rows, "shape").value == pytest.approx(1.0, abs=0.01)


def test_concentration_is_the_share_of_the_best_day() -> None:
    rows = [deal(number, minutes=24 * 60, gained="0.001") for number in range(10)]
    rows[3] = deal(3, minutes=24 * 60, gained="0.009")

    assert feature(rows, "concentration").value == pytest.approx(0.5)


def fills_at(price: Any, owners: int = 3) -> list[Any]:
    requested = Decimal("1.1")
    return [Fill(T0, "EURUSD", "BUY", requested, Decimal(price), str(number % owners)) for number in range(60)]


def test_fills_that_slip_for_the_better_only() -> None:
    fills = fills_at("1.0999")

    assert feature([], "slippage_skew", fills=fills).value == 1.0
    assert feature([deal(1)], "uncopyable", fills=fills).value == 0


def test_uncopyable_is_slippage_against_the_average_move() -> None:
    fills = fills_at("1.1005")

    assert feature([deal(number) for number in range(5)], "uncopyable", fills=fills).value == pytest.approx(0.5)


def copies(count: Any, close_price: Any, owners: int = 3) -> list[Any]:
    opened, closed = Decimal("1.1"), Decimal(close_price)
    return [Copy(f"{number:05}", "BUY", Decimal(1), opened, closed, str(number % owners)) for number in range(count)]


@pytest.mark.parametrize(("owners", "counts"), [(2, False), (3, True)])
def test_reports_count_from_three_copiers_on(owners: int, counts: bool) -> None:
    rows = [deal(number, opened="1.1", gained="0.00100") for number in range(60)]
    reports = {"fills": fills_at("1.1005", owners), "copies": copies(60, "1.10040", owners)}

    for name in ("uncopyable", "not_captured"):
        measured = feature(rows, name, **reports)
        assert (measured.contribution > 0, measured.n) == (counts, 60 if counts else 0), name
    assert feature(rows, "slippage_skew", fills=fills_at("1.0999", owners)).n == (60 if counts else 0)


def test_not_captured_is_the_share_that_copies_missed() -> None:
    rows = [deal(number, opened="1.1", gained="0.00100") for number in range(40)]

    assert feature(rows, "not_captured", copies=copies(40, "1.10040")).value == pytest.approx(0.6)
    assert feature(rows, "not_captured", copies=copies(40, "1.09950")).value == pytest.approx(1.5)
    assert feature(rows, "not_captured", copies=copies(40, "1.10200")).value == 0
    assert feature(rows, "not_captured", copies=copies(60, "1.10040")).n == 40  # the other copies are of unknown deals


def test_reverse_copies_do_not_count_as_missed() -> None:
    rows = [deal(number, opened="1.1", gained="0.00100") for number in range(40)]
    reversed_copies = [replace(copy, side="SELL") for copy in copies(40, "1.10100")]

    assert feature(rows, "not_captured", copies=reversed_copies).n == 0
    assert feature(rows, "not_captured", copies=[*reversed_copies, *copies(40, "1.10100")]).value == 0


def test_copies_of_losing_trades_missed_nothing() -> None:
    rows = [deal(number, opened="1.1", gained="-0.00100") for number in range(40)]

    assert feature(rows, "not_captured", copies=copies(40, "1.09000")).value == 0


def test_a_markout_is_the_move_after_the_entry() -> None:
    rows = [deal(0, opened="1.08900")]

    assert feature(rows, "markout_1h", bars=bars("1", "1", "1")).value == pytest.approx(101.01, abs=0.01)
    assert feature(rows, "markout_24h", bars=bars("1", "1", "1")).n == 0


def relationship(rows: Any, others: Any) -> Any:
    return detector.assess_relationship(Evidence(deals=rows, since=T0, until=NOW, others=others))


def twin(rows: Any, seconds: int = 2, side: str = "BUY") -> list[Any]:
    return [replace(row, opened_at=row.opened_at + timedelta(seconds=seconds), side=side) for row in rows]


def test_the_same_trades_in_two_accounts_lower_the_score() -> None:
    rows = [deal(number, minutes=700) for number in range(20)]

    assert relationship(rows, {"twin": twin(rows)}).score == 10
    assert relationship(rows, {"twin": twin(rows, seconds=6)}).score == 100
    assert relationship(rows, {"twin": [replace(row, volume=row.volume * 2) for row in twin(rows)]}).score == 100
    assert relationship(rows[:5], {"twin": twin(rows[:5])}).score == 100  # five matches may be chance
    day = [deal(number, minutes=1) for number in range(20)]
    assert relationship(day, {"twin": twin(day)}).score == 100  # and so may matches of a single day


def test_matches_count_as_a_share_of_the_own_trades() -> None:
    """Another person who matches ten of a thousand trades does not harm the provider."""
    rows = [deal(number, minutes=40) for number in range(1000)]

    assert relationship(rows, {"stalker": twin(rows[::80])}).score == 100
    assert relationship(rows[::80], {"busy": twin(rows)}).score < 100


def test_matches_on_mixed_sides_are_chance() -> None:
    rows = [deal(number, minutes=700) for number in range(40)]
    against = relationship(rows, {"twin": twin(rows, side="SELL")})
    mixed = twin(rows[::2]) + twin(rows[1::2], side="SELL")

    assert against.score == 10
    assert "opened together against those of one other account" in against.features[0].says
    assert relationship(rows, {"chance": mixed}).features[0].value == 0.5
    assert relationship(rows, {"chance": mixed[:12] + mixed[-11:]}).score == 100


def test_a_score_is_a_product_and_each_feature_states_its_contribution() -> None:
    assessment = assess([deal(number, volume=str(2 ** (number % 8)), gained="-0.001") for number in range(100)])
    worst = max(assessment.features, key=lambda row: row.contribution)

    assert worst.name == "martingale"
    assert worst.says
    assert worst.remedy == "Do not raise the volume after a loss."
    assert float(assessment.score) + worst.contribution == pytest.approx(100, abs=15)


def test_old_observations_fade() -> None:
    old = [replace(deal(number, volume=str(2 ** (number % 5)), gained="-0.001")) for number in range(60)]
    new = NOW + timedelta(days=300)
    fresh = [
        replace(deal(number, gained="-0.001"), opened_at=new + number * HOUR, closed_at=new + number * HOUR + HOUR / 2)
        for number in range(60)
    ]
    later = NOW + timedelta(days=303)
    evidence = Evidence(deals=[*old, *fresh], since=T0, until=later)

    now = next(row for row in assess(old).features if row.name == "martingale").value
    then = next(row for row in detector.assess(evidence, now=later).features if row.name == "martingale").value
    assert now > 0.7 > 0.3 > then


@pytest.mark.parametrize("kind", [*flows.HONEST, *flows.TOXIC])
def test_the_order_of_the_deals_does_not_matter(kind: Any) -> None:
    evidence = flows.flow(kind, 7)
    deals = list(evidence.deals)
    random.Random(1).shuffle(deals)

    mixed = replace(evidence, deals=deals)
    assert detector.assess(mixed, now=evidence.until) == detector.assess(evidence, now=evidence.until)


@pytest.mark.parametrize("kind", [*flows.HONEST, *flows.TOXIC])
def test_no_single_trade_moves_a_score_far(kind: Any) -> None:
    evidence = replace(flows.flow(kind, 3), positions=())
    before = detector.assess(replace(evidence, deals=evidence.deals[:5]), now=evidence.until).score
    assert before == 100  # five trades are too few
    steps = []
    for count in range(6, min(len(evidence.deals), 160)):
        after = detector.assess(replace(evidence, deals=evidence.deals[:count]), now=evidence.until).score
        steps.append(abs(after - before))
        before = after

    assert max(steps) <= 20


def test_a_floating_loss_counts_in_full_from_twenty_trades_on() -> None:
    losing = [Position(T0, "EURUSD", "BUY", Decimal(1), Decimal("1.1"), Decimal("-0.05"))]

    assert assess([deal(number) for number in range(9)], positions=losing).score == 100
    assert assess([deal(number) for number in range(20)], positions=losing).score == 10


def test_an_ordinary_loser_of_another_symbol_is_no_hidden_loss() -> None:
    won = [deal(number) for number in range(60)]
    yen = [Position(T0, "USDJPY", "BUY", Decimal(1), Decimal("150"), Decimal("-0.10"))]
    assert assess(won, positions=yen).score == 100

    reported = [replace(deal(60, symbol="USDJPY", opened="150", gained="0.10"), profit=Decimal("66"))]
    assert feature([*won, *reported], "hidden_loss", positions=yen).value < 0.02


def test_a_single_false_report_has_no_effect() -> None:
    fills = fills_at("1.1")
    forged = Fill(T0, "EURUSD", "BUY", Decimal("1.1"), Decimal("110"))
    assert feature([deal(number) for number in range(5)], "uncopyable", fills=[*fills, forged]).value == 0

    rows = [deal(number, opened="1.1", gained="0.00100") for number in range(60)]
    honest = copies(60, "1.10100")
    huge = replace(honest[0], volume=Decimal(1_000_000), close_price=Decimal("0.5"))
    assert feature(rows, "not_captured", copies=[*honest[1:], huge]).value < 0.1
