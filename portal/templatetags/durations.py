"""Durations and exact times, for people."""

from datetime import datetime, timedelta

from django import template

register = template.Library()


@register.filter
def since(start: datetime | None, now: datetime) -> str:
    """The time since then, in the largest whole unit."""
    return "–" if start is None else span(now - start)


@register.filter
def exact(time: datetime | None) -> str:
    """Date and time to the millisecond."""
    return "–" if time is None else f"{time:%Y-%m-%d %H:%M:%S}.{time.microsecond // 1000:03d}"


@register.filter
def span(length: timedelta) -> str:
    seconds = max(0, int(length.total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


@register.filter
def took(ms: float | None) -> str:
    """Milliseconds as 84 ms, 1.53 s or 2 min 5 s."""
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
