-- A request that waits for a second person is decided once, and stays as it was requested.
create or replace function money_request_is_decided_once() returns trigger language plpgsql as $$
begin
  if old.state <> 'PENDING' then
    raise exception 'request % is decided for ever', old.id using errcode = 'CD001';
  end if;
  if (new.id, new.kind, new.wallet_id, new.amount, new.reason, new.idempotency_key, new.requested_by_id,
      new.needs_second, new.second_reason, new.destination_id, new.created_at) is distinct from
     (old.id, old.kind, old.wallet_id, old.amount, old.reason, old.idempotency_key, old.requested_by_id,
      old.needs_second, old.second_reason, old.destination_id, old.created_at) then
    raise exception 'request % can only be decided', old.id using errcode = 'CD003';
  end if;
  return new;
end $$;
