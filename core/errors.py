"""Refusals. Each has a stable code; whatever has none is a bug and may crash."""

from http import HTTPStatus
from typing import Any, ClassVar, Literal

Retry = Literal["never", "new_seq", "same_key", "after", "rotate", "resync"]


class DomainError(Exception):
    """The desk says no, and why.

    `code` is stable and for machines, `detail` is for people, `retry` says what the caller may do next,
    `extra` goes into the answer beside them. `replayed`: this was said before, to the same Idempotency-Key.
    """

    code: ClassVar[str]
    status: ClassVar[int] = HTTPStatus.CONFLICT
    retry: ClassVar[Retry] = "never"
    detail: ClassVar[str] = ""
    replayed: bool = False

    def __init__(self, detail: str = "", **extra: Any) -> None:
        super().__init__(detail or self.detail)
        self.extra = extra

    @property
    def says(self) -> str:
        return str(self.args[0])


class Invalid(DomainError):
    """The request is well-formed but its fields are not; `fields` names each with its fault."""

    code = "invalid"
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    detail = "The request has invalid fields."

    def __init__(self, fields: dict[str, list[str]]) -> None:
        super().__init__(fields=fields)


class NotFound(DomainError):
    code = "not_found"
    status = HTTPStatus.NOT_FOUND
    detail = "There is no such object, or it is not yours."


class CsrfFailed(DomainError):
    code = "csrf_failed"
    status = HTTPStatus.FORBIDDEN
    detail = "The form's token is missing or old. Reload the page and send it again."


class Busy(DomainError):
    code = "busy"
    retry = "same_key"
    detail = "Another request holds this row. Repeat with the same Idempotency-Key."


class Unavailable(DomainError):
    code = "unavailable"
    status = HTTPStatus.SERVICE_UNAVAILABLE
    retry = "same_key"
    detail = "The database is away. The outcome is unknown: repeat with a new number and the same Idempotency-Key."


class RequestMalformed(DomainError):
    code = "request_malformed"
    status = HTTPStatus.BAD_REQUEST
    detail = "The request cannot be read."


def every_error() -> list[type[DomainError]]:
    """All refusals of the desk, sorted by code."""

    def below(cls: type[DomainError]) -> list[type[DomainError]]:
        return [cls, *(leaf for child in cls.__subclasses__() for leaf in below(child))]

    return sorted((cls for cls in below(DomainError) if "code" in vars(cls)), key=lambda cls: cls.code)
