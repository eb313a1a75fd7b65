"""Refusals. Each has a stable code; an exception without one is a bug."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar, Literal

Retry = Literal["never", "new_seq", "same_key", "after", "rotate", "resync"]
_BY_CODE: "dict[str, type[DomainError]]" = {}  # filled as the classes are defined


class DomainError(Exception):
    """The desk refuses, and says why.

    `code` is stable and for programs, `detail` is for people, `retry` says what the caller may do next, and `extra`
    adds members to the response. `replayed`: the same refusal was given to the same Idempotency-Key before.
    """

    code: str
    status: ClassVar[int] = HTTPStatus.CONFLICT
    retry: ClassVar[Retry] = "never"
    detail: ClassVar[str] = ""
    replayed: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "code" in vars(cls) and _BY_CODE.setdefault(cls.code, cls) is not cls:
            raise TypeError(f"{cls.__qualname__} and {_BY_CODE[cls.code].__qualname__} have the same code {cls.code!r}")

    def __init__(self, detail: str = "", **extra: Any) -> None:
        super().__init__(detail or self.detail)
        self.extra = extra

    @property
    def message(self) -> str:
        return str(self.args[0])


class Invalid(DomainError):
    """The request is well-formed, but some of its fields are not; `fields` has the faults of each."""

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
    detail = "The form's token is missing or has expired. Reload the page and send the form again."


class Busy(DomainError):
    code = "busy"
    retry = "same_key"
    detail = "Another request is using the same data. Repeat with the same Idempotency-Key."


class Unavailable(DomainError):
    code = "unavailable"
    status = HTTPStatus.SERVICE_UNAVAILABLE
    retry = "same_key"
    detail = (
        "The database cannot be reached and the outcome is unknown. "
        "Repeat with a new X-Cd-Seq and the same Idempotency-Key."
    )


class RequestMalformed(DomainError):
    code = "request_malformed"
    status = HTTPStatus.BAD_REQUEST
    detail = "The request cannot be read."


class RequestDecided(DomainError):
    code = "request_decided"
    detail = "This request has already been decided."


class RequestPending(DomainError):
    code = "request_pending"
    detail = "Such a request is awaiting approval already."


class SecondPersonNeeded(DomainError):
    code = "second_person_needed"
    status = HTTPStatus.FORBIDDEN
    detail = "A colleague has to decide this: neither the person who requested it nor an owner concerned may."


def of_code(code: str, **extra: Any) -> DomainError:
    """Return the refusal with this code and these extra members. RuntimeError for a code that no class has."""
    if code not in _BY_CODE:
        raise RuntimeError(f"no DomainError has the code {code!r}")
    return _BY_CODE[code](**extra)


def of_outcome(outcome: Mapping[str, Any]) -> DomainError | None:
    """Return the refusal in the outcome of a database function; None where the function did its work."""
    if "refused" not in outcome:
        return None
    extra = {name: value for name, value in outcome.items() if name not in ("code", "refused", "replayed")}
    if outcome["code"] in _BY_CODE:
        refusal = of_code(outcome["code"], **extra)
    else:
        # The function is a newer version's, and this process is about to be replaced. What it wrote is committed, and a
        # batch has other results: the refusal goes out with its code, without words.
        refusal = DomainError(**extra)
        refusal.code = outcome["code"]
    refusal.replayed = "replayed" in outcome
    return refusal


def every_error() -> list[type[DomainError]]:
    """Return the class of each refusal whose module is imported, sorted by code."""
    return [_BY_CODE[code] for code in sorted(_BY_CODE)]
