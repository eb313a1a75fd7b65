"""The time in a trade's id, as the database writes it and as Python reads it."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from core import uuid7

MOMENT = datetime(2026, 2, 28, 23, 59, 59, 123_000, UTC)
MILLISECOND = timedelta(milliseconds=1)


def test_an_id_contains_the_time_at_which_the_database_made_it(desk_db: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("select clock_timestamp(), uuid_v7(), clock_timestamp()")
        before, id, after = cursor.fetchone()

    assert before - MILLISECOND < uuid7.time_of(id) < after + MILLISECOND  # the database rounds to the nearest


def test_reads_the_published_example_to_the_millisecond() -> None:
    example = uuid.UUID("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")  # of RFC 9562

    assert uuid7.time_of(example) == datetime(2022, 2, 22, 19, 22, 22, tzinfo=UTC)
    assert uuid7.ms_of(str(example)) == 1_645_557_742_000


@pytest.mark.parametrize("within", [timedelta(0), timedelta(microseconds=999)])
def test_the_bound_separates_the_ids_of_earlier_milliseconds(within: Any) -> None:
    first = uuid7.first_at(MOMENT + within)
    before = uuid.UUID(int=uuid7.first_at(MOMENT - MILLISECOND).int | (1 << 80) - 1)  # the last id of that millisecond

    assert uuid7.time_of(first) == MOMENT
    assert before < first <= uuid.UUID(int=first.int | (7 << 76))


def test_times_are_never_read_a_millisecond_early() -> None:
    moments = [MOMENT + number * MILLISECOND for number in range(1000)]

    assert [uuid7.time_of(uuid7.first_at(moment)) for moment in moments] == moments
