"""Address lists of keys, and the caller's address behind proxies. Pure."""

import ipaddress
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LIMIT = 50


def parse(listed: Iterable[str]) -> list[Network]:
    """The networks of an allow-list; raises ValueError with a sentence where one is malformed or there are too many."""
    entries = list(listed)
    if len(entries) > LIMIT:
        raise ValueError(f"at most {LIMIT} networks")
    try:
        return [_network(entry) for entry in entries]
    except ValueError as fault:
        raise ValueError(f"{fault} (write a network as 203.0.113.0/24)") from fault


def _network(entry: str) -> Network:
    """As PostgreSQL reads one too: no netmask in dots, no zone."""
    found = ipaddress.ip_network(entry)
    length = entry.partition("/")[2]
    if "%" in entry or (length and not length.isdecimal()):
        raise ValueError(f"{entry!r} is not a network")
    return found


def client_address(peer: str, forwarded_for: str, trusted_proxies: int) -> str:
    """The caller's address: the peer itself, or with n trusted proxies the n-th from the right of X-Forwarded-For.

    Never the leftmost, which the caller writes. A header shorter than the proxies it should have passed
    did not come through them: the peer counts then. An address that does not parse is the peer's too.
    """
    if not trusted_proxies:
        return _plain(peer)
    hops = [hop.strip() for hop in forwarded_for.split(",")]
    return _plain(hops[-trusted_proxies] if len(hops) >= trusted_proxies else peer, otherwise=peer)


def _plain(address: str, otherwise: str = "") -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return _plain(otherwise) if otherwise else "0.0.0.0"  # noqa: S104 - "unknown", never bound to
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed).partition("%")[0]


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback
