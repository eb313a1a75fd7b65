"""How brokers name what is traded. Pure."""

SYMBOL = r"^[A-Za-z0-9._#/+&!@$^~-]{1,32}$"
