"""A provider's and a copier's bot of a release: run with that release's `copybot` on PYTHONPATH.

Standard input is one JSON object: `url`, and for `provider` and `copier` each `key`, `secret` and the last number
`seq`. It prints what the desk answered.
"""

import hashlib
import json
import sys

from copybot.client import Client
from copybot.errors import DeskError

TRADE = {"symbol": "EURUSD", "type": "BUY", "volume": "0.10", "open_price": "1.10500"}


def bot(url: str, credential: dict[str, str]) -> Client:
    return Client(url, credential["key"], credential["secret"], seq=int(credential["seq"]))


def main() -> None:
    given = json.load(sys.stdin)
    provider, copier = bot(given["url"], given["provider"]), bot(given["url"], given["copier"])
    results: dict[str, object] = {}
    results["opened"] = provider.open(ticket_id="5001", sl="1.10000", **TRADE)["status"]
    provider.modify("5001", sl="1.10100")
    provider.reduce("5001", deal_id="d-9", volume="0.05", close_price="1.10800", profit="4")
    results["provider_holds"] = sorted(trade["ticket_id"] for trade in provider.active()["trades"])
    provider.close("5001", close_price="1.11000", profit="5", reason="TP")
    try:
        provider.open(ticket_id="5001", **TRADE)
    except DeskError as refusal:
        results["reopened"] = refusal.code
    status = {
        "strategy": "lena-eurusd", "seq": "1", "standing": "LIVE", "generation": 1,
        "digest": hashlib.sha256(b"").hexdigest(),
    }  # fmt: skip
    heartbeat = {"instance": "frozen-copier-0001", "subscriptions": [status]}
    results["heartbeat"] = sorted(copier.send("POST", "/api/v2/copier/beat", heartbeat).json())
    results["copier_sees"] = sorted(
        trade["ticket_id"] for trade in copier.active()["trades"] if trade["role"] == "master"
    )
    provider.hang_up()
    copier.hang_up()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
