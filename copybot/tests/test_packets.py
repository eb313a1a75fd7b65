"""The published vectors in the bot's own code; and packets that nobody who knows the secret sent."""

import json
from pathlib import Path

import pytest

from copybot import packets
from copybot.guard import Target
from copybot.packets import PacketRefused
from copybot.tests.simulation import NOON, PRICE, SECRET, SUB, packet

VECTORS = json.loads((Path(__file__).parent.parent / "vectors.json").read_text())
TARGET = Target("t1", "EURUSD", "BUY", PRICE, None, None, PRICE, NOON, 1)


def read(fields, **more):
    return packets.read(fields, **{"secret": SECRET, "sub_id": SUB, "generation": 1} | more)


def seed_form(vector):
    fields = dict(zip(packets.FIELDS, vector["fields"], strict=True))
    packets.check_seed_form(fields, secret=VECTORS["packet_secret"], signature=vector["signature"])


@pytest.mark.parametrize("vector", VECTORS["packets"], ids=lambda vector: vector["name"])
def test_a_good_packet_of_the_seed_form(vector):
    seed_form(vector)
    seed_form(vector | {"signature": vector["signature"].upper()})


@pytest.mark.parametrize("vector", VECTORS["packets_mac_ok_but_grammar_refused"], ids=lambda vector: vector["name"])
def test_a_good_mac_is_not_enough(vector):
    with pytest.raises(PacketRefused, match="packet_grammar"):
        seed_form(vector)


@pytest.mark.parametrize("mistake", VECTORS["recognisable_mistakes_for_K1"])
def test_a_known_mistake_is_no_signature(mistake):
    wrong = mistake["signature"] if isinstance(mistake, dict) else VECTORS["recognisable_mistakes_for_K1"][mistake]
    with pytest.raises(PacketRefused, match="packet_signature"):
        seed_form(VECTORS["packets"][0] | {"signature": wrong})


ACTIONS = ("OPEN", "MODIFY", "REDUCE", "CLOSE")
NAMING_A_TRADE = [one for one in VECTORS["packets_v1"]["vectors"] if one["name"].split()[0] in ACTIONS]


@pytest.mark.parametrize("vector", NAMING_A_TRADE, ids=lambda vector: vector["name"])
def test_a_packet_that_names_its_trade(vector):
    texts = vector["payload"].split("|")
    fields = dict(zip((*packets.FIELDS, "cp1", *packets.TAIL), texts, strict=True))
    found = packets.read(
        fields | {"signature_v1": vector["signature"]},
        secret=VECTORS["packet_secret"], sub_id="7", generation=int(texts[-1]),
    )  # fmt: skip

    assert (found.action, found.trade_ref, str(found.seq)) == (texts[-3], texts[-2], texts[1])
    assert packets.derived_key(VECTORS["packet_secret"]).decode() == VECTORS["packets_v1"]["derived_key"]


def test_any_changed_field_is_refused():
    good = packet(5, NOON, "OPEN", TARGET)
    assert read(good).seq == 5

    for name in (*packets.FIELDS, *packets.TAIL):
        with pytest.raises(PacketRefused, match="packet_signature"):
            read(good | {name: good[name] + "1"})


@pytest.mark.parametrize("wrong", [None, 5, 1.5, ["5"], "5\u0660"])
def test_what_is_no_text_is_refused(wrong):
    with pytest.raises(PacketRefused, match="packet_grammar"):
        read(packet(5, NOON, "OPEN", TARGET) | {"seq": wrong})


def test_anothers_packet_and_an_old_keys_are_refused():
    with pytest.raises(PacketRefused, match="packet_stranger"):
        read(packet(5, NOON, "OPEN", TARGET), sub_id="s-2")
    with pytest.raises(PacketRefused, match="packet_stranger"):
        read(packet(5, NOON, "OPEN", TARGET), generation=2)


def test_the_desk_and_the_bot_agree():
    from strategies import packets as desk

    fields = (SUB, "5", str(NOON), "EURUSD", "BUY", "0.10000000", "1.10000000", "", "1.20000000")
    sent = desk.signed(SECRET, fields, action="OPEN", trade_ref="0190-abc", generation=1)

    assert read(sent).tp is not None
