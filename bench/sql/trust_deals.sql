-- Closed trades of each, over as many times six hours.
with judged as (select a.id as account, s.id as strategy from strategies s join trading_accounts a on a.id = s.account_id
                 where s.name like 'bench-trust-%'),
timed as (
  select account, strategy, n::text as ticket, random() as r, random() as r2,
         now() - n * interval '6 hours' - random() * interval '5 hours' as opened
    from judged, generate_series(1, EACH) n),
made as (  -- an id bears the time at which the desk learned of the trade
  select encode(overlay(uuid_send(uuid_v7()) placing substring(int8send((extract(epoch from opened) * 1000)::bigint) from 3)
                        from 1 for 6), 'hex')::uuid as id, * from timed),
named as (
  insert into trades (id, account_id, ticket_id, state, opening) select id, account, ticket, 'CLOSED', '' from made returning id)
insert into trade_history (trade_id, account_id, strategy_id, ticket_id, master_ticket, seq, kind, symbol, type, volume,
                           closed_volume, open_price, close_price, profit, closing_profit, reason, comment, opened_at, closed_at, status)
select id, account, strategy, ticket, ticket, 1, 'TRADE', 'EURUSD', case when r < 0.5 then 'BUY' else 'SELL' end, 0.1, 0.1,
       1.1, round((1.1 + (r2 - 0.49) / 100)::numeric, 5), round(((r2 - 0.49) * 100)::numeric, 2),
       round(((r2 - 0.49) * 100)::numeric, 2), 'MANUAL', '', opened, opened + (1 + r * 200) * interval '1 minute', 'CLOSED'
  from made;
