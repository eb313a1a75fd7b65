"""Address lists of keys, and the caller's address behind proxies. Pure."""

import ipaddress
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LIMIT = 50
# What a proxy adds to a request, as WSGI names it.
FORWARDING = ("HTTP_FORWARDED", "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_HOST", "HTTP_X_REAL_IP", "HTTP_VIA")
UNKNOWN = "0.0.0.0"  # noqa: S104 - nothing binds to it  # nosec B104


def parse(listed: Iterable[str]) -> list[Network]:
    """Return the networks of an allow-list; raise ValueError with a sentence where it is malformed or too long."""
    entries = list(listed)
    if len(entries) > LIMIT:
        raise ValueError(f"at most {LIMIT} networks")
    try:
        return [_network(entry) for entry in entries]
    except ValueError as fault:
        raise ValueError(f"{fault} (write a network as 203.0.113.0/24)") from fault


def _network(entry: str) -> Network:
    """Read a network as PostgreSQL does too: no dotted netmask, no zone."""
    network = ipaddress.ip_network(entry)
    length = entry.partition("/")[2]
    if "%" in entry or (length and not length.isdecimal()):
        raise ValueError(f"{entry!r} is not a network")
    return network


def client_address(peer: str, forwarded_for: str, trusted_proxies: int) -> str:
    """Return the caller's address: the peer's, or with n trusted proxies the n-th from the right of X-Forwarded-For.

    Never the leftmost address, which the caller writes. A header with fewer addresses than trusted proxies did not come
    through them: then the peer's address is used, as it is for an address that cannot be parsed.
    """
    if not trusted_proxies:
        return _plain(peer)
    hops = [hop.strip() for hop in forwarded_for.split(",")]
    return _plain(hops[-trusted_proxies] if len(hops) >= trusted_proxies else peer, otherwise=peer)


def _plain(address: str, otherwise: str = "") -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return _plain(otherwise) if otherwise else UNKNOWN
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed).partition("%")[0]


def block_of(address: str) -> str:
    """The part of an address that one customer of a network holds: an IPv4 address, or an IPv6 /64."""
    parsed = ipaddress.ip_address(address)
    return str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback
