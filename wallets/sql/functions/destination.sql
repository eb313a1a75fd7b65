-- Where withdrawals go. A destination belongs to a customer, never changes, and is confirmed by its cooling time.

create or replace function destination_begins_to_cool() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  new.created_at := now();
  new.usable_at := now() + make_interval(hours => coalesce(money_setting('destination_cooling_h'), 720)::int);
  new.removed_at := null;
  return new;
end $$;

-- It can be removed, once; and its details be sealed under another key.
create or replace function destination_only_ends() returns trigger language plpgsql as $$
begin
  if (new.id, new.owner_id, new.ref, new.name, new.kind, new.masked, new.created_at, new.usable_at) is distinct from
     (old.id, old.owner_id, old.ref, old.name, old.kind, old.masked, old.created_at, old.usable_at)
     or (old.removed_at is not null and new.removed_at is distinct from old.removed_at) then
    raise exception 'destination % can only be removed', old.id using errcode = 'CD003';
  end if;
  return new;
end $$;

-- Until when no money may leave this person's wallets; null where no credential was changed.
create or replace function withdrawals_open_at(p_owner uuid) returns timestamptz language sql stable as $$
  select credentials_changed_at
         + make_interval(hours => coalesce(money_setting('credentials_cooling_h'), 720)::int)
    from users where id = p_owner
$$;

-- A withdrawal is requested to a confirmed destination of the wallet's owner. When it is done, the destination must not
-- have been removed. Neither happens soon after a changed credential: an owner who sees a theft changes the password.
create or replace function withdrawal_has_its_destination() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  v_owner uuid := (select owner_id from wallets where id = new.wallet_id);
begin
  if tg_op = 'INSERT' then
    perform from withdrawal_destinations
      where id = new.destination_id and owner_id = v_owner and usable_at <= now() and removed_at is null for share;
    if not found then
      raise exception 'a withdrawal needs a confirmed destination of the wallet''s owner' using errcode = 'CD010';
    end if;
  elsif new.state = 'DONE' and new.destination_id is not null then  -- older requests have none
    perform from withdrawal_destinations where id = new.destination_id and removed_at is null for share;
    if not found then
      raise exception 'the destination of the withdrawal was removed' using errcode = 'CD010';
    end if;
  else
    return new;
  end if;
  if withdrawals_open_at(v_owner) > now() then
    raise exception 'no withdrawal so soon after a changed credential' using errcode = 'CD011';
  end if;
  return new;
end $$;
