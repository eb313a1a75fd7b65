-- What copiers read and report: the streams they follow with the terms they copy under, their orders, what they did not
-- copy and why, and the beat by which the desk knows that exactly one of them is at work.

create or replace function from_ms(p_ms text) returns timestamptz language sql immutable as $$
  select to_timestamp(p_ms::numeric / 1000)
$$;

-- When the desk learned of a trade: the milliseconds in its id (a UUID of version 7).
create or replace function born_ms(p_trade uuid) returns bigint language sql immutable as $$
  select ('x' || lpad(left(replace(p_trade::text, '-', ''), 12), 16, '0'))::bit(64)::bigint
$$;

-- Whether a trade is a copy of another: private to its account, though that one may lead a strategy as well.
create or replace function is_copy(p_trade uuid) returns boolean language plpgsql stable as $$
begin
  return exists (select from active_trades where trade_id = p_trade and master_trade is not null)
      or exists (select from trade_history where trade_id = p_trade and master_trade is not null);
end $$;

-- A copier's report of what became of an order. A fact about its broker: it never changes a trade's state.
create or replace function order_report(caller jsonb, args jsonb) returns jsonb language plpgsql as $$
declare
  v_account bigint := (caller->>'account')::bigint;
  v_asked   numeric(20,8) := (args->>'requested_price')::numeric;
  v_got     numeric(20,8) := (args->>'executed_price')::numeric;
  v_copied  uuid := (args->>'trade_ref')::uuid;
  v_ticket  text := args->>'master_ticket';
  v_sent    timestamptz := from_ms(args->>'sent_ms');
  v_latency int := (args->>'latency_ms')::int;
  v_worse   numeric;  -- how much worse than asked, in price; negative is better
  v_points  numeric;
  v_bps     numeric;
  v_most    constant numeric := 999999999999;  -- what a column holds; prices of nonsense have no slippage then
  v_symbol  text;
  v_type    text;
  v_own     text;  -- the side of the copy, where it is another: copied in reverse
  v_open    boolean := false;
  v_point   numeric;
  s strategies;
  o copy_orders;
begin
  select strategies.* into s from strategies join subscriptions u on u.strategy_id = strategies.id
   where strategies.name = args->>'strategy' and u.account_id = v_account;
  if not found then return refused('not_found'); end if;
  if v_copied is null then
    select id into v_copied from trades where account_id = s.account_id and ticket_id = v_ticket and not is_copy(id);
  else
    select ticket_id into v_ticket from trades where id = v_copied and account_id = s.account_id and not is_copy(id);
    if not found then return refused('trade_unknown'); end if;
  end if;
  select coalesce(a.symbol, h.symbol), coalesce(a.type, h.type), a.trade_id is not null into v_symbol, v_type, v_open
    from trades t left join active_trades a on a.trade_id = t.id left join trade_history h on h.trade_id = t.id
   where t.id = v_copied;
  select coalesce(a.type, h.type) into v_own
    from trades t left join active_trades a on a.trade_id = t.id left join trade_history h on h.trade_id = t.id
   where t.account_id = v_account and t.ticket_id = args->>'ticket_id';
  select point into v_point from instruments where symbol = v_symbol;
  v_type := coalesce(args->>'type', v_own, v_type);
  v_worse := (v_got - v_asked) * case v_type when 'BUY' then 1 when 'SELL' then -1 end;
  v_points := v_worse / v_point;
  v_bps := v_worse / v_asked * 10000;
  if v_latency is null and v_sent is not null and v_copied is not null then
    v_latency := greatest(0, least(2147483647, (args->>'sent_ms')::bigint - born_ms(v_copied)));
  end if;
  insert into copy_orders (account_id, strategy_id, seq, master_ticket, master_trade, ticket_id, symbol, type, status, requested_price,
                           executed_price, volume, latency_ms, failed_reason, slippage_points, slippage_bps, heard_at, sent_at, filled_at)
  values (v_account, s.id, (args->>'seq')::bigint, v_ticket, v_copied, coalesce(args->>'ticket_id', ''), coalesce(v_symbol, ''),
          coalesce(v_type, ''), args->>'status', v_asked, v_got, (args->>'volume')::numeric, v_latency,
          coalesce(args->>'failed_reason', ''), case when abs(v_points) <= v_most then v_points end,
          case when abs(v_bps) <= v_most then v_bps end, from_ms(args->>'heard_ms'), v_sent, from_ms(args->>'filled_ms'))
  returning * into o;
  perform audit(caller, 'order.reported', 'order:' || o.id, '',
                jsonb_build_object('strategy', s.name, 'master_ticket', o.master_ticket, 'status', o.status));
  return jsonb_build_object('code', case when coalesce(v_open, false) then 'reported' else 'reported_late' end, 'order_id', o.id::text,
                            'slippage_points', o.slippage_points::text, 'slippage_bps', o.slippage_bps::text);
end $$;

-- Why a master's trade was not copied. The first reason stands.
create or replace function copy_skip(caller jsonb, args jsonb) returns jsonb language plpgsql as $$
declare
  u subscriptions;
begin
  select subscriptions.* into u from subscriptions join strategies s on s.id = strategy_id
   where s.name = args->>'strategy' and subscriptions.account_id = (caller->>'account')::bigint;
  if not found then return refused('not_found'); end if;
  perform from trades t join strategies s on s.account_id = t.account_id
    where t.id = (args->>'trade_ref')::uuid and s.id = u.strategy_id and not is_copy(t.id);
  if not found then return refused('trade_unknown'); end if;
  insert into copy_skips (subscription_id, strategy_id, master_trade, reason, detail)
  values (u.id, u.strategy_id, (args->>'trade_ref')::uuid, args->>'reason', coalesce(args->>'detail', ''))
  on conflict (subscription_id, master_trade) do nothing;
  return jsonb_build_object('code', 'noted');
end $$;

-- What a bot says of its account's money.
create or replace function account_tell(caller jsonb, args jsonb) returns jsonb language plpgsql as $$
begin
  update trading_accounts
     set balance = (args->>'balance')::numeric, equity = (args->>'equity')::numeric, told_at = clock_timestamp()
   where id = (caller->>'account')::bigint;
  return jsonb_build_object('code', 'told');
end $$;

-- One instance copies for an account at a time. Whoever comes without a fence has just started and takes over; the one
-- before is told at its next beat. Another instance opens nothing before the leases of all before have surely ended (who only
-- came and went may have left one that still runs); the same one (its name is of its machine and its state files, which one process holds) need not wait for itself.
create or replace function copier_beat(caller jsonb, args jsonb) returns jsonb language plpgsql as $$
declare
  v_account bigint := (caller->>'account')::bigint;
  v_lease   constant interval := '45 seconds';
  v_now     timestamptz := clock_timestamp();
  v_ends    boolean := coalesce((args->>'ends')::boolean, false);
  v_fence   bigint := (args->>'fence')::bigint;
  c copiers;
begin
  if (args->>'equity') is not null then perform account_tell(caller, args); end if;
  perform from trading_accounts where id = v_account for no key update;
  select * into c from copiers where account_id = v_account;
  if v_fence is null then
    insert into copiers (account_id, instance, fence, beat_at, leased_until, may_open_at, told)
    values (v_account, args->>'instance', 1, v_now, v_now, v_now, '[]')
    on conflict (account_id) do update
      set instance = excluded.instance, fence = copiers.fence + 1, may_open_at =
            case when copiers.instance = excluded.instance then copiers.may_open_at else greatest(v_now, copiers.leased_until, copiers.may_open_at) end
    returning * into c;
    perform audit(caller, 'copier.took_over', 'account:' || v_account, '', jsonb_build_object('instance', c.instance, 'fence', c.fence));
  elsif c.instance is distinct from args->>'instance' or c.fence <> v_fence then
    perform audit(caller, 'copier.refused', 'account:' || v_account, 'lease_lost', jsonb_build_object('fence', v_fence));
    return refused('lease_lost');
  end if;
  update copiers
     set beat_at = v_now, leased_until = case when v_ends then v_now else v_now + v_lease end, told = coalesce(args->'told', '[]')
   where account_id = v_account returning * into c;
  return jsonb_build_object('code', 'beat', 'fence', c.fence::text, 'lease_ms', (extract(epoch from v_lease) * 1000)::int,
                            'may_open_in_ms', greatest(0, ceil(extract(epoch from c.may_open_at - v_now) * 1000))::int);
end $$;

-- What the beat's answer needs of a copier's account besides its snapshot: which of these trades it did not copy, and which of
-- its copies are closed; and the limits that its bot keeps.
create or replace function copier_standing(p_account bigint, p_masters uuid[]) returns jsonb language plpgsql stable as $$
begin
  return jsonb_build_object(
    'skipped', (select coalesce(jsonb_agg(k.master_trade), '[]') from subscriptions u join copy_skips k on k.subscription_id = u.id
                 where u.account_id = p_account and k.master_trade = any(p_masters)),
    'closed', (select coalesce(jsonb_agg(h.master_trade), '[]') from trade_history h
                where h.account_id = p_account and h.master_trade = any(p_masters)),
    'limits', (select coalesce(jsonb_object_agg(u.sub_id, jsonb_build_object(
                        'id', u.id, 'next_generation', u.next_generation, 'max_open_trades', m.max_open_trades,
                        'max_slippage_bps', m.max_slippage_bps::text)), '{}')
                 from subscriptions u
                      cross join lateral (select last.max_open_trades, last.max_slippage_bps from subscription_terms last
                                           where last.subscription_id = u.id order by last.id desc limit 1) m
                where u.account_id = p_account and u.status <> 'ENDED'));
end $$;

-- Terms as the copy is worked out from them: the same settings are the same text, whoever's they are.
create or replace function settings_of(m subscription_terms, p_currency text) returns text language plpgsql stable as $$
begin
  return jsonb_strip_nulls(jsonb_build_object(
    'mode', m.mode, 'multiplier', m.multiplier::text, 'fixed_lots', m.fixed_lots::text, 'risk_pct', m.risk_pct::text,
    'min_volume', m.min_volume::text, 'max_volume', m.max_volume::text, 'raises_to_min', m.raises_to_min,
    'reverse', m.reverse, 'symbols', to_jsonb(m.symbols), 'symbol_map', m.symbol_map)
    || case when m.mode in ('EQUITY', 'RISK')
       then jsonb_build_object('equity', m.equity::text, 'master_equity', m.master_equity::text, 'currency', p_currency)
       else '{}' end
    || case when m.mode = 'RISK'
       then jsonb_build_object('contracts', (select jsonb_object_agg(symbol, contract_size::text) from instruments))
       else '{}' end)::text;
end $$;

-- The terms that a subscription's open trades were opened under, and all since a minute ago (a trade that is being opened just
-- now has its id already), oldest first: [[since in ms, settings], …].
create or replace function terms_of(p_subscription bigint, p_strategy bigint, p_currency text) returns jsonb language plpgsql stable as $$
declare
  v_lately constant timestamptz := now() - interval '1 minute';
begin
  return (
    select jsonb_agg(jsonb_build_array((extract(epoch from m.since) * 1000)::bigint, settings_of(m, p_currency)) order by m.since, m.id)
      from subscription_terms m
     where m.id = any(array(
       select late.id from subscription_terms late where late.subscription_id = p_subscription and late.since > v_lately
       union
       select (select held.id from subscription_terms held where held.subscription_id = p_subscription and held.since <= births.at
                order by held.since desc, held.id desc limit 1)
         from (select v_lately as at
               union select to_timestamp(born_ms(trade_id) / 1000.0) from active_trades
                      where strategy_id = p_strategy and master_trade is null) births)));
end $$;

drop function if exists streams_of(bigint[]);
drop function if exists streams_of_each(bigint[]);

-- The streams that each of these accounts sees: those they lead and those they follow (a paused one still sees its closes).
-- `terms` grows with each change of them.
create function streams_of_each(p_accounts bigint[])
returns table (account_id bigint, strategy_id bigint, name text, last_seq bigint, sub_id text, subscription_id bigint, currency text,
               status text, paused_for text, generation int, terms bigint, closes boolean)
language plpgsql stable as $$
begin
  return query
    select s.account_id, s.id, s.name::text, s.last_seq, null::text, null::bigint, null::text, 'LEADS', '', 0, 0::bigint, false
      from strategies s where s.account_id = any(p_accounts)
    union all
    select u.account_id, s.id, s.name::text, s.last_seq, u.sub_id::text, u.id, a.currency::text, u.status::text, u.paused_for::text,
           u.packet_generation, m.id, u.paused_for = 'DRAWDOWN' and m.closes_on_drawdown
      from subscriptions u join strategies s on s.id = u.strategy_id join trading_accounts a on a.id = u.account_id
           cross join lateral (select last.id, last.closes_on_drawdown from subscription_terms last
                                where last.subscription_id = u.id order by last.id desc limit 1) m
     where u.account_id = any(p_accounts) and u.status <> 'ENDED';
end $$;

-- The streams that somebody with all these accounts sees, each once.
create function streams_of(p_accounts bigint[])
returns table (strategy_id bigint, name text, last_seq bigint, sub_id text, subscription_id bigint, currency text, status text,
               paused_for text, generation int, terms bigint, closes boolean)
language plpgsql stable as $$
begin
  return query
    select distinct on (e.strategy_id) e.strategy_id, e.name, e.last_seq, e.sub_id, e.subscription_id, e.currency, e.status,
           e.paused_for, e.generation, e.terms, e.closes
      from streams_of_each(p_accounts) e order by e.strategy_id, e.status, e.sub_id;
end $$;

-- Changes exactly when the snapshot of these accounts may have changed.
create or replace function snapshot_mark(p_accounts bigint[]) returns text language plpgsql stable as $$
begin
  return coalesce((select string_agg(concat_ws(':', strategy_id, last_seq, status, paused_for, generation, terms), ',' order by strategy_id)
                     from streams_of(p_accounts)), '')
      || '/' || coalesce((select string_agg(copy_seq::text, ',' order by id) from trading_accounts where id = any(p_accounts)), '');
end $$;

-- What is active now, read at one instant: being STABLE, the whole function sees the one snapshot of its caller.
create or replace function active_snapshot(p_accounts bigint[]) returns json language plpgsql stable as $$
begin
  return json_build_object(
    'mark', snapshot_mark(p_accounts),
    'streams', coalesce((select json_agg(json_build_object(
                                  'id', strategy_id, 'name', name, 'seq', last_seq, 'sub_id', sub_id, 'status', status,
                                  'paused_for', paused_for, 'generation', generation, 'number', terms, 'closes', closes,
                                  'terms', terms_of(subscription_id, strategy_id, currency)) order by strategy_id)
                           from streams_of(p_accounts)), '[]'),
    'trades', coalesce((
      select json_agg(active_row(a, s.name) order by a.opened_at, a.trade_id)
        from active_trades a join strategies s on s.id = a.strategy_id
       where (a.master_trade is null and a.strategy_id in (select strategy_id from streams_of(p_accounts)))
          or (a.master_trade is not null and a.account_id = any(p_accounts))), '[]'));
end $$;

-- What the functions write, nobody else writes.
select protect(t, 'select') from unnest(array['copy_skips', 'copiers']::regclass[]) t;
select protect('subscription_terms', 'select, insert'), protect('close_debts', 'select, insert, update (level, paid_at)');
