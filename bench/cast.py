"""Run as `python -m bench.cast FILE [FOLLOWERS]`: the bots of a run, made through the desk's verbs, their keys written to FILE.

First come the masters, one account and strategy each; then copiers' keys, all following the first strategy.
"""

import sys
from pathlib import Path

import django

MASTERS = 16


def main(file: Path, followers: int) -> None:
    django.setup()
    from django.db import transaction

    from audit import services as audit
    from config import cast
    from strategies import services as strategies

    with transaction.atomic():
        cast.instruments()
        owner = cast.user("bench")
        masters = [cast.account(owner, f"bench-{n:05d}") for n in range(MASTERS)]
        led = [cast.strategy(owner, account, account.name) for account in masters]
        keys = [cast.key(account, "master") for account in masters]
        for n in range(followers):
            account = cast.account(owner, f"follower-{n:05d}")
            strategies.subscribe(account=account, strategy=led[0], actor=audit.SYSTEM)
            keys.append(cast.key(account, "copier"))
    file.touch(mode=0o600)
    file.write_text("".join(f"{key.key} {key.secret}\n" for key in keys))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
