"""A score is recalculated from everything that is known, under the user's lock, and explains itself."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import OperationalError, connections, transaction
from django.utils import timezone

from accounts.models import TradingAccount
from audit import services as audit
from audit.models import AuditLog
from core.answers import iso
from market.models import Candle, Instrument
from strategies.models import Strategy, Subscription
from tests.signed import opening
from tests.trust import flows
from tests.trust.flows import flow
from trades import services as trades
from trades.models import CopyOrder
from trust import checks, detector, evidence, faults, services, standing, tasks, telling
from trust.models import Kind, TrustAssessment, TrustHold, TrustScore, TrustSubject

DAY = timedelta(days=1)


def score_of(user, kind=Kind.FLOW):
    return TrustScore.objects.get(user=user, kind=kind)


def closed(account, ticket, profit="10"):
    with transaction.atomic():
        trades.open_trade(
            account=account,
            ticket_id=str(ticket),
            symbol="EURUSD",
            type="BUY",
            volume=Decimal(1),
            open_price=Decimal("1.1"),
        )
        trades.close_trade(
            account=account, ticket_id=str(ticket), close_price=Decimal("1.2"), profit=Decimal(profit), reason="TP"
        )


@pytest.fixture
def user(lena):
    return lena.owner


def set_score(user, kind, score):
    """As a calculation would write it."""
    with transaction.atomic():
        services._write(user, kind, timezone.now(), score=Decimal(score), features=[], inputs={}, as_of="")


def test_a_provider_has_three_scores_and_a_follower_one(lena, finn):
    services.recalculate(user_id=lena.owner.pk)
    services.recalculate(user_id=finn.owner.pk)

    assert set(TrustScore.objects.filter(user=lena.owner).values_list("kind", flat=True)) == set(Kind.values)
    assert list(TrustScore.objects.filter(user=finn.owner).values_list("kind", flat=True)) == [Kind.ENDPOINT]


def test_each_calculation_leaves_an_assessment_on_top_of_the_last(user):
    for _ in range(3):
        services.recalculate(user_id=user.pk, always=True)

    versions = TrustAssessment.objects.filter(user=user, kind=Kind.FLOW).order_by("version")
    assert [(one.version, one.prev_version) for one in versions] == [(1, None), (2, 1), (3, 2)]
    assert score_of(user).version == 3
    assert checks.faults() == []


def test_where_nothing_has_changed_no_assessment_is_written(user, lena, lena_bot):
    refused(lena_bot.key, "trade_closed", [0])
    for ticket in range(1, 40):
        closed(lena, ticket)
    now = timezone.now()
    for hours in range(4):
        services.recalculate(user_id=user.pk, now=now + timedelta(hours=hours))
    assert set(TrustAssessment.objects.filter(user=user).values_list("version", flat=True)) == {1}
    assert score_of(user).calculated_at == now + timedelta(hours=3)

    closed(lena, 40)
    services.recalculate(user_id=user.pk)
    assert [score_of(user, kind).version for kind in (Kind.ENDPOINT, Kind.FLOW)] == [1, 2]


@pytest.mark.parametrize("kind", [*flows.HONEST, *flows.TOXIC])
def test_the_same_flow_is_the_same_assessment(user, lena, monkeypatch, kind):
    known = flows.flow(kind, 3)
    monkeypatch.setattr(evidence, "of_provider", lambda strategy, now: known)
    for _ in range(2):
        services.recalculate(user_id=user.pk, now=known.until)

    assert TrustAssessment.objects.filter(user=user, kind=Kind.FLOW).count() == 1


def test_a_change_of_standing_is_an_assessment_though_the_score_is_the_same(user, lena, staff):
    services.recalculate(user_id=user.pk)
    held(user, staff, TrustHold.Effect.CLOSE_ONLY)

    assert score_of(user).version == 2


def test_the_score_is_what_the_detector_says(user, lena):
    for ticket in range(1, 6):
        closed(lena, ticket)
    now = timezone.now()
    services.recalculate(user_id=user.pk, now=now)

    said = detector.assess(evidence.of_provider(lena.strategy, now=now), now=now)
    assert score_of(user).score == said.score
    assert TrustAssessment.objects.get(user=user, kind=Kind.FLOW).inputs["deals"] == 5


def hours_of(minutes):
    return [one.minutes for one in evidence.bars_of("EURUSD", NOW - 30 * DAY, NOW)][:1] == [minutes]


def test_bars_of_an_hour_are_preferred_where_they_reach_far_enough(lena):
    Candle.objects.all().delete()
    add_bars(NOW - 20 * DAY, 20, minutes=1440)
    assert hours_of(1440)
    add_bars(NOW - 2 * DAY, 30)
    assert hours_of(1440)  # two days of hours say little of twenty days
    add_bars(NOW - 15 * DAY, 90, minutes=240)
    assert hours_of(240)
    add_bars(NOW - 14 * DAY, 200)
    assert hours_of(60)


def test_bars_of_minutes_are_gathered_to_hours(lena):
    Candle.objects.all().delete()
    first = (NOW - 2 * DAY).replace(minute=0, second=0, microsecond=0)
    add_bars(first, 119, minutes=1)
    Candle.objects.bulk_create(
        Candle(instrument_id="EURUSD", minutes=1, opened_at=first + timedelta(minutes=119), open=2, high=4, low=1,
               close=3, volume=1)
        for _ in range(1)
    )  # fmt: skip
    one, two = evidence.bars_of("EURUSD", NOW - 30 * DAY, NOW)

    assert (one.opened_at, one.minutes, two.opened_at) == (first, 60, first + timedelta(hours=1))
    assert (one.open, one.high, one.low, one.close) == tuple(map(Decimal, ("1.1", "1.2", "1.05", "1.1")))
    assert (two.open, two.high, two.low, two.close) == tuple(map(Decimal, ("1.1", "4", "1", "3")))


def second_of(account, currency="JPY"):
    """Another strategy of the same provider."""
    other = TradingAccount.objects.create(
        owner=account.owner, name="second", broker="b", server="s", login="2", currency=currency
    )
    return Strategy.objects.create(name="second", owner=account.owner, account=other)


def test_each_strategy_is_judged_by_itself_and_the_worst_counts(user, lena, monkeypatch):
    flows_of = {lena.strategy: flow("trend", 3), second_of(lena): flow("martingale", 7)}
    monkeypatch.setattr(evidence, "of_provider", lambda strategy, now: flows_of[strategy])
    now = timezone.now()
    services.recalculate(user_id=user.pk, now=now)

    calm, harmful = (detector.assess(known, now=now).score for known in flows_of.values())
    assert calm > harmful == score_of(user).score
    assert TrustAssessment.objects.get(user=user, kind=Kind.FLOW).inputs["strategy"] == "second"
    (told,) = [one for one in telling.tell(user) if one.score.kind == Kind.FLOW]
    assert told.strategy == "second"


def test_of_strategies_alike_the_one_that_says_most_is_told(user, lena):
    second_of(lena)
    closed(lena, 1)
    services.recalculate(user_id=user.pk)

    assert TrustAssessment.objects.get(user=user, kind=Kind.FLOW).inputs["strategy"] == "lena-eurusd"


def test_a_strategy_holds_its_own_trades_and_money_alone(lena):
    second = second_of(lena)
    closed(lena, 1)
    closed(second.account, 2, profit="1500")

    assert [len(known_of(account).deals) for account in (lena, second.account)] == [1, 1]
    assert known_of(lena).worth == {"EURUSD": 100_000}
    assert known_of(second.account).worth == {}


def add_bars(first, count, minutes=60, low="1.05"):
    Candle.objects.bulk_create(
        Candle(
            instrument_id="EURUSD", minutes=minutes, opened_at=first + timedelta(minutes=minutes * number),
            open=Decimal("1.1"), high=Decimal("1.2"), low=Decimal(low), close=Decimal("1.1"), volume=1,
        )
        for number in range(count)
    )  # fmt: skip


def test_bars_that_come_in_late_are_seen_and_lengths_are_not_mixed(lena):
    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    Candle.objects.all().delete()
    Instrument.objects.get_or_create(symbol="EURUSD", defaults={"point": "0.00001", "contract_size": 100_000})
    since = now - 30 * DAY
    add_bars(now - 2 * DAY, 24)
    assert len(evidence.bars_of("EURUSD", since, now)) == 24

    add_bars(now - 4 * DAY, 24)  # older than the latest that is known
    add_bars(now - DAY, 100, minutes=5)
    found = evidence.bars_of("EURUSD", since, now)
    assert (len(found), {one.minutes for one in found}) == (48, {60})


def known_of(account, now=None):
    return evidence.of_provider(account.strategy, now=now or timezone.now())


def test_copies_are_matched_with_what_they_copied(lena, finn):
    opening = {"symbol": "EURUSD", "type": "BUY", "volume": Decimal(1), "open_price": Decimal("1.1")}
    with transaction.atomic():
        trades.open_trade(account=lena, ticket_id="1", **opening)
        trades.open_trade(account=finn, ticket_id="9", copies=(lena.strategy.name, "1"), **opening)
        for account, ticket, price in ((lena, "1", "1.2"), (finn, "9", "1.14")):
            trades.close_trade(
                account=account, ticket_id=ticket, close_price=Decimal(price), profit=Decimal(1), reason="TP"
            )
    known = evidence.of_provider(lena.strategy, now=timezone.now())

    assert [(one.of, one.close_price) for one in known.copies] == [(known.deals[0].ref, Decimal("1.14"))]


def executed(account, ticket, price, symbol="EURUSD"):
    CopyOrder.objects.using("owner").create(
        account=account, strategy=Strategy.objects.get(name="lena-eurusd"), seq=1, master_ticket=ticket, symbol=symbol,
        type="BUY", status="executed", volume=1, requested_price=1, executed_price=Decimal(price),
    )  # fmt: skip


def test_a_report_that_is_repeated_is_heard_once_and_ones_own_never(lena, finn, sam):
    for price in ("1.5", "2", "3"):
        executed(finn, "1", price)
    executed(finn, "2", "1.6")
    executed(sam, "1", "1.7")
    executed(second_of(lena).account, "1", "9")
    executed(sam, "77", "8", symbol="")  # of a trade that there is not

    fills = known_of(lena).fills
    assert [(one.executed_price, one.owner) for one in fills] == [
        (Decimal("1.7"), str(sam.owner.pk)), (Decimal("1.6"), str(finn.owner.pk)), (Decimal("1.5"), str(finn.owner.pk)),
    ]  # fmt: skip


def test_a_trade_that_is_copied_twice_by_one_account_is_one_copy(lena, finn):
    opening = {"symbol": "EURUSD", "type": "BUY", "volume": Decimal(1), "open_price": Decimal("1.1")}
    with transaction.atomic():
        trades.open_trade(account=lena, ticket_id="1", **opening)
        for ticket, price in (("9", "1.14"), ("10", "0.5")):
            trades.open_trade(account=finn, ticket_id=ticket, copies=(lena.strategy.name, "1"), **opening)
            trades.close_trade(
                account=finn, ticket_id=ticket, close_price=Decimal(price), profit=Decimal(1), reason="TP"
            )

    assert [(one.close_price, one.owner) for one in known_of(lena).copies] == [(Decimal("1.14"), str(finn.owner.pk))]


def test_a_trade_begins_when_the_desk_learns_of_it_whatever_its_bot_says(lena):
    told = timezone.now() - 3 * DAY
    opening = {"symbol": "EURUSD", "type": "BUY", "volume": Decimal(1), "open_price": Decimal("1.1"), "opened_at": told}
    with transaction.atomic():
        for ticket in ("1", "2"):
            trades.open_trade(account=lena, ticket_id=ticket, **opening)
        trades.close_trade(account=lena, ticket_id="1", close_price=Decimal("1.2"), profit=Decimal(-5), reason="TP")
    known = known_of(lena)

    (deal,), (position,) = known.deals, known.positions
    assert timedelta(0) <= deal.held < timedelta(minutes=1)
    assert timezone.now() - position.opened_at < timedelta(minutes=1)


def test_a_trade_that_was_closed_in_parts_was_closed_at_the_average(lena):
    opening = {"symbol": "EURUSD", "type": "BUY", "volume": Decimal(4), "open_price": Decimal("1.1")}
    with transaction.atomic():
        trades.open_trade(account=lena, ticket_id="1", **opening)
        trades.reduce_trade(
            account=lena, ticket_id="1", deal_id="7", volume=Decimal(1), close_price=Decimal("1.3"), profit=Decimal(60)
        )
        trades.close_trade(account=lena, ticket_id="1", close_price=Decimal("1.1"), profit=Decimal(0), reason="SL")

    (deal,) = known_of(lena).deals
    assert deal.close_price == Decimal("1.25")


def test_what_a_move_is_worth_is_the_desks_own_knowledge(lena):
    now = timezone.now()
    Candle.objects.all().delete()
    add_bars(now - 2 * DAY, 3)  # at 1.1
    symbols = {"EURUSD", "EURGBP", "XAUUSD", "EURUSD.x"}
    bars = {symbol: evidence.bars_of(symbol, now - 30 * DAY, now) for symbol in symbols}

    assert evidence.worth_of(symbols, "USD", bars) == {"EURUSD": 100_000, "XAUUSD": 100}
    assert evidence.worth_of({"EURUSD"}, "EUR", bars) == {"EURUSD": Decimal(100_000) / Decimal("1.1")}
    assert evidence.worth_of(symbols, "CHF", bars) == {}


def test_a_zombie_counts_against_the_bot_that_sent_it(lena, lena_bot):
    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.1&profit=5")
    lena_bot.send("POST", fields=opening("1"))
    services.recalculate(user_id=lena.owner.pk)

    assert score_of(lena.owner, Kind.ENDPOINT).score == 50
    services.recalculate(user_id=lena.owner.pk)
    assert score_of(lena.owner, Kind.ENDPOINT).score == 50  # once, however often it is reckoned


def test_a_bot_that_repeats_itself_makes_one_fault_of_it(lena, lena_bot):
    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.1&profit=5")
    for _ in range(7):
        assert lena_bot.send("POST", fields=opening("1")).status_code == 409
    services.recalculate(user_id=lena.owner.pk)

    assert score_of(lena.owner, Kind.ENDPOINT).score == 50


def test_a_change_that_meets_a_closed_trade_is_no_fault(lena, lena_bot):
    """The broker closed it in the same moment."""
    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.1&profit=5")
    late = lena_bot.send("PATCH", "/api/v2/trades/active/1", fields={"sl": "1.0"})
    assert late.json()["code"] == "trade_closed"
    services.recalculate(user_id=lena.owner.pk)

    assert score_of(lena.owner, Kind.ENDPOINT).score == 100


def refused(key, code, minutes):
    AuditLog.objects.bulk_create(
        AuditLog(
            actor_kind="bot", actor=key, action="request.refused", outcome="refused", code=code,
            at=NOW - DAY + timedelta(minutes=minute),
        )
        for minute in minutes
    )  # fmt: skip


def failed(account, reason, minutes, latency_ms=4_000):
    strategy = Strategy.objects.get(name="lena-eurusd")
    CopyOrder.objects.using("owner").bulk_create(
        CopyOrder(
            account=account, strategy=strategy, seq=1, master_ticket="1", symbol="EURUSD", status="failed", volume=1,
            requested_price=1, failed_reason=reason, latency_ms=latency_ms,
            reported_at=NOW - DAY + timedelta(minutes=minute),
        )
        for minute in minutes
    )  # fmt: skip


def minutes_of(user):
    """At which minutes something is held against them."""
    events = faults.events_of(user, now=NOW)
    return [(event.reason, round((event.at - NOW + DAY) / timedelta(minutes=1), 1)) for event in events]


def test_the_same_fault_at_another_hour_is_another(lena, lena_bot):
    refused(lena_bot.key, "trade_closed", [0, 1, 59, 60, 119, 121, 300])
    failed(lena, "INSUFFICIENT_FUNDS", [10, 10.1, 10.2])

    replays = [("REPLAY_ATTACK", at) for at in (0, 60, 121, 300)]
    assert minutes_of(lena.owner) == sorted([*replays, ("INSUFFICIENT_FUNDS", 10)], key=lambda one: one[1])


def test_a_number_used_twice_may_be_a_lost_answer(lena, lena_bot):
    refused(lena_bot.key, "seq_replayed", [1, 2])
    assert minutes_of(lena.owner) == []

    refused(lena_bot.key, "seq_replayed", range(120, 150))
    assert minutes_of(lena.owner) == [("DUPLICATE_SEQ", 122)]


def test_a_flood_of_faults_comes_as_its_incidents(lena, lena_bot):
    refused(lena_bot.key, "trade_closed", (second / 60 for second in range(0, 12 * 3600, 4)))
    failed(lena, "TTL_EXPIRED", (second / 60 for second in range(0, 12 * 3600, 4)))

    assert len(faults.events_of(lena.owner, now=NOW)) == 24


def test_another_key_and_another_account_are_others(lena, finn, lena_bot, finn_bot):
    for bot in (lena_bot, finn_bot):
        refused(bot.key, "trade_closed", [0])
    failed(finn, "TTL_EXPIRED", [5])
    failed(finn, "TTL_EXPIRED", [70], latency_ms=20)
    failed(finn, "TTL_EXPIRED", [140], latency_ms=None)
    failed(finn, "OTHER", [7])

    assert minutes_of(lena.owner) == [("REPLAY_ATTACK", 0)]
    assert minutes_of(finn.owner) == [("REPLAY_ATTACK", 0), ("TTL_EXPIRED", 5)]


def test_the_latest_fault_is_told_by_its_time(lena, lena_bot):
    refused(lena_bot.key, "trade_closed", [0])
    services.recalculate(user_id=lena.owner.pk, now=NOW)

    assessment = TrustAssessment.objects.get(user=lena.owner, kind=Kind.ENDPOINT)
    assert assessment.as_of == assessment.features[0]["at"] == iso(NOW - DAY)
    assert "event" not in assessment.features[0]


def test_a_late_open_of_a_close_that_came_first_is_no_fault(lena, lena_bot):
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.1&profit=5&reason=TP")
    assert lena_bot.send("POST", fields=opening("1")).json()["code"] == "trade_closed"
    services.recalculate(user_id=lena.owner.pk)

    assert score_of(lena.owner, Kind.ENDPOINT).score == 100


def test_what_others_send_in_a_users_name_is_not_held_against_them(lena, lena_bot):
    from tests.signed import Bot

    impostor = Bot({"key": lena_bot.key, "secret": "0" * 64})
    for _ in range(3):
        assert impostor.send("POST", fields=opening("1")).status_code == 401
    services.recalculate(user_id=lena.owner.pk)

    assert score_of(lena.owner, Kind.ENDPOINT).score == 100


def test_the_desks_own_delay_is_not_billed_to_a_copier(finn, finn_bot, lena_bot):
    lena_bot.send("POST", fields=opening("1"))
    order = {"strategy": "lena-eurusd", "seq": "1", "master_ticket": "1", "status": "failed", "requested_price": "1.1",
             "volume": "0.1", "failed_reason": "TTL_EXPIRED"}  # fmt: skip
    for latency in (5, 20):
        assert finn_bot.send("POST", "/api/v2/trades/orders", {**order, "latency_ms": latency}).status_code == 201
    services.recalculate(user_id=finn.owner.pk)
    assert score_of(finn.owner, Kind.ENDPOINT).score == 100

    finn_bot.send("POST", "/api/v2/trades/orders", {**order, "latency_ms": 4000})
    services.recalculate(user_id=finn.owner.pk)
    assert score_of(finn.owner, Kind.ENDPOINT).score == 95


def beside(account, count, told=None):
    with transaction.atomic():
        for ticket in range(1, count + 1):
            trades.open_trade(
                account=account, ticket_id=str(ticket), symbol="EURUSD", type="BUY", volume=Decimal(1),
                open_price=Decimal("1.1"), opened_at=told,
            )  # fmt: skip
            trades.close_trade(
                account=account, ticket_id=str(ticket), close_price=Decimal("1.2"), profit=Decimal(1), reason="TP"
            )


def test_who_trades_beside_one_is_found_by_when_the_desk_learned_of_it(lena, sam):
    beside(lena, 12)
    beside(sam, 12, told=timezone.now() - DAY)
    beside(second_of(lena).account, 12)

    ((owner, theirs),) = known_of(lena).others.items()
    assert (owner, len(theirs)) == (str(sam.owner.pk), 12)


def test_ones_own_other_accounts_hide_nobody(lena, sam):
    beside(lena, 1)
    beside(second_of(lena).account, 600)  # more than are looked at for one trade
    beside(sam, 12)

    assert {len(theirs) for theirs in known_of(lena).others.values()} == {12}


# --- who is due


def test_the_sweep_takes_whoever_is_due_once(cast):
    now = timezone.now()

    assert services.sweep(now=now) == 3
    assert services.sweep(now=now) == 0
    assert set(TrustAssessment.objects.values_list("version", flat=True)) == {1}


LATER = services.REST + timedelta(seconds=1)


def test_a_close_makes_its_user_due(lena):
    services.sweep(now=timezone.now())
    closed(lena, 1)

    assert services.sweep(now=timezone.now() + LATER) == 1
    assert score_of(lena.owner).version == 2


def test_news_is_gathered_for_a_while(lena):
    services.sweep(now=timezone.now())
    closed(lena, 1)
    closed(lena, 2)

    assert services.sweep(now=timezone.now() + services.REST / 2) == 0


def test_a_zombie_makes_its_sender_due_and_nobody_else(lena, lena_bot):
    services.sweep(now=timezone.now())
    TrustSubject.objects.update(seen_until=timezone.now() - timedelta(days=1))
    assert services.sweep(now=timezone.now() + LATER) == 0  # the control: without it nobody is due

    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.1&profit=5")
    TrustSubject.objects.update(seen_until=timezone.now())  # the close has been seen
    lena_bot.send("POST", fields=opening("1"))

    assert services.sweep(now=timezone.now() + LATER) == 1
    assert score_of(lena.owner, Kind.ENDPOINT).score == 50


def test_one_who_cannot_be_judged_keeps_nobody_waiting(cast, lena, monkeypatch):
    real = evidence.of_provider

    def broken(strategy, *, now):
        if strategy.owner == lena.owner:
            raise OperationalError("canceling statement due to statement timeout")
        return real(strategy, now=now)

    monkeypatch.setattr(evidence, "of_provider", broken)
    now = timezone.now()
    assert services.sweep(now=now) == 2
    assert not TrustScore.objects.filter(user=lena.owner).exists()

    monkeypatch.setattr(evidence, "of_provider", real)
    assert services.sweep(now=now + LATER) == 1
    assert score_of(lena.owner).version == 1


@pytest.mark.parametrize("look", ["_meet", "_hear"])
def test_a_look_for_news_that_fails_does_not_stop_the_sweep(cast, monkeypatch, look):
    def broken(now):
        raise OperationalError("canceling statement due to statement timeout")

    now = timezone.now()
    services.sweep(now=now)
    monkeypatch.setattr(services, look, broken)

    assert services.sweep(now=now + DAY + timedelta(minutes=1)) == 3


def test_one_who_is_being_judged_just_now_keeps_no_sweep_waiting(cast, lena, finn, desk_db):
    """Another worker has lena's row; there is news of her and of finn."""
    import psycopg

    from tests import databases

    services.sweep(now=timezone.now())
    closed(lena, 1)
    failed(finn, "TTL_EXPIRED", [DAY / timedelta(minutes=1)])
    TrustSubject.objects.update(seen_until=NOW - DAY)
    with psycopg.connect(**databases.login(), dbname=desk_db) as other:
        other.execute("select from trust_subjects where user_id = %s for no key update", [lena.owner.pk])
        assert services.sweep(now=timezone.now() + LATER) == 1
        assert services.make_due([lena.owner.pk, finn.owner.pk]) == 1
    assert services.sweep(now=timezone.now() + LATER) == 2


def test_a_day_without_news_is_news(cast):
    services.sweep(now=timezone.now())

    assert services.sweep(now=timezone.now() + DAY + timedelta(minutes=1)) == 3


def test_the_task_does_the_same(cast):
    assert tasks.sweep() == 3


# --- what follows


def test_below_fifty_a_strategy_is_close_only(user, lena):
    set_score(user, Kind.FLOW, "49.99")
    services.enforce()

    strategy = Strategy.objects.get(account=lena)
    assert (strategy.status, strategy.frozen_for) == ("CLOSE_ONLY", "TRUST")


def test_closes_always_pass(user, lena):
    with transaction.atomic():
        trades.open_trade(
            account=lena, ticket_id="1", symbol="EURUSD", type="BUY", volume=Decimal(1), open_price=Decimal("1.1")
        )
    set_score(user, Kind.FLOW, "0")
    services.enforce()

    with transaction.atomic():
        trades.close_trade(account=lena, ticket_id="1", close_price=Decimal(1), profit=Decimal(0), reason="SL")
    with pytest.raises(trades.StrategyCloseOnly):
        closed(lena, 2)


def test_a_bot_that_misbehaves_copies_nothing_new(finn):
    set_score(finn.owner, Kind.ENDPOINT, "10")
    services.enforce()

    assert Subscription.objects.get(account=finn).paused_for == "TRUST"


def follow_again(account, strategy):
    from strategies import services as strategies

    return strategies.subscribe(account=account, strategy=strategy, actor=audit.SYSTEM)


def test_below_seventy_a_strategy_takes_no_new_subscribers_and_keeps_those_it_has(user, lena, sam, finn):
    from strategies.services import TakesNoSubscribers

    set_score(user, Kind.FLOW, "69.99")
    services.enforce()

    with pytest.raises(TakesNoSubscribers):
        follow_again(sam, lena.strategy)
    assert Strategy.objects.get(account=lena).status == "ACTIVE"
    assert follow_again(finn, lena.strategy).status == "ACTIVE"


def test_it_takes_them_again_from_seventy_five_on(user, lena, sam):
    for score, takes in (("60", False), ("74.99", False), ("75", True), ("70", True), ("69", False)):
        set_score(user, Kind.FLOW, score)
        services.enforce()
        assert Strategy.objects.get(account=lena).takes_subscribers is takes, score

    follow = Strategy.objects.get(account=lena)
    set_score(user, Kind.FLOW, "90")
    services.enforce()
    assert follow_again(sam, follow).status == "ACTIVE"


def test_what_was_frozen_by_hand_stays_frozen(user, lena):
    from strategies import services as strategies

    strategies.freeze(strategy=lena.strategy, actor=audit.SYSTEM, reason="by hand")
    services.enforce()

    assert Strategy.objects.get(account=lena).frozen_for == "HAND"


NOW = timezone.now()


@pytest.mark.parametrize(
    ("scores", "restricted"),
    [
        ([(0, 49)], True),
        ([(0, 50)], False),
        ([(0, 49), (1, 69)], True),
        ([(0, 49), (1, 70)], True),
        ([(0, 49), (1, 70), (24, 70)], True),
        ([(0, 49), (1, 70), (25, 70)], False),
        ([(0, 49), (1, 70), (20, 69), (30, 90)], True),
        ([(0, 49), (1, 70), (20, 69), (30, 90), (54, 90)], False),
        ([(0, 60), (1, 51), (2, 50)], False),
    ],
)
def test_it_closes_at_once_and_opens_after_a_clean_day(scores, restricted):
    stands = standing.Standing()
    for hours, score in scores:
        stands = standing.stand(Decimal(score), stands, now=NOW + timedelta(hours=hours))

    assert bool(stands.restricted_at) is restricted


# --- staff, and the judged


def held(user, staff, effect, **more):
    return services.hold(
        user=user, kind=Kind.FLOW, effect=effect, reason="looked into it", expires_at=timezone.now() + DAY, by=staff,
        actor=audit.SYSTEM, **more,
    )  # fmt: skip


def test_staff_keep_open_what_the_score_would_close(user, lena, staff):
    set_score(user, Kind.FLOW, "10")
    services.enforce()
    held(user, staff, TrustHold.Effect.OPEN)

    assert Strategy.objects.get(account=lena).status == "ACTIVE"


def test_it_is_looked_at_when_it_may_open(user):
    now = timezone.now()
    set_score(user, Kind.FLOW, "10")
    services.recalculate(user_id=user.pk, now=now + timedelta(hours=1))  # without trades it is 100 again: clean since
    services.recalculate(user_id=user.pk, now=now + timedelta(hours=24.5))

    assert TrustSubject.objects.get(user=user).due_at == now + timedelta(hours=25)


def test_a_hand_outranks_a_score(user, lena, finn):
    from strategies import services as strategies

    set_score(user, Kind.FLOW, "10")
    set_score(finn.owner, Kind.ENDPOINT, "10")
    services.enforce()
    follows = Subscription.objects.get(account=finn)
    strategies.freeze(strategy=lena.strategy, actor=audit.SYSTEM, reason="an inquiry")
    strategies.pause(subscription=follows, actor=audit.SYSTEM)
    TrustScore.objects.update(restricted_at=None)
    services.enforce()

    assert Strategy.objects.get(account=lena).frozen_for == "HAND"
    assert Subscription.objects.get(account=finn).paused_for == "HAND"


def test_subscribing_again_does_not_end_what_the_desk_paused(lena, finn):
    set_score(finn.owner, Kind.ENDPOINT, "10")
    services.enforce()

    assert follow_again(finn, lena.strategy).paused_for == "TRUST"


def test_whoever_trades_beside_one_closes_nothing(user, lena):
    set_score(user, Kind.RELATIONSHIP, "5")
    services.enforce()

    strategy = Strategy.objects.get(account=lena)
    assert (strategy.status, strategy.takes_subscribers) == ("ACTIVE", True)


def test_a_hold_takes_effect_with_the_next_sweep_where_a_worker_is_at_it(user, lena, staff, monkeypatch):
    services.recalculate(user_id=user.pk)
    real = services.recalculate

    def busy(**_):
        raise OperationalError("lock timeout")

    monkeypatch.setattr(services, "recalculate", busy)
    held(user, staff, TrustHold.Effect.CLOSE_ONLY)
    monkeypatch.setattr(services, "recalculate", real)
    assert Strategy.objects.get(account=lena).status == "ACTIVE"

    services.sweep(now=timezone.now())
    assert Strategy.objects.get(account=lena).status == "CLOSE_ONLY"


def test_staff_keep_closed_what_the_score_would_open_until_a_day(user, lena, staff):
    one = held(user, staff, TrustHold.Effect.CLOSE_ONLY)
    assert Strategy.objects.get(account=lena).status == "CLOSE_ONLY"
    assert TrustSubject.objects.get(user=user).due_at <= one.expires_at

    services.end_hold(held=one, by=staff, actor=audit.SYSTEM)
    assert Strategy.objects.get(account=lena).status == "ACTIVE"


@pytest.mark.parametrize(
    ("scores", "closed_after"),
    [
        (["60"], False),
        (["100"], False),
        (["60", "49", "60"], True),  # the score closed it meanwhile, as it would have without a hold
        (["49"], True),
    ],
)
def test_what_a_hold_alone_closed_opens_with_its_end(user, lena, staff, monkeypatch, scores, closed_after):
    now = timezone.now()
    judged = {"features": [], "inputs": {}, "as_of": ""}

    def judge(score, at):
        monkeypatch.setattr(services, "_judged", lambda *_: [(Kind.FLOW, {"score": Decimal(score), **judged})])
        services.recalculate(user_id=user.pk, now=at)
        services.enforce(at)
        return Strategy.objects.get(account=lena).status == "CLOSE_ONLY"

    assert judge("60", now) is False
    one = held(user, staff, TrustHold.Effect.CLOSE_ONLY)
    for hours, score in enumerate(scores, 1):
        assert judge(score, now + timedelta(hours=hours)) is True
    assert judge(scores[-1], one.expires_at) is closed_after


def test_a_hold_on_what_the_score_closed_does_not_open_it_when_it_ends(user, lena, staff):
    set_score(user, Kind.FLOW, "40")
    set_score(user, Kind.FLOW, "60")
    one = held(user, staff, TrustHold.Effect.CLOSE_ONLY)
    set_score(user, Kind.FLOW, "60")
    TrustHold.objects.filter(pk=one.pk).update(ended_at=timezone.now())
    set_score(user, Kind.FLOW, "61")

    assert score_of(user).restricted_at


def test_the_demos_strategy_is_never_closed(cast):
    from config import cast as casting

    casting.make_demo()
    for _ in range(2):
        casting.spare_demo()
    leads = Strategy.objects.get(name=casting.DEMO_STRATEGY)
    set_score(leads.owner, Kind.FLOW, "3")
    services.enforce()
    leads.refresh_from_db()

    assert (leads.status, leads.takes_subscribers) == ("ACTIVE", True)
    assert TrustHold.objects.count() == 1


def test_a_hold_needs_a_reason_and_a_day_to_come(user, staff):
    for more in ({"reason": " "}, {"expires_at": timezone.now() - DAY}):
        asked = {"reason": "r", "expires_at": timezone.now() + DAY, **more}
        with pytest.raises(services.Invalid):
            services.hold(user=user, kind=Kind.FLOW, effect="OPEN", by=staff, actor=audit.SYSTEM, **asked)


def test_a_score_is_appealed_once_and_answered(user, staff):
    services.recalculate(user_id=user.pk)
    made = services.appeal(user=user, kind=Kind.FLOW, note="these were hedges", actor=audit.SYSTEM)
    with pytest.raises(services.AppealedAlready):
        services.appeal(user=user, kind=Kind.FLOW, note="again", actor=audit.SYSTEM)
    services.answer(appealed=made, text="we see", by=staff, actor=audit.SYSTEM)
    services.recalculate(user_id=user.pk)

    made.refresh_from_db()
    assert (made.answer, made.answered_by) == ("we see", staff)
    services.appeal(user=user, kind=Kind.FLOW, note="a new score", actor=audit.SYSTEM)


def test_nobody_appeals_what_is_no_score(finn):
    with pytest.raises(services.NotFound):
        services.appeal(user=finn.owner, kind=Kind.FLOW, note="what", actor=audit.SYSTEM)


# --- what the database refuses


INTO = (
    "insert into trust_assessments (user_id, kind, version, prev_version, prev_score, score, features, inputs, as_of)"
)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("update trust_scores set score = 99", "CD006"),
        ("update trust_scores set version = version + 2", "CD006"),
        ("update trust_scores set version = version + 1, score = 99", "trust_score_is_its_last_assessments"),
        ("delete from trust_scores", "CD002"),
        ("update trust_assessments set score = 99", "CD002"),
        ("delete from trust_assessments", "CD002"),
        ("truncate trust_assessments cascade", "CD002"),
        (
            f"{INTO}"
            " select user_id, kind, version, prev_version, prev_score, 55, '[]', '{}', '' from trust_assessments",
            "trust_assessments_pkey",
        ),
        (
            f"{INTO}"
            " select user_id, kind, version + 1, version, score - 1, 55, '[]', '{}', '' from trust_assessments",
            "trust_assessment_builds_on_the_last",
        ),
        (
            f"{INTO} select user_id, kind, version + 2, version, score, 55, '[]', '{{}}', '' from trust_assessments",
            "trust_assessment_follows_the_one_before",
        ),
    ],
)
def test_the_tables_owner_is_refused(user, statement, expected):
    from tests.trades.test_hostile_callers import attempt, of, refusal

    services.recalculate(user_id=user.pk)

    assert refusal(attempt(of("owner"), {}, [statement])) == expected


def test_the_check_knows_each_guard(user):
    from django.core.management import call_command

    services.recalculate(user_id=user.pk)
    call_command("trust_check")


@pytest.mark.parametrize(
    "planted", ["update trust_scores set score = 1", "delete from trust_assessments where version = 1"]
)
def test_the_check_finds_what_is_planted(user, planted):
    for _ in range(2):
        services.recalculate(user_id=user.pk, always=True)
    with connections["owner"].cursor() as cursor:
        for table in ("trust_scores", "trust_assessments"):
            cursor.execute(f"alter table {table} disable trigger user")
            cursor.execute("select conname from pg_constraint where conrelid = %s::regclass and contype = 'f'", [table])
            for (name,) in cursor.fetchall():
                cursor.execute(f'alter table {table} drop constraint "{name}"')
        cursor.execute(planted)

    assert len({fault.invariant for fault in checks.faults()}) > 1
