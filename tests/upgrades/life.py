"""A desk's life in one minute: rows of every kind, for the database that a release is frozen with.

`freeze.py` runs this file inside the released version, through its `manage.py shell`, while its desk is up. So it
imports that version's names. It prints one JSON object: what the upgrade tests must know and cannot read from the
database. Bots use the desk over HTTP, people and staff use the services.
"""

import hashlib
import json
import os
from contextlib import ExitStack
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import transaction
from django.test import Client as Browser
from django.utils import timezone

from accounts import services as accounts
from accounts.models import BotKey, TradingAccount, User
from audit import services as audit
from config import demo_data
from copybot.client import Client
from copybot.errors import DeskError
from market.models import Candle
from market.services import uploads
from market.services.candles import Source
from strategies import services as strategies
from strategies.models import Strategy, Subscription, Terms
from trades import services as trades
from trades.models import ActiveTrade, TradeHistory
from trades.services import overdue_closes, staff
from trust import services as trust
from trust.models import ScoreKind, TrustHold
from wallets import services as wallets
from wallets.models import FeeAgreement, FeeClaim, FeeRefund, FeeTerms, MoneyRequest, TransferKind, Wallet
from wallets.services import agreements, ledger_halt, refunds, settlement

LENA = "lena-eurusd"
DAY = timedelta(days=1)


def opening(ticket: str, **more: str) -> dict[str, str]:
    return {
        "ticket_id": ticket, "symbol": "EURUSD", "type": "BUY", "volume": "0.40", "open_price": "1.10500",
        "sl": "1.10000", "tp": "1.12000", **more,
    }  # fmt: skip


def refused(call: Any) -> str:
    try:
        call()
    except DeskError as refusal:
        return str(refusal.code)
    raise AssertionError("the desk did not refuse this")


# --- people and their accounts


def another(name: str, *, follows: Strategy | None = None) -> TradingAccount:
    """Create another person with a trading account that follows this strategy."""
    account = demo_data.account(demo_data.user(name), f"{name}-mt5")
    if follows is not None:
        with transaction.atomic():
            strategies.subscribe(account=account, strategy=follows, actor=audit.SYSTEM)
    return account


def wallet_of(account: TradingAccount) -> Wallet:
    return wallets.wallet_of(owner=account.owner, currency="USD")


def accept(account: TradingAccount, strategy: Strategy, *, now: datetime) -> FeeAgreement:
    """Accept the strategy's latest fee terms."""
    terms, subscription = agreements.latest_terms(strategy), Subscription.objects.get(account=account)
    assert terms is not None
    return agreements.accept(subscription=subscription, terms=terms, actor=audit.SYSTEM, now=now)


def terms(lena: Strategy) -> None:
    """Subscriptions of each status; terms that changed, and a packet secret that was rotated."""
    for name, do in (("ella", strategies.end), ("paul", strategies.pause)):
        do(subscription=Subscription.objects.get(account=another(name, follows=lena)), actor=audit.SYSTEM)
    paused = Subscription.objects.get(account__name="paul-mt5")
    strategies.set_terms(
        subscription=paused, actor=audit.SYSTEM, mode=Terms.Mode.EQUITY, max_volume=Decimal(2),
        max_drawdown_pct=Decimal(30), symbol_map={"EURUSD": "EURUSD.vip"},
    )  # fmt: skip
    strategies.rotate_packet_secret(subscription=paused, actor=audit.SYSTEM)


def colleague(name: str) -> User:
    """Make a superuser, as an operator on the server does."""
    User.objects.using("owner").create(username=name, is_staff=True, is_superuser=True)
    return User.objects.get(username=name)


def rights(staff: User, second: User, person: User) -> None:
    """A request for rights that was approved, and one that waits."""
    for reason in ("As agreed", "Later"):
        request = accounts.request_rights(
            person=person, rights=accounts.rights_of(person), reason=reason, by=staff, actor=audit.SYSTEM
        )
        if reason != "Later":
            accounts.approve(request=request, by=second, actor=audit.SYSTEM)


# --- bots


def lead(desk: Client) -> dict[str, Any]:
    """A provider's trades in every state. The result is a request with its answer, which a repeat must get again."""
    for ticket in ("1001", "1002", "1003", "1004", "1005", "1006"):
        desk.open(**opening(ticket, comment="breakout"))
    desk.modify("1002", sl="1.10100", tp=None)
    desk.reduce("1003", deal_id="d-1", volume="0.25", close_price="1.10800", profit="45.5")
    desk.close("1005", close_price="1.11000", profit="200.25", reason="TP")
    desk.reduce("1006", deal_id="d-2", volume="0.10", close_price="1.10900", profit="120")
    desk.close("1006", close_price="1.10400", profit="-10", reason="SL")
    desk.close("1999", close_price="1.2", profit="0", reason="MANUAL")  # its open comes later: a tombstone stands
    assert refused(lambda: desk.open(**opening("1999"))) == "trade_closed"
    assert refused(lambda: desk.open(**opening("1005"))) == "trade_closed"
    request = {"ticket": "1004", "idempotency_key": "kept-by-the-desk-0001", "sl": "1.10300"}
    request["answer"] = desk.modify("1004", idempotency_key=request["idempotency_key"], sl=request["sl"])
    return request


def digest(copies: dict[str, str]) -> str:
    return hashlib.sha256("".join(sorted(f"{ref} {lots}\n" for ref, lots in copies.items())).encode()).hexdigest()


def heartbeat(desk: Client) -> None:
    status = {"strategy": LENA, "seq": "1", "standing": "LIVE", "generation": 1, "digest": digest({})}
    fields = {"instance": "frozen-copier-0001", "subscriptions": [status], "balance": "10000", "equity": "10010.5"}
    desk.send("POST", "/api/v2/copier/beat", fields)
    symbols = [{"symbol": "EURUSD", "contract_size": "100000", "volume_min": "0.01"}]
    desk.send(
        "POST", "/api/v2/account", {"balance": "10000", "equity": "10010.5", "currency": "USD", "symbols": symbols}
    )


def copy(desk: Client, ticket: str, seq: int, status: str = "executed", **more: str) -> None:
    """Open a copy with its execution report."""
    order = {"strategy": LENA, "seq": str(seq), "master_ticket": ticket, "volume": "0.20", "requested_price": "1.105"}
    desk.report_order(**order, type="BUY", latency_ms=120, status=status, **more)
    if status == "executed":
        desk.open(**opening(f"9{ticket}", volume="0.20"), master_ticket=ticket, strategy=LENA)


def follow(lena: Client, finn: Client) -> None:
    """Copies, execution reports of every status, a skip, and one overdue close of each kind: past and present."""
    heartbeat(finn)
    lena.open(**opening("1007"))
    lena.open(**opening("1008"))
    lena.open(**opening("1009"))
    copy(finn, "1001", 1, executed_price="1.10502")
    copy(finn, "1003", 3, executed_price="1.10499")
    copy(finn, "1007", 9, executed_price="1.10499")
    copy(finn, "1008", 10, executed_price="1.10499")
    copy(finn, "1002", 2, status="failed", failed_reason="INSUFFICIENT_FUNDS")
    copy(finn, "1004", 4, status="pending")
    copy(finn, "1004", 4, status="cancelled")
    skipped = next(trade for trade in lena.active()["trades"] if trade["ticket_id"] == "1002")
    finn.skip(strategy=LENA, trade_ref=skipped["trade_id"], reason="no_money", detail="margin 12.50")
    finn.reduce("91003", deal_id="c-1", volume="0.10", close_price="1.10800", profit="20")
    for ticket in ("1007", "1008", "1009"):
        lena.close(ticket, close_price="1.11000", profit="200", reason="TP")
    overdue_closes.update()  # the copies of 1007 and 1008 are overdue
    finn.close("91007", close_price="1.10990", profit="99.8", reason="RECONCILED")
    overdue_closes.update()


def alarms(desk: Client) -> None:
    """One alarm that is present and one that was cleared."""
    kept = {"kind": "waiting", "ticket": "91001", "strategy": LENA, "detail": "its close is not in the history yet"}
    for present in ([kept, {"kind": "terminal"}], [kept]):
        desk.send("POST", "/api/v2/account/alarms", {"alarms": present})


def trade(url: str, keys: dict[str, accounts.NewSecret]) -> dict[str, Any]:
    """Let all bots trade; return the request of `lead`."""
    with ExitStack() as ends:

        def bot(name: str) -> Client:
            client = Client(url, keys[name].key, keys[name].secret)
            ends.callback(client.hang_up)
            return client

        provider, copier = bot("lena master"), bot("finn copier")
        request = lead(provider)
        follow(provider, copier)
        alarms(copier)
        bot("sam master").open(**opening("3001", symbol="XAUUSD", open_price="1900", sl="1890", tp="1950"))
        return request


# --- money


def move_money(finn: TradingAccount, first: User, second: User) -> None:
    wallet, sam = wallet_of(finn), wallets.wallet_of(owner=User.objects.get(username="sam"), currency="USD")
    staff = audit.SYSTEM
    wallets.deposit(wallet=wallet, amount=Decimal("750.25"), note="Bank transfer", idempotency_key="deposit-1")
    wallets.transfer(source=wallet, target=sam, amount=Decimal("100"), note="Gift", idempotency_key="gift-1")
    mistake = wallets.debit_wallet(
        wallet=wallet, amount=Decimal("12.5"), kind=TransferKind.ADJUSTMENT, note="Mistake", idempotency_key="mistake-1"
    )
    wallets.reverse(transfer_id=mistake.transfer_id, note="Undone", idempotency_key="undone-1")
    for purpose in ("spent", "void", "over", "kept"):
        hold = wallets.hold(
            wallet=wallet, amount=Decimal(20), purpose=purpose, idempotency_key=f"hold-{purpose}",
            expires_at=timezone.now() + DAY,
        )  # fmt: skip
        if purpose == "spent":
            wallets.post(
                wallet=wallet, hold_id=hold, amount=Decimal("19.5"), kind=TransferKind.ADJUSTMENT, note="Paid",
                idempotency_key="post-1",
            )  # fmt: skip
        elif purpose == "void":
            wallets.void(hold_id=hold)
        elif purpose == "over":
            wallets.expire(hold_id=hold)
    ask = {"wallet": wallet, "by": first, "actor": staff}
    kinds = MoneyRequest.Kind
    large = wallets.request_money(
        kind=kinds.DEPOSIT, amount=Decimal(5000), reason="Wire", idempotency_key="ask-1", **ask
    )
    wallets.approve(request=large, by=second, actor=staff)
    refused_one = wallets.request_money(
        kind=kinds.WITHDRAWAL, amount=Decimal(1500), reason="Rent", idempotency_key="ask-2", **ask
    )
    wallets.reject(request=refused_one, by=second, reason="No such bank", actor=staff)
    wallets.request_money(kind=kinds.WITHDRAWAL, amount=Decimal(1100), reason="Car", idempotency_key="ask-3", **ask)
    wallets.request_money(kind=kinds.ADJUSTMENT, amount=Decimal("-3.5"), reason="Cent", idempotency_key="ask-4", **ask)
    wallets.freeze(wallet=sam, reason="Looked into", actor=staff)
    ledger_halt.halt(why="a drill")
    ledger_halt.resume()


def earn(lena: TradingAccount, account: TradingAccount, *, profit: str, number: int) -> None:
    """Let the account copy one trade of lena's that makes this profit."""
    ticket = str(2000 + number)
    opened = {"symbol": "EURUSD", "type": "BUY", "volume": Decimal(1), "open_price": Decimal("1.1")}
    with transaction.atomic():
        trades.open_trade(account=lena, ticket_id=ticket, **opened)
        trades.open_trade(account=account, ticket_id=f"9{ticket}", copies=(LENA, ticket), **opened)
    price = Decimal("1.1") + Decimal(profit) / 100_000
    with transaction.atomic():
        for owner, own in ((lena, ticket), (account, f"9{ticket}")):
            trades.close_trade(account=owner, ticket_id=own, close_price=price, profit=Decimal(profit), reason="TP")


def charge(lena: Strategy) -> None:
    """Fees in every state: paid out, collected, collected in part and overdue, and set aside for an open period.

    Periods end in a month's time, so the clock is given as an argument. These people trade no more afterwards: what
    they earned within the settled period stays what was settled.
    """
    FeeTerms.objects.create(strategy=lena, performance_bps=2000, platform_bps=2500, subscription_fee=Decimal(30))
    now = timezone.now()
    followers = [
        ("gwen", "900", "1000", (lambda: 41 * DAY)), ("hugo", "500", "1000", (lambda: DAY)),
        ("iris", "10", "1000", (lambda: DAY)), ("jack", "100", "300", None),
    ]  # fmt: skip
    for number, (name, money, profit, ahead) in enumerate(followers, 1):
        account = another(name, follows=lena)
        wallets.deposit(wallet=wallet_of(account), amount=Decimal(money), note="", idempotency_key=f"in-{name}")
        agreement = accept(account, lena, now=now)
        earn(lena.account, account, profit=profit, number=number)
        if ahead is None:
            settlement.reserve(agreement_id=agreement.pk, now=now)
            continue
        later = agreement.due_at + timedelta(minutes=10)
        assert settlement.settle(agreement_id=agreement.pk, now=later) is not None
        assert settlement.charge_subscription(agreement_id=agreement.pk, now=later) is not None
        for claim in FeeClaim.objects.filter(agreement=agreement):
            settlement.collect(claim_id=claim.pk)
            settlement.pay_out(claim_id=claim.pk, now=timezone.now() + ahead())
    FeeTerms.objects.create(strategy=lena, performance_bps=1500, platform_bps=2500, subscription_fee=Decimal(30))
    agreements.keep_notices(now=now)


# --- trust


def intervene(by: User, second: User) -> None:
    """Staff's order to close a copy, a close and a correction that wait, and a correction that was approved."""
    asking = {"by": by, "actor": audit.SYSTEM}
    copy = ActiveTrade.objects.get(ticket_id="91008")
    staff.order_close(copy_id=copy.pk, note="Margin call", **asking)
    master = ActiveTrade.objects.get(ticket_id="1001")
    staff.close(trade_id=master.pk, close_price=Decimal(9), note="Its bot is gone", now=timezone.now(), **asking)
    for ticket, profit in (("1005", "200"), ("1006", "100")):
        closed = TradeHistory.objects.get(ticket_id=ticket)
        request = staff.request_correction(
            trade_id=closed.pk, close_price=closed.close_price, profit=Decimal(profit), reason="A typo", **asking
        )
        if ticket == "1005":
            staff.approve(request=request, by=second, actor=audit.SYSTEM)


def give_back(lena: Strategy, by: User, second: User) -> None:
    """A fee on a wrong profit that was refunded, and recovered from the provider in part."""
    account = another("kate", follows=lena)
    agreement = accept(account, lena, now=timezone.now())
    earn(lena.account, account, profit="1000", number=9)
    for profit in ("500", ""):
        agreement.refresh_from_db()
        assert settlement.settle(agreement_id=agreement.pk, now=agreement.due_at + timedelta(minutes=10)) is not None
        if profit:
            closed = TradeHistory.objects.get(account=account)
            request = staff.request_correction(
                trade_id=closed.pk, close_price=closed.close_price, profit=Decimal(profit), reason="A typo", by=by,
                actor=audit.SYSTEM,
            )  # fmt: skip
            staff.approve(request=request, by=second, actor=audit.SYSTEM)
    refunds.recover(refund_id=FeeRefund.objects.get(agreement=agreement).pk)


def judge(staff: User) -> None:
    """Scores with their assessments, a hold that stands and one that ended, an appeal that waits and one answered."""
    lena, sam = User.objects.get(username="lena"), User.objects.get(username="sam")
    for user in (lena, sam, User.objects.get(username="finn")):
        trust.make_due([user.pk])
        trust.recalculate(user_id=user.pk, always=True)
    hold = {"kind": ScoreKind.FLOW, "by": staff, "actor": audit.SYSTEM, "expires_at": timezone.now() + 30 * DAY}
    trust.hold(user=sam, effect=TrustHold.Effect.CLOSE_ONLY, reason="Looked into", **hold)
    first_hold = trust.hold(user=lena, effect=TrustHold.Effect.OPEN, reason="Known to us", **hold)
    trust.end_hold(held=first_hold, by=staff, actor=audit.SYSTEM)
    trust.appeal(user=sam, kind=ScoreKind.FLOW, note="Those trades were hedges.", actor=audit.SYSTEM)
    answered = trust.appeal(user=lena, kind=ScoreKind.FLOW, note="Why 90?", actor=audit.SYSTEM)
    trust.answer(appealed=answered, text="Few trades so far.", by=staff, actor=audit.SYSTEM)


def live(url: str) -> dict[str, Any]:
    """Live this life on the desk at `url`, whose database this process uses; return the facts that the tests need."""
    seeded = demo_data.make()
    desk = User.objects.get(username="desk")
    second = colleague("second")
    lena, finn, sam = (TradingAccount.objects.get(name=f"{name}-mt5") for name in ("lena", "finn", "sam"))
    leads = Strategy.objects.get(account=lena)
    keys = {f"{key['owner']} {key['kind']}": accounts.NewSecret(key["key"], key["secret"]) for key in seeded["keys"]}
    with transaction.atomic():
        revoked, keys["sam revoked"] = accounts.create_key(account=sam, kind=BotKey.Kind.READONLY, actor=audit.SYSTEM)
    accounts.revoke_key(key=revoked, actor=audit.SYSTEM)
    rights(desk, second, finn.owner)
    terms(leads)
    request = trade(url, keys)
    with transaction.atomic():
        used = BotKey.objects.get(account=sam, kind=BotKey.Kind.MASTER)
        keys["sam rotated"] = accounts.rotate_key(key=used, actor=audit.SYSTEM)
    move_money(finn, desk, second)
    charge(leads)
    intervene(desk, second)
    give_back(leads, desk, second)
    judge(desk)
    uploads.upload(
        name="bars.csv", content=b"time,open,high,low,close,volume\n2018-01-01T00:00:00Z,1,1,1,1,1\n",
        source=Source("EURUSD", 1440), actor=audit.SYSTEM, now=timezone.now(),
    )  # fmt: skip
    browser = Browser()
    browser.force_login(finn.owner)
    few = list(Candle.objects.order_by("opened_at").values_list("opened_at", flat=True)[:200])
    Candle.objects.filter(opened_at__gt=few[-1]).delete()
    active = ActiveTrade.objects.filter(account__in=[lena, finn, sam]).order_by("account_id", "ticket_id")
    return {
        "keys": {name: {"key": key.key, "secret": key.secret} for name, key in keys.items()},
        "subscription": seeded["subscriptions"][0],
        "open": [[trade.account.name, trade.ticket_id] for trade in active.select_related("account")],
        "closed": "1005",
        "tombstone": "1999",
        "kept": request,
        "session": browser.cookies["sessionid"].value,
    }


if __name__ == "__main__":
    print("FACTS " + json.dumps(live(f"http://127.0.0.1:{os.environ['PORT']}")))
