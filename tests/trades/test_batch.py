"""Many operations in one request: in order, each with its own key and result."""

import itertools
from typing import Any

import pytest

from audit.models import AuditLog
from tests.signed import Bot, opening
from trades.models import ActiveTrade, TradeHistory

BATCH = "/api/v2/trades/active/batch"
_keys = itertools.count(1)


def batch(bot: Any, *operations: Any, **more: Any) -> Any:
    return bot.send("POST", BATCH, {"operations": list(operations)}, **more)


def operation(action: Any, key: Any = None, **fields: Any) -> dict[str, Any]:
    return {"action": action, "idempotency_key": key or f"batched-{next(_keys):010d}", **fields}


def open_(ticket: Any, key: Any = None, **more: Any) -> Any:
    return operation("open", key, **opening(ticket, **more))


def close(ticket: Any, key: Any = None, **more: Any) -> Any:
    return operation(
        "close", key, **{"ticket_id": ticket, "close_price": "1.11", "profit": "5", "reason": "TP", **more}
    )


def results(answer: Any) -> Any:
    assert answer.status_code == 200
    return answer.json()["results"]


def outcomes(answer: Any) -> list[Any]:
    """The HTTP status of each result, and its error code or status."""
    return [(r["status"], r["problem"]["code"] if "problem" in r else r["result"]["status"]) for r in results(answer)]


def test_opens_changes_and_closes_a_trade_in_one_request(lena_bot: Bot) -> None:
    answer = batch(
        lena_bot,
        open_("1"),
        operation("modify", ticket_id="1", sl="1.10100000"),
        operation("reduce", ticket_id="1", deal_id="1", volume="0.04", close_price="1.108", profit="3"),
        close("1"),
    )

    assert outcomes(answer) == [(201, "broadcasted"), (200, "modified"), (200, "reduced"), (200, "CLOSED")]
    assert [r["result"]["seq"] for r in results(answer)] == ["1", "2", "3", "4"]
    assert str(TradeHistory.objects.get().profit) == "8.00000000"


def test_a_batch_has_the_same_outcomes_as_single_requests(lena_bot: Bot) -> None:
    answer = batch(
        lena_bot,
        open_("1"), open_("1"), open_("1", volume="0.2"), close("1"), close("1"), close("1", close_price="2"),
        open_("1"), close("2"), open_("2"), operation("modify", ticket_id="3", sl="1"),
        operation("reduce", ticket_id="1", deal_id="1", volume="0.04", close_price="1.108", profit="3"),
    )  # fmt: skip

    assert outcomes(answer) == [
        (201, "broadcasted"), (200, "broadcasted"), (409, "trade_exists_different"), (200, "CLOSED"), (200, "CLOSED"),
        (409, "trade_closed_conflict"), (409, "trade_closed"), (202, "tombstoned"), (409, "trade_closed"),
        (404, "trade_unknown"), (409, "trade_closed"),
    ]  # fmt: skip
    assert results(answer)[4]["result"]["already"] is True
    assert AuditLog.objects.filter(action="zombie.refused").count() == 2


def test_a_refused_operation_does_not_stop_the_others(lena_bot: Bot) -> None:
    answer = batch(lena_bot, open_("1", volume="0"), {"action": "dance"}, "no", close("9"), open_("2"))

    assert [status for status, _ in outcomes(answer)] == [422, 422, 422, 202, 201]
    assert [trade.ticket_id for trade in ActiveTrade.objects.all()] == ["2"]
    assert "volume" in results(answer)[0]["problem"]["fields"]


def test_repeating_a_batch_has_no_effect(lena_bot: Bot) -> None:
    operations = [open_("1"), close("1"), close("2")]
    first = results(batch(lena_bot, *operations))

    again = results(batch(lena_bot, *operations))

    assert [r["replayed"] for r in first] == [False, False, False]
    assert [r["replayed"] for r in again] == [True, True, True]
    assert [r["result"] for r in again] == [r["result"] for r in first]
    assert AuditLog.objects.filter(action="trade.closed").count() == 1


def test_an_operation_repeated_in_a_later_batch_gets_the_first_result(lena_bot: Bot) -> None:
    repeated = open_("1")
    batch(lena_bot, repeated)

    answer = batch(lena_bot, repeated, open_("2"))

    assert [(r["status"], r["replayed"]) for r in results(answer)] == [(201, True), (201, False)]


def test_one_key_for_two_operations_is_a_conflict(lena_bot: Bot) -> None:
    answer = batch(lena_bot, open_("1", "batched-same-key-0001"), open_("2", "batched-same-key-0001"))

    assert outcomes(answer) == [(201, "broadcasted"), (422, "idempotency_conflict")]
    assert ActiveTrade.objects.count() == 1


def test_idempotency_keys_of_two_bots_are_independent(lena_bot: Bot, sam_bot: Bot) -> None:
    same = open_("1", "batched-same-key-0001")

    assert outcomes(batch(lena_bot, same)) == outcomes(batch(sam_bot, same)) == [(201, "broadcasted")]


def test_copies_are_reported_in_batches_too(lena_bot: Bot, finn_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))
    named = {"strategy": "lena-eurusd", "master_ticket": "1"}

    answer = batch(finn_bot, open_("501", **named), open_("502"), close("501"))

    assert [status for status, _ in outcomes(answer)] == [201, 422, 200]
    assert TradeHistory.objects.get().is_copy


def test_takes_five_hundred_operations(lena_bot: Bot) -> None:
    answer = batch(lena_bot, *(open_(ticket) for ticket in range(1, 501)))

    assert {status for status, _ in outcomes(answer)} == {201}
    assert [r["result"]["seq"] for r in results(answer)] == [str(seq) for seq in range(1, 501)]
    assert lena_bot.send("GET").json()["count"] == 500


@pytest.mark.parametrize("operations", [[], [{}] * 501, {}, None, "all"])
def test_refuses_an_empty_and_an_oversized_batch(lena_bot: Bot, operations: Any) -> None:
    answer = lena_bot.send("POST", BATCH, {"operations": operations})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


@pytest.mark.parametrize("key", [None, "short", "x" * 65, "with a space 0001", 1234567890123456])
def test_refuses_an_operation_without_a_valid_key(lena_bot: Bot, key: str | int | None) -> None:
    answer = batch(lena_bot, {**open_("1"), "idempotency_key": key})

    assert outcomes(answer) == [(422, "invalid")]
    assert not ActiveTrade.objects.exists()
