"""Run as `python -m bench.debits distinct|hot SECONDS THREADS FIRST_WALLET OFFSET`.

Prints “ready”, waits for a line, debits as fast as it can, and prints the number of applied debits.
"""

import sys
import threading
import time
import uuid
from decimal import Decimal

import django


def main(wallets: str, seconds: float, threads: int, first: int, offset: int) -> None:
    django.setup()
    from django.db import connections

    from wallets import services
    from wallets.models import TransferKind, Wallet

    applied = [0] * threads
    start = threading.Event()
    ends: list[float] = []

    def work(number: int) -> None:
        wallet = Wallet.objects.get(pk=first if wallets == "hot" else first + offset + number)
        start.wait()
        while time.monotonic() < ends[0]:
            try:
                services.debit_wallet(
                    wallet=wallet, amount=Decimal("0.01"), kind=TransferKind.FEE_PERFORMANCE, note="",
                    idempotency_key=uuid.uuid4().hex,
                )  # fmt: skip
            except services.WalletBusy:
                continue
            applied[number] += 1
        connections.close_all()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in workers:
        thread.start()
    print("ready", flush=True)
    sys.stdin.readline()
    ends.append(time.monotonic() + seconds)
    start.set()
    for thread in workers:
        thread.join()
    print(sum(applied), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), *map(int, sys.argv[3:6]))
