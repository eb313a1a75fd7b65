-- Holds: money of a wallet that is reserved for one purpose. (transfer.sql says what all ledger functions share.)

-- Reserves money. args: {"scope", "key", "wallet", "amount", "purpose", "expires_at",
--   "up_to": hold what is available where that is less, "wait"}
create or replace function ledger_hold(caller jsonb, args jsonb) returns jsonb
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  v_scope  text := args->>'scope';
  v_key    text := args->>'key';
  v_amount numeric(20,8) := (args->>'amount')::numeric;
  v_print  bytea := sha256(convert_to((args - 'wait')::text, 'UTF8'));
  v_id     uuid := uuid_v7();
  v_code   text;
  v_outcome jsonb;
  w wallets;
begin
  perform check_not_halted();
  v_outcome := ledger_replay(v_scope, v_key, v_print);
  if v_outcome is not null then return v_outcome; end if;
  perform ledger_lock(array[(args->>'wallet')::bigint], coalesce((args->>'wait')::boolean, false));
  v_outcome := ledger_replay(v_scope, v_key, v_print);
  if v_outcome is not null then return v_outcome; end if;
  select * into w from wallets where id = (args->>'wallet')::bigint;
  if not found then return refused('wallet_not_found'); end if;
  if (args->>'up_to')::boolean then v_amount := least(v_amount, w.balance - w.held); end if;
  v_code := case
    when v_amount <= 0 or w.kind <> 'PERSON' then 'amount_invalid'
    when w.frozen_at is not null then 'wallet_frozen'
    when w.balance - w.held < v_amount then 'insufficient_funds'
    end;
  v_outcome := case when v_code is null
    then jsonb_build_object('code', 'held', 'hold', v_id, 'amount', v_amount::text)
    else refused(v_code, jsonb_build_object('available', (w.balance - w.held)::text, 'currency', w.currency)) end;
  insert into ledger_requests (scope, idempotency_key, fingerprint, outcome)
  values (v_scope, v_key, v_print, v_outcome);
  if v_code is null then
    insert into wallet_holds (id, wallet_id, amount, purpose, state, expires_at)
    values (v_id, w.id, v_amount, args->>'purpose', 'PENDING', (args->>'expires_at')::timestamptz);
  end if;
  perform audit(caller, case when v_code is null then 'money.held' else 'money.refused' end, 'wallet:' || w.id,
                coalesce(v_code, ''),
                jsonb_build_object('hold', v_id, 'purpose', args->>'purpose', 'amount', v_amount::text,
                                   'currency', w.currency));
  return v_outcome;
end $$;
select callable_by('ledger_hold(jsonb, jsonb)', 'copydesk_app');

-- Releases a hold. args: {"hold", "as": "VOIDED" | "EXPIRED", "wait"}. Releasing it again in the same way is a success;
-- a hold that was spent or ended otherwise is refused.
create or replace function ledger_release(caller jsonb, args jsonb) returns jsonb
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  h wallet_holds;
begin
  perform check_not_halted();
  select * into h from wallet_holds where id = (args->>'hold')::uuid;
  if not found then return refused('hold_not_found'); end if;
  perform ledger_lock(array[h.wallet_id], coalesce((args->>'wait')::boolean, false));
  select * into h from wallet_holds where id = h.id;
  if h.state = args->>'as' then return jsonb_build_object('code', 'released', 'hold', h.id, 'replayed', true); end if;
  if h.state <> 'PENDING' then return refused('hold_resolved'); end if;
  update wallet_holds set state = args->>'as', resolved_at = clock_timestamp() where id = h.id;
  perform audit(caller, 'money.released', 'wallet:' || h.wallet_id, '',
                jsonb_build_object('hold', h.id, 'purpose', h.purpose, 'amount', h.amount::text, 'as', args->>'as'));
  return jsonb_build_object('code', 'released', 'hold', h.id);
end $$;
select callable_by('ledger_release(jsonb, jsonb)', 'copydesk_app');

-- A wallet's `held` is the sum of its pending holds. Every hold updates the wallet's row, whose lock lasts until the
-- commit, so this deferred check sums rows that no other transaction can change.
create or replace function wallet_holds_what_is_pending() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  if new.held <> coalesce((select sum(amount) from wallet_holds where wallet_id = new.id and state = 'PENDING'), 0)
     and new.held = (select held from wallets where id = new.id) then
    raise exception 'wallet % does not hold what is pending', new.id using errcode = 'CD003';
  end if;
  return null;
end $$;

create or replace function hold_moves_the_held() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  if tg_op = 'INSERT' then
    if new.state <> 'PENDING' then raise exception 'a hold begins pending' using errcode = 'CD003'; end if;
    update wallets set held = held + new.amount where id = new.wallet_id;
    return null;
  end if;
  if old.state <> 'PENDING' then raise exception 'hold % is resolved for ever', old.id using errcode = 'CD001'; end if;
  if (new.id, new.wallet_id, new.amount, new.purpose, new.expires_at, new.created_at) is distinct from
     (old.id, old.wallet_id, old.amount, old.purpose, old.expires_at, old.created_at) then
    raise exception 'hold % can only be resolved', old.id using errcode = 'CD003';
  end if;
  if new.state = 'POSTED' and not exists (select from ledger_transfers t, wallet_holds h
                                           where t.id = new.transfer_id and h.id = new.id and t.xmin = h.xmin) then
    raise exception 'hold % is posted with its transfer, not by an older one', old.id using errcode = 'CD003';
  end if;
  if new.state <> 'PENDING' then
    update wallets set held = held - old.amount where id = new.wallet_id;
  end if;
  return null;
end $$;
