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
    "every key and trigger that holds the promise is in place and awake": """
        select wanted from unnest(array[
            'trades.keeps_its_identity', 'trades.never_deleted', 'trades.never_truncated',
            'active_trades.keeps_its_opening', 'active_trades.never_truncated', 'active_trades.goes_with_its_close',
            'trade_history.append_only', 'trade_history.append_only_truncate',
            'trade_reductions.append_only', 'trade_reductions.append_only_truncate',
            'copy_orders.append_only', 'copy_orders.append_only_truncate', 'strategies.number_grows_by_one',
            'subscription_terms.append_only', 'subscription_terms.append_only_truncate',
            'audit_log.append_only', 'audit_log.append_only_truncate']) wanted
         where not exists (select from pg_trigger where tgenabled = 'A'
                              and tgrelid = split_part(wanted, '.', 1)::regclass
                              and tgname = split_part(wanted, '.', 2))
        union all
        select wanted from unnest(array[
            'trades.trades_pkey', 'trades.trade_is_unique_on_its_account', 'trades.trade_state_is_known',
            'trades.open_trade_is_active', 'trades.closed_trade_is_history',
            'active_trades.active_trades_pkey', 'active_trades.active_trade_belongs_to_an_open_trade',
            'active_trades.active_trade_status_is_open', 'active_trades.active_trade_amounts_are_numbers',
            'active_trades.active_trade_volume_is_positive_and_never_grows',
            'trade_history.trade_history_pkey', 'trade_history.closed_trade_belongs_to_a_closed_trade',
            'trade_history.trade_history_status_is_closed', 'trade_history.trade_history_amounts_are_numbers',
            'trade_reductions.trade_reduction_deal_is_told_once']) wanted
         where not exists (select from pg_constraint where convalidated
                              and conrelid = split_part(wanted, '.', 1)::regclass
                              and conname = split_part(wanted, '.', 2))
        union all
        select distinct tgrelid::regclass || '.' || conname
          from pg_trigger join pg_constraint on pg_constraint.oid = tgconstraint
         where tgenabled not in ('O', 'A')
           and tgrelid = any(array['trades', 'active_trades', 'trade_history', 'trade_reductions']::regclass[])""",
}


def faults() -> list[Fault]:
    """The first offenders of every invariant that does not hold."""
    return invariants.faults(INVARIANTS)
