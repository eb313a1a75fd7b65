"""Signal packets against the published vectors."""

import hashlib
import hmac
import json
from decimal import Decimal
from pathlib import Path

import pytest

from strategies import packets

VECTORS = json.loads((Path(__file__).resolve().parent.parent.parent / "copybot" / "vectors.json").read_text())
SECRET = VECTORS["packet_secret"]
PACKETS = {vector["name"]: vector for vector in VECTORS["packets"]}
LATER = {vector["name"].split()[0]: vector for vector in VECTORS["packets_v1"]["vectors"]}
REF = "01JGTRADE0000000000000001"


def packet(fields, action="OPEN", trade_ref=REF, generation=1, secret=SECRET):
    return packets.signed(secret, tuple(fields), action=action, trade_ref=trade_ref, generation=generation)


@pytest.mark.parametrize("name", PACKETS)
def test_signs_the_nine_fields_as_published(name):
    vector = PACKETS[name]

    made = packet(vector["fields"])

    assert [made[field] for field in packets.FIELDS] == vector["fields"]
    assert made["signature"] == vector["signature"]


def test_derives_the_key_of_the_longer_form_as_published():
    assert packets.derived_key(SECRET).decode() == VECTORS["packets_v1"]["derived_key"]


@pytest.mark.parametrize("name", LATER)
def test_signs_the_longer_form_as_published(name):
    *fields, form, action, trade_ref, generation = LATER[name]["payload"].split("|")
    assert (len(fields), form) == (9, "CP1")

    made = packet(fields, action, trade_ref, int(generation))

    assert made["signature_v1"] == LATER[name]["signature"]
    assert (made["action"], made["trade_ref"], made["gen"]) == (action, trade_ref, generation)


def test_makes_none_of_the_recognisable_mistakes():
    made = packet(PACKETS["K1"]["fields"])["signature"]

    assert made not in VECTORS["recognisable_mistakes_for_K1"].values()


@pytest.mark.parametrize("at", range(9))
def test_every_changed_field_changes_both_signatures(at):
    fields = list(PACKETS["K1"]["fields"])
    right = packet(fields)
    fields[at] += "0"

    wrong = packet(fields)

    assert wrong["signature"] != right["signature"]
    assert wrong["signature_v1"] != right["signature_v1"]


def test_the_longer_form_binds_action_trade_and_generation():
    fields = PACKETS["K1"]["fields"]
    right = packet(fields)["signature_v1"]

    assert packet(fields, action="CLOSE")["signature_v1"] != right
    assert packet(fields, trade_ref=REF[:-1] + "2")["signature_v1"] != right
    assert packet(fields, generation=2)["signature_v1"] != right
    assert packet(fields, secret=SECRET[::-1])["signature_v1"] != right


def test_neither_form_is_ever_taken_for_the_other():
    vector = LATER["OPEN"]
    with_the_other_key = hmac.new(SECRET.encode(), vector["payload"].encode(), hashlib.sha256).hexdigest()

    assert packet(PACKETS["K1"]["fields"])["signature_v1"] != with_the_other_key


TRADE = {
    "symbol": "EURUSD", "type": "BUY", "open_price": "1.10000000", "close_price": "1.11000000",
    "sl": "1.09500000", "tp": "1.12000000",
}  # fmt: skip


def fields_of(event, trade, volume="0.1", seq="5"):
    return packets.fields_of(event, trade, sub_id="7", seq=seq, timestamp_ms=1767600000000, copy_volume=Decimal(volume))


def test_writes_the_fields_of_an_open_as_the_vector_has_them():
    assert list(fields_of("trade.opened", TRADE)) == PACKETS["K1"]["fields"]


def test_an_absent_stop_is_no_characters_at_all():
    fields = fields_of("trade.opened", {**TRADE, "type": "SELL", "sl": None, "tp": None})

    assert fields[7:] == ("", "")


def test_a_close_holds_nothing_and_names_its_own_price():
    fields = fields_of("trade.closed", TRADE)

    assert fields[5:] == ("0.00000000", "1.11000000", "", "")


def test_a_reduction_names_what_must_remain():
    assert fields_of("trade.reduced", TRADE, volume="0.04")[5] == "0.04000000"


def test_every_event_of_a_stream_has_its_action():
    assert packets.ACTIONS == {
        "trade.opened": "OPEN", "trade.modified": "MODIFY", "trade.reduced": "REDUCE", "trade.closed": "CLOSE",
    }  # fmt: skip
