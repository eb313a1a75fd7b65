"""Bodies declared once: the parser accepts what the schema allows."""

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import parsing, shapes
from core.bodies import Body, items, may, need
from core.errors import Invalid
from trades import parsers
from trades.models import CopyOrder, Reason, Side
from trades.reasons import SkipReason

SIDE = parsing.one_of(("BUY", "SELL"))
ORDER = Body(
    need("volume", parsing.positive, "In lots.", older=("lots",)),
    need("side", SIDE, also=("direction",)),
    may("ref", parsing.matching("[a-z]{1,8}", "must be letters")),
    need("ticket", parsing.whole(1, 99), unless="ref"),
    may("note", parsing.text(8), default=""),
)


def refused(fields: Any, **how: Any) -> Any:
    with pytest.raises(Invalid) as caught:
        ORDER.read(fields, **how).done()
    return caught.value.extra["fields"]


def test_reads_every_field_that_is_declared() -> None:
    values = ORDER.read({"volume": "0.1", "side": "BUY", "ticket": "7"}).done()

    assert {name: str(value) for name, value in values.items()} == {
        "volume": "0.10000000", "side": "BUY", "ref": "None", "ticket": "7", "note": "",
    }  # fmt: skip


def test_names_all_faults_in_the_order_of_the_fields() -> None:
    assert list(refused({"side": 1, "ref": "A", "zz": 1}).items()) == [
        ("volume", ["is required"]),
        ("side", ["must be one of BUY, SELL"]),
        ("ref", ["must be letters"]),
        ("ticket", ["is required"]),
        ("zz", ["is not a field of this request"]),
    ]


def test_a_field_that_stands_in_for_another_makes_that_one_optional() -> None:
    assert ORDER.read({"volume": 1, "side": "BUY", "ref": "abc"}).done()["ticket"] is None


def test_only_older_routes_read_older_names() -> None:
    fields = {"lots": 1, "side": "BUY", "ref": "abc"}

    assert ORDER.read(fields, strict=False).done()["volume"] == 1
    assert refused(fields) == {"volume": ["is required"], "lots": ["is not a field of this request"]}


def test_a_list_names_what_is_wrong_with_one_of_its_items() -> None:
    read = items(ORDER, {}, most=2, noun="orders").read
    valid = {"volume": 1, "side": "BUY", "ref": "abc"}

    assert len(read([valid, valid])) == 2
    with pytest.raises(ValueError, match="at most 2 orders"):
        read([valid] * 3)
    with pytest.raises(ValueError, match="each must be a JSON object"):
        read([1])
    with pytest.raises(Invalid):
        read([{**valid, "volume": 0}])


def test_the_schema_has_the_declared_fields() -> None:
    shape = ORDER.shape()

    assert list(shape["properties"]) == ["volume", "side", "direction", "ref", "ticket", "note"]
    assert shape["required"] == ["volume", "side"]
    assert shape["additionalProperties"] is False
    assert shape["properties"]["volume"] == {"$ref": "#/components/schemas/PositiveAmountIn", "description": "In lots."}


def test_two_bodies_of_one_operation_require_what_both_do() -> None:
    shape = Body(need("a", SIDE), may("b", SIDE)).shape(Body(need("a", SIDE), need("b", SIDE), need("c", SIDE)))

    assert shape["required"] == ["a"]
    assert list(shape["properties"]) == ["a", "b", "c"]


def faults_by_schema(fields: Any) -> list[Any]:
    shape = {**ORDER.shape(), "components": {"schemas": shapes.COMPONENTS["schemas"]}}
    return [fault.message for fault in jsonschema.Draft202012Validator(shape).iter_errors(fields)]


ANY = st.none() | st.booleans() | st.integers(-2, 200) | st.sampled_from(["1", "0", "0.1", "BUY", "abc", "A", "x" * 9])
LIKELY = {"volume": st.sampled_from([1, "0.1", 0, "x"]), "side": st.sampled_from(["BUY", "SELL", "buy"])}


@given(st.fixed_dictionaries(LIKELY, optional=dict.fromkeys(["ref", "ticket", "note", "direction", "zz"], ANY)))
def test_the_schema_forbids_nothing_that_the_parser_reads(fields: Any) -> None:
    try:
        ORDER.read(fields).done()
    except Invalid:
        return
    assert faults_by_schema(fields) == []


@pytest.mark.parametrize("wrong", [{"volume": "x"}, {"side": "buy"}, {"ref": "A"}, {"note": "x" * 9}, {"zz": 1}])
def test_the_schema_forbids_what_the_parser_refuses(wrong: dict[str, Any]) -> None:
    fields = {"volume": "0.1", "side": "BUY", "ticket": 7, **wrong}

    assert refused(fields).keys() == wrong.keys()
    assert faults_by_schema(fields) != []


def test_lists_of_names_are_those_of_the_models() -> None:
    """The parsers are pure and cannot read the models' choices."""
    assert parsers.SIDE.shape == {"$ref": "#/components/schemas/Side"}
    assert shapes.shape_of(parsers.SIDE.shape)["enum"] == Side.values
    assert shapes.shape_of(parsers.REASON.shape)["enum"] == Reason.values
    (status,) = (field.type.shape["enum"] for field in parsers.ORDER.fields if field.name == "status")
    (reasons,) = (field.type.shape["examples"] for field in parsers.SKIP.fields if field.name == "reason")
    assert status == CopyOrder.Status.values
    assert reasons == [why for why in SkipReason.values if why != SkipReason.NOT_REPORTED]
