"""Reading JSON: amounts are read exactly, and malformed input is a named fault, never a crash."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core import money, parsing
from core.errors import Invalid, RequestMalformed

UNITS = st.integers(min_value=-(10**20 - 1), max_value=10**20 - 1)
TEXT = st.text(max_size=40)


def nested(leaves: Any) -> Any:
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=10
    )


LEAVES = st.none() | st.booleans() | st.integers() | TEXT
WITHOUT_FLOATS = nested(LEAVES | st.decimals(allow_nan=False, allow_infinity=False))
ANYTHING = nested(LEAVES | st.floats() | st.decimals())
READERS: dict[str, Any] = {
    "amount": parsing.amount,
    "positive": parsing.positive,
    "not_negative": parsing.not_negative,
    "whole": parsing.whole(1, 2**63 - 1),
    "matching": parsing.matching(r"[a-z]{1,8}", "must be letters"),
    "one_of": parsing.one_of(("BUY", "SELL"), {"buy": "BUY"}),
    "text": parsing.text(16),
    "moment": parsing.moment,
    "small_object": parsing.small_object(256),
}


def units(amount: Any) -> int:
    return int(amount.scaleb(8))


@given(UNITS)
def test_every_amount_is_read_exactly_from_text(count: Any) -> None:
    exact = Decimal(count).scaleb(-8)

    amount = parsing.amount(money.text(exact))

    assert (units(amount), amount.as_tuple().exponent) == (count, -8)
    assert money.text(amount) == money.text(exact)


@given(UNITS)
def test_every_amount_is_read_exactly_from_a_json_number(count: Any) -> None:
    exact = Decimal(count).scaleb(-8)

    amount = parsing.amount(parsing.json_object(f'{{"volume": {exact:f}}}'.encode())["volume"])

    assert units(amount) == count


@given(st.integers(min_value=0, max_value=10**17), st.integers(min_value=-17, max_value=17))
def test_an_exponent_is_read_exactly(digits: Any, exponent: Any) -> None:
    read = parsing.json_object(f'{{"volume": {digits}e{exponent}}}'.encode())["volume"]

    assert isinstance(read, Decimal)
    try:
        amount = parsing.amount(read)
    except ValueError:
        return
    assert amount == Decimal(digits).scaleb(exponent)


@given(st.text(alphabet="0123456789+-.eE_ ,", max_size=30))
@example("1e5")
@example("１")
@example("1_000")
@example("+1")
@example(".5")
@example("5.")
@example("-")
@example("1\n")
def test_only_digits_with_a_point_are_an_amount(written: Any) -> None:
    try:
        amount = parsing.amount(written)
    except ValueError:
        return
    assert written.lstrip("-").replace(".", "", 1).isdecimal()
    assert amount == Decimal(written)


@given(st.floats())
def test_a_float_is_never_an_amount(value: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        parsing.amount(value)


def test_no_number_in_a_body_becomes_a_float() -> None:
    body = b'{"a": 0.1, "b": 1e2, "c": [1.5, {"d": -0.0}], "e": 1E-7}'

    def floats(value: Any) -> Any:
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            return [number for item in inner for number in floats(item)]
        return [value] if isinstance(value, float) else []

    read = parsing.json_object(body)
    assert floats(read) == []
    assert floats(parsing.small_object(256)(read)) == []


@pytest.mark.parametrize("name", READERS)
@given(value=ANYTHING)
def test_every_reader_returns_a_value_or_a_fault(name: str, value: Any) -> None:
    try:
        READERS[name](value)
    except ValueError as fault:
        assert str(fault).startswith(("must ", "has more than"))


@given(st.binary(max_size=200))
@example(b'{"a":1}')
@example(b"\xef\xbb\xbf{}")
@example(b'{"a":1,"a":1}')
def test_a_body_that_is_not_an_object_is_refused(body: Any) -> None:
    try:
        read = parsing.json_object(body)
    except RequestMalformed as refusal:
        assert refusal.message.startswith("The body is not ")
    else:
        assert isinstance(read, dict)


@given(st.dictionaries(TEXT, st.none() | st.booleans() | st.integers() | TEXT, max_size=6))
def test_reads_back_what_was_written_as_json(fields: Any) -> None:
    big = [value for value in fields.values() if isinstance(value, int) and abs(value) >= 10**39]
    if big:
        return

    assert parsing.json_object(json.dumps(fields).encode()) == fields


def test_very_long_numbers_are_refused() -> None:
    for digits in (b"9" * 41, b"0." + b"9" * 60, b"1e" + b"9" * 30):
        with pytest.raises(RequestMalformed):
            parsing.json_object(b'{"a": ' + digits + b"}")


@given(st.dictionaries(TEXT, WITHOUT_FLOATS, max_size=4))
def test_a_stored_object_can_be_written_by_the_database_and_orjson(fields: Any) -> None:
    """By the database too, which accepts neither NUL nor lone surrogates."""
    try:
        stored = parsing.small_object(512)(fields)
    except ValueError:
        return
    written = orjson.dumps(stored)
    assert len(written) <= 512
    assert "\0" not in json.dumps(stored, ensure_ascii=False).replace("\\\\", "").replace("\\u0000", "\0")
    json.loads(written, parse_float=lambda digits: pytest.fail(f"a float: {digits}"))


@given(st.integers(86_400, 1_767_000_000), st.integers(-14 * 60, 14 * 60))
def test_a_time_is_the_same_in_every_zone(seconds: Any, minutes: Any) -> None:
    at = datetime.fromtimestamp(seconds, UTC)
    sign, offset = "-" if minutes < 0 else "+", abs(minutes)
    written = (at + timedelta(minutes=minutes)).replace(tzinfo=None).isoformat()

    assert parsing.moment(f"{written}{sign}{offset // 60:02}:{offset % 60:02}") == at


FORMS = st.dictionaries(st.sampled_from(["volume", "type", "direction", "comment", "other", "\ud800"]), ANYTHING)


@given(FORMS)
@example({"\ud800": 1})
@example({"type": Decimal("sNaN"), "direction": 1})
@example({"volume": "1", "type": "BUY", "direction": "SELL"})
def test_a_form_names_every_fault_at_once_in_text_that_can_be_sent(fields: Any) -> None:
    form = parsing.Form(fields)
    form.need("volume", parsing.positive)
    form.need("type", parsing.one_of(("BUY", "SELL")), "direction")
    form.may("comment", parsing.text(8))
    try:
        form.done()
    except Invalid as refusal:
        assert orjson.dumps(refusal.extra)
        unknown = fields.keys() - {"volume", "type", "direction", "comment"}
        assert len(refusal.extra["fields"]) >= len(unknown)
        if "volume" not in fields:
            assert refusal.extra["fields"]["volume"] == ["is required"]
    else:
        assert fields.keys() <= {"volume", "type", "direction", "comment"}


def test_two_names_of_one_field_must_have_equal_values() -> None:
    def side(**fields: Any) -> Any:
        form = parsing.Form(fields)
        value = form.need("type", parsing.one_of(("BUY", "SELL")), "direction")
        form.done()
        return value

    assert side(type="BUY") == side(direction="BUY") == side(type="BUY", direction="BUY") == "BUY"
    with pytest.raises(Invalid):
        side(type="BUY", direction="SELL")


@given(st.decimals(allow_nan=True, allow_infinity=True))
def test_an_exact_amount_is_unchanged_or_refused(value: Any) -> None:
    try:
        exact = money.exact(value)
    except ValueError:
        return
    assert exact == value
    assert abs(exact) < money.LIMIT
    assert exact.as_tuple().exponent == -8
    assert not money.text(exact).startswith("-0.00000000")
