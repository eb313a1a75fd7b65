"""The grammar of symbols: the characters that brokers use in the names of instruments. Pure."""

SYMBOL = r"^[A-Za-z0-9._#/+&!@$^~-]{1,32}$"
