"""What is known of both accounts when terms are made: equities, currencies with their rates, contract sizes.

The facts are stored with the terms, so that a copy can be recomputed from them later. What is unknown stays out: no
rate and no contract size is guessed.
"""

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from accounts.models import AccountSymbol
from core import money
from market import prices
from market.models import Instrument
from strategies.models import Subscription, Terms


@dataclass(frozen=True, slots=True)
class Contract:
    """The contract sizes of one symbol by the provider's name. None: not reported, or not listed by the desk.

    A copy has the provider's lots times the provider's size divided by the copier's, so that it gains and loses as much
    with each step of the price. Where only one side reported its size, the desk's listed size stands for the other, but
    then it may only reduce: a copy that is too small costs less than one that is too large.
    """

    symbol: str
    own_symbol: str
    provider: Decimal | None
    copier: Decimal | None
    listed: Decimal | None

    @property
    def is_one_sided(self) -> bool:
        return (self.provider is None) != (self.copier is None)

    @property
    def sides(self) -> tuple[Decimal, Decimal] | None:
        """The two sizes by which lots are converted; None where they are converted by 1."""
        provider, copier = self.provider or self.listed, self.copier or self.listed
        if provider is None or copier is None or (self.provider is None and self.copier is None):
            return None
        if provider == copier or (self.is_one_sided and provider > copier):
            return None
        return provider, copier

    @property
    def deserves_a_warning(self) -> bool:
        """Whether one side's size is unknown, and the other's is not the usual one."""
        return self.is_one_sided and (self.provider or self.copier) != self.listed


@dataclass
class Source:
    """Reads facts, each once. `at`: the time at which prices must be known. One object serves one run."""

    at: datetime
    accounts: Iterable[int]
    _rates: dict[tuple[str, str], prices.Rate | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sizes: dict[int, dict[str, Decimal]] = defaultdict(dict)
        rows = AccountSymbol.objects.filter(account__in=set(self.accounts))
        for account, symbol, size in rows.values_list("account_id", "symbol", "contract_size"):
            self._sizes[account][symbol] = size

    @functools.cached_property
    def _listed(self) -> dict[str, Decimal]:
        return dict(Instrument.objects.values_list("symbol", "contract_size"))

    @classmethod
    def of_all(cls, subscriptions: Iterable[Subscription], at: datetime) -> "Source":
        """A source for these subscriptions, which come with their strategies."""
        pairs = [(subscription.account_id, subscription.strategy.account_id) for subscription in subscriptions]
        return cls(at, [account for pair in pairs for account in pair])

    def contracts(self, subscription: Subscription, symbol_map: Mapping[str, str]) -> Iterator[Contract]:
        """The contract sizes of all symbols of which either side reported one, sorted by symbol."""
        provider, own = self._sizes[subscription.strategy.account_id], self._sizes[subscription.account_id]
        mapped = set(symbol_map.values())
        names = provider.keys() | symbol_map.keys() | (own.keys() - mapped)
        for symbol in sorted(names):
            own_symbol = symbol_map.get(symbol, symbol)
            if symbol in provider or own_symbol in own:
                yield Contract(symbol, own_symbol, provider.get(symbol), own.get(own_symbol), self._listed.get(symbol))

    def of(self, subscription: Subscription, mode: str, symbol_map: Mapping[str, str]) -> dict[str, Any]:
        """The facts that terms of this mode need, as JSON.

        `currency`, `master_currency`: of the account and of the provider's. `rates`: by currency, its value in the
        former. `sizes`: by symbol, the provider's contract size and the copier's where lots are converted. `known`: the
        symbols whose contract sizes are known, where both bots report them. `contracts`: by symbol, the copier's where
        it is not the listed one.
        """
        facts: dict[str, Any] = {}
        contracts = list(self.contracts(subscription, symbol_map)) if mode != Terms.Mode.FIXED else []
        if mode in (Terms.Mode.EQUITY, Terms.Mode.RISK):
            facts["currency"] = subscription.account.currency
            facts["rates"] = self._rates_for(subscription, mode)
        if mode == Terms.Mode.EQUITY:
            facts["master_currency"] = subscription.strategy.account.currency
        if mode == Terms.Mode.RISK:
            facts["contracts"] = {
                contract.symbol: money.text(contract.copier)
                for contract in contracts
                if contract.copier is not None and contract.copier != contract.listed
            }
        else:
            facts["sizes"] = {
                contract.symbol: [money.text(size) for size in contract.sides]
                for contract in contracts
                if contract.sides
            }
            if mode != Terms.Mode.FIXED and both_report_sizes(subscription):
                known = {contract.symbol for contract in contracts if None not in (contract.provider, contract.copier)}
                facts["known"] = sorted(known | self._listed.keys())
        return {name: value for name, value in facts.items() if value != {}}

    def _rates_for(self, subscription: Subscription, mode: str) -> dict[str, Any]:
        """By equity the provider's currency is converted; by risk the quoted currencies of the listed symbols."""
        own = subscription.account.currency
        if mode == Terms.Mode.EQUITY:
            currencies = {subscription.strategy.account.currency}
        else:
            currencies = {symbol[3:6] for symbol in self._listed if len(symbol) >= 6 and symbol[:6].isalpha()}
        rates = {currency: self._rate(currency, own) for currency in sorted(currencies - {own, ""})}
        return {
            currency: {"rate": f"{rate.value:f}", "by": rate.by, "at": rate.at.isoformat()}
            for currency, rate in rates.items()
            if rate is not None
        }

    def _rate(self, currency: str, into: str) -> prices.Rate | None:
        if (currency, into) not in self._rates:
            self._rates[currency, into] = prices.rate(currency, into, at=self.at) if into else None
        return self._rates[currency, into]


def both_report_sizes(subscription: Subscription) -> bool:
    """Whether both bots report what they find at their brokers, as copybot does: a size that is missing will come."""
    return bool(subscription.account.kind and subscription.strategy.account.kind)


def have_changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether terms with the facts `then` must be renewed: a rate moved by more than 1 %, or anything else changed."""
    rates_then, rates_now = then.get("rates", {}), now.get("rates", {})
    others = (then.keys() | now.keys()) - {"rates"}
    if any(then.get(name) != now.get(name) for name in others) or rates_then.keys() != rates_now.keys():
        return True
    return any(has_moved(Decimal(rates_then[name]["rate"]), Decimal(rates_now[name]["rate"])) for name in rates_now)


def has_moved(then: Decimal | None, now: Decimal) -> bool:
    return then is None or abs(now - then) * 100 > abs(then)
