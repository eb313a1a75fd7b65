"""Signal packets, checked against the published vectors."""

import hashlib
import hmac
import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from strategies import packets, sizing

VECTORS = json.loads((Path(__file__).resolve().parent.parent.parent / "copybot" / "vectors.json").read_text())
SECRET = VECTORS["packet_secret"]
PACKETS = {vector["name"]: vector for vector in VECTORS["packets"]}
VECTORS_V1 = {vector["name"].split()[0]: vector for vector in VECTORS["packets_v1"]["vectors"]}
REF = "01JGTRADE0000000000000001"


def packet(fields: Any, action: str = "OPEN", trade_ref: Any = REF, generation: int = 1, secret: Any = SECRET) -> Any:
    return packets.sign(secret, tuple(fields), action=action, trade_ref=trade_ref, generation=generation)


@pytest.mark.parametrize("name", PACKETS)
def test_signs_the_nine_fields_as_published(name: Any) -> None:
    vector = PACKETS[name]

    signed_packet = packet(vector["fields"])

    assert [signed_packet[field] for field in packets.FIELDS] == vector["fields"]
    assert signed_packet["signature"] == vector["signature"]


def test_derives_the_key_of_signature_v1_as_published() -> None:
    assert packets.derived_key(SECRET).decode() == VECTORS["packets_v1"]["derived_key"]


@pytest.mark.parametrize("name", VECTORS_V1)
def test_signature_v1_is_as_published(name: Any) -> None:
    *fields, form, action, trade_ref, generation = VECTORS_V1[name]["payload"].split("|")
    assert (len(fields), form) == (9, "CP1")

    signed_packet = packet(fields, action, trade_ref, int(generation))

    assert signed_packet["signature_v1"] == VECTORS_V1[name]["signature"]
    assert (signed_packet["action"], signed_packet["trade_ref"], signed_packet["gen"]) == (
        action,
        trade_ref,
        generation,
    )


def test_makes_none_of_the_known_mistakes() -> None:
    signed_packet = packet(PACKETS["K1"]["fields"])["signature"]

    assert signed_packet not in VECTORS["recognisable_mistakes_for_K1"].values()


@pytest.mark.parametrize("at", range(9))
def test_every_changed_field_changes_both_signatures(at: int) -> None:
    fields = list(PACKETS["K1"]["fields"])
    right = packet(fields)
    fields[at] += "0"

    wrong = packet(fields)

    assert wrong["signature"] != right["signature"]
    assert wrong["signature_v1"] != right["signature_v1"]


def test_signature_v1_binds_action_trade_and_generation() -> None:
    fields = PACKETS["K1"]["fields"]
    right = packet(fields)["signature_v1"]

    assert packet(fields, action="CLOSE")["signature_v1"] != right
    assert packet(fields, trade_ref=REF[:-1] + "2")["signature_v1"] != right
    assert packet(fields, generation=2)["signature_v1"] != right
    assert packet(fields, secret=SECRET[::-1])["signature_v1"] != right


def test_the_two_signatures_use_different_keys() -> None:
    vector = VECTORS_V1["OPEN"]
    with_the_other_key = hmac.new(SECRET.encode(), vector["payload"].encode(), hashlib.sha256).hexdigest()

    assert packet(PACKETS["K1"]["fields"])["signature_v1"] != with_the_other_key


TRADE: dict[str, Any] = {
    "trade_id": REF, "symbol": "EURUSD", "type": "BUY", "open_price": "1.10000000", "close_price": "1.11000000",
}  # fmt: skip
PLAN = sizing.Plan("EURUSD", "BUY", Decimal("0.1"), Decimal("1.095"), Decimal("1.12"))
NONE = replace(PLAN, volume=Decimal(0), why_not="symbol_not_allowed")


def packet_of(event: Any, plan: Any = PLAN, *, seq: str = "5", opens: bool = True) -> Any:
    return packets.of_event(event, TRADE, plan, sub_id="7", seq=seq, timestamp_ms=1767600000000, opens=opens)


def test_an_open_has_the_fields_of_the_vector() -> None:
    fields, action, ref = packet_of("trade.opened")

    assert (list(fields), action, ref) == (PACKETS["K1"]["fields"], "OPEN", REF)


def test_an_absent_stop_is_an_empty_field() -> None:
    fields, _, _ = packet_of("trade.opened", replace(PLAN, sl=None, tp=None))

    assert fields[7:] == ("", "")


def test_a_close_has_volume_zero_and_the_close_price() -> None:
    fields, action, _ = packet_of("trade.closed")

    assert (fields[5:], action) == (("0.00000000", "1.11000000", "", ""), "CLOSE")


def test_a_reduction_has_the_volume_that_must_remain() -> None:
    assert packet_of("trade.reduced", replace(PLAN, volume=Decimal("0.04")))[0][5] == "0.04000000"


@pytest.mark.parametrize("event", ["trade.reduced", "trade.modified"])
def test_any_further_event_closes_a_copy_that_must_be_flat(event: str) -> None:
    fields, action, _ = packet_of(event, replace(PLAN, volume=Decimal(0)))

    assert (fields[5], action) == ("0.00000000", "CLOSE")


def test_symbol_and_side_are_those_of_the_copy() -> None:
    fields, _, _ = packet_of("trade.opened", replace(PLAN, symbol="EURUSD.vip", type="SELL"))

    assert fields[3:5] == ("EURUSD.vip", "SELL")


@pytest.mark.parametrize("event", ["trade.opened", "trade.modified", "trade.reduced"])
def test_an_event_that_is_not_copied_becomes_a_gapfill(event: str) -> None:
    fields, action, ref = packet_of(event, NONE, seq="12")

    assert (fields[3:], action, ref) == (("-", "-", "0.00000000", "0.00000000", "", ""), "GAPFILL", "13")


def test_a_gapfill_is_signed_as_published() -> None:
    payload = VECTORS_V1["GAPFILL"]["payload"].split("|")
    fields, action, ref = packet_of("trade.opened", NONE, seq="12")
    fields = (*fields[:2], payload[2], *fields[3:])

    assert packet(fields, action, ref)["signature_v1"] == VECTORS_V1["GAPFILL"]["signature"]


def test_a_paused_subscription_gets_reductions_and_closes_but_no_opens() -> None:
    assert packet_of("trade.opened", opens=False)[1] == "GAPFILL"
    assert packet_of("trade.reduced", opens=False)[1] == "REDUCE"
    assert packet_of("trade.modified", opens=False)[1] == "MODIFY"
    assert packet_of("trade.closed", opens=False)[1] == "CLOSE"


@pytest.mark.parametrize("why_not", ["symbol_not_allowed", "volume_too_small", "not_sizable"])
def test_a_close_is_never_replaced_by_a_gapfill(why_not: str) -> None:
    assert packet_of("trade.closed", replace(NONE, why_not=why_not), opens=False)[1] == "CLOSE"


def test_every_event_of_a_stream_has_an_action() -> None:
    assert packets.ACTIONS == {
        "trade.opened": "OPEN", "trade.modified": "MODIFY", "trade.reduced": "REDUCE", "trade.closed": "CLOSE",
    }  # fmt: skip
