"""Forms for the terms of a subscription and its packet secret."""

import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, TypeVar

from django import forms

from core import money
from market.symbols import SYMBOL
from strategies.models import Terms
from strategies.services import SETTINGS

MOST_SYMBOLS = 100
LARGEST_COPY = Decimal(100)  # lots, where the terms name none; the trigger `has_a_largest_copy` does the same
Many = TypeVar("Many", list[str], dict[str, str])
_GROUPS = (
    ("How much", ("mode", "multiplier", "fixed_lots", "risk_pct", "risk_default_stop_bps", "symbol_factors")),
    ("Limits of each copy", ("min_volume", "raises_to_min", "max_volume", "max_slippage_bps")),
    ("When to stop", ("max_open_trades", "max_drawdown_pct", "closes_on_drawdown")),
    ("What to copy", ("symbols", "symbol_map", "reverse")),
)
_AMOUNTS = (
    "multiplier", "fixed_lots", "risk_pct", "risk_default_stop_bps", "min_volume", "max_volume", "max_slippage_bps",
    "max_drawdown_pct",
)  # fmt: skip
_SIZED_BY_EQUITY = (Terms.Mode.EQUITY, Terms.Mode.RISK)
_REQUIRED_FIELD = {Terms.Mode.FIXED: "fixed_lots", Terms.Mode.RISK: "risk_pct"}


class AmountField(forms.DecimalField):
    """A decimal field that shows amounts without the trailing zeros of the database."""

    widget = forms.TextInput

    def widget_attrs(self, widget: forms.Widget) -> dict[str, Any]:
        return {"inputmode": "decimal", "autocomplete": "off"}

    def prepare_value(self, value: Any) -> Any:
        return money.plain(value) if isinstance(value, Decimal) else value


class SymbolsField(forms.CharField):
    """Symbols, separated by commas or spaces."""

    def clean(self, value: Any) -> list[str]:
        text: str = super().clean(value) or ""
        symbols = list(dict.fromkeys(text.replace(",", " ").split()))
        for symbol in symbols:
            _check_symbol(symbol)
        return _check_count(symbols)

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(value) if isinstance(value, list) else value


class BySymbolField(forms.CharField):
    """One pair in each line: the provider's symbol = a value. `check` returns the value's text as it is stored, or
    raises ValidationError; `noun` and `plural` name the value in messages."""

    def __init__(self, *, check: Callable[[str], str], example: str, noun: str, plural: str, **more: Any) -> None:
        self.check, self.noun, self.plural = check, noun, plural
        super().__init__(widget=forms.Textarea(attrs={"rows": 3, "placeholder": example}), **more)

    def clean(self, value: Any) -> dict[str, str]:
        text: str = super().clean(value) or ""
        pairs: dict[str, str] = {}
        for line in filter(str.strip, text.splitlines()):
            symbol, equals, own = (part.strip() for part in line.partition("="))
            if not equals:
                raise forms.ValidationError(f"Write “{line.strip()} = {self.noun}”.")
            own = self.check(own)
            if pairs.setdefault(_check_symbol(symbol), own) != own:
                raise forms.ValidationError(f"“{symbol}” is mapped to two {self.plural}. Keep one of the lines.")
        return _check_count(pairs)

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(f"{symbol} = {own}" for symbol, own in value.items()) if isinstance(value, dict) else value


def _check_factor(text: str) -> str:
    try:
        factor = money.exact(Decimal(text))
    except (ArithmeticError, ValueError):
        factor = Decimal(0)
    if not 0 < factor < 1_000_000:
        raise forms.ValidationError(f"“{text[:40]}” is not a factor. Enter a number above zero, such as 0.5.")
    return money.plain(factor)


def _check_symbol(symbol: str) -> str:
    if not re.fullmatch(SYMBOL, symbol):
        raise forms.ValidationError(f"“{symbol[:40]}” is not a symbol.")
    return symbol


def _check_count(symbols: Many) -> Many:
    if len(symbols) > MOST_SYMBOLS:
        raise forms.ValidationError(f"At most {MOST_SYMBOLS} symbols.")
    return symbols


class TermsForm(forms.ModelForm):
    """The terms of a subscription. The form checks what the database checks too, and names the wrong field."""

    symbols = SymbolsField(
        required=False, label="Only these symbols", max_length=4000,
        help_text="As the provider spells them. Empty: all.",
    )  # fmt: skip
    symbol_map = BySymbolField(
        check=_check_symbol, example="XAUUSD = GOLD", noun="your broker's symbol", plural="symbols",
        required=False, label="Your broker's symbols", max_length=8000,
        help_text="One pair in each line: the provider's symbol = yours. Only where they differ.",
    )  # fmt: skip
    symbol_factors = BySymbolField(
        check=_check_factor, example="US30 = 0.5", noun="a factor", plural="factors",
        required=False, label="Factors by symbol", max_length=8000,
        help_text="One pair in each line: the provider's symbol = a factor on the lots, on top of all else.",
    )  # fmt: skip

    class Meta:
        model = Terms
        fields = SETTINGS
        field_classes = dict.fromkeys(_AMOUNTS, AmountField)
        widgets = {"mode": forms.RadioSelect}
        labels = {
            "mode": "Copy",
            "fixed_lots": "Lots",
            "min_volume": "Smallest volume, lots",
            "max_volume": "Largest volume, lots",
            "max_open_trades": "Most copies open at once",
            "reverse": "In reverse",
        }
        help_texts = {
            "min_volume": "",
            "max_volume": f"Larger copies are reduced to it. Empty: {LARGEST_COPY}.",
            "raises_to_min": "Otherwise smaller copies are not opened.",
            "max_open_trades": "When this many are open, no further copies are opened.",
        }

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.fields["multiplier"].required = False

    def groups(self) -> Iterator[tuple[str, list[forms.BoundField]]]:
        """The bound fields in titled groups."""
        return ((title, [self[name] for name in names]) for title, names in _GROUPS)

    def clean_multiplier(self) -> Decimal:
        """Two modes need the multiplier. Left empty in the others, it keeps its stored value."""
        multiplier: Decimal | None = self.cleaned_data["multiplier"]
        if multiplier is not None:
            return multiplier
        if self.cleaned_data.get("mode") not in _REQUIRED_FIELD:
            raise forms.ValidationError("Enter the lots for each lot of the provider's. 1 copies the same volume.")
        stored_multiplier: Decimal = self.instance.multiplier
        return stored_multiplier

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or self.cleaned_data
        if values.get("max_volume") is None and values.get("mode") not in _SIZED_BY_EQUITY:
            asked_for = [values.get(name) or LARGEST_COPY for name in ("min_volume", "fixed_lots")]
            values["max_volume"] = max(LARGEST_COPY, *asked_for)
        for field, fault in [*_out_of_range(values), *self._contradictions(values)]:
            if field not in self.errors:
                self.add_error(field, fault)
        return values

    def _contradictions(self, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        needed = _REQUIRED_FIELD.get(values.get("mode", ""))
        if needed and values.get(needed) is None:
            yield needed, "Enter an amount: this way of copying needs it."
        if values.get("mode") in _SIZED_BY_EQUITY and values.get("max_volume") is None:
            yield (
                "max_volume",
                "Enter a largest volume: with this way of copying, volumes change with equity and stop loss.",
            )
        if values.get("mode") == Terms.Mode.RISK and values.get("reverse"):
            yield "reverse", "Copying by risk cannot be reversed: the copy would have no stop loss to size it by."
        smallest, largest = values.get("min_volume"), values.get("max_volume")
        if smallest is not None and largest is not None and smallest > largest:
            yield "min_volume", "The smallest volume is above the largest."
        if values.get("raises_to_min") and smallest is None and "min_volume" not in self.errors:
            yield "min_volume", "Enter the smallest volume, to which copies are to be raised."

    def settings(self) -> dict[str, Any]:
        """The keyword arguments of `set_terms`."""
        return {name: self.cleaned_data[name] for name in SETTINGS}


def _out_of_range(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in _AMOUNTS:
        amount = values.get(name)
        if amount is None:
            continue
        if amount < 0 or (amount == 0 and name != "max_slippage_bps"):
            yield name, "Enter an amount that is not negative." if amount else "Enter an amount above zero."
        if name == "risk_pct" and amount > 100:
            yield name, "At most 100 %."
        if name == "risk_default_stop_bps" and amount >= 10_000:
            yield name, "Must be below 10,000, the price itself."
        if name == "max_drawdown_pct" and amount >= 100:
            yield name, "Must be below 100 %."


class RotateForm(forms.Form):
    at_once = forms.BooleanField(
        required=False, label="The secret leaked: stop using the old one at once",
        help_text="Until the bot has the new secret, it learns of trades from snapshots only.",
    )  # fmt: skip
