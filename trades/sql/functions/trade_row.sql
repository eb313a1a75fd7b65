-- One open trade as the API shows it. Amounts are text with 8 decimals.
create or replace function active_row(a active_trades, p_strategy text) returns json language plpgsql stable as $$
begin
  return json_build_object(
    'trade_id', a.trade_id, 'role', case when a.master_trade is null then 'master' else 'copy' end,
    'strategy', p_strategy, 'ticket_id', a.ticket_id, 'master_ticket', a.master_ticket,
    'symbol', a.symbol, 'type', a.type, 'volume', a.volume::text, 'copy_volume', null, 'copy', null,
    'copies', a.master_trade, 'open_price', a.open_price::text, 'sl', a.sl::text, 'tp', a.tp::text,
    'opened_volume', a.opened_volume::text, 'opened_sl', a.opened_sl::text, 'first_sl', a.first_sl::text,
    'opened_at', iso(a.opened_at), 'seq', a.seq::text, 'status', a.status);
end $$;

-- One closed trade, or a tombstone.
create or replace function closed_row(h trade_history, p_strategy text) returns json language plpgsql stable as $$
begin
  return json_build_object(
    'trade_id', h.trade_id, 'role', case when h.master_trade is null then 'master' else 'copy' end,
    'strategy', p_strategy, 'ticket_id', h.ticket_id, 'master_ticket', h.master_ticket,
    'symbol', h.symbol, 'type', h.type, 'volume', h.volume::text, 'copy_volume', null,
    'copies', h.master_trade, 'open_price', h.open_price::text, 'sl', h.sl::text, 'tp', h.tp::text,
    'opened_at', iso(h.opened_at), 'seq', h.seq::text, 'status', h.status, 'kind', h.kind,
    'close_price', h.close_price::text, 'profit', h.profit::text, 'closing_profit', h.closing_profit::text,
    'reason', h.reason, 'closed_at', iso(h.closed_at));
end $$;
