"""Can a provider's flow be copied without harm, and is somebody dealing with himself. Pure: no database, no clock.

Prices and money are Decimals. Ratios, shares and grades are statistics of them, and floats.

Each feature is measured, graded from 0 (at `warn`) to 1 (at `red`), and weighed: score = 100 · Π(1 − weight · grade).
A feature that rests on fewer than `least_n` observations does not count, and grows to its full weight as they double,
so that no single trade moves a score by much. Observations fade with a half-life of 120 days. Where no source is named,
limits are this desk's own, tuned on simulated flows over real prices.

What it does not see: with hourly bars nothing that happens within the hour but by how long trades were held; of symbols
without bars, what is open and losing and how far winners went under water; a grid that stays open, for entries count
once they are closed; a martingale spread over strategies or accounts; a loser hidden at another broker; prices that
were never quoted, where nobody copies; news without a calendar; front-running of one's own copiers; luck, in less than
some dozens of trades.
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
ABOUT = Decimal("0.0005")
HUNDRED = Decimal(100)
LEAST_OWNERS = 3  # of copies, before they say anything: what one copier reports is one's word


@dataclass(frozen=True, slots=True)
class Feature:
    """One measured thing. `contribution`: by how many points the score would rise without it."""

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
    """The quality of a provider's flow, whatever order its deals come in."""
    worth = _worth(evidence.deals, evidence.worth)
    deals = _reckoned(sorted(evidence.deals, key=lambda deal: (deal.closed_at, deal.opened_at, deal.ref)), worth)
    weights = [_fading(now - deal.closed_at) for deal in deals]
    price = Prices(evidence.bars)
    measured = {
        "quick_wins": _quick_wins(deals, weights),
        "latency": _latency(deals),
        "martingale": _martingale(deals, weights),
        "averaging_down": _averaging_down(deals),
        "grid": _grid(deals),
        "excursion": _excursion(deals, weights, price),
        "hidden_loss": _hidden_loss(deals, evidence.positions, worth),
        "disposition": _disposition(deals, evidence.positions, now),
        "shape": _shape(deals, weights),
        "concentration": _concentration(deals),
        "slippage_skew": _slippage_skew(evidence.fills),
        "uncopyable": _uncopyable(deals, evidence.fills),
        "not_captured": _not_captured(deals, evidence.copies),
        **{f"markout_{hours}h": _markout(deals, weights, price, hours) for hours in (1, 4, 24)},
    }
    return _scored(measured)


def relate(evidence: Evidence) -> Assessment:
    """How far this provider's trades are somebody else's, at the same moment and of the same size."""
    return _scored({"same_hand": _same_hand(evidence.deals, evidence.others)})


# --- limits, weights and words


@dataclass(frozen=True, slots=True)
class _Rule:
    warn: float
    red: float
    least_n: int
    weight: float
    remedy: str


_RULES = {
    "quick_wins": _Rule(0.30, 0.50, 20, 0.5, "Take profits that live for more than a minute."),
    "latency": _Rule(0.65, 0.75, 30, 0.6, "Trade what can still be had when a copier's order arrives."),
    "martingale": _Rule(0.30, 0.60, 10, 0.8, "Do not raise the volume after a loss."),
    "averaging_down": _Rule(0.65, 0.90, 12, 0.6, "Do not add to what is losing."),
    "grid": _Rule(0.15, 0.45, 20, 0.6, "Keep fewer than four entries on one side open at ever worse prices."),
    "excursion": _Rule(2.5, 6.0, 20, 0.6, "Close losers earlier: winners went far under water before they won."),
    "hidden_loss": _Rule(0.50, 1.00, 10, 0.9, "Close what is losing: it is larger than what was won."),
    "disposition": _Rule(3.0, 8.0, 8, 0.4, "Hold losers no longer than winners."),
    "shape": _Rule(0.30, 1.00, 30, 0.4, "Keep losses of the size of gains."),
    "concentration": _Rule(0.45, 0.90, 10, 0.1, "Let no single day make most of the profit."),
    "slippage_skew": _Rule(0.60, 0.85, 50, 0.5, "None: copies should be filled better about as often as worse."),
    "uncopyable": _Rule(0.30, 0.60, 30, 0.6, "Aim for moves that are large against what copying costs."),
    "not_captured": _Rule(0.30, 0.60, 30, 0.5, "Hold for longer: what you win is over before copies have it."),
    "markout_1h": _Rule(0.0, 0.0, 30, 0.0, ""),
    "markout_4h": _Rule(0.0, 0.0, 30, 0.0, ""),
    "markout_24h": _Rule(0.0, 0.0, 30, 0.0, ""),
    "same_hand": _Rule(0.30, 0.70, 10, 0.9, "Trade on your own: these trades are also somebody else's."),
}


def _scored(measured: Mapping[str, _Measured]) -> Assessment:
    graded = {name: _grade(_RULES[name], found) for name, found in measured.items()}
    kept = 1.0
    for name, grade in graded.items():
        kept *= 1 - _RULES[name].weight * grade
    features = []
    for name, found in measured.items():
        rule, grade = _RULES[name], graded[name]
        without = kept / (1 - rule.weight * grade)
        features.append(
            Feature(
                name=name,
                value=round(found.value, 4),
                warn=rule.warn,
                red=rule.red,
                n=found.n,
                least_n=rule.least_n,
                weight=rule.weight,
                grade=round(grade, 4),
                contribution=round(100 * (without - kept), 2),
                says=found.says,
                remedy=rule.remedy if grade > 0 else "",
            )
        )
    score = (HUNDRED * Decimal(repr(kept))).quantize(CENT, rounding=ROUND_HALF_EVEN)
    return Assessment(min(HUNDRED, max(Decimal(0), score)), tuple(features))


def _grade(rule: _Rule, found: _Measured) -> float:
    """clamp((x − warn) / (red − warn), 0, 1), by how sure it is: nothing below least_n, all of it at twice that."""
    if not rule.weight or found.n < rule.least_n:
        return 0.0
    sure = min(1.0, (found.n - rule.least_n + 1) / rule.least_n)
    return sure * min(1.0, max(0.0, (found.value - rule.warn) / (rule.red - rule.warn)))


def _fading(age: timedelta) -> float:
    return float(0.5 ** (max(age, timedelta(0)) / HALF_LIFE))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


# --- features


def _quick_wins(deals: Sequence[Deal], weights: Sequence[float]) -> _Measured:
    """Profit of wins held for under 60 s ÷ gross profit (prop firms draw the line at 30 s to 3 min)."""
    wins = [(deal, weight) for deal, weight in zip(deals, weights, strict=True) if deal.profit > 0]
    gross = sum(weight * float(deal.profit) for deal, weight in wins)
    quick = sum(weight * float(deal.profit) for deal, weight in wins if deal.held < QUICK)
    share = quick / gross if gross else 0.0
    return _Measured(share, len(wins), f"{_percent(share)} of the profit comes from trades held for under a minute.")


def _latency(deals: Sequence[Deal]) -> _Measured:
    """The lower bound (Wilson, z = 1.96) of the share of wins among trades held for under 5 minutes: nobody is right
    that often within minutes but by knowing the price before others do (27 of 30: 0.744; 45 of 50: 0.786).
    """
    short = [deal for deal in deals if deal.held < SHORT]
    wins = sum(deal.profit > 0 for deal in short)
    bound = wilson(wins, len(short))
    return _Measured(bound, len(short), f"{wins} of {len(short)} trades of under five minutes won.")


def wilson(wins: int, n: int, z: float = 1.96) -> float:
    """The lower end of the interval in which the true share of wins lies (Wilson 1927)."""
    if n == 0:
        return 0.0
    share = wins / n
    middle = share + z * z / (2 * n)
    around = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - around) / (1 + z * z / n)


def _martingale(deals: Sequence[Deal], weights: Sequence[float]) -> _Measured:
    """After a losing close: how often the next trade of the symbol has 1.5 times its volume or more (FXPropTech)."""
    found = []
    entries = _by_symbol(sorted(deals, key=lambda deal: (deal.opened_at, deal.ref)))
    begins = {symbol: [deal.opened_at for deal in one] for symbol, one in entries.items()}
    for deal, weight in zip(deals, weights, strict=True):
        following = bisect_left(begins[deal.symbol], deal.closed_at)
        if deal.profit < 0 and following < len(begins[deal.symbol]):
            raised = entries[deal.symbol][following].volume >= deal.volume * Decimal("1.5")
            found.append((float(raised), weight))
    share = _mean(found)
    return _Measured(
        share, len(found), f"After {_percent(share)} of the losses the next trade was half as large again, or more."
    )


def _averaging_down(deals: Sequence[Deal]) -> _Measured:
    """Entries added to a side that was losing at that moment ÷ all entries added."""
    adds = losing = 0
    for basket in _baskets(deals):
        for index, deal in enumerate(basket):
            beside = [one for one in basket[max(0, index - 40) : index] if one.closed_at > deal.opened_at]
            if beside:
                lots = sum((one.volume for one in beside), Decimal(0))
                average = sum((one.open_price * one.volume for one in beside), Decimal(0)) / lots
                adds += 1
                losing += deal.open_price < average if deal.side == "BUY" else deal.open_price > average
    share = losing / adds if adds else 0.0
    return _Measured(share, adds, f"{_percent(share)} of the entries that were added went to a losing side.")


def _grid(deals: Sequence[Deal]) -> _Measured:
    """Share of entries that were at least the fourth open on their side, each at a worse price than the one before."""
    deep = 0
    for basket in _baskets(deals):
        for index, deal in enumerate(basket):
            depth, worst = 1, deal.open_price
            for one in reversed(basket[max(0, index - 40) : index]):
                if one.closed_at <= deal.opened_at:
                    continue
                if not (one.open_price > worst if deal.side == "BUY" else one.open_price < worst):
                    break
                depth, worst = depth + 1, one.open_price
            deep += depth >= 4
    share = deep / len(deals) if deals else 0.0
    return _Measured(
        share, len(deals), f"{_percent(share)} of the entries were the fourth or more in a row at a worse price."
    )


def _excursion(deals: Sequence[Deal], weights: Sequence[float], price: Prices) -> _Measured:
    """For wins: how far under water they went (by the bars that lie wholly within) ÷ what they won in the end, each
    capped at 20, on average.
    """
    found = [
        (min(20.0, float(worst / deal.gained)), weight)
        for deal, weight in zip(deals, weights, strict=True)
        if deal.gained > 0 and (worst := price.worst(deal)) is not None
    ]
    total = sum(weight for _, weight in found)
    ratio = sum(value * weight for value, weight in found) / total if total else 0.0
    return _Measured(ratio, len(found), f"Winners went {ratio:.1f} times as far under water as they won in the end.")


def _hidden_loss(deals: Sequence[Deal], positions: Sequence[Position], worth: Mapping[str, Decimal]) -> _Measured:
    """max(0, −floating) ÷ what was won net, in account money (ZuluTrade counts what is open; Binance stops fees at a
    fixed loss). Where nothing is known of what a move of the symbol is worth, its contract is not guessed.
    """
    valued = [one.floating * worth[one.symbol] for one in positions if one.floating and one.symbol in worth]
    won = sum((deal.profit for deal in deals), Decimal(0))
    loss = max(Decimal(0), -sum(valued, Decimal(0)))
    ratio = min(5.0, float(loss / won)) if won > 0 else (5.0 if loss > 0 and deals else 0.0)
    return _Measured(ratio, len(deals) if valued else 0, f"What is open has lost {_percent(ratio)} of what was won.")


def _disposition(deals: Sequence[Deal], positions: Sequence[Position], now: datetime) -> _Measured:
    """Median time for which losers are held ÷ the same of winners. Open losers count, for as long as they are held."""
    wins = [deal.held / timedelta(seconds=1) for deal in deals if deal.profit > 0]
    losses = [deal.held / timedelta(seconds=1) for deal in deals if deal.profit < 0]
    losses += [(now - one.opened_at) / timedelta(seconds=1) for one in positions if one.floating and one.floating < 0]
    ratio = min(50.0, median(losses) / max(1.0, median(wins))) if wins and losses else 0.0
    return _Measured(ratio, min(len(wins), len(losses)), f"Losers are held {ratio:.1f} times as long as winners.")


def _shape(deals: Sequence[Deal], weights: Sequence[float]) -> _Measured:
    """Many small wins against few large losses: (share of wins − 0.80) ÷ 0.10, times (average loss ÷ average win − 1.5)
    ÷ 1.5, each within 0 and 1.
    """
    wins = [(float(deal.profit), weight) for deal, weight in zip(deals, weights, strict=True) if deal.profit > 0]
    losses = [(-float(deal.profit), weight) for deal, weight in zip(deals, weights, strict=True) if deal.profit < 0]
    if not wins or not losses:
        return _Measured(0.0, len(deals), "Wins and losses are of ordinary shape.")
    often = sum(weight for _, weight in wins) / sum(weight for _, weight in (*wins, *losses))
    size = _mean(losses) / _mean(wins)
    value = min(1.0, max(0.0, (often - 0.8) / 0.1)) * min(1.0, max(0.0, (size - 1.5) / 1.5))
    return _Measured(value, len(deals), f"{_percent(often)} of the trades win; a loss is {size:.1f} times a win.")


def _concentration(deals: Sequence[Deal]) -> _Measured:
    """Best day ÷ total profit (prop firms allow 15 % to 50 %). Hardly more than something to know."""
    days: dict[object, Decimal] = {}
    for deal in deals:
        days[deal.closed_at.date()] = days.get(deal.closed_at.date(), Decimal(0)) + deal.profit
    total = sum(days.values(), Decimal(0))
    share = min(1.0, float(max(days.values()) / total)) if total > 0 else 0.0
    return _Measured(share, len(days), f"The best day made {_percent(share)} of the profit.")


def _slippage_skew(fills: Sequence[Fill]) -> _Measured:
    """Share of copies filled better than asked ÷ those filled at another price: chance is a half (brokeret)."""
    moved = [fill.slippage_bps for fill in fills if fill.executed_price != fill.requested_price]
    share = sum(value < 0 for value in moved) / len(moved) if moved else 0.0
    return _Measured(
        share, _by_enough(fills, len(moved)), f"{_percent(share)} of the copies that slipped slipped for the better."
    )


def _uncopyable(deals: Sequence[Deal], fills: Sequence[Fill]) -> _Measured:
    """What copies lose by slippage, in bps, ÷ what an average trade moves."""
    if not deals or not fills:
        return _Measured(0.0, 0, "There are too few copies to say what copying costs.")
    lost = max(0.0, median(fill.slippage_bps for fill in fills))  # one report that is far out says nothing
    moves = sum(abs(float(deal.gained / deal.open_price)) for deal in deals) / len(deals) * 10_000
    ratio = lost / moves if moves else 0.0
    return _Measured(
        ratio, _by_enough(fills, len(fills)), f"Copies lose {_percent(ratio)} of an average move to slippage."
    )


def _not_captured(deals: Sequence[Deal], copies: Sequence[Copy]) -> _Measured:
    """1 − what copies won ÷ what the trades that they copied won, both for the same volume and price at entry (the
    capture ratio, Darwinex's divergence as a share: 0.7 warns, 0.4 is red). Nothing is lost where nothing was won. Who
    copies in reverse wins what the master loses: that says nothing of the master.
    """
    known = {deal.ref: deal for deal in deals}
    found = [(one, known[one.of]) for one in copies if one.of in known and one.side == known[one.of].side]
    his, theirs = Decimal(0), Decimal(0)
    for one, deal in found:  # each counts as one, and within bounds: volumes and prices are the copiers' word
        won, bound = deal.gained / deal.open_price, abs(deal.gained / deal.open_price) * 2 + ABOUT
        his += won
        theirs += min(won + bound, max(won - bound, one.gained / one.open_price))
    share = float(min(Decimal(2), max(Decimal(0), 1 - theirs / his))) if his > 0 else 0.0
    count = _by_enough([one for one, _ in found], len(found))
    return _Measured(share, count, f"Copies missed {_percent(share)} of what the trades that they copied won.")


def _by_enough(reports: Iterable[Fill | Copy], count: int) -> int:
    """The count, or nothing where fewer than three owners stand behind it."""
    return count if len({one.owner for one in reports}) >= LEAST_OWNERS else 0


def _markout(deals: Sequence[Deal], weights: Sequence[float], price: Prices, hours: int) -> _Measured:
    """Where the price was so many hours after the entry, its way, in bps. For information: it does not count."""
    later = [(price.markout(deal, timedelta(hours=hours)), weight) for deal, weight in zip(deals, weights, strict=True)]
    found = [(value, weight) for value, weight in later if value is not None]
    mean = _mean(found)
    return _Measured(
        mean, len(found), f"{hours} h after an entry the price had gone {mean:+.1f} bps its way.".replace("-", "−")
    )


def _same_hand(mine: Sequence[Deal], others: Mapping[str, Sequence[Deal]]) -> _Measured:
    """The largest share, over all others, of trades opened within 5 s of one of theirs, of one symbol and like volume,
    all on their side or all on the other, over at least three days (one match is chance; ten are a hand; and who is
    beside by chance is so on either side).
    """
    best, count, how = 0.0, 0, "with"
    for theirs in others.values():
        for same_side, word in ((True, "with"), (False, "against")):
            matched = _matched(mine, theirs, same_side=same_side)
            days = {deal.opened_at.date() for deal in matched}
            share = len(matched) / len(mine) if len(days) >= 3 else 0.0
            if share > best:
                best, count, how = share, len(matched), word
    return _Measured(
        best, count, f"{_percent(best)} of the trades were opened together {how} those of one other account."
    )


def _matched(mine: Sequence[Deal], theirs: Sequence[Deal], *, same_side: bool) -> list[Deal]:
    """Mine that have one of theirs beside them, on the same side or the other; each of theirs is used once."""
    rows = sorted(theirs, key=lambda deal: deal.opened_at)
    times = [deal.opened_at for deal in rows]
    used, found = set(), []
    for deal in sorted(mine, key=lambda deal: deal.opened_at):
        first = bisect_left(times, deal.opened_at - TOGETHER)
        for index in range(first, bisect_right(times, deal.opened_at + TOGETHER)):
            other = rows[index]
            alike = other.symbol == deal.symbol and (other.side == deal.side) is same_side
            if alike and index not in used and Decimal("0.9") <= other.volume / deal.volume <= Decimal("1.1"):
                used.add(index)
                found.append(deal)
                break
    return found


# --- beneath


def _worth(deals: Iterable[Deal], known: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """What a move by one brings for a lot, by symbol: what the desk knows, or else the median of what was told."""
    told: dict[str, list[Decimal]] = {}
    for deal in deals:
        if moved := abs(deal.gained * deal.volume):
            told.setdefault(deal.symbol, []).append(abs(deal.profit) / moved)
    return {**{symbol: median(each) or Decimal(1) for symbol, each in told.items()}, **known}


def _reckoned(deals: Iterable[Deal], worth: Mapping[str, Decimal]) -> list[Deal]:
    """The deals with the profit that their prices make: a told one is the bot's word, and a loss told as a win, or as
    nothing, would hide most of what is looked for. Costs and swaps are left out.
    """
    return [replace(deal, profit=deal.gained * deal.volume * worth.get(deal.symbol, Decimal(1))) for deal in deals]


def _by_symbol(deals: Iterable[Deal]) -> dict[str, list[Deal]]:
    found: dict[str, list[Deal]] = {}
    for deal in deals:
        found.setdefault(deal.symbol, []).append(deal)
    return found


def _baskets(deals: Iterable[Deal]) -> list[list[Deal]]:
    """By symbol and side, in the order of entry."""
    found: dict[tuple[str, str], list[Deal]] = {}
    for deal in sorted(deals, key=lambda deal: (deal.opened_at, deal.ref)):
        found.setdefault((deal.symbol, deal.side), []).append(deal)
    return list(found.values())


def _mean(found: Sequence[tuple[float, float]]) -> float:
    total = sum(weight for _, weight in found)
    return sum(value * weight for value, weight in found) / total if total else 0.0
