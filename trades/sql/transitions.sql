-- A trade's life, written once and called by every edge: signed requests, the admin, tasks, scripts.
--
-- Each verb takes the caller and its arguments as JSON, locks, checks, writes, records in the audit log, and answers
-- an outcome: {"code": …} and, where something happened in a stream, {"event": "trade.…", "strategy_id": …}. A refusal
-- is an outcome with "refused": true; nothing but its audit row was written then. Arguments were checked by the edge;
-- what gets past it still meets the constraints.
--
--   caller: {"kind": "bot"|"staff"|…, "actor": …, "account": id, "ip": …, "request_id": …}
--
-- Locks, always in this order: the stream (a master's strategy, a copier's account), then the trade.

-- One open trade as everybody is shown it. Amounts are text with 8 decimals.
create or replace function active_row(a active_trades, p_strategy text) returns json language plpgsql stable as $$
begin
  return json_build_object(
    'trade_id', a.trade_id, 'role', case when a.master_trade is null then 'master' else 'copy' end, 'strategy', p_strategy,
    'ticket_id', a.ticket_id, 'master_ticket', a.master_ticket, 'symbol', a.symbol, 'type', a.type,
    'volume', a.volume::text, 'copy_volume', null, 'copy', null, 'copies', a.master_trade, 'open_price', a.open_price::text,
    'sl', a.sl::text, 'tp', a.tp::text, 'opened_volume', a.opened_volume::text, 'opened_sl', a.opened_sl::text,
    'opened_at', iso(a.opened_at), 'seq', a.seq::text, 'status', a.status);
end $$;

create or replace function closed_row(h trade_history, p_strategy text) returns json language plpgsql stable as $$
begin
  return json_build_object(
    'trade_id', h.trade_id, 'role', case when h.master_trade is null then 'master' else 'copy' end, 'strategy', p_strategy,
    'ticket_id', h.ticket_id, 'master_ticket', h.master_ticket, 'symbol', h.symbol, 'type', h.type,
    'volume', h.volume::text, 'copy_volume', null, 'copies', h.master_trade, 'open_price', h.open_price::text, 'sl', h.sl::text, 'tp', h.tp::text,
    'opened_at', iso(h.opened_at), 'seq', h.seq::text, 'status', h.status, 'kind', h.kind,
    'close_price', h.close_price::text, 'profit', h.profit::text, 'closing_profit', h.closing_profit::text,
    'reason', h.reason, 'closed_at', iso(h.closed_at));
end $$;

create or replace function refused(p_code text, p_more jsonb default '{}') returns jsonb language sql stable as $$
  select jsonb_build_object('code', p_code, 'refused', true) || p_more
$$;

-- The next number of the stream the trade's event belongs to. The stream's row is locked already.
create or replace function next_number(p_strategy bigint, p_copying_account bigint) returns bigint language plpgsql as $$
declare
  v_seq bigint;
begin
  if p_copying_account is null then
    update strategies set last_seq = last_seq + 1 where id = p_strategy returning last_seq into v_seq;
  else
    update trading_accounts set copy_seq = copy_seq + 1 where id = p_copying_account returning copy_seq into v_seq;
  end if;
  return v_seq;
end $$;

-- What a verb says after it changed a trade. Copies are private to their account: they make no event in the stream.
create or replace function told(p_code text, p_event text, p_strategy strategies, p_row json, p_copy boolean) returns jsonb
language sql stable as $$
  select jsonb_build_object('code', p_code, 'trade', p_row::jsonb)
      || case when p_copy then '{}' else jsonb_build_object('event', p_event, 'strategy_id', p_strategy.id) end
$$;

create or replace function trade_open(caller jsonb, args jsonb) returns jsonb language plpgsql as $$
declare
  v_account bigint := (caller->>'account')::bigint;
  v_copy    boolean := args ? 'copies';
  v_ticket  text := args->>'ticket_id';
  v_volume  numeric(20,8) := (args->>'volume')::numeric;
  v_price   numeric(20,8) := (args->>'open_price')::numeric;
  v_sl      numeric(20,8) := (args->>'sl')::numeric;
  v_tp      numeric(20,8) := (args->>'tp')::numeric;
  v_master_ticket text := coalesce(args->'copies'->>'master_ticket', v_ticket);
  v_copied uuid := (args->'copies'->>'trade_ref')::uuid;  -- the master's trade by its id, where not by its ticket
  v_opening bytea := sha256(convert_to(format('%s|%s|%s|%s|%s|%s|%s|%s', args->>'symbol', args->>'type', v_volume, v_price,
                                              v_sl, v_tp, args->'copies'->>'strategy', coalesce(v_copied::text, v_master_ticket)), 'UTF8'));
  s strategies;
  t trades;
  a active_trades;
  v_master uuid;
begin
  if v_copy then
    perform from trading_accounts where id = v_account for no key update;
    select strategies.* into s from strategies join subscriptions u on u.strategy_id = strategies.id
     where strategies.name = args->'copies'->>'strategy' and u.account_id = v_account;
    if not found then return refused('not_found'); end if;
    if v_copied is null then
      select id into v_master from trades where account_id = s.account_id and ticket_id = v_master_ticket and not is_copy(id);
    else
      select id, ticket_id into v_master, v_master_ticket
        from trades where id = v_copied and account_id = s.account_id and not is_copy(id);
    end if;
    if not found then return refused('trade_unknown'); end if;
  else
    select * into s from strategies where account_id = v_account for no key update;
    if not found then return refused('strategy_missing'); end if;
  end if;

  select * into t from trades where account_id = v_account and ticket_id = v_ticket;
  if found then
    if t.state = 'CLOSED' then
      perform audit(caller, 'zombie.refused', 'trade:' || t.id, 'trade_closed',
                    jsonb_build_object('ticket_id', v_ticket, 'strategy', s.name));
      return refused('trade_closed');
    elsif t.opening <> v_opening then
      perform audit(caller, 'trade.refused', 'trade:' || t.id, 'trade_exists_different', jsonb_build_object('ticket_id', v_ticket));
      return refused('trade_exists_different');
    end if;
    select * into a from active_trades where trade_id = t.id;
    return jsonb_build_object('code', 'open_already', 'trade', active_row(a, s.name)::jsonb);
  end if;
  if not v_copy and s.status <> 'ACTIVE' then
    perform audit(caller, 'trade.refused', 'strategy:' || s.name, 'strategy_close_only', jsonb_build_object('ticket_id', v_ticket));
    return refused('strategy_close_only');
  end if;

  insert into trades (id, account_id, ticket_id, state, opening) values (uuid_v7(), v_account, v_ticket, 'OPEN', v_opening)
    on conflict (account_id, ticket_id) do nothing returning * into t;
  if not found then return trade_open(caller, args); end if;  -- the account's other stream took the ticket in between
  insert into active_trades (trade_id, account_id, strategy_id, ticket_id, master_ticket, master_trade, seq, symbol, type, volume,
                             opened_volume, open_price, sl, opened_sl, tp, status, comment, analysis, opened_at)
  values (t.id, v_account, s.id, v_ticket, v_master_ticket, v_master,
          next_number(s.id, case when v_copy then v_account end), args->>'symbol', args->>'type', v_volume, v_volume, v_price,
          v_sl, v_sl, v_tp, 'OPEN', coalesce(args->>'comment', ''), args->'analysis', coalesce((args->>'opened_at')::timestamptz, clock_timestamp()))
  returning * into a;
  if not v_copy then  -- who is paused copies none of it, and is told why for ever
    insert into copy_skips (subscription_id, strategy_id, master_trade, reason, detail)
    select id, s.id, t.id, case when paused_for in ('HAND', 'OWNER') then 'paused' else lower(paused_for) end, '' from subscriptions
     where strategy_id = s.id and status = 'PAUSED';
  end if;
  perform audit(caller, 'trade.opened', 'trade:' || t.id, '',
                jsonb_build_object('ticket_id', v_ticket, 'strategy', s.name, 'seq', a.seq, 'symbol', a.symbol, 'type', a.type,
                                   'volume', a.volume::text, 'open_price', a.open_price::text));
  return told('opened', 'trade.opened', s, active_row(a, s.name), v_copy);
end $$;

-- The trade of this account and ticket with its stream and itself locked; null where there is none.
create or replace function trade_locked(p_account bigint, p_ticket text) returns trades language plpgsql as $$
declare
  t trades;
  v_strategy bigint;
  v_copy boolean;
begin
  select * into t from trades where account_id = p_account and ticket_id = p_ticket;
  if not found or t.state = 'CLOSED' then return t; end if;  -- CLOSED is for ever: no lock is needed to know it
  select strategy_id, master_trade is not null into v_strategy, v_copy from active_trades where trade_id = t.id;
  if v_copy then
    perform from trading_accounts where id = p_account for no key update;
  elsif v_strategy is not null then
    perform from strategies where id = v_strategy for no key update;
  end if;
  select * into t from trades where id = t.id for update;
  return t;
end $$;

create or replace function trade_modify(caller jsonb, args jsonb) returns jsonb language plpgsql as $$
declare
  t trades := trade_locked((caller->>'account')::bigint, args->>'ticket_id');
  a active_trades;
  s strategies;
  v_sl numeric(20,8);
  v_tp numeric(20,8);
  v_told bigint := (args->>'master_time_ms')::bigint;
begin
  if t.id is null then return refused('trade_unknown'); end if;
  if t.state = 'CLOSED' then return refused('trade_closed'); end if;
  select * into a from active_trades where trade_id = t.id;
  select * into s from strategies where id = a.strategy_id;
  v_sl := case when args ? 'sl' then (args->>'sl')::numeric else a.sl end;
  v_tp := case when args ? 'tp' then (args->>'tp')::numeric else a.tp end;
  if v_told < a.told_ms then
    return jsonb_build_object('code', 'ignored', 'trade', active_row(a, s.name)::jsonb);
  end if;
  if (v_sl, v_tp) is not distinct from (a.sl, a.tp) then
    update active_trades set told_ms = v_told where trade_id = t.id and v_told is not null;
    return jsonb_build_object('code', 'unchanged', 'trade', active_row(a, s.name)::jsonb);
  end if;
  update active_trades
     set sl = v_sl, tp = v_tp, told_ms = coalesce(v_told, told_ms), seq = next_number(s.id, case when a.master_trade is not null then a.account_id end)
   where trade_id = t.id returning * into a;
  perform audit(caller, 'trade.modified', 'trade:' || t.id, '',
                jsonb_build_object('ticket_id', a.ticket_id, 'strategy', s.name, 'seq', a.seq, 'sl', a.sl::text, 'tp', a.tp::text));
  return told('modified', 'trade.modified', s, active_row(a, s.name), a.master_trade is not null);
end $$;

create or replace function trade_reduce(caller jsonb, args jsonb) returns jsonb language plpgsql as $$
declare
  t trades := trade_locked((caller->>'account')::bigint, args->>'ticket_id');
  a active_trades;
  s strategies;
  r trade_reductions;
  v_remaining numeric(20,8) := (args->>'volume')::numeric;
  v_price     numeric(20,8) := (args->>'close_price')::numeric;
  v_profit    numeric(20,8) := (args->>'profit')::numeric;
begin
  if t.id is null and v_remaining > 0 then return refused('trade_unknown'); end if;
  select * into r from trade_reductions where trade_id = t.id and deal_id = args->>'deal_id';
  if found and (r.remaining, r.close_price, r.profit) is distinct from (v_remaining, v_price, v_profit) then
    return refused('deal_exists_different');
  end if;
  if t.state = 'CLOSED' then
    if r.id is not null then return jsonb_build_object('code', 'unchanged'); end if;
    if v_remaining = 0 then return trade_close(caller, args || '{"reason": "MANUAL"}'); end if;  -- repeated: it is told so there
    return refused('trade_closed');
  end if;
  if v_remaining = 0 then return trade_close(caller, args || '{"reason": "MANUAL"}'); end if;
  select * into a from active_trades where trade_id = t.id;
  select * into s from strategies where id = a.strategy_id;
  if r.id is not null or v_remaining = a.volume then
    return jsonb_build_object('code', 'unchanged', 'trade', active_row(a, s.name)::jsonb);
  end if;
  if v_remaining > a.volume then return refused('volume_increase', jsonb_build_object('volume', a.volume::text)); end if;
  insert into trade_reductions (trade_id, deal_id, volume, remaining, close_price, profit)
  values (t.id, args->>'deal_id', a.volume - v_remaining, v_remaining, v_price, v_profit);
  update active_trades set volume = v_remaining, seq = next_number(s.id, case when a.master_trade is not null then a.account_id end)
   where trade_id = t.id returning * into a;
  perform audit(caller, 'trade.reduced', 'trade:' || t.id, '',
                jsonb_build_object('ticket_id', a.ticket_id, 'strategy', s.name, 'seq', a.seq, 'deal_id', args->>'deal_id',
                                   'remaining', a.volume::text, 'close_price', v_price::text, 'profit', v_profit::text));
  return told('reduced', 'trade.reduced', s,
              (active_row(a, s.name)::jsonb || jsonb_build_object('close_price', v_price::text))::json, a.master_trade is not null);
end $$;

create or replace function trade_close(caller jsonb, args jsonb) returns jsonb language plpgsql as $$
declare
  v_account bigint := (caller->>'account')::bigint;
  v_ticket  text := args->>'ticket_id';
  v_price   numeric(20,8) := (args->>'close_price')::numeric;
  v_profit  numeric(20,8) := (args->>'profit')::numeric;
  v_reason  text := args->>'reason';
  t trades := trade_locked(v_account, v_ticket);
  a active_trades;
  h trade_history;
  s strategies;
begin
  if t.id is null then
    -- A close that overtook its open: remember it, so that the late open is refused and not executed.
    -- Whichever stream that open belongs to, the account's own or its copies', it is held out meanwhile.
    select * into s from strategies where account_id = v_account for no key update;
    perform from trading_accounts where id = v_account for no key update;
    insert into trades (id, account_id, ticket_id, state) values (uuid_v7(), v_account, v_ticket, 'CLOSED')
      on conflict (account_id, ticket_id) do nothing returning * into t;
    if not found then return trade_close(caller, args); end if;  -- its open or another close came in between
    insert into trade_history (trade_id, kind, account_id, strategy_id, ticket_id, master_ticket, seq, close_price, reason, comment, status)
    values (t.id, 'TOMBSTONE', v_account, s.id, v_ticket, v_ticket, 0, v_price, v_reason, '', 'CLOSED') returning * into h;
    perform audit(caller, 'trade.tombstoned', 'trade:' || t.id, '', jsonb_build_object('ticket_id', v_ticket, 'close_price', v_price::text, 'reason', v_reason));
    return jsonb_build_object('code', 'tombstoned', 'trade', closed_row(h, s.name)::jsonb);
  end if;

  if t.state = 'CLOSED' then
    select * into h from trade_history where trade_id = t.id;
    select * into s from strategies where id = h.strategy_id;
    if (h.close_price, h.reason) is not distinct from (v_price, v_reason) then
      return jsonb_build_object('code', 'closed_already', 'trade', closed_row(h, s.name)::jsonb);
    end if;
    return refused('trade_closed_conflict', jsonb_build_object('trade', closed_row(h, s.name)::jsonb));
  end if;

  delete from active_trades where trade_id = t.id returning * into a;
  select * into s from strategies where id = a.strategy_id;
  update trades set state = 'CLOSED' where id = t.id;
  insert into trade_history (trade_id, kind, account_id, strategy_id, ticket_id, master_ticket, master_trade, seq, symbol, type, volume,
                             closed_volume, open_price, close_price, sl, opened_sl, tp, profit, closing_profit, reason, comment, analysis, opened_at, status)
  values (t.id, 'TRADE', v_account, s.id, v_ticket, a.master_ticket, a.master_trade,
          next_number(s.id, case when a.master_trade is not null then v_account end),
          a.symbol, a.type, a.opened_volume, a.volume, a.open_price, v_price, a.sl, a.opened_sl, a.tp,
          v_profit + coalesce((select sum(profit) from trade_reductions where trade_id = t.id), 0),
          v_profit, v_reason, a.comment, a.analysis, a.opened_at, 'CLOSED')
  returning * into h;
  perform audit(caller, 'trade.closed', 'trade:' || t.id, '',
                jsonb_build_object('ticket_id', v_ticket, 'strategy', s.name, 'seq', h.seq, 'close_price', h.close_price::text,
                                   'profit', h.profit::text, 'reason', h.reason)
                || coalesce(jsonb_build_object('note', args->>'note') - case when args ? 'note' then '' else 'note' end, '{}'));
  return told('closed', 'trade.closed', s, closed_row(h, s.name), h.master_trade is not null);
end $$;
