"""Run as `python -m bench.judge bars|judge NUMBER OF`.

`bars` imports the prices. `judge` prints “ready”, waits for a line, recalculates the trust scores of every OFth
provider from NUMBER on, and prints their number.
"""

import sys

import django


def main(what: str, number: int, of: int) -> None:
    django.setup()
    from django.utils import timezone

    from audit import services as audit
    from market import services as market
    from market.services import candles
    from strategies.models import Strategy
    from trust import services

    if what == "bars":
        candles.import_candles(
            path=market.EURUSD_1H, source=candles.Source("EURUSD", 60), actor=audit.SYSTEM, now=timezone.now()
        )
        return
    providers = Strategy.objects.filter(name__startswith="bench-trust-").order_by("pk")
    owners = list(providers.values_list("owner_id", flat=True))[number::of]
    print("ready", flush=True)
    sys.stdin.readline()
    for owner in owners:
        services.recalculate(user_id=owner)
    print(len(owners), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
