-- A copier's report of one order at its broker. A report never changes the state of a trade.

-- Slippage in points and in basis points; positive is worse than requested. Absurd prices give none, because the result
-- must fit its column.
create or replace function slippage(p_type text, p_requested numeric, p_executed numeric, p_point numeric,
                                    out points numeric, out bps numeric) language plpgsql immutable as $$
declare
  v_limit constant numeric := 999999999999;
  v_worse numeric := (p_executed - p_requested) * case p_type when 'BUY' then 1 when 'SELL' then -1 end;
begin
  points := v_worse / p_point;
  bps := v_worse / nullif(abs(p_requested), 0) * 10000;
  if abs(points) > v_limit then points := null; end if;
  if abs(bps) > v_limit then bps := null; end if;
end $$;

-- args: {"strategy", "seq", "master_ticket" | "trade_ref", "ticket_id"?, "type"?, "status", "requested_price",
--        "executed_price"?, "volume", "latency_ms"?, "failed_reason"?, "heard_ms"?, "sent_ms"?, "filled_ms"?}
create or replace function order_report(caller jsonb, args jsonb) returns jsonb
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  v_account bigint := (caller->>'account')::bigint;
  v_requested numeric(20,8) := (args->>'requested_price')::numeric;
  v_executed  numeric(20,8) := (args->>'executed_price')::numeric;
  v_provider_trade uuid := (args->>'trade_ref')::uuid;
  v_latency  int := (args->>'latency_ms')::int;
  v_symbol   text;
  v_type     text;
  v_is_open  boolean := false;
  v_slippage record;
  s strategies;
  m trades;
  o copy_orders;
begin
  s := followed_strategy(v_account, args->>'strategy');
  if s.id is null then return refused('not_found'); end if;
  m := provider_trade(s.account_id, v_provider_trade, args->>'master_ticket');
  if m.id is null and v_provider_trade is not null then return refused('trade_unknown'); end if;
  select coalesce(a.symbol, h.symbol), coalesce(a.type, h.type), a.trade_id is not null into v_symbol, v_type, v_is_open
    from trades t left join active_trades a on a.trade_id = t.id left join trade_history h on h.trade_id = t.id
   where t.id = m.id;
  -- The order's own side: as reported, or else the copy's (another where it copies in reverse), or else the provider's.
  v_type := coalesce(args->>'type', trade_type(v_account, args->>'ticket_id'), v_type);
  v_slippage := slippage(v_type, v_requested, v_executed, (select point from instruments where symbol = v_symbol));
  if v_latency is null and args->>'sent_ms' is not null and m.id is not null then
    v_latency := greatest(0, least(2147483647, (args->>'sent_ms')::bigint - uuid_v7_ms(m.id)));
  end if;
  insert into copy_orders (account_id, strategy_id, seq, master_ticket, master_trade, ticket_id, symbol, type, status,
                           requested_price, executed_price, volume, latency_ms, failed_reason, slippage_points,
                           slippage_bps, heard_at, sent_at, filled_at)
  values (v_account, s.id, (args->>'seq')::bigint, coalesce(m.ticket_id, args->>'master_ticket'), m.id,
          coalesce(args->>'ticket_id', ''), coalesce(v_symbol, ''), coalesce(v_type, ''), args->>'status', v_requested,
          v_executed, (args->>'volume')::numeric, v_latency, coalesce(args->>'failed_reason', ''), v_slippage.points,
          v_slippage.bps, from_ms(args->>'heard_ms'), from_ms(args->>'sent_ms'), from_ms(args->>'filled_ms'))
  returning * into o;
  perform audit(caller, 'order.reported', 'order:' || o.id, '',
                jsonb_build_object('strategy', s.name, 'master_ticket', o.master_ticket, 'status', o.status));
  return jsonb_build_object('code', case when v_is_open then 'reported' else 'reported_late' end,
                            'order_id', o.id::text,
                            'slippage_points', o.slippage_points::text, 'slippage_bps', o.slippage_bps::text);
end $$;
select callable_by('order_report(jsonb, jsonb)', 'copydesk_app');

-- BUY or SELL of an account's trade, open or closed; null where the ticket is unknown.
create or replace function trade_type(p_account bigint, p_ticket text) returns text language plpgsql stable as $$
begin
  return (select coalesce(a.type, h.type)
            from trades t left join active_trades a on a.trade_id = t.id left join trade_history h on h.trade_id = t.id
           where t.account_id = p_account and t.ticket_id = p_ticket);
end $$;
