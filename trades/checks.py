"""The invariants of trades as queries. Each finds the rows that break its invariant; the database's keys allow none."""

from core import invariants
from core.invariants import Fault

INVARIANTS = {
    "an open trade is in the hot table, and nowhere else": """
        select t.id::text from trades t
          left join active_trades a on a.trade_id = t.id left join trade_history h on h.trade_id = t.id
         where t.state = 'OPEN' and (a.trade_id is null or h.trade_id is not null)""",
    "a closed trade is in the cold table, and nowhere else": """
        select t.id::text from trades t
          left join active_trades a on a.trade_id = t.id left join trade_history h on h.trade_id = t.id
         where t.state = 'CLOSED' and (a.trade_id is not null or h.trade_id is null)""",
    "every row of the hot and the cold table has an identity row": """
        select coalesce(a.trade_id, h.trade_id)::text from active_trades a
          full join trade_history h on h.trade_id = a.trade_id
         where not exists (select from trades t where t.id = coalesce(a.trade_id, h.trade_id))""",
    "a ticket is unique on its account": """
        select account_id || '/' || ticket_id from trades group by account_id, ticket_id having count(*) > 1""",
    "open volume and partial closes add up to the opened volume": """
        select a.trade_id::text from active_trades a
          left join (select trade_id, sum(volume) as gone from trade_reductions group by trade_id) r using (trade_id)
         where a.volume + coalesce(r.gone, 0) <> a.opened_volume
        union all
        select h.trade_id::text from trade_history h
          left join (select trade_id, sum(volume) as gone from trade_reductions group by trade_id) r using (trade_id)
         where h.kind = 'TRADE' and h.closed_volume + coalesce(r.gone, 0) <> h.volume""",
    "a trade's profit is the sum of its closes": """
        select h.trade_id::text from trade_history h
          left join (select trade_id, sum(profit) as made from trade_reductions group by trade_id) r using (trade_id)
         where h.kind = 'TRADE' and profit_within_bounds(h.closing_profit + coalesce(r.made, 0)) <> h.profit""",
    "no event number is higher than the last number of its stream": """
        select s.name from strategies s where s.last_seq < (
          select coalesce(max(seq), 0) from (
            select max(seq) as seq from active_trades where strategy_id = s.id and master_trade is null
            union all select max(seq) from trade_history where strategy_id = s.id and master_trade is null) told)
        union all
        select t.name from trading_accounts t where t.copy_seq < (
          select coalesce(max(seq), 0) from (
            select max(seq) as seq from active_trades where account_id = t.id and master_trade is not null
            union all select max(seq) from trade_history where account_id = t.id and master_trade is not null) told)""",
    "no account follows itself, directly or through others (end a subscription of the circle)": """
        with recursive follows (follower, provider) as (
          select u.account_id, s.account_id from subscriptions u join strategies s on s.id = u.strategy_id
           where u.status <> 'ENDED' and exists (select from strategies led where led.account_id = u.account_id)),
        reached (follower, provider) as (
          select follower, provider from follows
          union select r.follower, f.provider from reached r join follows f on f.follower = r.provider)
        select t.name from reached r join trading_accounts t on t.id = r.follower where r.provider = r.follower""",
}
APPS = ("core", "audit", "accounts", "market", "strategies", "trades")


def faults() -> list[Fault]:
    """The first offenders of each broken invariant, and every guard in the database that is missing or altered."""
    return invariants.faults(INVARIANTS) + invariants.structural_faults(APPS)
