"""Flow quality (can a provider's trades be copied without harm?) and relationship risk (are the trades the provider's
own?). Pure: no database, no clock.

Prices and money are Decimals. Ratios, shares and grades are statistics, and floats.

Each feature is measured, graded from 0 (at `warn`) to 1 (at `red`), and weighted: score = 100 · Π(1 − weight · grade).
A feature with fewer than `least_n` observations does not count; it has its full weight at twice that number, so that no
single trade moves a score by much. Observations fade with a half-life of 120 days. Limits without a named source are
this desk's own, tuned on simulated flows over real prices.

Known gaps: with hourly bars, moves within the hour, except through how long trades were held; for symbols without bars,
floating losses and the excursion of winners; a grid that stays open, because entries count after they are closed; a
martingale spread over several strategies or accounts; a loser hidden at another broker; prices that were never quoted,
where nobody copies; news, because there is no calendar; front-running of the provider's own copiers; luck, within a few
dozen trades.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from statistics import median

from trust.evidence_types import Copy, Deal, Evidence, Fill, Position
from trust.prices import Prices

HALF_LIFE = timedelta(days=120)
QUICK = timedelta(seconds=60)
SHORT = timedelta(minutes=5)
TOGETHER = timedelta(seconds=5)
CENT = Decimal("0.01")
TOLERANCE = Decimal("0.0005")  # of a copy's relative gain, beside twice the deal's own
HUNDRED = Decimal(100)
LEAST_OWNERS = 3  # of copies, before a feature counts: a single copier's reports prove nothing


@dataclass(frozen=True, slots=True)
class Feature:
    """A measured feature. `contribution`: by how many points the score would rise without it."""

    name: str
    value: float
    warn: float
    red: float
    n: int
    least_n: int
    weight: float
    grade: float
    contribution: float
    says: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Assessment:
    """`score` from 0 to 100 with two decimals."""

    score: Decimal
    features: tuple[Feature, ...]


@dataclass(frozen=True, slots=True)
class _Measured:
    value: float
    n: int
    says: str


def assess(evidence: Evidence, *, now: datetime) -> Assessment:
    """Assess the quality of a provider's flow. The order of the deals does not matter."""
    move_values = _move_values(evidence.deals, evidence.move_values)
    by_close = sorted(evidence.deals, key=lambda deal: (deal.closed_at, deal.opened_at, deal.ref))
    deals = _with_calculated_profit(by_close, move_values)
    weights = [_fading(now - deal.closed_at) for deal in deals]
    prices = Prices(evidence.bars)
    measured = {
        "quick_wins": _quick_wins(deals, weights),
        "latency": _latency(deals),
        "martingale": _martingale(deals, weights),
        "averaging_down": _averaging_down(deals),
        "grid": _grid(deals),
        "excursion": _excursion(deals, weights, prices),
        "hidden_loss": _hidden_loss(deals, evidence.positions, move_values),
        "disposition": _disposition(deals, evidence.positions, now),
        "shape": _shape(deals, weights),
        "concentration": _concentration(deals),
        "slippage_skew": _slippage_skew(evidence.fills),
        "uncopyable": _uncopyable(deals, evidence.fills),
        "not_captured": _not_captured(deals, evidence.copies),
        **{f"markout_{hours}h": _markout(deals, weights, prices, hours) for hours in (1, 4, 24)},
    }
    return _scored(measured)


def assess_relationship(evidence: Evidence) -> Assessment:
    """Assess how many of this provider's trades match another person's in time and volume."""
    return _scored({"same_hand": _same_hand(evidence.deals, evidence.others)})


# --- limits, weights and remedies


@dataclass(frozen=True, slots=True)
class _Rule:
    warn: float
    red: float
    least_n: int
    weight: float
    remedy: str


_RULES = {
    "quick_wins": _Rule(0.30, 0.50, 20, 0.5, "Hold winning trades for more than a minute."),
    "latency": _Rule(0.65, 0.75, 30, 0.6, "Trade at prices that are still available when a copier's order arrives."),
    "martingale": _Rule(0.30, 0.60, 10, 0.8, "Do not raise the volume after a loss."),
    "averaging_down": _Rule(0.65, 0.90, 12, 0.6, "Do not add to losing positions."),
    "grid": _Rule(0.15, 0.45, 20, 0.6, "Keep fewer than four entries at worse and worse prices open on one side."),
    "excursion": _Rule(
        2.5, 6.0, 20, 0.6, "Close losers earlier: your winners had large floating losses before they won."
    ),
    "hidden_loss": _Rule(0.50, 1.00, 10, 0.9, "Close losing positions: their floating loss exceeds your profit."),
    "disposition": _Rule(3.0, 8.0, 8, 0.4, "Hold losers no longer than winners."),
    "shape": _Rule(0.30, 1.00, 30, 0.4, "Keep losses as small as gains."),
    "concentration": _Rule(0.45, 0.90, 10, 0.1, "Let no single day make most of the profit."),
    "slippage_skew": _Rule(
        0.60,
        0.85,
        50,
        0.5,
        "Trade at prices that a copier can get: copies should slip for the better as often as for the worse.",
    ),
    "uncopyable": _Rule(0.30, 0.60, 30, 0.6, "Aim for moves that are large compared with the slippage of copies."),
    "not_captured": _Rule(0.30, 0.60, 30, 0.5, "Hold trades longer: your gain is over before copies can share it."),
    "markout_1h": _Rule(0.0, 0.0, 30, 0.0, ""),
    "markout_4h": _Rule(0.0, 0.0, 30, 0.0, ""),
    "markout_24h": _Rule(0.0, 0.0, 30, 0.0, ""),
    "same_hand": _Rule(
        0.30, 0.70, 10, 0.9, "Trade independently: another person makes these trades at the same moments."
    ),
}


def _scored(measured: Mapping[str, _Measured]) -> Assessment:
    graded = {name: _grade(_RULES[name], measurement) for name, measurement in measured.items()}
    product = 1.0
    for name, grade in graded.items():
        product *= 1 - _RULES[name].weight * grade
    features = []
    for name, measurement in measured.items():
        rule, grade = _RULES[name], graded[name]
        product_without = product / (1 - rule.weight * grade)
        features.append(
            Feature(
                name=name,
                value=round(measurement.value, 4),
                warn=rule.warn,
                red=rule.red,
                n=measurement.n,
                least_n=rule.least_n,
                weight=rule.weight,
                grade=round(grade, 4),
                contribution=round(100 * (product_without - product), 2),
                says=measurement.says,
                remedy=rule.remedy if grade > 0 else "",
            )
        )
    score = (HUNDRED * Decimal(repr(product))).quantize(CENT, rounding=ROUND_HALF_EVEN)
    return Assessment(min(HUNDRED, max(Decimal(0), score)), tuple(features))


def _grade(rule: _Rule, measurement: _Measured) -> float:
    """confidence × clamp((x − warn) / (red − warn), 0, 1). Confidence is 0 below least_n and 1 at twice that number."""
    if not rule.weight or measurement.n < rule.least_n:
        return 0.0
    confidence = min(1.0, (measurement.n - rule.least_n + 1) / rule.least_n)
    return confidence * min(1.0, max(0.0, (measurement.value - rule.warn) / (rule.red - rule.warn)))


def _fading(age: timedelta) -> float:
    return float(0.5 ** (max(age, timedelta(0)) / HALF_LIFE))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


# --- features


def _quick_wins(deals: Sequence[Deal], weights: Sequence[float]) -> _Measured:
    """Profit of wins held for under 60 s ÷ gross profit (the limits of prop firms are 30 s to 3 min)."""
    wins = [(deal, weight) for deal, weight in zip(deals, weights, strict=True) if deal.profit > 0]
    gross = sum(weight * float(deal.profit) for deal, weight in wins)
    quick = sum(weight * float(deal.profit) for deal, weight in wins if deal.held < QUICK)
    share = quick / gross if gross else 0.0
    return _Measured(share, len(wins), f"{_percent(share)} of the profit comes from trades held for under a minute.")


def _latency(deals: Sequence[Deal]) -> _Measured:
    """The lower bound (Wilson, z = 1.96) of the share of wins among trades held for under 5 minutes (27 of 30: 0.744;
    45 of 50: 0.786). Only a trader who knows the price before others do wins that often within minutes.
    """
    short = [deal for deal in deals if deal.held < SHORT]
    wins = sum(deal.profit > 0 for deal in short)
    bound = wilson(wins, len(short))
    return _Measured(bound, len(short), f"{wins} of {len(short)} trades of under five minutes won.")


def wilson(wins: int, n: int, z: float = 1.96) -> float:
    """The lower bound of the confidence interval of a share (Wilson 1927)."""
    if n == 0:
        return 0.0
    share = wins / n
    centre = share + z * z / (2 * n)
    margin = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (centre - margin) / (1 + z * z / n)


def _martingale(deals: Sequence[Deal], weights: Sequence[float]) -> _Measured:
    """After a loss: how often the next trade of the symbol has at least 1.5 times the volume (FXPropTech)."""
    observations = []
    entries = _by_symbol(sorted(deals, key=lambda deal: (deal.opened_at, deal.ref)))
    begins = {symbol: [deal.opened_at for deal in rows] for symbol, rows in entries.items()}
    for deal, weight in zip(deals, weights, strict=True):
        next_index = bisect_left(begins[deal.symbol], deal.closed_at)
        if deal.profit < 0 and next_index < len(begins[deal.symbol]):
            is_raised = entries[deal.symbol][next_index].volume >= deal.volume * Decimal("1.5")
            observations.append((float(is_raised), weight))
    share = _mean(observations)
    return _Measured(
        share, len(observations), f"After {_percent(share)} of the losses the next trade was at least 50 % larger."
    )


def _averaging_down(deals: Sequence[Deal]) -> _Measured:
    """Entries added to a losing side ÷ all entries added to an open side."""
    adds = losing = 0
    for basket in _baskets(deals):
        for index, deal in enumerate(basket):
            still_open = [entry for entry in basket[max(0, index - 40) : index] if entry.closed_at > deal.opened_at]
            if still_open:
                lots = sum((entry.volume for entry in still_open), Decimal(0))
                average = sum((entry.open_price * entry.volume for entry in still_open), Decimal(0)) / lots
                adds += 1
                losing += deal.open_price < average if deal.side == "BUY" else deal.open_price > average
    share = losing / adds if adds else 0.0
    return _Measured(share, adds, f"{_percent(share)} of the added entries were added to a losing side.")


def _grid(deals: Sequence[Deal]) -> _Measured:
    """Share of entries that were at least the fourth open on their side, each at a worse price than the last."""
    deep = 0
    for basket in _baskets(deals):
        for index, deal in enumerate(basket):
            depth, worst = 1, deal.open_price
            for entry in reversed(basket[max(0, index - 40) : index]):
                if entry.closed_at <= deal.opened_at:
                    continue
                if not (entry.open_price > worst if deal.side == "BUY" else entry.open_price < worst):
                    break
                depth, worst = depth + 1, entry.open_price
            deep += depth >= 4
    share = deep / len(deals) if deals else 0.0
    return _Measured(
        share, len(deals), f"{_percent(share)} of the entries were at least the fourth in a row at a worse price."
    )


def _excursion(deals: Sequence[Deal], weights: Sequence[float], prices: Prices) -> _Measured:
    """Average over wins: maximum adverse excursion (by the bars that lie wholly within the trade) ÷ final gain, each
    capped at 20.
    """
    observations = [
        (min(20.0, float(worst / deal.gained)), weight)
        for deal, weight in zip(deals, weights, strict=True)
        if deal.gained > 0 and (worst := prices.worst(deal)) is not None
    ]
    ratio = _mean(observations)
    return _Measured(
        ratio, len(observations), f"Winners had floating losses of {ratio:.1f} times their final gain, on average."
    )


def _hidden_loss(deals: Sequence[Deal], positions: Sequence[Position], move_values: Mapping[str, Decimal]) -> _Measured:
    """max(0, −floating P/L) ÷ net realised P/L, in account currency (ZuluTrade counts open positions; Binance stops
    fees at a fixed loss). A position without a known move value is left out: its contract size is not guessed.
    """
    valued = [row.floating * move_values[row.symbol] for row in positions if row.floating and row.symbol in move_values]
    realised = sum((deal.profit for deal in deals), Decimal(0))
    loss = max(Decimal(0), -sum(valued, Decimal(0)))
    ratio = min(5.0, float(loss / realised)) if realised > 0 else (5.0 if loss > 0 and deals else 0.0)
    return _Measured(
        ratio, len(deals) if valued else 0, f"The floating loss is {_percent(ratio)} of the realised profit."
    )


def _disposition(deals: Sequence[Deal], positions: Sequence[Position], now: datetime) -> _Measured:
    """Median holding time of losers ÷ median holding time of winners. Open losers count with their time so far."""
    wins = [deal.held / timedelta(seconds=1) for deal in deals if deal.profit > 0]
    losses = [deal.held / timedelta(seconds=1) for deal in deals if deal.profit < 0]
    losses += [(now - row.opened_at) / timedelta(seconds=1) for row in positions if row.floating and row.floating < 0]
    ratio = min(50.0, median(losses) / max(1.0, median(wins))) if wins and losses else 0.0
    return _Measured(ratio, min(len(wins), len(losses)), f"Losers are held {ratio:.1f} times as long as winners.")


def _shape(deals: Sequence[Deal], weights: Sequence[float]) -> _Measured:
    """Many small wins against few large losses: (share of wins − 0.80) ÷ 0.10, times (average loss ÷ average win − 1.5)
    ÷ 1.5, each within 0 and 1.
    """
    wins = [(float(deal.profit), weight) for deal, weight in zip(deals, weights, strict=True) if deal.profit > 0]
    losses = [(-float(deal.profit), weight) for deal, weight in zip(deals, weights, strict=True) if deal.profit < 0]
    if not wins or not losses:
        return _Measured(0.0, len(deals), "Wins and losses are of ordinary size.")
    win_rate = sum(weight for _, weight in wins) / sum(weight for _, weight in (*wins, *losses))
    loss_ratio = _mean(losses) / _mean(wins)
    value = min(1.0, max(0.0, (win_rate - 0.8) / 0.1)) * min(1.0, max(0.0, (loss_ratio - 1.5) / 1.5))
    return _Measured(
        value,
        len(deals),
        f"{_percent(win_rate)} of the trades win; an average loss is {loss_ratio:.1f} times an average win.",
    )


def _concentration(deals: Sequence[Deal]) -> _Measured:
    """Best day ÷ total profit (prop firms allow 15 % to 50 %). Its weight is small: it is mostly information."""
    days: dict[object, Decimal] = {}
    for deal in deals:
        days[deal.closed_at.date()] = days.get(deal.closed_at.date(), Decimal(0)) + deal.profit
    total = sum(days.values(), Decimal(0))
    share = min(1.0, float(max(days.values()) / total)) if total > 0 else 0.0
    return _Measured(share, len(days), f"The best day made {_percent(share)} of the profit.")


def _slippage_skew(fills: Sequence[Fill]) -> _Measured:
    """Copies filled better than requested ÷ copies filled at a different price: by chance a half (brokeret)."""
    moved = [fill.slippage_bps for fill in fills if fill.executed_price != fill.requested_price]
    share = sum(value < 0 for value in moved) / len(moved) if moved else 0.0
    return _Measured(
        share,
        _by_enough(fills, len(moved)),
        f"{_percent(share)} of the copies with slippage were filled at a better price.",
    )


def _uncopyable(deals: Sequence[Deal], fills: Sequence[Fill]) -> _Measured:
    """Median slippage of copies ÷ average price move of a trade, both in bps, which a price of zero does not have."""
    deals = [deal for deal in deals if deal.open_price]
    if not deals or not fills:
        return _Measured(0.0, 0, "There are too few copies to measure the cost of copying.")
    slippage = max(0.0, median(fill.slippage_bps for fill in fills))  # the median ignores a single false report
    moves = sum(abs(float(deal.gained / deal.open_price)) for deal in deals) / len(deals) * 10_000
    ratio = slippage / moves if moves else 0.0
    return _Measured(
        ratio, _by_enough(fills, len(fills)), f"Copies lose {_percent(ratio)} of an average move to slippage."
    )


def _not_captured(deals: Sequence[Deal], copies: Sequence[Copy]) -> _Measured:
    """1 − relative gain of the copies ÷ relative gain of the deals that they copied (the capture ratio, Darwinex's
    divergence as a share: 0.7 warns, 0.4 is red). 0 where the deals gained nothing. Reverse copies are left out: they
    win what the provider loses, and prove nothing about the provider.
    """
    by_ref = {deal.ref: deal for deal in deals}
    pairs = [(copy, by_ref[copy.deal_ref]) for copy in copies if copy.deal_ref in by_ref]
    same_side = [(copy, deal) for copy, deal in pairs if copy.side == deal.side and copy.open_price and deal.open_price]
    of_deals, of_copies = Decimal(0), Decimal(0)
    for copy, deal in same_side:  # equal weights and bounded gains, because copiers report their volumes and prices
        gain = deal.gained / abs(deal.open_price)
        bound = abs(gain) * 2 + TOLERANCE
        of_deals += gain
        of_copies += min(gain + bound, max(gain - bound, copy.gained / abs(copy.open_price)))
    share = float(min(Decimal(2), max(Decimal(0), 1 - of_copies / of_deals))) if of_deals > 0 else 0.0
    count = _by_enough([copy for copy, _ in same_side], len(same_side))
    return _Measured(share, count, f"Copies missed {_percent(share)} of the gain of the trades that they copied.")


def _by_enough(reports: Iterable[Fill | Copy], count: int) -> int:
    """The count, or 0 where the reports come from fewer than LEAST_OWNERS owners."""
    return count if len({report.owner for report in reports}) >= LEAST_OWNERS else 0


def _markout(deals: Sequence[Deal], weights: Sequence[float], prices: Prices, hours: int) -> _Measured:
    """The average price move in the deal's favour that many hours after its entry, in bps. For information only."""
    moves = [
        (prices.markout(deal, timedelta(hours=hours)), weight) for deal, weight in zip(deals, weights, strict=True)
    ]
    observations = [(move, weight) for move, weight in moves if move is not None]
    mean = _mean(observations)
    text = f"{hours} h after an entry the price had moved {mean:+.1f} bps in its favour.".replace("-", "−")
    return _Measured(mean, len(observations), text)


def _same_hand(own_deals: Sequence[Deal], others: Mapping[str, Sequence[Deal]]) -> _Measured:
    """The largest share, over all other people, of own deals opened within 5 s of one of theirs, with the same symbol
    and a similar volume, over at least three days. Matches on the same side and on opposite sides are counted apart,
    because matches by chance occur on both.
    """
    best, count, how = 0.0, 0, "with"
    for deals in others.values():
        for same_side, word in ((True, "with"), (False, "against")):
            matched = _matched(own_deals, deals, same_side=same_side)
            days = {deal.opened_at.date() for deal in matched}
            share = len(matched) / len(own_deals) if len(days) >= 3 else 0.0
            if share > best:
                best, count, how = share, len(matched), word
    return _Measured(
        best, count, f"{_percent(best)} of the trades were opened together {how} those of one other account."
    )


def _matched(own_deals: Sequence[Deal], deals: Sequence[Deal], *, same_side: bool) -> list[Deal]:
    """The own deals with a matching deal, on the same side or the opposite one; each deal matches once."""
    rows = sorted(deals, key=lambda deal: deal.opened_at)
    times = [deal.opened_at for deal in rows]
    used, matched = set(), []
    for deal in sorted(own_deals, key=lambda deal: deal.opened_at):
        first = bisect_left(times, deal.opened_at - TOGETHER)
        for index in range(first, bisect_right(times, deal.opened_at + TOGETHER)):
            other = rows[index]
            is_match = other.symbol == deal.symbol and (other.side == deal.side) is same_side
            if is_match and index not in used and Decimal("0.9") <= other.volume / deal.volume <= Decimal("1.1"):
                used.add(index)
                matched.append(deal)
                break
    return matched


# --- calculations that the features share


def _move_values(deals: Iterable[Deal], known: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """The value of a price move of 1 for one lot, by symbol: known to the desk, or else the median of the reports."""
    reported: dict[str, list[Decimal]] = {}
    for deal in deals:
        if moved := abs(deal.gained * deal.volume):
            reported.setdefault(deal.symbol, []).append(abs(deal.profit) / moved)
    return {**{symbol: median(values) or Decimal(1) for symbol, values in reported.items()}, **known}


def _with_calculated_profit(deals: Iterable[Deal], move_values: Mapping[str, Decimal]) -> list[Deal]:
    """The deals with the profit that follows from their prices, without costs and swaps. The reported profit is not
    used, because a bot could report a loss as a win, or as zero, and so hide it from most features.
    """
    return [
        replace(deal, profit=deal.gained * deal.volume * move_values.get(deal.symbol, Decimal(1))) for deal in deals
    ]


def _by_symbol(deals: Iterable[Deal]) -> dict[str, list[Deal]]:
    grouped: dict[str, list[Deal]] = {}
    for deal in deals:
        grouped.setdefault(deal.symbol, []).append(deal)
    return grouped


def _baskets(deals: Iterable[Deal]) -> list[list[Deal]]:
    """The deals by symbol and side, each basket in the order of entry."""
    baskets: dict[tuple[str, str], list[Deal]] = {}
    for deal in sorted(deals, key=lambda deal: (deal.opened_at, deal.ref)):
        baskets.setdefault((deal.symbol, deal.side), []).append(deal)
    return list(baskets.values())


def _mean(observations: Sequence[tuple[float, float]]) -> float:
    """The mean of (value, weight) pairs; 0 without any."""
    total = sum(weight for _, weight in observations)
    return sum(value * weight for value, weight in observations) / total if total else 0.0
