"""How long something took or lasts, for people."""

from datetime import datetime, timedelta

from django import template

register = template.Library()


@register.filter
def since(then: datetime | None, now: datetime) -> str:
    """How long ago, in the largest whole unit."""
    return "–" if then is None else span(now - then)


@register.filter
def exact(then: datetime | None) -> str:
    """To the millisecond."""
    return "–" if then is None else f"{then:%Y-%m-%d %H:%M:%S}.{then.microsecond // 1000:03d}"


@register.filter
def span(length: timedelta) -> str:
    seconds = max(0, int(length.total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


@register.filter
def took(ms: float | None) -> str:
    """Milliseconds as they are read: 84 ms, 1.53 s, 2 min 5 s."""
    if ms is None:
        return "–"
    ms = round(ms)
    if ms < 0:
        return f"−{took(-ms)}"
    if ms < 1000:
        return f"{ms} ms"
    if ms < 60_000:
        return f"{ms / 1000:.2f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    return f"{minutes} min {seconds} s"
