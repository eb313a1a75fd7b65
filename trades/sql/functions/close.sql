-- The one way from the hot table to the cold one. (The verb is trade_close; trade.sql says what all verbs share.)

-- A close that arrived before its open. It is remembered, so that the late open is refused and not executed. The late
-- open may belong to either stream of the account, so both are locked. Null where the open arrived in the meantime.
create or replace function tombstone(caller jsonb, p_ticket text, p_price numeric, p_reason text) returns jsonb
language plpgsql as $$
declare
  v_account bigint := (caller->>'account')::bigint;
  s strategies;
  t trades;
  h trade_history;
begin
  select * into s from strategies where account_id = v_account for no key update;
  perform from trading_accounts where id = v_account for no key update;
  insert into trades (id, account_id, ticket_id, state) values (uuid_v7(), v_account, p_ticket, 'CLOSED')
    on conflict (account_id, ticket_id) do nothing returning * into t;
  if not found then return null; end if;
  insert into trade_history (trade_id, kind, account_id, strategy_id, ticket_id, master_ticket, seq, close_price,
                             reason, comment, status)
  values (t.id, 'TOMBSTONE', v_account, s.id, p_ticket, p_ticket, 0, p_price, p_reason, '', 'CLOSED')
  returning * into h;
  perform audit(caller, 'trade.tombstoned', 'trade:' || t.id, '',
                jsonb_build_object('ticket_id', p_ticket, 'close_price', p_price::text, 'reason', p_reason));
  return jsonb_build_object('code', 'tombstoned', 'trade', closed_row(h, s.name)::jsonb);
end $$;

-- A sum of reported profits as its column can hold it: no report of a partial close holds up the close.
create or replace function profit_within_bounds(p_profit numeric) returns numeric language sql immutable as $$
  select greatest(-999999999999.99999999, least(999999999999.99999999, p_profit))
$$;

-- args: {"ticket_id", "close_price", "profit", "reason", "note"?}
create or replace function trade_close(caller jsonb, args jsonb) returns jsonb
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  v_account bigint := (caller->>'account')::bigint;
  v_ticket  text := args->>'ticket_id';
  v_price   numeric(20,8) := (args->>'close_price')::numeric;
  v_profit  numeric(20,8) := (args->>'profit')::numeric;
  v_reason  text := args->>'reason';
  v_note    jsonb := case when args ? 'note' then jsonb_build_object('note', args->>'note') else '{}' end;
  t trades := trade_locked(v_account, v_ticket);
  a active_trades;
  h trade_history;
  s strategies;
  v_first jsonb;
begin
  if t.id is null then  -- after a null the open or another close came in between: look again
    return coalesce(tombstone(caller, v_ticket, v_price, v_reason), trade_close(caller, args));
  end if;

  if t.state = 'CLOSED' then
    -- History is closed to bots: to the account that closed it, a closed trade is its price and its reason.
    select * into h from trade_history where trade_id = t.id;
    v_first := jsonb_build_object('ticket_id', v_ticket, 'status', 'CLOSED', 'close_price', h.close_price::text,
                                  'reason', h.reason);
    if (h.close_price, h.reason) is not distinct from (v_price, v_reason) then
      -- 0.1.0 reads the number; it goes with 0.3.0.
      return jsonb_build_object('code', 'closed_already', 'trade', v_first || jsonb_build_object('seq', h.seq::text));
    end if;
    perform audit(caller, 'trade.refused', 'trade:' || t.id, 'trade_closed_conflict',
                  jsonb_build_object('ticket_id', v_ticket));
    return refused('trade_closed_conflict', jsonb_build_object('trade', v_first));
  end if;

  delete from active_trades where trade_id = t.id returning * into a;
  select * into s from strategies where id = a.strategy_id;
  update trades set state = 'CLOSED' where id = t.id;
  insert into trade_history (trade_id, kind, account_id, strategy_id, ticket_id, master_ticket, master_trade, seq,
                             symbol, type, volume, closed_volume, open_price, close_price, sl, opened_sl, first_sl, tp,
                             profit, closing_profit, reason, comment, analysis, opened_at, status)
  values (t.id, 'TRADE', v_account, s.id, v_ticket, a.master_ticket, a.master_trade,
          next_number(s.id, case when a.master_trade is not null then v_account end),
          a.symbol, a.type, a.opened_volume, a.volume, a.open_price, v_price, a.sl, a.opened_sl, a.first_sl, a.tp,
          profit_within_bounds(
            v_profit + coalesce((select sum(profit) from trade_reductions where trade_id = t.id), 0)),
          v_profit, v_reason, a.comment, a.analysis, a.opened_at, 'CLOSED')
  returning * into h;
  perform audit(caller, 'trade.closed', 'trade:' || t.id, '',
                jsonb_build_object('ticket_id', v_ticket, 'strategy', s.name, 'seq', h.seq,
                                   'close_price', h.close_price::text, 'profit', h.profit::text,
                                   'reason', h.reason) || v_note);
  return changed('closed', s, closed_row(h, s.name), h.master_trade is not null);
end $$;
select callable_by('trade_close(jsonb, jsonb)', 'copydesk_app');
