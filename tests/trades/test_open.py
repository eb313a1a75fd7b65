"""Opening a trade."""

from tests.signed import opening


def test_opens_a_trade_that_is_then_active(lena_bot):
    answer = lena_bot.send("POST", fields=opening("1"))

    assert answer.status_code == 201
    assert answer.json()["status"] == "broadcasted"
    (trade,) = lena_bot.send("GET").json()["trades"]
    assert trade["ticket_id"] == "1"
    assert trade["volume"] == "0.10000000"


def test_answers_a_repeated_open_as_the_first(lena_bot):
    lena_bot.send("POST", fields=opening("1"))

    again = lena_bot.send("POST", fields=opening("1"))

    assert again.status_code == 200
    assert again["Idempotency-Replayed"] == "true"
    assert lena_bot.send("GET").json()["as_of"] == {"lena-eurusd": "1"}


def test_refuses_other_content_under_an_open_ticket(lena_bot):
    lena_bot.send("POST", fields=opening("1"))

    other = lena_bot.send("POST", fields=opening("1", volume="0.20000000"))

    assert (other.status_code, other.json()["code"]) == (409, "trade_exists_different")
