"""Reads JSON and its fields strictly: numbers as Decimals, no duplicate names, and all faults at once. Pure."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Generic, Never, TypeVar

import orjson

from core import money, shapes
from core.errors import Invalid, RequestMalformed
from core.shapes import Schema

Fields = Mapping[str, Any]
_DECIMAL = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,8})?")
_DIGITS = re.compile(r"[0-9]{1,19}")
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def _no_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return fields


def _integer(digits: str) -> int:
    if len(digits) > 40:
        raise ValueError("a number is too long")
    return int(digits)


def _decimal(digits: str) -> Decimal:
    if len(digits) > 60:
        raise ValueError("a number is too long")
    return Decimal(digits)


def json_object(body: bytes) -> dict[str, Any]:
    """Return the body as an object; raise RequestMalformed where it is not JSON (RFC 8259) or not an object."""
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


T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class FieldType(Generic[T]):
    """A type of field: the function that reads a value (ValueError for a fault), and the shape in OpenAPI."""

    read: Callable[[Any], T]
    shape: Schema

    def __call__(self, value: Any) -> T:
        return self.read(value)

    def named(self, name: str) -> "FieldType[T]":
        """Return the same type, with its shape as a component of the OpenAPI document."""
        return FieldType(self.read, shapes.schema(name, self.shape))

    def then(self, convert: Callable[[T], U]) -> "FieldType[U]":
        """Return a type that converts the value after reading it. The shape stays the same."""
        read = self.read
        return FieldType(lambda value: convert(read(value)), self.shape)


def _amount(value: Any) -> Decimal:
    """A Decimal of at most 12 digits before and 8 after the point, from a string or a JSON number."""
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return money.exact(Decimal(value))
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return money.exact(Decimal(value))
    raise ValueError('must be a decimal such as "1.10500000"')


def _positive(value: Any) -> Decimal:
    amount = _amount(value)
    if amount <= 0:
        raise ValueError("must be above zero")
    return amount


def _not_negative(value: Any) -> Decimal:
    amount = _amount(value)
    if amount < 0:
        raise ValueError("must not be below zero")
    return amount


def whole(least: int, most: int) -> FieldType[int]:
    """An integer of `least` to `most`, from a JSON integer or its digits."""

    def read(value: Any) -> int:
        if isinstance(value, str) and _DIGITS.fullmatch(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return value

    bounds = {"minimum": least, "maximum": most}
    return FieldType(read, {"type": ["integer", "string"], "pattern": f"^{_DIGITS.pattern}$", **bounds})


def matching(grammar: str, fault: str) -> FieldType[str]:
    compiled = re.compile(grammar)

    def read(value: Any) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise ValueError(fault)
        return value

    return FieldType(read, shapes.pattern(grammar))


def one_of(names: Iterable[str], read_as: Mapping[str, str] | None = None) -> FieldType[str]:
    """One of the names; `read_as` maps other spellings to them."""
    allowed, others = list(names), dict(read_as or {})

    def read(value: Any) -> str:
        if isinstance(value, str):
            value = others.get(value, value)
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return value

    also = {"description": f"Read as well: {', '.join(others)}."} if others else {}
    return FieldType(read, {"type": "string", "enum": allowed, **also})


def text(most: int) -> FieldType[str]:
    def read(value: Any) -> str:
        if not isinstance(value, str) or len(value) > most or not value.isprintable():
            raise ValueError(f"must be a text of at most {most} printable characters")
        return value

    return FieldType(read, {"type": "string", "maxLength": most})


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _moment(value: Any) -> datetime:
    """An ISO 8601 time with its zone, not before 1970 nor more than a day ahead, as UTC."""
    if not isinstance(value, str) or len(value) > 40:
        raise ValueError("must be an ISO 8601 time such as 2026-01-05T10:00:00.000Z")
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be an ISO 8601 time with its zone, such as 2026-01-05T10:00:00.000Z") from None
    if not datetime(1970, 1, 1, tzinfo=UTC) <= moment <= datetime.now(UTC) + timedelta(days=1):
        raise ValueError("must lie between 1970 and tomorrow")
    return moment


def small_object(most_bytes: int) -> FieldType[dict[str, Any]]:
    """A JSON object of at most `most_bytes`, to be stored unchanged. Numbers that are not whole or do not fit 64 bits
    become text, so that none becomes a float.
    """

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError("must be a JSON object")
        try:
            written = orjson.dumps(value, default=str, option=orjson.OPT_PASSTHROUGH_SUBCLASS)
        except orjson.JSONEncodeError:  # also for lone surrogates and 255 levels, which orjson cannot read back
            raise ValueError("must hold Unicode text and numbers of at most 64 bits, not nested too deep") from None
        if len(written) > most_bytes or _NUL.search(written):
            raise ValueError(f"must be at most {most_bytes} bytes, without NUL")
        stored: dict[str, Any] = orjson.loads(written)
        return stored

    return FieldType(read, {"type": "object", "description": f"At most {most_bytes} bytes."})


amount = FieldType(_amount, shapes.AMOUNT_IN)
positive = FieldType(_positive, shapes.POSITIVE_IN)
not_negative = FieldType(_not_negative, shapes.NOT_NEGATIVE_IN)
flag = FieldType(_flag, {"type": "boolean"})
moment = FieldType(_moment, shapes.MOMENT)


def _equal(first: Any, second: Any) -> bool:
    try:
        return bool(first == second)
    except ArithmeticError:  # comparing a signalling NaN raises
        return False


class Form:
    """Reads the fields of one object and collects their faults, so that the caller gets all of them at once."""

    def __init__(self, fields: Fields, *, strict: bool = True) -> None:
        self.fields, self.strict = fields, strict
        self.faults: dict[str, list[str]] = {}
        self.values: dict[str, Any] = {}
        self.known: set[str] = set()

    def need(self, name: str, read: Callable[[Any], Any], *also: str) -> Any:
        """Read the field by its name or one of its other names; a missing field is a fault."""
        key = self._key(name, also)
        if key is None or self.fields[key] is None:
            self.fault(name, "is required")
            return None
        return self._read(key, read)

    def may(self, name: str, read: Callable[[Any], Any], *also: str, default: Any = None) -> Any:
        key = self._key(name, also)
        if key is None or self.fields[key] is None:
            return default
        return self._read(key, read)

    def fault(self, name: str, message: str) -> None:
        self.faults.setdefault(name, []).append(message)

    def done(self) -> dict[str, Any]:
        """Return the values by name; raise Invalid with all faults. A strict form refuses unknown names."""
        if self.strict:
            for name in self.fields.keys() - self.known:
                # A response cannot carry lone surrogates.
                shown = str(name)[:64].encode("ascii", "backslashreplace").decode()
                self.fault(shown, "is not a field of this request")
        if self.faults:
            raise Invalid(self.faults)
        return self.values

    def _key(self, name: str, also: tuple[str, ...]) -> str | None:
        self.known.add(name)
        if not also:
            return name if name in self.fields else None
        self.known.update(also)
        keys = [key for key in (name, *also) if key in self.fields]
        if len(keys) > 1 and not _equal(self.fields[keys[0]], self.fields[keys[1]]):
            self.fault(name, f"is given twice, also as {keys[1]}")
        return keys[0] if keys else None

    def _read(self, name: str, read: Callable[[Any], Any]) -> Any:
        try:
            return read(self.fields[name])
        except ValueError as fault:
            self.fault(name, str(fault))
            return None
