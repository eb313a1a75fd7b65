"""Translating symbols: a confused name would trade the wrong symbol."""

import random
from decimal import Decimal

import pytest

from copybot.broker import Outcome
from copybot.symbols import Named, Names


def test_a_suffix_holds_in_both_directions() -> None:
    names = Names(suffix=".vip")
    assert names.at_broker("EURUSD") == "EURUSD.vip"
    assert names.at_desk("EURUSD.vip") == "EURUSD"


def test_the_table_takes_precedence_over_the_affixes() -> None:
    names = Names({"GOLD": "XAUUSD", "BTCUSD": "BTCUSD"}, prefix="m.", suffix="+")
    assert [names.at_broker(symbol) for symbol in ("GOLD", "BTCUSD", "EURUSD")] == ["XAUUSD", "BTCUSD", "m.EURUSD+"]
    assert [names.at_desk(symbol) for symbol in ("XAUUSD", "BTCUSD", "m.EURUSD+")] == ["GOLD", "BTCUSD", "EURUSD"]


def test_without_configuration_names_are_the_same() -> None:
    assert Names().at_broker("EURUSD") == "EURUSD"
    assert Names().at_desk("EURUSD") == "EURUSD"


def test_refuses_a_table_that_gives_two_symbols_one_name() -> None:
    with pytest.raises(ValueError, match="both GOLD and XAUUSD"):
        Names({"GOLD": "XAUUSD.vip", "XAUUSD": "XAUUSD.vip"})


def test_refuses_an_affixed_name_that_is_in_the_table_as_anothers() -> None:
    names = Names({"GOLD": "XAUUSD.vip"}, suffix=".vip")
    assert names.at_broker("XAUUSD") is None
    assert names.at_desk("XAUUSD.vip") == "GOLD"


def test_a_name_that_the_table_sends_elsewhere_is_not_found_under_its_affixes() -> None:
    names = Names({"GER40": "DE40.cash"}, suffix=".vip")
    assert names.at_desk("GER40.vip") == "~GER40.vip"


def test_a_brokers_symbol_without_a_name_is_not_taken_for_another() -> None:
    names = Names(suffix=".vip")
    assert names.at_desk("EURUSD") == "~EURUSD"  # the broker's plain EURUSD is not the one that is traded
    assert names.at_broker("~EURUSD") == "EURUSD"


def test_names_survive_a_round_trip() -> None:
    rng = random.Random(3)
    parts = ["EURUSD", "GOLD", "XAUUSD", "x", ".vip", "+", "", "~"]
    for _ in range(5_000):
        table = {rng.choice(parts[:4]): rng.choice(parts[:4]) + rng.choice(parts[3:]) for _ in range(rng.randrange(4))}
        try:
            names = Names(table, prefix=rng.choice(["", "x"]), suffix=rng.choice(["", ".vip", "+"]))
        except ValueError:
            continue
        broker_name = "".join(rng.choices(parts, k=3))
        if broker_name:
            assert names.at_broker(names.at_desk(broker_name)) == broker_name
        desk_name = "".join(rng.choices(parts, k=2))
        if names.at_broker(desk_name) is not None:
            assert names.at_desk(names.at_broker(desk_name)) == desk_name


def test_an_order_in_a_symbol_without_a_name_is_refused_before_it_is_sent() -> None:
    named = Named(None, Names({"GOLD": "XAUUSD.vip"}, suffix=".vip"))
    answer = named.open(magic=1, symbol="XAUUSD", side="BUY", volume=Decimal(1), sl=None, tp=None)
    assert (answer.outcome, answer.why) == (Outcome.REJECTED, "symbol_unknown")
    assert named.quote("XAUUSD") is None
    assert named.spec("XAUUSD") is None
