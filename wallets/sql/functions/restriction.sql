-- What lets money move again. Each function writes its audit row in the same transaction; a trigger lets nothing else
-- lift a freeze or a halt. Each returns whether there was one.

-- args: {"wallet": id, "reason"}
create or replace function wallet_unfreeze(caller jsonb, args jsonb) returns boolean
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  update wallets set frozen_at = null where id = (args->>'wallet')::bigint and frozen_at is not null;
  if not found then return false; end if;
  perform audit(caller, 'wallet.unfrozen', 'wallet:' || (args->>'wallet'), '',
                jsonb_build_object('reason', args->>'reason'));
  return true;
end $$;
select callable_by('wallet_unfreeze(jsonb, jsonb)', 'copydesk_app');

create or replace function ledger_resume(caller jsonb, args jsonb) returns boolean
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  update ledger_halts set ended_at = clock_timestamp() where ended_at is null;
  if not found then return false; end if;
  perform audit(caller, 'ledger.resumed', '', '', args);
  return true;
end $$;
select callable_by('ledger_resume(jsonb, jsonb)', 'copydesk_app');
