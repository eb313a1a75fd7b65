"""Reading JSON and its fields strictly: numbers as Decimals, no duplicate names, every fault named. Pure."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Never

import orjson

from core import money
from core.errors import Invalid, RequestMalformed

Fields = Mapping[str, Any]
_DECIMAL = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,8})?")
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def _no_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _integer(digits: str) -> int:
    if len(digits) > 40:
        raise ValueError("a number is too long")
    return int(digits)


def _decimal(digits: str) -> Decimal:
    if len(digits) > 60:
        raise ValueError("a number is too long")
    return Decimal(digits)


def json_object(body: bytes) -> dict[str, Any]:
    """The body as an object; RequestMalformed where it is not JSON (RFC 8259) or not an object."""
    try:
        value = json.loads(
            body.decode("utf-8"),
            parse_float=_decimal,
            parse_int=_integer,
            parse_constant=_no_constant,
            object_pairs_hook=_no_duplicates,
        )
    except (ValueError, RecursionError, InvalidOperation) as fault:
        raise RequestMalformed(f"The body is not JSON: {type(fault).__name__}.") from None
    if not isinstance(value, dict):
        raise RequestMalformed("The body is not a JSON object.")
    return value


def amount(value: Any) -> Decimal:
    """A Decimal of at most 12 digits before and 8 after the point, from a string or a JSON number."""
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return money.exact(Decimal(value))
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return money.exact(Decimal(value))
    raise ValueError('must be a decimal such as "1.10500000"')


def positive(value: Any) -> Decimal:
    found = amount(value)
    if found <= 0:
        raise ValueError("must be above zero")
    return found


def not_negative(value: Any) -> Decimal:
    found = amount(value)
    if found < 0:
        raise ValueError("must not be below zero")
    return found


def whole(least: int, most: int) -> Callable[[Any], int]:
    """An integer of `least` to `most`, from a JSON integer or its digits."""

    def read(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return value

    return read


def matching(grammar: str, says: str) -> Callable[[Any], str]:
    compiled = re.compile(grammar)

    def read(value: Any) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise ValueError(says)
        return value

    return read


def one_of(names: Iterable[str], read_as: Mapping[str, str] | None = None) -> Callable[[Any], str]:
    allowed = list(names)

    def read(value: Any) -> str:
        if isinstance(value, str):
            value = (read_as or {}).get(value, value)
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return value

    return read


def text(most: int) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str) or len(value) > most or not value.isprintable():
            raise ValueError(f"must be a text of at most {most} printable characters")
        return value

    return read


def moment(value: Any) -> datetime:
    """An ISO 8601 time with its zone, not before 1970 nor more than a day ahead, as UTC."""
    if not isinstance(value, str) or len(value) > 40:
        raise ValueError("must be an ISO 8601 time such as 2026-01-05T10:00:00.000Z")
    try:
        found = datetime.fromisoformat(value)
        if found.tzinfo is None:
            raise ValueError
        found = found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be an ISO 8601 time with its zone, such as 2026-01-05T10:00:00.000Z") from None
    if not datetime(1970, 1, 1, tzinfo=UTC) <= found <= datetime.now(UTC) + timedelta(days=1):
        raise ValueError("must lie between 1970 and tomorrow")
    return found


def small_object(most_bytes: int) -> Callable[[Any], dict[str, Any]]:
    """A JSON object of at most so many bytes, to be kept as it is. Its numbers become text where they are not whole
    or would not fit 64 bits, so that none turns into a float.
    """

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError("must be a JSON object")
        try:
            written = orjson.dumps(value, default=str, option=orjson.OPT_PASSTHROUGH_SUBCLASS)
        except orjson.JSONEncodeError:  # also what its reader will not take: lone surrogates, 255 levels
            raise ValueError("must hold Unicode text and numbers of at most 64 bits, not nested too deep") from None
        if len(written) > most_bytes or _NUL.search(written):
            raise ValueError(f"must be at most {most_bytes} bytes, without NUL")
        return orjson.loads(written)  # type: ignore[no-any-return]

    return read


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except ArithmeticError:  # a signalling NaN equals nothing, and says so loudly
        return False


class Form:
    """Reads the fields of one object and collects every fault, so that a caller hears of all of them at once."""

    def __init__(self, fields: Fields, *, strict: bool = True) -> None:
        self.fields, self.strict = fields, strict
        self.faults: dict[str, list[str]] = {}
        self.known: set[str] = set()

    def need(self, name: str, read: Callable[[Any], Any], *also: str) -> Any:
        """The field `name`, or by one of its other names; a fault where there is none."""
        found = self._find(name, also)
        if found is None or self.fields[found] is None:
            self.faults.setdefault(name, []).append("is required")
            return None
        return self._read(found, read)

    def may(self, name: str, read: Callable[[Any], Any], *also: str, default: Any = None) -> Any:
        found = self._find(name, also)
        if found is None or self.fields[found] is None:
            return default
        return self._read(found, read)

    def has(self, name: str) -> bool:
        return name in self.fields

    def done(self) -> None:
        """Raise Invalid with all faults; unknown names are faults where the form is strict."""
        if self.strict:
            for name in self.fields.keys() - self.known:
                shown = str(name)[:64].encode("ascii", "backslashreplace").decode()  # lone surrogates cannot be sent
                self.faults.setdefault(shown, []).append("is not a field of this request")
        if self.faults:
            raise Invalid(self.faults)

    def _find(self, name: str, also: tuple[str, ...]) -> str | None:
        self.known |= {name, *also}
        found = [known for known in (name, *also) if known in self.fields]
        if len(found) > 1 and not _same(self.fields[found[0]], self.fields[found[1]]):
            self.faults.setdefault(name, []).append(f"is said twice, also as {found[1]}")
        return found[0] if found else None

    def _read(self, name: str, read: Callable[[Any], Any]) -> Any:
        try:
            return read(self.fields[name])
        except ValueError as fault:
            self.faults.setdefault(name, []).append(str(fault))
            return None
