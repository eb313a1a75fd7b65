-- A wallet's balance and version move only with an entry of the ledger.

-- How many rows each kind of house account has per currency. With one row, all transfers would wait for each other.
create or replace function house_shards() returns int language sql immutable as $$ select 64 $$;

-- The house account of this kind, currency and shard. It is created when it is first needed.
create or replace function house_account(p_kind text, p_currency text, p_shard int) returns bigint
language plpgsql as $$
declare
  v_id bigint;
begin
  select id into v_id from wallets
   where kind = p_kind and currency = p_currency and shard = p_shard and kind <> 'PERSON';
  if not found then
    insert into wallets (kind, currency, shard, balance, held, version) values (p_kind, p_currency, p_shard, 0, 0, 0)
      on conflict (kind, currency, shard) where not kind = 'PERSON' do nothing;
    select id into v_id from wallets
     where kind = p_kind and currency = p_currency and shard = p_shard and kind <> 'PERSON';
  end if;
  return v_id;
end $$;

create or replace function wallet_begins_empty() returns trigger language plpgsql as $$
begin
  if (new.balance, new.held, new.version) is distinct from (0::numeric, 0::numeric, 0::bigint) then
    raise exception 'a wallet begins with nothing' using errcode = 'CD003';
  end if;
  return new;
end $$;

create or replace function wallet_has_its_first_entry() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  insert into ledger_entries (wallet_id, version, side, amount, balance_after) values (new.id, 0, 0, 0, 0);
  return null;
end $$;

create or replace function wallet_moves_with_an_entry() returns trigger language plpgsql as $$
begin
  if new.version not in (old.version, old.version + 1) or (new.version = old.version and new.balance <> old.balance)
     or (new.id, new.owner_id, new.currency, new.kind, new.shard, new.created_at) is distinct from
        (old.id, old.owner_id, old.currency, old.kind, old.shard, old.created_at) then
    raise exception 'wallet % moves only with an entry, one version at a time', old.id using errcode = 'CD003';
  end if;
  return new;
end $$;

-- An entry moves the balance. A writer that read an older state of the wallet is refused.
create or replace function entry_moves_the_balance() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  if new.version > 0 then
    update wallets set balance = new.balance_after, version = new.version
     where id = new.wallet_id and version = new.prev_version and balance = new.prev_balance;
    if not found then
      raise exception 'concurrent modification detected: wallet % is not at version %', new.wallet_id, new.prev_version
        using errcode = 'CD006';
    end if;
  end if;
  return null;
end $$;
