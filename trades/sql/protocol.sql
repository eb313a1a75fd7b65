-- The signed protocol's part in the database. One call is one transaction and one round trip: the key's state as it is
-- now, the sequence number, the idempotency results, the effects and their audit rows commit together or not at all.

-- What a verifier needs of a key: fixed for ever, so a process may keep it. State is read in the calls below.
-- (PL/pgSQL here and below, where SQL would do: before 18 the body of a SQL function is planned anew in each call.)
create or replace function bot_key_lookup(p_key_id text, p_generation int)
returns table (generation_id bigint, key_pk bigint, kind text, account_id bigint, account_name text, sealed_secret bytea, rate_per_minute int)
language plpgsql stable as $$
begin
  return query
    select g.id, k.id, k.kind::text, k.account_id, a.name::text, g.sealed_secret, k.rate_per_minute
      from bot_key_generations g join bot_keys k on k.id = g.key_id join trading_accounts a on a.id = k.account_id
     where k.key_id = p_key_id and g.generation = p_generation;
end $$;

-- Why this key may not call now; null where it may.
create or replace function key_refusal(k bot_keys, g bot_key_generations, p_ip inet) returns text language sql stable as $$
  select case
    when k.revoked_at is not null then 'key_revoked'
    when k.expires_at <= now() then 'key_expired'
    when g.retires_at <= now() then 'key_generation_retired'
    when cardinality(k.allowed_networks) > 0 and not p_ip <<= any (k.allowed_networks::cidr[]) then 'ip_denied'
  end
$$;

-- p_operations: [{"idem": …, "fingerprint": hex, "verb": "trade_open", "args": {…}}, …], in order.
-- Answers {"refused": code, …} where the call itself may not pass, else {"results": [outcome, …]}.
create or replace function signed_call(p_generation bigint, p_seq bigint, p_caller jsonb, p_operations jsonb) returns jsonb language plpgsql as $$
declare
  k bot_keys;
  g bot_key_generations;
  v_refusal text;
  v_kept signed_results;
  v_operation jsonb;
  v_outcome jsonb;
  v_results jsonb := '[]';
begin
  -- The key's row orders everything its generations send, so a kept result cannot appear between look and insert.
  select bot_keys.* into k from bot_keys join bot_key_generations on bot_key_generations.key_id = bot_keys.id
   where bot_key_generations.id = p_generation for no key update of bot_keys;
  select * into g from bot_key_generations where id = p_generation;
  v_refusal := key_refusal(k, g, (p_caller->>'ip')::inet);
  if v_refusal is not null then return jsonb_build_object('refused', v_refusal); end if;
  if p_seq <= g.last_seq then return jsonb_build_object('refused', 'seq_replayed', 'last_seq', g.last_seq::text); end if;
  update bot_key_generations set last_seq = p_seq, last_used_at = clock_timestamp() where id = p_generation;
  if g.last_seq = 0 and g.generation > 1 then
    -- The new generation is in use: the old ones have an hour left.
    update bot_key_generations set retires_at = least(retires_at, clock_timestamp() + interval '1 hour')
     where key_id = k.id and generation < g.generation;
  end if;

  if jsonb_array_length(p_operations) > 1 then
    -- Any of them may need either stream of the account, and the account's other key may be at the same just now.
    perform from strategies where account_id = k.account_id for no key update;
    perform from trading_accounts where id = k.account_id for no key update;
  end if;
  for v_operation in select jsonb_array_elements(p_operations) loop
    select * into v_kept from signed_results where key_id = k.id and idempotency_key = v_operation->>'idem';
    if found and v_kept.fingerprint <> decode(v_operation->>'fingerprint', 'hex') then
      v_outcome := refused('idempotency_conflict');
    elsif found then
      v_outcome := v_kept.outcome || '{"replayed": true}';
    else
      v_outcome := case v_operation->>'verb'
        when 'trade_open'   then trade_open(p_caller, v_operation->'args')
        when 'trade_modify' then trade_modify(p_caller, v_operation->'args')
        when 'trade_reduce' then trade_reduce(p_caller, v_operation->'args')
        when 'trade_close'  then trade_close(p_caller, v_operation->'args')
        when 'order_report' then order_report(p_caller, v_operation->'args')
        when 'copy_skip'    then copy_skip(p_caller, v_operation->'args')
        when 'copier_beat'  then copier_beat(p_caller, v_operation->'args')
        when 'account_tell' then account_tell(p_caller, v_operation->'args')
      end;
      if v_operation->>'verb' in ('copier_beat', 'account_tell') then  -- done again it says the same: nothing is kept of it
        v_results := v_results || jsonb_build_array(v_outcome);
        continue;
      end if;
      insert into signed_results (key_id, idempotency_key, fingerprint, outcome)
      values (k.id, v_operation->>'idem', decode(v_operation->>'fingerprint', 'hex'), v_outcome);
    end if;
    v_results := v_results || jsonb_build_array(v_outcome);
  end loop;
  return jsonb_build_object('results', v_results);
end $$;

-- A read changes nothing: the number need only not lie behind the last write's.
create or replace function signed_read(p_generation bigint, p_seq bigint, p_ip inet) returns jsonb language plpgsql stable as $$
declare
  k bot_keys;
  g bot_key_generations;
  v_refusal text;
begin
  select * into g from bot_key_generations where id = p_generation;
  select * into k from bot_keys where id = g.key_id;
  v_refusal := key_refusal(k, g, p_ip);
  if v_refusal is not null then return jsonb_build_object('refused', v_refusal); end if;
  if p_seq < g.last_seq then return jsonb_build_object('refused', 'seq_replayed', 'last_seq', g.last_seq::text); end if;
  return jsonb_build_object('mark', snapshot_mark(array[k.account_id]));
end $$;

-- Which of these open sockets' keys may no longer call.
create or replace function keys_refused(p_generations bigint[]) returns table (generation_id bigint) language plpgsql stable as $$
begin
  return query
    select g.id from bot_key_generations g join bot_keys k on k.id = g.key_id
     where g.id = any(p_generations)
       and (k.revoked_at is not null or k.expires_at <= now() or g.retires_at <= now());
end $$;

-- Functions run as the tables' owner; who may call them is said here and nowhere else.
do $$
declare
  f regprocedure;
begin
  for f in select p.oid::regprocedure from pg_proc p join pg_namespace n on n.oid = p.pronamespace
            where n.nspname = 'public' and p.proname = any(array[
              'signed_call', 'signed_read', 'bot_key_lookup', 'keys_refused', 'trade_open', 'trade_modify', 'trade_reduce',
              'trade_close', 'order_report', 'copy_skip', 'copier_beat', 'account_tell', 'active_snapshot', 'copier_standing']) loop
    execute format('alter function %s security definer set search_path = public, pg_temp', f);
    execute format('revoke all on function %s from public', f);
    perform grant_to('copydesk_app', format('execute on function %s', f));
    if f::text ~ '^(signed_call|signed_read|bot_key_lookup|active_snapshot|copier_standing|keys_refused)' then
      perform grant_to('copydesk_bot', format('execute on function %s', f));
    end if;
  end loop;
end $$;

-- What the functions write, nobody else writes.
select protect(t, 'select') from unnest(array['trades', 'active_trades', 'trade_history', 'trade_reductions', 'copy_orders',
                                              'signed_results']::regclass[]) t;
