-- The least that is durable and audited: the whole transition as one prepared statement on the twin's plain tables.
\set n :n + 1
\set ticket :start + :n
\set account :first_account + :client_id
with opened as (
  insert into twin.active_trades (account_id, ticket_id, master_ticket, symbol, type, volume, open_price, sl, tp)
  values (:account, (:ticket)::bigint::text, (:ticket)::bigint::text, 'EURUSD', 'BUY', 0.1, 1.105, 1.1, 1.12) returning id
), audited as (
  insert into twin.audit_log (account_id, action, ticket_id, detail)
  select :account, 'trade.opened', (:ticket)::bigint::text, '{"volume": "0.10000000", "open_price": "1.10500000"}' from opened
)
select id from opened;
with deleted as (
  delete from twin.active_trades where account_id = :account and ticket_id = (:ticket)::bigint::text returning *
), closed as (
  insert into twin.trade_history (account_id, ticket_id, master_ticket, symbol, type, volume, open_price, sl, tp, opened_at,
                                  close_price, profit, reason)
  select account_id, ticket_id, master_ticket, symbol, type, volume, open_price, sl, tp, opened_at, 1.11, 5, 'TP' from deleted
  returning id, closed_at
), audited as (
  insert into twin.audit_log (account_id, action, ticket_id, detail)
  select :account, 'trade.closed', (:ticket)::bigint::text, '{"close_price": "1.11000000", "profit": "5.00000000"}' from closed
)
select * from closed;
