-- How money moves, written once and called by every edge.
--
-- Each function takes the caller and its arguments as JSON, locks, checks, writes, records in the audit log, and answers
-- an outcome: {"code": …}; a refusal has "refused": true. Done or refused, the outcome is kept under the idempotency key
-- for ever, and a repeat gets it again with "replayed". Only what may turn out otherwise next time is not kept: it is
-- raised (busy, halted), and nothing is written.
--
--   caller: {"kind": "staff"|"system"|…, "actor": …, "ip": …, "request_id": …}
--
-- Locks: people's wallets by ascending id, then house accounts by ascending id. With "wait" a person's wallet is waited
-- for (as long as lock_timeout says); without, a wallet that another transaction holds is an error at once (NOWAIT). House
-- accounts are always waited for: whoever has one commits soon, for it waits for nothing that comes before.

-- The house's account of that kind, made the first time it is needed.
create function house_account(p_kind text, p_currency text, p_shard int) returns bigint language plpgsql as $$
declare
  v_id bigint;
begin
  select id into v_id from wallets where kind = p_kind and currency = p_currency and shard = p_shard and kind <> 'PERSON';
  if not found then
    insert into wallets (kind, currency, shard, balance, held, version) values (p_kind, p_currency, p_shard, 0, 0, 0)
      on conflict (kind, currency, shard) where not kind = 'PERSON' do nothing;
    select id into v_id from wallets where kind = p_kind and currency = p_currency and shard = p_shard and kind <> 'PERSON';
  end if;
  return v_id;
end $$;

-- In how many rows each kind of house account is kept: one alone would be waited for by everybody.
create function house_shards() returns int language sql immutable as $$ select 64 $$;

create function check_not_halted() returns void language plpgsql as $$
declare
  v_why text;
begin
  select why into v_why from ledger_halts where ended_at is null limit 1;
  if found then raise exception 'the ledger is halted: %', v_why using errcode = 'CD007'; end if;
end $$;

-- What was answered to this key before; null where it is new. The same key for something else is a conflict.
create function ledger_replay(p_scope text, p_key text, p_fingerprint bytea) returns jsonb language plpgsql as $$
declare
  r ledger_requests;
begin
  select * into r from ledger_requests where scope = p_scope and idempotency_key = p_key;
  if not found then return null; end if;
  if r.fingerprint <> p_fingerprint then return refused('idempotency_conflict'); end if;
  return r.outcome || '{"replayed": true}';
end $$;

create function ledger_lock(p_wallets bigint[], p_wait boolean) returns void language plpgsql as $$
begin
  if p_wait then
    perform from wallets where id = any(p_wallets) and kind = 'PERSON' order by id for no key update;
  else
    perform from wallets where id = any(p_wallets) and kind = 'PERSON' order by id for no key update nowait;
  end if;
  perform from wallets where id = any(p_wallets) and kind <> 'PERSON' order by id for no key update;
end $$;

-- Move money.
--   args: {"scope", "key", "kind", "amount", "note", "debit": id | "debit_house": kind, "credit": id | "credit_house": kind,
--          "currency" where both sides are the house's, "shard" of its account (the wallet's own, if not said); "hold": spend from it; "claim"; "reverses"; "wait"}
create function ledger_move(caller jsonb, args jsonb) returns jsonb language plpgsql as $$
declare
  v_scope  text := args->>'scope';
  v_key    text := args->>'key';
  v_kind   text := args->>'kind';
  v_amount numeric(20,8) := (args->>'amount')::numeric;
  v_print  bytea := sha256(convert_to((args - 'note' - 'wait')::text, 'UTF8'));
  v_debit  bigint := (args->>'debit')::bigint;
  v_credit bigint := (args->>'credit')::bigint;
  v_id     uuid := uuid_v7();
  v_no     text;
  v_done   jsonb;
  p wallets;
  d wallets;
  c wallets;
  h wallet_holds;
begin
  perform check_not_halted();
  v_done := ledger_replay(v_scope, v_key, v_print);
  if v_done is not null then return v_done; end if;

  select * into p from wallets where id = coalesce(v_debit, v_credit);
  if p.id is null and not args ? 'currency' then return refused('wallet_not_found'); end if;
  v_debit := coalesce(v_debit, house_account(args->>'debit_house', coalesce(p.currency, args->>'currency'),
                                             (coalesce((args->>'shard')::bigint, p.id) % house_shards())::int));
  v_credit := coalesce(v_credit, house_account(args->>'credit_house', coalesce(p.currency, args->>'currency'),
                                               (coalesce((args->>'shard')::bigint, p.id) % house_shards())::int));
  perform ledger_lock(array[v_debit, v_credit], coalesce((args->>'wait')::boolean, false));
  v_done := ledger_replay(v_scope, v_key, v_print);  -- whoever held the wallet may have done this very thing
  if v_done is not null then return v_done; end if;
  select * into d from wallets where id = v_debit;
  select * into c from wallets where id = v_credit;
  if d.id is null or c.id is null then return refused('wallet_not_found'); end if;
  if args ? 'hold' then
    select * into h from wallet_holds where id = (args->>'hold')::uuid and wallet_id = d.id for no key update;
    if not found then return refused('hold_not_found'); end if;
  end if;

  v_no := case
    when d.currency <> c.currency then 'currency_mismatch'
    when d.id = c.id or v_amount <= 0 or c.balance + v_amount >= 1e12 or d.balance - v_amount <= -1e12 then 'amount_invalid'
    when exists (select from ledger_transfers where reverses_id = (args->>'reverses')::uuid) then 'reversed_already'
    when d.frozen_at is not null then 'wallet_frozen'
    when h.state in ('POSTED', 'VOIDED') then 'hold_resolved'
    when h.state = 'EXPIRED' or h.expires_at <= now() then 'hold_expired'
    when h.amount < v_amount then 'amount_invalid'
    when d.kind not in ('CASH_IN', 'RECEIVABLE', 'ADJUSTMENTS') and d.balance - d.held + coalesce(h.amount, 0) < v_amount
      then 'insufficient_funds'
    end;
  if v_no is not null then
    v_done := refused(v_no, jsonb_build_object('available', (d.balance - d.held)::text, 'currency', d.currency));
    insert into ledger_requests (scope, idempotency_key, fingerprint, outcome) values (v_scope, v_key, v_print, v_done);
    perform audit(caller, 'money.refused', 'wallet:' || coalesce(p.id, d.id), v_no,
                  jsonb_build_object('kind', v_kind, 'amount', v_amount::text, 'from', d.id, 'to', c.id));
    return v_done;
  end if;

  v_done := jsonb_build_object('code', 'moved', 'transfer', v_id,
                               'debit', jsonb_build_object('wallet', d.id, 'version', d.version + 1, 'balance', (d.balance - v_amount)::text),
                               'credit', jsonb_build_object('wallet', c.id, 'version', c.version + 1, 'balance', (c.balance + v_amount)::text));
  insert into ledger_requests (scope, idempotency_key, fingerprint, outcome) values (v_scope, v_key, v_print, v_done);
  insert into ledger_transfers (id, kind, currency, debit_id, credit_id, amount, note, scope, idempotency_key, claim_id, reverses_id)
  values (v_id, v_kind, d.currency, d.id, c.id, v_amount, coalesce(args->>'note', ''), v_scope, v_key,
          (args->>'claim')::bigint, (args->>'reverses')::uuid);
  if h.id is not null then
    update wallet_holds set state = 'POSTED', posted = v_amount, transfer_id = v_id, resolved_at = clock_timestamp()
     where id = h.id;
  end if;
  insert into ledger_entries (wallet_id, version, prev_version, prev_balance, transfer_id, side, amount, balance_after)
  values (d.id, d.version + 1, d.version, d.balance, v_id, -1, v_amount, d.balance - v_amount),
         (c.id, c.version + 1, c.version, c.balance, v_id, 1, v_amount, c.balance + v_amount);
  perform audit(caller, 'money.moved', 'wallet:' || coalesce(p.id, d.id), '',
                jsonb_build_object('transfer', v_id, 'kind', v_kind, 'amount', v_amount::text, 'currency', d.currency,
                                   'from', d.id, 'to', c.id, 'note', coalesce(args->>'note', '')));
  return v_done;
end $$;

-- Set money aside.
--   args: {"scope", "key", "wallet", "amount", "purpose", "expires_at", "up_to": take less where there is less, "wait"}
create function ledger_hold(caller jsonb, args jsonb) returns jsonb language plpgsql as $$
declare
  v_scope  text := args->>'scope';
  v_key    text := args->>'key';
  v_amount numeric(20,8) := (args->>'amount')::numeric;
  v_print  bytea := sha256(convert_to((args - 'wait')::text, 'UTF8'));
  v_id     uuid := uuid_v7();
  v_no     text;
  v_done   jsonb;
  w wallets;
begin
  perform check_not_halted();
  v_done := ledger_replay(v_scope, v_key, v_print);
  if v_done is not null then return v_done; end if;
  perform ledger_lock(array[(args->>'wallet')::bigint], coalesce((args->>'wait')::boolean, false));
  v_done := ledger_replay(v_scope, v_key, v_print);
  if v_done is not null then return v_done; end if;
  select * into w from wallets where id = (args->>'wallet')::bigint;
  if not found then return refused('wallet_not_found'); end if;
  if (args->>'up_to')::boolean then v_amount := least(v_amount, w.balance - w.held); end if;
  v_no := case
    when v_amount <= 0 or w.kind <> 'PERSON' then 'amount_invalid'
    when w.frozen_at is not null then 'wallet_frozen'
    when w.balance - w.held < v_amount then 'insufficient_funds'
    end;
  if v_no is not null then
    v_done := refused(v_no, jsonb_build_object('available', (w.balance - w.held)::text, 'currency', w.currency));
  else
    v_done := jsonb_build_object('code', 'held', 'hold', v_id, 'amount', v_amount::text);
  end if;
  insert into ledger_requests (scope, idempotency_key, fingerprint, outcome) values (v_scope, v_key, v_print, v_done);
  if v_no is null then
    insert into wallet_holds (id, wallet_id, amount, purpose, state, expires_at)
    values (v_id, w.id, v_amount, args->>'purpose', 'PENDING', (args->>'expires_at')::timestamptz);
  end if;
  perform audit(caller, case when v_no is null then 'money.held' else 'money.refused' end, 'wallet:' || w.id, coalesce(v_no, ''),
                jsonb_build_object('hold', v_id, 'purpose', args->>'purpose', 'amount', v_amount::text, 'currency', w.currency));
  return v_done;
end $$;

-- Let a hold go: {"hold", "as": "VOIDED" | "EXPIRED", "wait"}. Again is a success; of what was spent or ended otherwise, not.
create function ledger_release(caller jsonb, args jsonb) returns jsonb language plpgsql as $$
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

do $$
declare
  f regprocedure;
begin
  for f in select p.oid::regprocedure from pg_proc p join pg_namespace n on n.oid = p.pronamespace
            where n.nspname = 'public' and p.proname = any(array['ledger_move', 'ledger_hold', 'ledger_release']) loop
    execute format('alter function %s security definer set search_path = public, pg_temp', f);
    execute format('revoke all on function %s from public', f);
    perform grant_to('copydesk_app', format('execute on function %s', f));
  end loop;
end $$;

-- What the functions and triggers write, nobody else writes.
select protect(t, 'select') from unnest(array['ledger_requests', 'ledger_transfers', 'ledger_entries', 'wallet_holds']::regclass[]) t;
select protect('wallets', 'select, insert, update (frozen_at)');
select protect(t, 'select, insert') from unnest(array['settlements', 'fee_terms']::regclass[]) t;
select protect('money_requests', 'select, insert, update (state, hold_id, transfer_id, decided_by_id, decided_at)'),
       protect('fee_agreements', 'select, insert, update (terms_id, next_terms_id, due_at, postponed)'),
       protect('fee_claims', 'select, insert'),
       protect('ledger_halts', 'select, insert, update (ended_at)');
