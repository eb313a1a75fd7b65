"""Responses of the API other than refusals: JSON, times, CSV."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import orjson
from django.http import HttpResponse, StreamingHttpResponse

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def json_response(body: dict[str, Any] | list[Any] | bytes, status: int = 200) -> HttpResponse:
    encoded = body if isinstance(body, bytes) else orjson.dumps(body)
    response = HttpResponse(encoded, status=status, content_type="application/json")
    response["Cache-Control"] = "no-store"
    response["Content-Length"] = str(len(encoded))
    return response


def iso(moment: datetime) -> str:
    """Return a UTC time as ISO 8601 with milliseconds."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def csv_response(name: str, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> StreamingHttpResponse:
    """Stream the rows as CSV."""
    response = StreamingHttpResponse(_lines(columns, rows), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["Cache-Control"] = "no-store"
    return response


def defused(value: Any) -> str:
    """Return the cell, quoted where a spreadsheet would read it as a formula. Numbers stay numbers."""
    cell = "" if value is None else str(value)
    if cell.startswith(_FORMULA) and not _is_amount(cell):
        return f"'{cell}"
    return cell


def _is_amount(cell: str) -> bool:
    return cell[0] == "-" and cell[1:].replace(".", "", 1).isdigit()


class _Line:
    """A file object whose `write` returns the line, so that csv.writer yields lines."""

    def write(self, line: str) -> str:
        return line


def _lines(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    writer = csv.writer(_Line())
    yield writer.writerow(columns)
    for row in rows:
        yield writer.writerow([defused(row[name]) for name in columns])
