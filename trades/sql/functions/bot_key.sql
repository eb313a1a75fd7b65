-- Bots' keys, as the signed protocol reads them. (All in PL/pgSQL: before PostgreSQL 18 the body of a SQL function that
-- cannot be inlined is planned anew in each call, which made reads seven times slower.)

-- The fixed part of a key generation, which a process may cache. key_refusal says whether the key may call now.
create or replace function bot_key_lookup(p_key_id text, p_generation int)
returns table (generation_id bigint, key_pk bigint, kind text, account_id bigint, account_name text,
               sealed_secret bytea, rate_per_minute int)
language plpgsql stable security definer set search_path = public, pg_temp as $$
begin
  return query
    select g.id, k.id, k.kind::text, k.account_id, a.name::text, g.sealed_secret, k.rate_per_minute
      from bot_key_generations g join bot_keys k on k.id = g.key_id join trading_accounts a on a.id = k.account_id
     where k.key_id = p_key_id and g.generation = p_generation;
end $$;
select callable_by('bot_key_lookup(text, int)', 'copydesk_bot');

-- The code with which this key is refused now; null where it may call.
create or replace function key_refusal(k bot_keys, g bot_key_generations, p_ip inet) returns text
language sql stable as $$
  select case
    when k.id is null or k.revoked_at is not null then 'key_revoked'
    when k.expires_at <= now() then 'key_expired'
    when g.retires_at <= now() then 'key_generation_retired'
    when cardinality(k.allowed_networks) > 0 and not p_ip <<= any (k.allowed_networks::cidr[]) then 'ip_denied'
  end
$$;

-- The open sockets that are to be closed, by their places in the two lists: of keys that may no longer call from there,
-- and of deactivated people.
create or replace function sockets_refused(p_generations bigint[], p_addresses inet[]) returns table (place bigint)
language plpgsql stable security definer set search_path = public, pg_temp as $$
begin
  return query
    select o.place from unnest(p_generations, p_addresses) with ordinality o (generation, address, place)
           join bot_key_generations g on g.id = o.generation join bot_keys k on k.id = g.key_id
           join trading_accounts a on a.id = k.account_id join users u on u.id = a.owner_id
     where key_refusal(k, g, o.address) is not null or not u.is_active;
end $$;
select callable_by('sockets_refused(bigint[], inet[])', 'copydesk_app');

-- The same by its name in 0.1.0, which knows no addresses.
create or replace function keys_refused(p_generations bigint[]) returns table (generation_id bigint)
language plpgsql stable security definer set search_path = public, pg_temp as $$
begin
  return query
    select g.id from bot_key_generations g join bot_keys k on k.id = g.key_id
     where g.id = any(p_generations)
       and (k.revoked_at is not null or k.expires_at <= now() or g.retires_at <= now());
end $$;
select callable_by('keys_refused(bigint[])', 'copydesk_app', 'copydesk_bot');
