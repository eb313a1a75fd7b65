"""The grammar of symbols: the characters that brokers use in the names of instruments. Pure."""

import re

SYMBOL = r"^[A-Za-z0-9._#/+&!@$^~-]{1,32}$"
_CURRENCIES = "AUD CAD CHF CNH CZK DKK EUR GBP HKD HUF ILS JPY MXN NOK NZD PLN SEK SGD THB TRY USD ZAR"
_CRYPTO = ("BTC", "ETH", "XRP", "LTC", "BCH", "SOL", "ADA", "DOGE", "BNB", "XBT")


def class_of(symbol: str) -> str:
    """The asset class that a symbol suggests, such as FOREX for EURUSD.m: a value of AssetClass, OTHER if none."""
    letters = re.sub(r"[^A-Z]", "", symbol.upper())
    if letters[:3] in ("XAU", "XAG", "XPT", "XPD") or letters.startswith(("GOLD", "SILVER")):
        return "METAL"
    if letters.startswith(_CRYPTO):
        return "CRYPTO"
    if len(letters) >= 6 and letters[:3] in _CURRENCIES and letters[3:6] in _CURRENCIES:
        return "FOREX"
    return "OTHER"
