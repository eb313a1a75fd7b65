"""What the hub asks the database: streams, their numbers, packet keys, and which keys and sessions are still valid."""

from collections.abc import Callable
from typing import Any

from django.db import DatabaseError, InterfaceError, connection

from strategies import services as strategies
from strategies.models import Subscription
from trades import snapshot
from trades.feed import PacketKey

Row = tuple[int, str | None, str, str, int, int]


def run(query: Callable[..., Any], *args: Any) -> Any:
    try:
        return query(*args)
    except (DatabaseError, InterfaceError):
        connection.close()  # the thread's next query opens a new connection
        raise


def _rows(query: str, *params: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, params)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def streams(accounts: tuple[int, ...]) -> list[tuple[int, str, int]]:
    return _rows("select strategy_id, name, last_seq from streams_of(%s::bigint[])", list(accounts))


def streams_of_each(accounts: list[int]) -> dict[int, set[Row]]:
    rows = _rows(
        "select account_id, strategy_id, sub_id, status, paused_for, generation, terms "
        "from streams_of_each(%s::bigint[])",
        accounts,
    )
    rows_by_account: dict[int, set[Row]] = {}
    for account, *row in rows:
        rows_by_account.setdefault(account, set()).add(tuple(row))
    return rows_by_account


def row_of(source: snapshot.Source) -> Row:
    return (
        source.strategy_id, source.sub_id, source.status, source.paused_for, source.generation, source.number,
    )  # fmt: skip


def one_row_each(rows: set[Row]) -> set[Row]:
    """One row for each strategy. Like streams_of(), prefer an active subscription if several accounts have one."""
    chosen: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: (row[2], row[1] or "")):
        chosen.setdefault(row[0], row)
    return set(chosen.values())


def packet_keys(accounts: tuple[int, ...]) -> dict[str, PacketKey]:
    subscriptions = Subscription.objects.live().filter(account_id__in=accounts)
    return {
        subscription.sub_id: PacketKey(strategies.packet_secret(subscription), subscription.packet_generation)
        for subscription in subscriptions
    }


def numbers(ids: list[int]) -> list[tuple[int, int]]:
    return _rows("select id, last_seq from strategies where id = any(%s)", ids)


def copy_numbers(accounts: list[int]) -> list[tuple[int, int]]:
    return _rows("select id, copy_seq from trading_accounts where id = any(%s)", accounts)


LiveSession = tuple[str | None, Any, str | None]  # its stored key, the user, and the user's standing


def refused_bots(bots: list[tuple[int, str]]) -> set[tuple[int, str]]:
    generations, addresses = [generation for generation, _ in bots], [address for _, address in bots]
    places = _rows("select place from sockets_refused(%s::bigint[], %s::inet[])", generations, addresses)
    return {bots[place - 1] for (place,) in places}


def standing_of(user_id: Any) -> str | None:
    """What a person's sockets depend on; None for a deactivated person."""
    standing: str | None = _rows("select person_standing(%s::uuid)", user_id)[0][0]
    return standing


def live_sessions(sessions: list[LiveSession]) -> set[LiveSession]:
    return set(
        _rows(
            "select key, person, standing from unnest(%s::text[], %s::uuid[], %s::text[]) open (key, person, standing) "
            "join django_session s on s.session_key = key and s.expire_date > now() "
            "where standing = person_standing(person)",
            *map(list, zip(*sessions, strict=True)),
        )
    )
