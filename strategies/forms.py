"""What people fill in about copying."""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, TypeVar

from django import forms

from core import money
from market.symbols import SYMBOL
from strategies.models import Terms
from strategies.services import SETTINGS

MOST_SYMBOLS = 100
Many = TypeVar("Many", list[str], dict[str, str])
_GROUPS = (
    ("How much", ("mode", "multiplier", "fixed_lots", "risk_pct")),
    ("Limits of each copy", ("min_volume", "raises_to_min", "max_volume", "max_slippage_bps")),
    ("When to stop", ("max_open_trades", "max_drawdown_pct", "closes_on_drawdown")),
    ("What to copy", ("symbols", "symbol_map", "reverse")),
)
_AMOUNTS = (
    "multiplier", "fixed_lots", "risk_pct", "min_volume", "max_volume", "max_slippage_bps", "max_drawdown_pct",
)  # fmt: skip
_MOVED = (Terms.Mode.EQUITY, Terms.Mode.RISK)
_NEEDS = {Terms.Mode.FIXED: "fixed_lots", Terms.Mode.RISK: "risk_pct"}


class AmountField(forms.DecimalField):
    """An amount as people write it: without the zeros that the database keeps."""

    widget = forms.TextInput

    def widget_attrs(self, widget: forms.Widget) -> dict[str, Any]:
        return {"inputmode": "decimal", "autocomplete": "off"}

    def prepare_value(self, value: Any) -> Any:
        return money.plain(value) if isinstance(value, Decimal) else value


class SymbolsField(forms.CharField):
    """Symbols, comma or space between."""

    def clean(self, value: Any) -> list[str]:
        text: str = super().clean(value) or ""
        symbols = list(dict.fromkeys(text.replace(",", " ").split()))
        for symbol in symbols:
            _check(symbol)
        return _few(symbols)

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(value) if isinstance(value, list) else value


class SymbolMapField(forms.CharField):
    """One a line: the master's name = one's own."""

    widget = forms.Textarea(attrs={"rows": 3, "placeholder": "XAUUSD = GOLD"})

    def clean(self, value: Any) -> dict[str, str]:
        text: str = super().clean(value) or ""
        found: dict[str, str] = {}
        for line in filter(str.strip, text.splitlines()):
            theirs, equals, own = (part.strip() for part in line.partition("="))
            if not equals:
                raise forms.ValidationError(f"Write “{line.strip()} = your name for it”.")
            if found.setdefault(_check(theirs), _check(own)) != own:
                raise forms.ValidationError(f"“{theirs}” has two names.")
        return _few(found)

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(f"{a} = {b}" for a, b in value.items()) if isinstance(value, dict) else value


def _check(symbol: str) -> str:
    if not re.fullmatch(SYMBOL, symbol):
        raise forms.ValidationError(f"“{symbol[:40]}” is not a symbol.")
    return symbol


def _few(found: Many) -> Many:
    if len(found) > MOST_SYMBOLS:
        raise forms.ValidationError(f"At most {MOST_SYMBOLS}.")
    return found


class TermsForm(forms.ModelForm):
    """What the database would refuse is refused here first, at the field that is wrong."""

    symbols = SymbolsField(
        required=False, label="Only these symbols", max_length=4000, help_text="As the master spells them. Empty: all."
    )
    symbol_map = SymbolMapField(
        required=False, label="Your broker's names", max_length=8000,
        help_text="One a line: the master's symbol = yours, where they differ.",
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
            "max_volume": "More is cut to it.",
            "raises_to_min": "Otherwise what would be smaller is not copied.",
            "max_open_trades": "Beyond it nothing new is opened.",
        }

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.fields["multiplier"].required = False

    def groups(self) -> Iterator[tuple[str, list[forms.BoundField]]]:
        """The fields as they belong together."""
        return ((title, [self[name] for name in names]) for title, names in _GROUPS)

    def clean_multiplier(self) -> Decimal:
        """It counts for two of the modes alone. Left empty in the others, it stays as it was."""
        told: Decimal | None = self.cleaned_data["multiplier"]
        if told is not None:
            return told
        if self.cleaned_data.get("mode") not in _NEEDS:
            raise forms.ValidationError("How many lots for each of the master's? 1 copies as many.")
        kept: Decimal = self.instance.multiplier
        return kept

    def clean(self) -> dict[str, Any]:
        told: dict[str, Any] = super().clean() or self.cleaned_data
        for field, fault in [*_out_of_range(told), *self._contradictions(told)]:
            if field not in self.errors:
                self.add_error(field, fault)
        return told

    def _contradictions(self, told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        needed = _NEEDS.get(told.get("mode", ""))
        if needed and told.get(needed) is None:
            yield needed, "Say how much."
        if told.get("mode") in _MOVED and told.get("max_volume") is None:
            yield (
                "max_volume",
                "Say the most: the volume moves with equities as told, and with where stops lie.",
            )
        if told.get("mode") == Terms.Mode.RISK and told.get("reverse"):
            yield "reverse", "In reverse the master's stop is the copy's take profit: its risk is not known."
        smallest, largest = told.get("min_volume"), told.get("max_volume")
        if smallest is not None and largest is not None and smallest > largest:
            yield "min_volume", "It is above the largest."
        if told.get("raises_to_min") and smallest is None and "min_volume" not in self.errors:
            yield "min_volume", "Say what the smallest is, for copies to be raised to it."

    def settings(self) -> dict[str, Any]:
        """As set_terms takes them."""
        return {name: self.cleaned_data[name] for name in SETTINGS}


def _out_of_range(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in _AMOUNTS:
        amount = told.get(name)
        if amount is None:
            continue
        if amount < 0 or (amount == 0 and name != "max_slippage_bps"):
            yield name, "It cannot be less than nothing." if amount else "It must be more than nothing."
        if name == "risk_pct" and amount > 100:
            yield name, "At most 100 %."
        if name == "max_drawdown_pct" and amount >= 100:
            yield name, "Less than 100 %."


class RotateForm(forms.Form):
    at_once = forms.BooleanField(
        required=False, label="It leaked: the old one signs no more",
        help_text="Until the bot has the new secret it hears of trades by its snapshots alone.",
    )  # fmt: skip
