-- What staff do to trades, besides a close of their own (trade_close).

-- Orders the close of a copy: the copier's target for it is zero from now on. The copy stays open until the copier
-- reports its close, or somebody settles it. args: {"trade", "note", "by": user}
create or replace function copy_close_order(caller jsonb, args jsonb) returns jsonb
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  v_trade uuid := (args->>'trade')::uuid;
  a active_trades;
begin
  select * into a from active_trades where trade_id = v_trade;
  if a.trade_id is null then return refused('trade_closed'); end if;
  if a.master_trade is null then return refused('trade_unknown'); end if;
  perform trade_locked(a.account_id, a.ticket_id);
  select * into a from active_trades where trade_id = v_trade;
  if a.trade_id is null then return refused('trade_closed'); end if;
  insert into ordered_closes (copy_id, account_id, master_trade, note, ordered_by_id)
  values (v_trade, a.account_id, a.master_trade, args->>'note', (args->>'by')::uuid)
  on conflict (copy_id) do nothing;
  if not found then return jsonb_build_object('code', 'unchanged'); end if;
  perform next_number(a.strategy_id, a.account_id);  -- the account's snapshot has changed
  perform audit(caller, 'copy.close_ordered', 'trade:' || v_trade, '',
                jsonb_build_object('ticket_id', a.ticket_id, 'master_trade', a.master_trade, 'note', args->>'note'));
  return jsonb_build_object('code', 'ordered');
end $$;
select callable_by('copy_close_order(jsonb, jsonb)', 'copydesk_app');

-- Corrects the figures of a closed trade by a row beside them.
-- args: {"trade", "close_price", "profit", "reason", "requested_by", "approved_by"}
create or replace function trade_correct(caller jsonb, args jsonb) returns jsonb
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  v_trade uuid := (args->>'trade')::uuid;
  c trade_corrections;
begin
  perform from trades where id = v_trade for no key update;  -- corrections of a trade follow one another
  insert into trade_corrections (trade_id, account_id, close_price, profit, profit_before, reason, requested_by_id,
                                 approved_by_id)
  select h.trade_id, h.account_id, (args->>'close_price')::numeric, (args->>'profit')::numeric, 0, args->>'reason',
         (args->>'requested_by')::uuid, (args->>'approved_by')::uuid
    from trade_history h where h.trade_id = v_trade and h.kind = 'TRADE'
  returning * into c;
  if c.id is null then return refused('trade_unknown'); end if;
  perform audit(caller, 'trade.corrected', 'trade:' || v_trade, '',
                jsonb_build_object('close_price', c.close_price::text, 'profit', c.profit::text,
                                   'profit_before', c.profit_before::text, 'note', c.reason,
                                   'requested_by', c.requested_by_id));
  return jsonb_build_object('code', 'corrected', 'correction', c.id);
end $$;
select callable_by('trade_correct(jsonb, jsonb)', 'copydesk_app');

-- A correction states what counted before it, and two members of staff who gain nothing by it have made it.
create or replace function trade_correction_follows_its_trade() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  h trade_history;
begin
  select * into h from trade_history where trade_id = new.trade_id and kind = 'TRADE';
  if not found then
    raise exception 'only a closed trade can be corrected' using errcode = 'CD003';
  end if;
  if (select count(*) from users where id in (new.requested_by_id, new.approved_by_id) and is_staff and is_active) <> 2
     or exists (select from trading_accounts
                 where owner_id in (new.requested_by_id, new.approved_by_id)
                   and (id = h.account_id or id = (select account_id from strategies where id = h.strategy_id))) then
    raise exception 'a correction needs two members of staff, neither an owner of the accounts' using errcode = 'CD008';
  end if;
  new.account_id := h.account_id;
  new.strategy_id := h.strategy_id;
  new.corrected_at := clock_timestamp();
  new.profit_before := coalesce(
    (select profit from trade_corrections where trade_id = new.trade_id order by id desc limit 1), h.profit);
  return new;
end $$;

create or replace function trade_request_is_decided_once() returns trigger language plpgsql as $$
begin
  if old.state <> 'PENDING' then
    raise exception 'request % is decided for ever', old.id using errcode = 'CD001';
  end if;
  if (new.id, new.kind, new.trade_id, new.close_price, new.profit, new.reason, new.why_second, new.requested_by_id,
      new.created_at) is distinct from
     (old.id, old.kind, old.trade_id, old.close_price, old.profit, old.reason, old.why_second, old.requested_by_id,
      old.created_at) then
    raise exception 'request % can only be decided', old.id using errcode = 'CD003';
  end if;
  return new;
end $$;
