-- A trade's life: open, modify, reduce, close. Each verb is written once and every edge calls it: signed requests, the
-- admin, tasks and scripts.
--
-- A verb takes the caller and its arguments as JSON, locks, checks, writes, records in the audit log, and returns an
-- outcome: {"code": …} and, where a strategy's stream has a new event, {"event": "trade.…", "strategy_id": …}. A
-- refusal is an outcome with "refused": true. The edge has checked the arguments; the constraints check them again.
--
--   caller: {"kind": "bot" | "staff" | …, "actor": …, "account": id, "ip": …, "request_id": …, "signed_ms"?}
--
-- Locks, always in this order: the stream (a provider's strategy; a copier's account), then the trade.

-- Locks the stream of an account's trade, then the trade, and returns it; null where the ticket is unknown.
create or replace function trade_locked(p_account bigint, p_ticket text) returns trades language plpgsql as $$
declare
  t trades;
  v_strategy bigint;
  v_is_copy boolean;
begin
  select * into t from trades where account_id = p_account and ticket_id = p_ticket;
  if not found or t.state = 'CLOSED' then return t; end if;  -- CLOSED cannot change, so it needs no lock
  select strategy_id, master_trade is not null into v_strategy, v_is_copy from active_trades where trade_id = t.id;
  if v_is_copy then
    perform from trading_accounts where id = p_account for no key update;
  elsif v_strategy is not null then
    perform from strategies where id = v_strategy for no key update;
  end if;
  select * into t from trades where id = t.id for update;
  return t;
end $$;

-- The next sequence number of a stream whose row is locked already: a strategy's, or for copies their account's.
create or replace function next_number(p_strategy bigint, p_copying_account bigint) returns bigint
language plpgsql as $$
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

-- The outcome of a verb that changed a trade. Copies are private to their account: they make no event in the stream.
create or replace function changed(p_code text, p_strategy strategies, p_row json, p_is_copy boolean)
returns jsonb language sql stable as $$
  select jsonb_build_object('code', p_code, 'trade', p_row::jsonb)
      || case when p_is_copy then '{}'
              else jsonb_build_object('event', 'trade.' || p_code, 'strategy_id', p_strategy.id) end
$$;

drop function if exists told(text, text, strategies, json, boolean);  -- the name of changed() in 0.1.0

-- Whether a trade is a copy. Copies are private to their account, even where that account leads a strategy as well.
create or replace function is_copy(p_trade uuid) returns boolean language plpgsql stable as $$
begin
  return exists (select from active_trades where trade_id = p_trade and master_trade is not null)
      or exists (select from trade_history where trade_id = p_trade and master_trade is not null);
end $$;

-- The provider's trade that a copier names, by its id or else by its ticket; null where the provider has no such trade.
create or replace function provider_trade(p_account bigint, p_trade uuid, p_ticket text) returns trades
language plpgsql stable as $$
declare
  t trades;
begin
  if p_trade is null then
    select * into t from trades where account_id = p_account and ticket_id = p_ticket and not is_copy(id);
  else
    select * into t from trades where id = p_trade and account_id = p_account and not is_copy(id);
  end if;
  return t;
end $$;

-- The strategy of this name, where the account has or had a subscription to it.
create or replace function followed_strategy(p_account bigint, p_name text) returns strategies
language plpgsql stable as $$
declare
  s strategies;
begin
  select strategies.* into s from strategies join subscriptions u on u.strategy_id = strategies.id
   where strategies.name = p_name and u.account_id = p_account;
  return s;
end $$;

-- The answer to an open whose ticket is known: the same open is a success, anything else is refused.
create or replace function trade_opened_before(caller jsonb, t trades, p_opening bytea, p_strategy text) returns jsonb
language plpgsql as $$
declare
  a active_trades;
  v_facts jsonb := jsonb_build_object('ticket_id', t.ticket_id, 'strategy', p_strategy);
begin
  if t.state = 'CLOSED' then
    -- Somebody on the way may hold a request back until its trade is closed: that is not its signer's fault.
    if (select closed_at from trade_history where trade_id = t.id)
       >= to_timestamp((caller->>'signed_ms')::bigint / 1000.0) then
      v_facts := v_facts || '{"signed_before_close": true}';
    end if;
    perform audit(caller, 'zombie.refused', 'trade:' || t.id, 'trade_closed', v_facts);
    return refused('trade_closed');
  elsif t.opening <> p_opening then
    perform audit(caller, 'trade.refused', 'trade:' || t.id, 'trade_exists_different',
                  jsonb_build_object('ticket_id', t.ticket_id));
    return refused('trade_exists_different');
  end if;
  select * into a from active_trades where trade_id = t.id;
  return jsonb_build_object('code', 'open_already', 'trade', active_row(a, p_strategy)::jsonb);
end $$;

-- The refusal of a provider's new trade; null where it is allowed. Reports of copies are facts about a broker, so they
-- have no limits, and closes have none either.
create or replace function open_refusal(s strategies, args jsonb) returns jsonb language plpgsql stable as $$
declare
  -- A symbol that the desk does not list has the limit that a listed one begins with.
  v_volume numeric := coalesce((select max_volume from instruments where symbol = args->>'symbol'), 1000);
  v_count  int := (select max_open_trades from trading_accounts where id = s.account_id);
begin
  if s.status <> 'ACTIVE' then return refused('strategy_close_only'); end if;
  if stops_are_wrong(args->>'type', (args->>'open_price')::numeric, (args->>'sl')::numeric, (args->>'tp')::numeric) then
    return refused('stop_wrong_side');
  end if;
  if (args->>'volume')::numeric > v_volume then
    return refused('volume_above_limit', jsonb_build_object('largest', v_volume::numeric(20,8)::text));
  end if;
  if (select count(*) from (select from active_trades where account_id = s.account_id and master_trade is null
                             limit v_count) counted) >= v_count then
    return refused('too_many_open', jsonb_build_object('largest', v_count));
  end if;
  return null;
end $$;

-- The refusal of a provider's open at a price of zero or below; null where the instrument allows it.
create or replace function nonpositive_refusal(p_symbol text) returns jsonb language plpgsql stable as $$
begin
  if exists (select from instruments where symbol = p_symbol and allows_nonpositive_prices) then return null; end if;
  return refused('invalid', '{"fields": {"open_price": ["must be above zero"]}}');
end $$;

-- Whether a stop lies on the wrong side of the price, or where no price is known, of the other stop.
create or replace function stops_are_wrong(p_type text, p_price numeric, p_sl numeric, p_tp numeric) returns boolean
language sql immutable as $$
  select coalesce(case p_type when 'BUY' then p_sl >= coalesce(p_price, p_tp) or p_tp <= coalesce(p_price, p_sl)
                              else p_sl <= coalesce(p_price, p_tp) or p_tp >= coalesce(p_price, p_sl) end, false)
$$;

-- args: {"ticket_id", "symbol", "type", "volume", "open_price", "sl"?, "tp"?, "opened_at"?, "comment"?, "analysis"?,
--        "copies"?: {"strategy", "master_ticket" | "trade_ref"}}
create or replace function trade_open(caller jsonb, args jsonb) returns jsonb
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  v_account bigint := (caller->>'account')::bigint;
  v_is_copy boolean := args ? 'copies';
  v_ticket  text := args->>'ticket_id';
  v_volume  numeric(20,8) := (args->>'volume')::numeric;
  v_price   numeric(20,8) := (args->>'open_price')::numeric;
  v_sl      numeric(20,8) := (args->>'sl')::numeric;
  v_tp      numeric(20,8) := (args->>'tp')::numeric;
  v_provider_ticket text := coalesce(args->'copies'->>'master_ticket', v_ticket);
  v_provider_trade  uuid := (args->'copies'->>'trade_ref')::uuid;
  -- What makes a repeated open the same open.
  v_opening bytea := sha256(convert_to(
    format('%s|%s|%s|%s|%s|%s|%s|%s', args->>'symbol', args->>'type', v_volume, v_price, v_sl, v_tp,
           args->'copies'->>'strategy', coalesce(v_provider_trade::text, v_provider_ticket)), 'UTF8'));
  v_refusal jsonb;
  v_paused  text[] := '{}';
  s strategies;
  m trades;
  t trades;
  a active_trades;
begin
  if v_is_copy then
    perform from trading_accounts where id = v_account for no key update;
    s := followed_strategy(v_account, args->'copies'->>'strategy');
    if s.id is null then return refused('not_found'); end if;
    m := provider_trade(s.account_id, v_provider_trade, v_provider_ticket);
    if m.id is null then return refused('trade_unknown'); end if;
  else
    select * into s from strategies where account_id = v_account for no key update;
    if not found then return refused('strategy_missing'); end if;
  end if;

  select * into t from trades where account_id = v_account and ticket_id = v_ticket;
  if found then return trade_opened_before(caller, t, v_opening, s.name); end if;
  v_refusal := case when not v_is_copy then open_refusal(s, args) end;
  if v_refusal->>'code' <> 'strategy_close_only' and not caller ? 'has_limits' then v_refusal := null; end if;
  if not v_is_copy and v_price <= 0 then v_refusal := coalesce(nonpositive_refusal(args->>'symbol'), v_refusal); end if;
  if v_refusal is not null then
    perform audit(caller, 'trade.refused', 'strategy:' || s.name, v_refusal->>'code',
                  jsonb_build_object('ticket_id', v_ticket));
    return v_refusal;
  end if;

  insert into trades (id, account_id, ticket_id, state, opening)
  values (uuid_v7(), v_account, v_ticket, 'OPEN', v_opening)
    on conflict (account_id, ticket_id) do nothing returning * into t;
  if not found then return trade_open(caller, args); end if;  -- the account's other stream took the ticket in between
  insert into active_trades (trade_id, account_id, strategy_id, ticket_id, master_ticket, master_trade, seq, symbol,
                             type, volume, opened_volume, open_price, sl, opened_sl, tp, status, comment, analysis,
                             opened_at)
  values (t.id, v_account, s.id, v_ticket, coalesce(m.ticket_id, v_ticket), m.id,
          next_number(s.id, case when v_is_copy then v_account end), args->>'symbol', args->>'type', v_volume, v_volume,
          v_price, v_sl, v_sl, v_tp, 'OPEN', coalesce(args->>'comment', ''), args->'analysis',
          coalesce((args->>'opened_at')::timestamptz, clock_timestamp()))
  returning * into a;
  if not v_is_copy then v_paused := skipped_for_paused(s.id, t.id); end if;
  perform audit(caller, 'trade.opened', 'trade:' || t.id, '',
                jsonb_build_object('ticket_id', v_ticket, 'strategy', s.name, 'seq', a.seq, 'symbol', a.symbol,
                                   'type', a.type, 'volume', a.volume::text, 'open_price', a.open_price::text));
  return changed('opened', s, active_row(a, s.name), v_is_copy)
      || case when v_paused = '{}' then '{}' else jsonb_build_object('paused', v_paused) end;
end $$;
select callable_by('trade_open(jsonb, jsonb)', 'copydesk_app');

-- args: {"ticket_id", "sl"?, "tp"?, "master_time_ms"?}; a key with null removes the stop, a missing key keeps it.
create or replace function trade_modify(caller jsonb, args jsonb) returns jsonb
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  t trades := trade_locked((caller->>'account')::bigint, args->>'ticket_id');
  a active_trades;
  s strategies;
  v_sl numeric(20,8);
  v_tp numeric(20,8);
  v_is_first boolean;
  v_sent_ms bigint := (args->>'master_time_ms')::bigint;
begin
  if t.id is null then return refused('trade_unknown'); end if;
  if t.state = 'CLOSED' then return refused('trade_closed'); end if;
  select * into a from active_trades where trade_id = t.id;
  select * into s from strategies where id = a.strategy_id;
  v_sl := case when args ? 'sl' then (args->>'sl')::numeric else a.sl end;
  v_tp := case when args ? 'tp' then (args->>'tp')::numeric else a.tp end;
  if v_sent_ms < a.told_ms then  -- a later modification arrived before this one
    return jsonb_build_object('code', 'ignored', 'trade', active_row(a, s.name)::jsonb);
  end if;
  if (v_sl, v_tp) is not distinct from (a.sl, a.tp) then
    update active_trades set told_ms = v_sent_ms where trade_id = t.id and v_sent_ms is not null;
    return jsonb_build_object('code', 'unchanged', 'trade', active_row(a, s.name)::jsonb);
  end if;
  -- Where the price is now is not known here: a stop loss that was moved into profit lies beyond the open price.
  if a.master_trade is null and caller ? 'has_limits' and stops_are_wrong(a.type, null, v_sl, v_tp) then
    return refused('stop_wrong_side');
  end if;
  -- Copies by risk of a trade without a stop loss wait for the first one (sizing.FIRST_STOP_MS).
  v_is_first := a.master_trade is null and a.opened_sl is null and a.first_sl is null and v_sl is not null
    and clock_timestamp() <= to_timestamp(uuid_v7_ms(t.id) / 1000.0) + interval '5 seconds';
  update active_trades
     set sl = v_sl, tp = v_tp, told_ms = coalesce(v_sent_ms, told_ms),
         first_sl = case when v_is_first then v_sl else first_sl end,
         seq = next_number(s.id, case when a.master_trade is not null then a.account_id end)
   where trade_id = t.id returning * into a;
  perform audit(caller, 'trade.modified', 'trade:' || t.id, '',
                jsonb_build_object('ticket_id', a.ticket_id, 'strategy', s.name, 'seq', a.seq,
                                   'sl', a.sl::text, 'tp', a.tp::text));
  return changed('modified', s, (active_row(a, s.name)::jsonb || case when v_is_first then '{"brings_stop": true}'
                                                                       else '{}' end::jsonb)::json,
                 a.master_trade is not null);
end $$;
select callable_by('trade_modify(jsonb, jsonb)', 'copydesk_app');

-- A partial close. args: {"ticket_id", "deal_id", "volume": what remains open, "close_price", "profit"}
create or replace function trade_reduce(caller jsonb, args jsonb) returns jsonb
language plpgsql security definer set search_path = public, pg_temp as $$
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
  if t.state = 'CLOSED' and r.id is not null then return jsonb_build_object('code', 'unchanged'); end if;
  if v_remaining = 0 then return trade_close(caller, args || '{"reason": "MANUAL"}'); end if;
  if t.state = 'CLOSED' then return refused('trade_closed'); end if;
  select * into a from active_trades where trade_id = t.id;
  select * into s from strategies where id = a.strategy_id;
  if r.id is not null or v_remaining = a.volume then
    return jsonb_build_object('code', 'unchanged', 'trade', active_row(a, s.name)::jsonb);
  end if;
  if v_remaining > a.volume then
    return refused('volume_increase', jsonb_build_object('volume', a.volume::text));
  end if;
  insert into trade_reductions (trade_id, deal_id, volume, remaining, close_price, profit)
  values (t.id, args->>'deal_id', a.volume - v_remaining, v_remaining, v_price, v_profit);
  update active_trades
     set volume = v_remaining, seq = next_number(s.id, case when a.master_trade is not null then a.account_id end)
   where trade_id = t.id returning * into a;
  perform audit(caller, 'trade.reduced', 'trade:' || t.id, '',
                jsonb_build_object('ticket_id', a.ticket_id, 'strategy', s.name, 'seq', a.seq,
                                   'deal_id', args->>'deal_id', 'remaining', a.volume::text,
                                   'close_price', v_price::text, 'profit', v_profit::text));
  return changed('reduced', s, (active_row(a, s.name)::jsonb || jsonb_build_object('close_price', v_price::text))::json,
                 a.master_trade is not null);
end $$;
select callable_by('trade_reduce(jsonb, jsonb)', 'copydesk_app');
