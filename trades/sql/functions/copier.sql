-- What a copier's bot reports besides its trades and orders: its heartbeat, and why it did not copy.

-- The lease: one instance copies for an account at a time. An instance without a takeover number (`fence`) has just
-- started and takes over; the one before learns it at its next heartbeat. A different instance may open nothing before
-- every earlier lease has surely ended, because an earlier instance may still run. The same instance need not wait for
-- itself: its name stands for its machine and its state folder, which only one process can hold.
-- args: {"instance", "fence"?, "ends"?, "told"?: the open copies it holds, "balance"?, "equity"?}
create or replace function copier_beat(caller jsonb, args jsonb) returns jsonb
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  v_account bigint := (caller->>'account')::bigint;
  v_lease   constant interval := '45 seconds';
  v_now     timestamptz := clock_timestamp();
  v_ends    boolean := coalesce((args->>'ends')::boolean, false);
  v_number  bigint := (args->>'fence')::bigint;
  c copiers;
begin
  if (args->>'equity') is not null then perform account_noted(caller, args); end if;
  perform from trading_accounts where id = v_account for no key update;
  select * into c from copiers where account_id = v_account;
  if v_number is null then
    insert into copiers (account_id, instance, fence, beat_at, leased_until, may_open_at, told)
    values (v_account, args->>'instance', 1, v_now, v_now, v_now, '[]')
    on conflict (account_id) do update
      set instance = excluded.instance, fence = copiers.fence + 1,
          may_open_at = case when copiers.instance = excluded.instance then copiers.may_open_at
                             else greatest(v_now, copiers.leased_until, copiers.may_open_at) end
    returning * into c;
    perform account_change(caller, v_account, 'copier.took_over', '',
                           jsonb_build_object('instance', c.instance, 'fence', c.fence));
  elsif c.instance is distinct from args->>'instance' or c.fence <> v_number then
    perform account_change(caller, v_account, 'copier.refused', 'lease_lost', jsonb_build_object('fence', v_number));
    return refused('lease_lost');
  end if;
  update copiers
     set beat_at = v_now, leased_until = case when v_ends then v_now else v_now + v_lease end,
         told = coalesce(args->'told', '[]')
   where account_id = v_account returning * into c;
  return jsonb_build_object(
    'code', 'beat', 'fence', c.fence::text, 'lease_ms', (extract(epoch from v_lease) * 1000)::int,
    'may_open_in_ms', greatest(0, ceil(extract(epoch from c.may_open_at - v_now) * 1000))::int);
end $$;
select callable_by('copier_beat(jsonb, jsonb)', 'copydesk_app');

-- What the answer to a heartbeat needs besides the snapshot: which of these provider's trades the account skipped,
-- which of its copies of them are closed, and the limits that its bot applies.
create or replace function copier_standing(p_account bigint, p_masters uuid[]) returns jsonb
language plpgsql stable security definer set search_path = public, pg_temp as $$
begin
  return jsonb_build_object(
    'skipped', (select coalesce(jsonb_agg(k.master_trade), '[]')
                  from subscriptions u join copy_skips k on k.subscription_id = u.id
                 where u.account_id = p_account and k.master_trade = any(p_masters)),
    'closed', (select coalesce(jsonb_agg(h.master_trade), '[]') from trade_history h
                where h.account_id = p_account and h.master_trade = any(p_masters)),
    'limits', (select coalesce(jsonb_object_agg(u.sub_id, jsonb_build_object(
                        'id', u.id, 'next_generation', u.next_generation, 'max_open_trades', m.max_open_trades,
                        'max_slippage_bps', m.max_slippage_bps::text)), '{}')
                 from subscriptions u
                      cross join lateral (select latest.max_open_trades, latest.max_slippage_bps
                                            from subscription_terms latest where latest.subscription_id = u.id
                                           order by latest.id desc limit 1) m
                where u.account_id = p_account and u.status <> 'ENDED'));
end $$;
select callable_by('copier_standing(bigint, uuid[])', 'copydesk_app', 'copydesk_bot');

-- Records why a copier did not copy a provider's trade. The first reason stands.
-- args: {"strategy", "trade_ref", "reason", "detail"?}
create or replace function copy_skip(caller jsonb, args jsonb) returns jsonb
language plpgsql security definer set search_path = public, pg_temp as $$
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
select callable_by('copy_skip(jsonb, jsonb)', 'copydesk_app');

-- The reason of skips by the reason of a pause. Bots know one word for all pauses that people begin and end.
create or replace function pause_reason(p_paused_for text) returns text language sql immutable as $$
  select case when p_paused_for in ('HAND', 'OWNER', 'TERMS') then 'paused' else lower(p_paused_for) end
$$;

-- Records that paused subscriptions do not copy a trade that opens now, and returns their sub_ids. They are not shown
-- the trade while they are paused, so the reason is kept.
create or replace function skipped_for_paused(p_strategy bigint, p_trade uuid) returns text[] language plpgsql as $$
declare
  v_paused text[];
begin
  with paused as (
    select id, sub_id::text, pause_reason(paused_for) as why
      from subscriptions where strategy_id = p_strategy and status = 'PAUSED'),
  recorded as (
    insert into copy_skips (subscription_id, strategy_id, master_trade, reason, detail)
    select id, p_strategy, p_trade, why, '' from paused)
  select coalesce(array_agg(sub_id), '{}') into v_paused from paused;
  return v_paused;
end $$;

drop function if exists skip_for_paused(bigint, uuid);  -- the name of skipped_for_paused() in 0.1.0

-- A subscription that begins paused is shown none of the trades that are open already: its copier cannot hold them. The
-- stream's lock makes sure that no trade opens between this look and the commit.
create or replace function subscription_begins_without_open_trades() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  perform from strategies where id = new.strategy_id for no key update;
  insert into copy_skips (subscription_id, strategy_id, master_trade, reason, detail)
  select new.id, new.strategy_id, trade_id, pause_reason(new.paused_for), '' from active_trades
   where strategy_id = new.strategy_id and master_trade is null
  on conflict (subscription_id, master_trade) do nothing;
  return null;
end $$;
