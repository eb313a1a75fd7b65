-- How money moves. Each function is written once and every edge calls it.
--
-- A function takes the caller and its arguments as JSON, locks, checks, writes, records in the audit log, and returns
-- an outcome: {"code": …}; a refusal has "refused": true. Every outcome, refusals too, is kept for ever under the
-- idempotency key, and a repeat returns it again with "replayed". Only what may turn out otherwise next time is raised
-- instead (a busy wallet, a halted ledger), and then nothing is written.
--
--   caller: {"kind": "staff" | "system" | …, "actor": …, "ip": …, "request_id": …}
--
-- Locks: people's wallets by ascending id, then house accounts by ascending id. With "wait" a function waits for a
-- person's wallet as long as lock_timeout allows; without it, a wallet that another transaction holds is an error at
-- once (NOWAIT). It always waits for house accounts: their holder commits soon, because it waits for nothing earlier.

create or replace function check_not_halted() returns void language plpgsql as $$
declare
  v_why text;
begin
  select why into v_why from ledger_halts where ended_at is null limit 1;
  if found then raise exception 'the ledger is halted: %', v_why using errcode = 'CD007'; end if;
end $$;

-- The person who calls; null for the system and for bots.
create or replace function person_of(caller jsonb) returns uuid language sql immutable as $$
  select case when caller->>'kind' in ('user', 'staff') and caller->>'actor' ~ '^[0-9a-f-]{36}$'
              then (caller->>'actor')::uuid end
$$;

-- The outcome kept under this key; null where the key is new. The same key for another request is a conflict.
create or replace function ledger_replay(p_scope text, p_key text, p_fingerprint bytea) returns jsonb
language plpgsql as $$
declare
  r ledger_requests;
begin
  select * into r from ledger_requests where scope = p_scope and idempotency_key = p_key;
  if not found then return null; end if;
  if r.fingerprint <> p_fingerprint then return refused('idempotency_conflict'); end if;
  return r.outcome || '{"replayed": true}';
end $$;

create or replace function ledger_lock(p_wallets bigint[], p_wait boolean) returns void language plpgsql as $$
begin
  if p_wait then
    perform from wallets where id = any(p_wallets) and kind = 'PERSON' order by id for no key update;
  else
    perform from wallets where id = any(p_wallets) and kind = 'PERSON' order by id for no key update nowait;
  end if;
  perform from wallets where id = any(p_wallets) and kind <> 'PERSON' order by id for no key update;
end $$;

-- The code with which a transfer from d to c, out of the hold h where there is one, is refused; null where it is
-- allowed.
create or replace function transfer_refusal(d wallets, c wallets, h wallet_holds, p_amount numeric, p_reverses uuid)
returns text language plpgsql as $$
begin
  return case
    when d.currency <> c.currency then 'currency_mismatch'
    when d.id = c.id or p_amount <= 0 or c.balance + p_amount >= 1e12 or d.balance - p_amount <= -1e12
      then 'amount_invalid'
    when exists (select from ledger_transfers where reverses_id = p_reverses) then 'reversed_already'
    when d.frozen_at is not null then 'wallet_frozen'
    when h.state in ('POSTED', 'VOIDED') then 'hold_resolved'
    when h.state = 'EXPIRED' or h.expires_at <= now() then 'hold_expired'
    when h.amount < p_amount then 'amount_invalid'
    when d.kind not in ('CASH_IN', 'RECEIVABLE', 'ADJUSTMENTS')
         and d.balance - d.held + coalesce(h.amount, 0) < p_amount then 'insufficient_funds'
    end;
end $$;

-- What a settlement moves keeps to its accounts: no limit of one person looks at these kinds, nor at a claim's
-- transfers.
create or replace function check_sides(p_kind text, p_claim bigint, d wallets, c wallets) returns void
language plpgsql as $$
begin
  if not coalesce(case
       when p_kind in ('FEE_PERFORMANCE', 'FEE_SUBSCRIPTION')
         then d.kind = 'PERSON' and c.kind = case when p_claim is null then 'FEES' else 'RECEIVABLE' end
       when p_kind = 'ACCRUAL' then p_claim is not null and d.kind = 'RECEIVABLE' and c.kind = 'FEES'
       when p_claim is not null then p_kind = 'PAYOUT' and d.kind = 'FEES' and c.kind = 'PERSON'
       else true
     end, false) then
    raise exception 'a % does not move from % to %', p_kind, d.kind, c.kind using errcode = 'CD003';
  end if;
end $$;

-- Moves money. args: {"scope", "key", "kind", "amount", "note", "debit": id | "debit_house": kind,
--   "credit": id | "credit_house": kind, "currency" where both sides are the house's, "shard" of the house account (by
--   default the wallet's own), "hold": to spend from, "claim", "reverses", "wait"}
create or replace function ledger_move(caller jsonb, args jsonb) returns jsonb
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  v_scope  text := args->>'scope';
  v_key    text := args->>'key';
  v_kind   text := args->>'kind';
  v_amount numeric(20,8) := (args->>'amount')::numeric;
  v_print  bytea := sha256(convert_to((args - 'note' - 'wait')::text, 'UTF8'));
  v_debit  bigint := (args->>'debit')::bigint;
  v_credit bigint := (args->>'credit')::bigint;
  v_shard  int;
  v_id     uuid := uuid_v7();
  v_code   text;
  v_outcome jsonb;
  p wallets;  -- the person's, where one side is a person's
  d wallets;
  c wallets;
  h wallet_holds;
begin
  perform check_not_halted();
  v_outcome := ledger_replay(v_scope, v_key, v_print);
  if v_outcome is not null then return v_outcome; end if;

  select * into p from wallets where id = coalesce(v_debit, v_credit);
  if p.id is null and not args ? 'currency' then return refused('wallet_not_found'); end if;
  v_shard := (coalesce((args->>'shard')::bigint, p.id) % house_shards())::int;
  v_debit := coalesce(v_debit,
                      house_account(args->>'debit_house', coalesce(p.currency, args->>'currency'), v_shard));
  v_credit := coalesce(v_credit,
                       house_account(args->>'credit_house', coalesce(p.currency, args->>'currency'), v_shard));
  perform ledger_lock(array[v_debit, v_credit], coalesce((args->>'wait')::boolean, false));
  v_outcome := ledger_replay(v_scope, v_key, v_print);  -- whose lock was waited for, may have been this very request
  if v_outcome is not null then return v_outcome; end if;
  select * into d from wallets where id = v_debit;
  select * into c from wallets where id = v_credit;
  if d.id is null or c.id is null then return refused('wallet_not_found'); end if;
  perform check_sides(v_kind, (args->>'claim')::bigint, d, c);
  if args ? 'hold' then
    select * into h from wallet_holds where id = (args->>'hold')::uuid and wallet_id = d.id for no key update;
    if not found then return refused('hold_not_found'); end if;
  end if;

  v_code := transfer_refusal(d, c, h, v_amount, (args->>'reverses')::uuid);
  if v_code is not null then
    v_outcome := refused(v_code, jsonb_build_object('available', (d.balance - d.held)::text, 'currency', d.currency));
    insert into ledger_requests (scope, idempotency_key, fingerprint, outcome)
    values (v_scope, v_key, v_print, v_outcome);
    perform audit(caller, 'money.refused', 'wallet:' || coalesce(p.id, d.id), v_code,
                  jsonb_build_object('kind', v_kind, 'amount', v_amount::text, 'from', d.id, 'to', c.id));
    return v_outcome;
  end if;
  v_outcome := moved(v_id, d, c, v_amount);
  insert into ledger_requests (scope, idempotency_key, fingerprint, outcome)
  values (v_scope, v_key, v_print, v_outcome);
  insert into ledger_transfers (id, kind, currency, debit_id, credit_id, amount, note, scope, idempotency_key, claim_id,
                                reverses_id, moved_by_id)
  values (v_id, v_kind, d.currency, d.id, c.id, v_amount, coalesce(args->>'note', ''), v_scope, v_key,
          (args->>'claim')::bigint, (args->>'reverses')::uuid,
          (select id from users where id = person_of(caller)));
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
  return v_outcome;
end $$;
select callable_by('ledger_move(jsonb, jsonb)', 'copydesk_app');

-- The outcome of a transfer: both wallets as they are after it.
create or replace function moved(p_transfer uuid, d wallets, c wallets, p_amount numeric) returns jsonb
language sql stable as $$
  select jsonb_build_object(
    'code', 'moved', 'transfer', p_transfer,
    'debit', jsonb_build_object('wallet', d.id, 'version', d.version + 1, 'balance', (d.balance - p_amount)::text),
    'credit', jsonb_build_object('wallet', c.id, 'version', c.version + 1, 'balance', (c.balance + p_amount)::text))
$$;
