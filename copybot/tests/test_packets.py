"""The published vectors in the bot's own code, and forged packets."""

import hmac
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from copybot import desk_model, packets
from copybot.packets import PacketRefused
from copybot.targets import Target
from copybot.tests.guard_fixtures import NOON, PRICE, SECRET, SUB, packet

VECTORS = json.loads((Path(__file__).parent.parent / "vectors.json").read_text())
TARGET = Target("t1", "EURUSD", "BUY", PRICE, None, None, PRICE, NOON, 1)


def read(fields: Any, **more: Any) -> Any:
    return packets.read(fields, **{"secrets": {1: SECRET}, "sub_id": SUB} | more)


GAPFILL = (SUB, "12", str(NOON), "-", "-", "0.00000000", "0.00000000", "", "", "GAPFILL", "13", "1")


def signed(fields: Any) -> Any:
    """A packet with a correct MAC, whatever its fields."""
    text = "|".join([*(fields[name] for name in packets.FIELDS), "CP1", *(fields[name] for name in packets.TAIL)])
    return fields | {"signature_v1": hmac.new(packets.derived_key(SECRET), text.encode(), "sha256").hexdigest()}


def seed_form(vector: Any) -> None:
    fields = dict(zip(packets.FIELDS, vector["fields"], strict=True))
    packets.check_seed_form(fields, secret=VECTORS["packet_secret"], signature=vector["signature"])


@pytest.mark.parametrize("vector", VECTORS["packets"], ids=lambda vector: vector["name"])
def test_accepts_a_packet_of_the_short_form(vector: Any) -> None:
    seed_form(vector)
    seed_form(vector | {"signature": vector["signature"].upper()})


@pytest.mark.parametrize("vector", VECTORS["packets_mac_ok_but_grammar_refused"], ids=lambda vector: vector["name"])
def test_a_correct_mac_is_not_enough(vector: Any) -> None:
    with pytest.raises(PacketRefused, match="packet_grammar"):
        seed_form(vector)


@pytest.mark.parametrize("mistake", VECTORS["recognisable_mistakes_for_K1"])
def test_a_known_mistake_is_not_a_signature(mistake: Any) -> None:
    wrong = mistake["signature"] if isinstance(mistake, dict) else VECTORS["recognisable_mistakes_for_K1"][mistake]
    with pytest.raises(PacketRefused, match="packet_signature"):
        seed_form(VECTORS["packets"][0] | {"signature": wrong})


ACTIONS = ("OPEN", "MODIFY", "REDUCE", "CLOSE", "GAPFILL")
NAMING_A_TRADE = [vector for vector in VECTORS["packets_v1"]["vectors"] if vector["name"].split()[0] in ACTIONS]


@pytest.mark.parametrize("vector", NAMING_A_TRADE, ids=lambda vector: vector["name"])
def test_accepts_a_packet_that_names_its_trade(vector: Any) -> None:
    texts = vector["payload"].split("|")
    fields = dict(zip((*packets.FIELDS, "cp1", *packets.TAIL), texts, strict=True))
    packet = packets.read(
        fields | {"signature_v1": vector["signature"]},
        secrets={int(texts[-1]): VECTORS["packet_secret"]}, sub_id="7",
    )  # fmt: skip

    assert (packet.action, packet.trade_ref, str(packet.seq)) == (texts[-3], texts[-2], texts[1])
    assert packets.derived_key(VECTORS["packet_secret"]).decode() == VECTORS["packets_v1"]["derived_key"]


@pytest.mark.parametrize("price", ["-37.63000000", "0.00000000"])
def test_a_close_at_a_price_of_zero_or_below_is_read(price: str) -> None:
    fields = {"symbol": "WTI", "type": "BUY", "volume": "0.00000000", "price": price, "sl": "", "tp": ""}

    assert read(desk_model.packet(5, NOON, "CLOSE", "t1", fields)).price == Decimal(price)


def test_any_changed_field_is_refused() -> None:
    good = packet(5, NOON, "OPEN", TARGET)
    assert read(good).seq == 5

    for name in (*packets.FIELDS, *packets.TAIL):
        with pytest.raises(PacketRefused, match="packet_stranger" if name == "gen" else "packet_signature"):
            read(good | {name: good[name] + "1"})


@pytest.mark.parametrize("wrong", [None, 5, 1.5, ["5"], "5\u0660"])
def test_a_field_that_is_not_text_is_refused(wrong: Any) -> None:
    with pytest.raises(PacketRefused, match="packet_grammar"):
        read(packet(5, NOON, "OPEN", TARGET) | {"seq": wrong})


@pytest.mark.parametrize("wrong", [None, 5, "", "\u00e9" * 64, "\ud800"])
def test_a_malformed_signature_is_refused(wrong: int | str | None) -> None:
    with pytest.raises(PacketRefused, match="packet_signature"):
        read(packet(5, NOON, "OPEN", TARGET) | {"signature_v1": wrong})


def test_packets_of_another_subscription_or_an_old_secret_are_refused() -> None:
    with pytest.raises(PacketRefused, match="packet_stranger"):
        read(packet(5, NOON, "OPEN", TARGET), sub_id="s-2")
    with pytest.raises(PacketRefused, match="packet_stranger"):
        read(packet(5, NOON, "OPEN", TARGET), secrets={2: SECRET})


def test_during_a_rotation_both_generations_are_read() -> None:
    both = {1: SECRET, 2: "ab" * 32}

    assert read(packet(5, NOON, "OPEN", TARGET), secrets=both).seq == 5
    assert read(packet(6, NOON, "OPEN", TARGET, secret="ab" * 32, generation="2"), secrets=both).seq == 6
    with pytest.raises(PacketRefused, match="packet_signature"):
        read(packet(6, NOON, "OPEN", TARGET, generation="2"), secrets=both)


@pytest.mark.parametrize(
    "change",
    [
        {"trade_ref": "14"},
        {"trade_ref": "12"},
        {"trade_ref": "t1"},
        {"symbol": "EURUSD"},
        {"type": "BUY"},
        {"volume": "0.10000000"},
        {"sl": "1.10000000"},
    ],
)
def test_a_gapfill_fills_one_number_and_carries_nothing_else(change: dict[str, Any]) -> None:
    fields = dict(zip((*packets.FIELDS, *packets.TAIL), GAPFILL, strict=True))
    assert read(signed(fields)).action == "GAPFILL"

    with pytest.raises(PacketRefused, match="packet_grammar"):
        read(signed(fields | change))


@pytest.mark.parametrize("action", ["HEARTBEAT", "open", "", "REOPEN"])
def test_an_unknown_action_is_refused(action: str) -> None:
    fields = dict(zip((*packets.FIELDS, *packets.TAIL), GAPFILL, strict=True))
    with pytest.raises(PacketRefused, match="packet_grammar"):
        read(signed(fields | {"action": action}))


def test_the_desk_and_the_bot_agree() -> None:
    from strategies import packets as desk

    fields = (SUB, "5", str(NOON), "EURUSD", "BUY", "0.10000000", "1.10000000", "", "1.20000000")
    sent = desk.sign(SECRET, fields, action="OPEN", trade_ref="0190-abc", generation=1)

    assert read(sent).tp is not None
