"""Request bodies, each declared once: the parser and the schema come from the same fields. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core import parsing, shapes
from core.parsing import Fields, FieldType, Form
from core.shapes import Schema


@dataclass(frozen=True, slots=True)
class Field:
    """One field. A null is read as if the field were absent.

    `also`: other names of the field; `older`: names that only the routes of earlier versions read. `unless`: the name
    of an earlier field; where that is present, this one is not required. `in_path`: the value may come from the path.
    """

    name: str
    type: FieldType[Any]
    description: str = ""
    required: bool = True
    default: Any = None
    also: tuple[str, ...] = ()
    older: tuple[str, ...] = ()
    unless: str = ""
    in_path: bool = False

    @property
    def is_always_sent(self) -> bool:
        return self.required and not self.unless and not self.in_path

    def properties(self) -> dict[str, Schema]:
        """Return the field's entry in the schema of an object, and one for each other name."""
        shape = self.type.shape if self.is_always_sent else shapes.nullable(self.type.shape)
        if self.description:
            shape = shapes.described(shape, self.description)
        others = {name: shapes.described(self.type.shape, f"Read as {self.name}.") for name in self.also}
        return {self.name: shape, **others}


def need(name: str, type: FieldType[Any], description: str = "", **more: Any) -> Field:
    """A field without which the request is refused."""
    return Field(name, type, description, **more)


def may(name: str, type: FieldType[Any], description: str = "", **more: Any) -> Field:
    """A field that may be absent; it then has its `default`."""
    return Field(name, type, description, required=False, **more)


class Body:
    """The JSON object that an operation takes."""

    def __init__(self, *fields: Field) -> None:
        self.fields = fields

    def read(self, fields: Fields, *, strict: bool = True, faults: Mapping[str, list[str]] | None = None) -> Form:
        """Return the form with the values and faults of all fields. `faults`: faults found before, to be kept too."""
        form = Form(fields, strict=strict)
        form.faults.update(faults or {})
        values = form.values
        for field in self.fields:
            also = field.also if strict else field.also + field.older
            if field.required and values.get(field.unless) is None:
                values[field.name] = form.need(field.name, field.type.read, *also)
            else:
                values[field.name] = form.may(field.name, field.type.read, *also, default=field.default)
        return form

    def shape(self, *others: "Body", more: str = "") -> Schema:
        """Return the body's schema. `others`: bodies that the same operation takes from other callers. `more` says
        which undeclared fields are accepted; without it none is.
        """
        bodies = (self, *others)
        fields = [field for body in bodies for field in body.fields]
        properties = {name: shape for field in fields for name, shape in field.properties().items()}
        required_names = [{field.name for field in body.fields if field.is_always_sent} for body in bodies]
        required = [name for name in properties if all(name in names for names in required_names)]
        undeclared: Schema = {"description": more} if more else {"additionalProperties": False}
        return shapes.obj(properties, required, **undeclared)

    def published(self, name: str, *others: "Body", more: str = "") -> Schema:
        """Declare the body's schema as a component; return the reference to it."""
        return shapes.schema(name, self.shape(*others, more=more))


def items(body: Body, item: Schema, *, most: int, noun: str) -> FieldType[list[dict[str, Any]]]:
    """A list of at most `most` objects; `noun` names them in the message of a fault."""

    def read(value: Any) -> list[dict[str, Any]]:
        if not isinstance(value, list) or len(value) > most:
            raise ValueError(f"must be a list of at most {most} {noun}")
        return [_object(body, item_value) for item_value in value]

    return FieldType(read, shapes.array(item, maxItems=most))


def _object(body: Body, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("each must be a JSON object")
    return body.read(value).done()


def json_body(body: Body, raw: bytes) -> dict[str, Any]:
    """Return the values of a request's body; raise Invalid with all its faults at once."""
    return body.read(parsing.json_object(raw)).done()
