"""What people fill in about copying."""

import re
from typing import Any

from django import forms

from market.models import SYMBOL
from strategies.models import Terms
from strategies.services import SETTINGS


class SymbolsField(forms.CharField):
    """Symbols, comma or space between."""

    def clean(self, value: Any) -> list[str]:
        text: str = super().clean(value) or ""
        symbols = text.replace(",", " ").split()
        for symbol in symbols:
            _check(symbol)
        return symbols

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
            found[_check(theirs)] = _check(own)
        return found

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(f"{a} = {b}" for a, b in value.items()) if isinstance(value, dict) else value


def _check(symbol: str) -> str:
    if not re.fullmatch(SYMBOL, symbol):
        raise forms.ValidationError(f"“{symbol[:40]}” is not a symbol.")
    return symbol


class TermsForm(forms.ModelForm):  # type: ignore[type-arg]
    symbols = SymbolsField(required=False, help_text="Only these, as the master spells them. Empty: all.")
    symbol_map = SymbolMapField(
        required=False, label="Names", help_text="One a line: the master's symbol = yours, where they differ."
    )

    class Meta:
        model = Terms
        fields = SETTINGS

    def settings(self) -> dict[str, Any]:
        """As set_terms takes them."""
        return {name: self.cleaned_data[name] for name in SETTINGS}


class RotateForm(forms.Form):
    at_once = forms.BooleanField(
        required=False, label="It leaked: the old one signs no more",
        help_text="Until the bot has the new secret it hears of trades by its snapshots alone.",
    )  # fmt: skip
