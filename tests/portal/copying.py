"""What bots do before the pages of copying are looked at."""

from typing import Any

from tests.signed import opening

PAGE, COPIES = "/copying/", "/strategies/lena-eurusd/copies/"
ACTIVE, HEARTBEAT, SKIPS = "/api/v2/trades/active", "/api/v2/copier/beat", "/api/v2/copier/skips"
TERMS = {"mode": "MULTIPLIER", "multiplier": "0.5", "symbols": "", "symbol_map": ""}


def page_of(follows: Any, action: Any) -> str:
    return f"{PAGE}{follows.sub_id}/{action}/"


def opened(bot: Any, ticket: str = "1", **more: Any) -> Any:
    return bot.send("POST", fields=opening(ticket, **more)).json()["trade"]["trade_id"]


def copied(bot: Any, ref: Any, ticket: str = "501", **more: Any) -> None:
    assert bot.send("POST", fields={**opening(ticket, **more), "strategy": "lena-eurusd", "trade_ref": ref})


def close(bot: Any, ticket: Any) -> None:
    assert bot.send("DELETE", f"{ACTIVE}/{ticket}", query="close_price=1.11&profit=5&reason=TP").status_code == 200


def heartbeat(
    bot: Any, *, standing: str = "LIVE", seq: str = "0", digest: str = "0" * 64, copies: Any = None, **more: Any
) -> None:
    report = {"strategy": "lena-eurusd", "seq": seq, "standing": standing, "generation": 1, "digest": digest}
    report |= {} if copies is None else {"copies": copies}
    answer = bot.send("POST", HEARTBEAT, {"instance": "one-" * 4, "fence": None, "subscriptions": [report], **more})
    assert answer.status_code == 200, answer.content
