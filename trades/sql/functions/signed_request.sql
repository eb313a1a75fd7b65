-- The signed protocol in the database. One call is one transaction and one round trip: the key's state as it is now,
-- the sequence number, the idempotency results, the effects and their audit rows commit together or not at all.

-- p_caller: {"ip", "request_id", …}. Who calls, and for which account, is in the key's row, whatever p_caller claims.
-- p_operations: [{"idem": …, "fingerprint": hex, "verb": "trade_open", "args": {…}}, …], in order.
-- Returns {"refused": code, …} where the call itself is refused, else {"results": [outcome, …]}.
create or replace function signed_call(p_generation bigint, p_seq bigint, p_caller jsonb, p_operations jsonb)
returns jsonb
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  k bot_keys;
  g bot_key_generations;
  key_now record;
  v_refusal text;
  v_caller jsonb;
  v_operation jsonb;
  v_results jsonb := '[]';
begin
  -- The key's row orders all that its generations send, so no result can appear between a look and an insert.
  select bot_keys.* into k from bot_keys join bot_key_generations on bot_key_generations.key_id = bot_keys.id
   where bot_key_generations.id = p_generation for no key update of bot_keys;
  select own as generation, u.is_active as owner_is_active into key_now
    from bot_key_generations own, trading_accounts a join users u on u.id = a.owner_id
   where own.id = p_generation and a.id = k.account_id;
  g := key_now.generation;
  v_refusal := key_refusal(k, g, (p_caller->>'ip')::inet);
  if v_refusal is null and not key_now.owner_is_active and jsonb_array_length(p_operations) = 0 then
    v_refusal := 'owner_inactive';  -- a socket reads
  end if;
  if v_refusal is not null then return jsonb_build_object('refused', v_refusal); end if;
  if p_seq <= g.last_seq then
    return jsonb_build_object('refused', 'seq_replayed', 'last_seq', g.last_seq::text);
  end if;
  update bot_key_generations set last_seq = p_seq, last_used_at = clock_timestamp() where id = p_generation;
  if g.last_seq = 0 and g.generation > 1 then  -- the first use of a new generation gives the old ones one more hour
    update bot_key_generations set retires_at = least(retires_at, clock_timestamp() + interval '1 hour')
     where key_id = k.id and generation < g.generation;
  end if;

  if jsonb_array_length(p_operations) > 1 then
    -- Each operation may need either stream of the account, and the account's other key may call at the same time.
    perform from strategies where account_id = k.account_id for no key update;
    perform from trading_accounts where id = k.account_id for no key update;
  end if;
  v_caller := p_caller || jsonb_build_object('kind', 'bot', 'actor', k.key_id || '.' || g.generation,
                                             'account', k.account_id, 'key_kind', k.kind);
  for v_operation in select jsonb_array_elements(p_operations) loop
    v_results := v_results || jsonb_build_array(
      case when key_now.owner_is_active or is_of_a_close(v_operation->>'verb')
           then signed_operation(k.id, v_caller, v_operation) else refused('owner_inactive') end);
  end loop;
  return jsonb_build_object('results', v_results);
end $$;
select callable_by('signed_call(bigint, bigint, jsonb, jsonb)', 'copydesk_bot');

-- Whether keys of a kind may use a verb. (The API refuses the others before they come here.)
create or replace function is_verb_of(p_verb text, p_kind text) returns boolean language sql immutable as $$
  select case when p_verb in ('account_tell', 'account_alarms') then true
              when p_verb in ('order_report', 'copy_skip', 'copier_beat') then p_kind = 'copier'
              else p_kind in ('master', 'copier') end
$$;

-- Whether a verb closes, or reports what has happened at a broker: it passes also for a deactivated person.
create or replace function is_of_a_close(p_verb text) returns boolean language sql immutable as $$
  select p_verb in ('trade_close', 'trade_reduce', 'order_report', 'copy_skip', 'account_alarms')
$$;

-- One operation of a signed call, done at most once under its idempotency key.
create or replace function signed_operation(p_key bigint, p_caller jsonb, p_operation jsonb) returns jsonb
language plpgsql as $$
declare
  v_verb constant text := p_operation->>'verb';
  v_args constant jsonb := p_operation->'args';
  v_outcome jsonb;
  r signed_results;
begin
  if not is_verb_of(v_verb, p_caller->>'key_kind') then return refused('scope_denied'); end if;
  select * into r from signed_results where key_id = p_key and idempotency_key = p_operation->>'idem';
  if found and r.fingerprint <> decode(p_operation->>'fingerprint', 'hex') then
    return refused('idempotency_conflict');
  end if;
  if found then return r.outcome || '{"replayed": true}'; end if;
  v_outcome := case v_verb
    when 'trade_open'   then trade_open(p_caller, v_args)
    when 'trade_modify' then trade_modify(p_caller, v_args)
    when 'trade_reduce' then trade_reduce(p_caller, v_args)
    when 'trade_close'  then trade_close(p_caller, v_args)
    when 'order_report' then order_report(p_caller, v_args)
    when 'copy_skip'    then copy_skip(p_caller, v_args)
    when 'copier_beat'  then copier_beat(p_caller, v_args)
    when 'account_tell' then account_tell(p_caller, v_args)
    when 'account_alarms' then account_alarms(p_caller, v_args || jsonb_build_object('bot', p_caller->>'key_kind'))
  end;
  -- A repeat of these has the same effect, so nothing is kept.
  if v_verb not in ('copier_beat', 'account_tell', 'account_alarms') then
    insert into signed_results (key_id, idempotency_key, fingerprint, outcome)
    values (p_key, p_operation->>'idem', decode(p_operation->>'fingerprint', 'hex'), v_outcome);
  end if;
  return v_outcome;
end $$;

-- A read changes nothing, so its number may equal the last write's but not lie behind it.
-- Returns {"refused": code, …} or {"mark": version of the snapshot}.
create or replace function signed_read(p_generation bigint, p_seq bigint, p_ip inet) returns jsonb
language plpgsql stable security definer set search_path = public, pg_temp as $$
declare
  k bot_keys;
  g bot_key_generations;
  key_now record;
  v_refusal text;
begin
  select * into g from bot_key_generations where id = p_generation;
  select own as key, u.is_active as owner_is_active into key_now
    from bot_keys own join trading_accounts a on a.id = own.account_id join users u on u.id = a.owner_id
   where own.id = g.key_id;
  k := key_now.key;
  v_refusal := coalesce(key_refusal(k, g, p_ip), case when not key_now.owner_is_active then 'owner_inactive' end);
  if v_refusal is not null then return jsonb_build_object('refused', v_refusal); end if;
  if p_seq < g.last_seq then return jsonb_build_object('refused', 'seq_replayed', 'last_seq', g.last_seq::text); end if;
  return jsonb_build_object('mark', snapshot_mark(array[k.account_id]));
end $$;
select callable_by('signed_read(bigint, bigint, inet)', 'copydesk_bot');
