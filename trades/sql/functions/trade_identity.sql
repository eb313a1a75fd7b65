-- What the triggers of a trade's tables refuse. The foreign keys beside them (migration 0002) keep a trade in one home.

create or replace function trade_keeps_its_identity() returns trigger language plpgsql as $$
begin
  if old.state = 'CLOSED' then
    raise exception 'trade % is closed for ever', old.id using errcode = 'CD001';
  end if;
  if (new.id, new.account_id, new.ticket_id, new.opening)
     is distinct from (old.id, old.account_id, old.ticket_id, old.opening) then
    raise exception 'the identity of trade % cannot change', old.id using errcode = 'CD003';
  end if;
  return new;
end $$;

-- An active trade keeps what it was opened as. Its volume may fall; its stops and its sequence number may change.
create or replace function active_trade_keeps_its_opening() returns trigger language plpgsql as $$
begin
  if (new.trade_id, new.account_id, new.strategy_id, new.ticket_id, new.master_ticket, new.master_trade,
      new.symbol, new.type, new.opened_volume, new.open_price, new.opened_at)
     is distinct from
     (old.trade_id, old.account_id, old.strategy_id, old.ticket_id, old.master_ticket, old.master_trade,
      old.symbol, old.type, old.opened_volume, old.open_price, old.opened_at)
  then
    raise exception 'the opening of trade % cannot change', old.trade_id using errcode = 'CD003';
  end if;
  if old.first_sl is not null and new.first_sl is distinct from old.first_sl then
    raise exception 'the first stop loss of trade % cannot change', old.trade_id using errcode = 'CD003';
  end if;
  if new.volume > old.volume then
    raise exception 'the volume of trade % cannot grow', old.trade_id using errcode = 'CD003';
  end if;
  return new;
end $$;

-- A row that was deleted from the hot table and inserted again, larger or as another trade, would satisfy every key. So
-- a row leaves the hot table only with its close. The trigger is deferred and runs as the owner, because at commit the
-- caller may be a role that cannot read the table.
create or replace function active_trade_goes_with_its_close() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  if not exists (select from trades where id = old.trade_id and state = 'CLOSED') then
    raise exception 'trade % is open: its row goes only with its close', old.trade_id using errcode = 'CD003';
  end if;
  return null;
end $$;

-- The sequence numbers of a strategy's stream grow by one and never go back.
create or replace function stream_number_grows_by_one() returns trigger language plpgsql as $$
begin
  if new.last_seq <> old.last_seq and new.last_seq <> old.last_seq + 1 then
    raise exception 'the stream of strategy % goes from % to %, not to %',
      old.id, old.last_seq, old.last_seq + 1, new.last_seq using errcode = 'CD004';
  end if;
  return new;
end $$;
