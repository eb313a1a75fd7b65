"""The promise as queries. Each finds nothing as long as it is kept; the database's keys see to that."""

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
    "every row of the hot and the cold table has its identity": """
        select coalesce(a.trade_id, h.trade_id)::text from active_trades a
          full join trade_history h on h.trade_id = a.trade_id
         where not exists (select from trades t where t.id = coalesce(a.trade_id, h.trade_id))""",
    "a ticket is on its account once": """
        select account_id || '/' || ticket_id from trades group by account_id, ticket_id having count(*) > 1""",
    "what is open and what was closed by parts is what was opened": """
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
         where h.kind = 'TRADE' and h.closing_profit + coalesce(r.made, 0) <> h.profit""",
    "no number of a stream lies ahead of the stream": """
        select s.name from strategies s where s.last_seq < (
          select coalesce(max(seq), 0) from (
            select max(seq) as seq from active_trades where strategy_id = s.id and master_trade is null
            union all select max(seq) from trade_history where strategy_id = s.id and master_trade is null) told)
        union all
        select t.name from trading_accounts t where t.copy_seq < (
          select coalesce(max(seq), 0) from (
            select max(seq) as seq from active_trades where account_id = t.id and master_trade is not null
            union all select max(seq) from trade_history where account_id = t.id and master_trade is not null) told)""",
}
APPS = ("core", "audit", "accounts", "market", "strategies", "trades")


def faults() -> list[Fault]:
    """The first offenders of every invariant that does not hold, and what keeps them where it is not in place."""
    return invariants.faults(INVARIANTS) + invariants.structural_faults(APPS)
