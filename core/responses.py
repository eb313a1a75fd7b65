"""What the API answers with, written once: JSON, times, CSV."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import orjson
from django.http import HttpResponse, StreamingHttpResponse

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def json_response(body: dict[str, Any] | list[Any] | bytes, status: int = 200) -> HttpResponse:
    encoded = body if isinstance(body, bytes) else orjson.dumps(body)
    answer = HttpResponse(encoded, status=status, content_type="application/json")
    answer["Cache-Control"] = "no-store"
    answer["Content-Length"] = str(len(encoded))
    return answer


def iso(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def csv_response(name: str, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> StreamingHttpResponse:
    """The rows as CSV, streamed."""
    answer = StreamingHttpResponse(_lines(columns, rows), content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="{name}"'
    answer["Cache-Control"] = "no-store"
    return answer


def defused(value: Any) -> str:
    """A cell that a spreadsheet must not take for a formula. Numbers stay numbers."""
    cell = "" if value is None else str(value)
    if cell.startswith(_FORMULA) and not _is_amount(cell):
        return f"'{cell}"
    return cell


def _is_amount(cell: str) -> bool:
    return cell[0] == "-" and cell[1:].replace(".", "", 1).isdigit()


class _Line:
    """A file that hands each line back to its writer."""

    def write(self, line: str) -> str:
        return line


def _lines(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    writer = csv.writer(_Line())
    yield writer.writerow(columns)
    for row in rows:
        yield writer.writerow([defused(row[name]) for name in columns])
