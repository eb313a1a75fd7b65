"""Run as `python -m bench.demo_data FOLDER`.

Creates the bots of a run through the desk's services and writes their keys to FOLDER.

`masters`: keys of sixteen accounts, each with a strategy. `watchers`: read-only keys of the first account.
`followers`: copiers' keys of accounts that follow the second strategy. It also creates wallets with ample balances.
"""

import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import django

from core.transactions import use_case

MASTERS = WATCHERS = 16
FOLLOWERS = 64
WALLETS = 64


def main(folder: Path) -> None:
    django.setup()

    from accounts import services as accounts
    from audit import services as audit
    from config import demo_data
    from strategies import services as strategies
    from wallets import services as wallets

    def key(account: Any, kind: str) -> accounts.NewSecret:
        return accounts.create_key(account=account, kind=kind, actor=audit.SYSTEM, label="bench")[1]

    with use_case():
        demo_data.instruments()
        owner = demo_data.user("bench")
        provider_accounts = [demo_data.account(owner, f"bench-{number:02d}") for number in range(MASTERS)]
        strategies_of_providers = [demo_data.strategy(owner, account, account.name) for account in provider_accounts]
        follower_accounts = [demo_data.account(owner, f"follower-{number:02d}") for number in range(FOLLOWERS)]
        for account in follower_accounts:
            strategies.subscribe(account=account, strategy=strategies_of_providers[1], actor=audit.SYSTEM)
        owners = [demo_data.user(f"payer-{number:02d}") for number in range(WALLETS)]
        funded = [wallets.wallet_of(owner=payer, currency="USD") for payer in owners]
        first, second = (demo_data.user(name, staff=True) for name in ("teller", "second teller"))
        _write(folder / "masters", [key(account, "master") for account in provider_accounts])
        _write(folder / "watchers", [key(provider_accounts[0], "readonly") for _ in range(WATCHERS)])
        _write(folder / "followers", [key(account, "copier") for account in follower_accounts])
    for wallet in funded:  # so much needs two people
        request = wallets.request_money(
            wallet=wallet, kind="DEPOSIT", amount=Decimal(10**9), reason="", idempotency_key="bench", by=first,
            actor=audit.SYSTEM,
        )  # fmt: skip
        wallets.approve(request=request, by=second, actor=audit.SYSTEM)


def _write(path: Path, keys: list[Any]) -> None:
    path.touch(mode=0o600)
    path.write_text("".join(f"{key.key} {key.secret}\n" for key in keys))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
