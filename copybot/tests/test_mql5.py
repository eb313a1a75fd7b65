"""The MQL5 reference against the published vectors and against `packets` and `magic`."""

import hashlib
import hmac
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest

from copybot import mt5, packets
from copybot.magic import magic_of
from copybot.tests.mql5_program import MQL5, NOON, PACKET_SECRET, SOURCES, SUB, VECTORS, fields_of, signed, terminals

SECRET = VECTORS["request_secret"]
NAMES = (*packets.FIELDS, *packets.TAIL)
CODES = [0, *range(9_990, 10_060)]


@pytest.fixture
def run() -> Iterator[Any]:
    with terminals() as start:
        yield start


@pytest.fixture
def terminal(run: Any) -> Any:
    return run()


# --- what can be read without a compiler

DEFINED = dict(re.findall(r"^#define (CD_\w+) (.+?)(?: +//.*)?$", (MQL5 / "Copydesk.mqh").read_text(), re.MULTILINE))


def allowed(name: Any) -> set[Any]:
    """The characters that `packets`' grammar allows at one place of a field."""
    begin = {"seq": "1", "timestamp": "1", "gen": "1"}.get(name, "")
    pattern = packets._GRAMMAR[name].replace("{12}", "{0,12}")
    return {chr(code) for code in range(128) if re.fullmatch(pattern, begin + chr(code))}


def longest(name: Any) -> Any:
    return max(length for length in range(1, 100) if re.fullmatch(packets._GRAMMAR[name], "1" * length))


def test_the_constants_are_those_of_the_protocol() -> None:
    texts = {name: value.strip('"') for name, value in DEFINED.items()}

    assert set(texts["CD_SYMBOL"]) == allowed("symbol")
    assert set(texts["CD_NAME"]) == allowed("sub_id") == allowed("trade_ref")
    assert set(texts["CD_DIGITS"]) == allowed("seq") == allowed("gen")
    assert texts["CD_TYPES"].strip("|") == packets._GRAMMAR["type"]
    assert texts["CD_ACTIONS"].strip("|") == packets._GRAMMAR["action"]
    assert int(texts["CD_MOST_SEQ"]) == packets._MOST_SEQ
    assert int(texts["CD_MOST_NAME"]) == longest("sub_id") == longest("trade_ref")
    assert int(texts["CD_MOST_SYMBOL"]) == longest("symbol")
    assert int(texts["CD_MOST_GEN"]) == longest("gen")
    assert int(texts["CD_TIME"]) == longest("timestamp")
    assert re.fullmatch(packets._AMOUNT, texts["CD_NOTHING"])
    assert f"(?:0|[1-9][0-9]{{0,{int(texts['CD_WHOLE']) - 1}}})\\.[0-9]{{{texts['CD_DECIMALS']}}}" == packets._AMOUNT
    assert texts["CD_SHA256_OF_NOTHING"] == hashlib.sha256().hexdigest()
    key = hmac.new(PACKET_SECRET.encode(), texts["CD_PACKET_LABEL"].encode(), "sha256").hexdigest()
    assert key == VECTORS["packets_v1"]["derived_key"]


def test_says_at_its_top_that_it_was_not_compiled_here() -> None:
    for source in SOURCES:
        assert "eference" in source.read_text()[:700], source.name
    assert "not compiled here" in (MQL5 / "Copydesk.mqh").read_text()[:700]


def test_every_text_conversion_passes_its_length() -> None:
    """StringToCharArray appends a NUL unless it gets the length, a mistake that the vectors name."""
    for source in SOURCES:
        code = re.sub(r"//.*", "", source.read_text())
        assert "StringToCharArray" not in code
        assert code.count("CryptEncode") == (source.name == "Copydesk.mqh")


# --- hashes, requests, answers


def test_hashes_and_signs_any_length(terminal: Any) -> None:
    for length in range(140):
        text = "x" * length
        assert terminal("hash", text) == hashlib.sha256(text.encode()).hexdigest()
        for key in ("k" * length, SECRET):
            assert terminal("hmac", key, text) == hmac.new(key.encode(), text.encode(), "sha256").hexdigest()


def test_computes_the_published_hmac(terminal: Any) -> None:
    vector = VECTORS["rfc4231_2"]

    assert terminal("hmac", vector["key"], vector["data"]) == vector["mac"]
    assert terminal("hmac", vector["key"], "caf\u00e9") == ""  # nothing is signed that is not ASCII


@pytest.mark.parametrize("vector", VECTORS["requests"], ids=lambda vector: vector["name"])
def test_signs_the_published_requests(terminal: Any, vector: Any) -> None:
    effect = vector["idempotency_key"].removeprefix("-")
    signature = terminal(
        "sign", SECRET, vector["method"], vector["host"], vector["path"], vector["query"], vector["key"],
        vector["time"], vector["window"], vector["seq"], effect, vector["body"],
    )  # fmt: skip

    assert signature == vector["signature"]
    headers = terminal(
        "headers", vector["key"], vector["time"], vector["window"], vector["seq"], effect, signature,
        int(bool(vector["body"])),
    )  # fmt: skip
    assert dict(line.split(": ") for line in headers.splitlines()) == {
        "X-Cd-Key": vector["key"], "X-Cd-Time": str(vector["time"]), "X-Cd-Window": str(vector["window"]),
        "X-Cd-Seq": str(vector["seq"]), "X-Cd-Sig": f"v1={signature}",
    } | ({"Idempotency-Key": effect} if effect else {}) | (
        {"Content-Type": "application/json"} if vector["body"] else {}
    )  # fmt: skip


def believed(terminal: Any, *, to: str = "R2", header: str = "X-Cd-Response-Sig", **but: Any) -> Any:
    answer = VECTORS["response"] | but
    request = next(request for request in VECTORS["requests"] if request["name"] == to)
    headers = f"Server: x\r\nx-CD-response-time: {answer['time']}\r\n{header}:v1={answer['signature']}\r\nDate: y"
    return terminal("answers", SECRET, request["signature"], answer["status"], headers, answer["body"]) == "yes"


def test_accepts_the_published_answer_and_no_other(terminal: Any) -> None:
    assert believed(terminal)
    for forged in (
        {"status": 201}, {"time": 1767600000261}, {"body": "{}"}, {"body": ""}, {"to": "R1"}, {"signature": "0" * 64},
        {"signature": ""}, {"header": "X-Cd-Response-Si"}, {"header": "Y-X-Cd-Response-Sig"},
    ):  # fmt: skip
        assert not believed(terminal, **forged), forged


def test_takes_an_etag_that_the_desk_signed_and_no_other(terminal: Any) -> None:
    request, answer = VECTORS["requests"][1], VECTORS["response"]
    hashed = hashlib.sha256(answer["body"].encode()).hexdigest()
    lines = ["CD1-RESPONSE-ETAG", request["signature"], str(answer["status"]), str(answer["time"]), hashed, '"e1"']
    right = hmac.new(SECRET.encode(), "\n".join(lines).encode(), "sha256").hexdigest()

    def etag(signature: str = right, given: str = '"e1"', status: int = answer["status"]) -> Any:
        headers = f"X-Cd-Response-Time: {answer['time']}\r\nX-Cd-Response-Etag-Sig: v1={signature}\r\nETag: {given}"
        return terminal("etag", SECRET, request["signature"], status, headers, answer["body"])

    assert etag() == '"e1"'
    assert etag(given='"e2"') == etag(signature="0" * 64) == etag(given="") == etag(status=304) == ""


def test_compares_every_character_of_a_signature(terminal: Any) -> None:
    right = VECTORS["packets"][0]["signature"]

    assert terminal("same", right, right) == "yes"
    for at in range(64):
        assert terminal("same", right[:at] + "g" + right[at + 1 :], right) == "no"
    assert terminal("same", "", "") == "no"


# --- packets


def seed_refusal(terminal: Any, vector: Any) -> Any:
    return terminal("seed", PACKET_SECRET, *vector["fields"], "", "", "", vector["signature"])


def test_checks_the_published_packets(terminal: Any) -> None:
    for vector in VECTORS["packets"]:
        assert seed_refusal(terminal, vector) == "", vector["name"]
        assert seed_refusal(terminal, vector | {"signature": vector["signature"].upper()}) == ""
    for vector in VECTORS["packets_mac_ok_but_grammar_refused"]:
        assert seed_refusal(terminal, vector) == "packet_grammar", vector["name"]
    for name, wrong in VECTORS["recognisable_mistakes_for_K1"].items():
        assert seed_refusal(terminal, VECTORS["packets"][0] | {"signature": wrong}) == "packet_signature", name


def test_checks_the_published_packets_that_name_a_trade(terminal: Any) -> None:
    for vector in VECTORS["packets_v1"]["vectors"]:
        fields = vector["payload"].replace("|CP1|", "|").split("|")
        answer = terminal("packet", PACKET_SECRET, "7", 1, *fields, vector["signature"])

        # A heartbeat has no number and is read elsewhere: no guard acts on it.
        assert answer == ("packet_grammar" if "HEARTBEAT" in vector["name"] else ""), vector["name"]


def test_a_strangers_and_an_old_keys_packet_are_refused(terminal: Any) -> None:
    fields = fields_of(5, NOON, "OPEN", "t1")

    assert terminal("packet", PACKET_SECRET, SUB, 1, *fields, signed(fields)) == ""
    assert terminal("packet", PACKET_SECRET, "s-2", 1, *fields, signed(fields)) == "packet_stranger"
    assert terminal("packet", PACKET_SECRET, SUB, 2, *fields, signed(fields)) == "packet_stranger"
    for at in range(12):
        wrong = [*fields]
        wrong[at] += "1"
        assert terminal("packet", PACKET_SECRET, SUB, 1, *wrong, signed(fields)) == "packet_signature"


def python_holds(fields: Any) -> str:
    try:
        packets._check_grammar(dict(zip(NAMES, fields, strict=True)))
    except packets.PacketRefused:
        return "no"
    return "yes"


PIECES = ["", "0", "1", "9", "-", ".", "|", "a", "Z", " ", "_", "0.00000000", "00", "BUY", "OPEN", "GAPFILL", "+", "e"]


def test_both_grammars_agree(terminal: Any) -> None:
    rng = random.Random(7)
    good = [
        fields_of(5, NOON, action, "t1", "0.00000000" if action == "CLOSE" else "0.10000000")
        for action in ("OPEN", "CLOSE", "MODIFY")
    ] + [["s", "12", str(NOON), "-", "-", "0.00000000", "0.00000000", "", "", "GAPFILL", "13", "1"]]
    odd = [str(2**63 - 1), str(2**63), "9" * 19, "9" * 20, "1" * 13, "9999999999.00000000", "10000000000.00000000",
           "BUY_LIMIT", "BUY|SELL", "a" * 64, "a" * 65, "x" * 32, "x" * 33, "9" * 9, "9" * 10, "1.1000000",
           "01.10000000", "13", "14", "00000000.", ".00000000", "1.0000000\n", "1.00000000\r"]  # fmt: skip
    seen = {"yes": 0, "no": 0}
    for _ in range(4000):
        fields = [*rng.choice(good)]
        for _ in range(rng.choice((0, 1, 1, 1, 2))):
            at = rng.randrange(12)
            piece, text = rng.choice(PIECES), fields[at]
            cut = rng.randrange(len(text) + 1)
            fields[at] = rng.choice(
                [text[:cut] + piece + text[cut:], text[:cut] + text[cut + 1 :], piece, rng.choice(odd)]
            )
        answer = terminal("holds", *fields, "")
        assert answer == python_holds(fields), fields
        seen[answer] += 1
    assert min(seen.values()) > 400


def test_the_largest_number_has_no_successor(terminal: Any) -> None:
    last = ["s", str(2**63 - 1), str(NOON), "-", "-", "0.00000000", "0.00000000", "", "", "GAPFILL", str(-(2**63)), "1"]

    assert terminal("holds", *last, "") == "no"


def test_the_magic_number_is_the_guards(terminal: Any) -> None:
    for index in (0, 1, 65_535):
        for ref in ("t1", "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"):
            assert int(terminal("magic", index, ref)) == magic_of(index, ref)


def test_reads_the_terminals_codes_as_the_python_adapter_does(terminal: Any) -> None:
    done, refused, unknown = "012"
    expected = {code: done if code in mt5._DONE else refused if code in mt5._REFUSED else unknown for code in CODES}

    assert {code: terminal("outcome", code) for code in CODES} == expected
