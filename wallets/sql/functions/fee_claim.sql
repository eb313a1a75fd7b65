-- Fee claims. What a claim has collected, and whether it was paid out, is what its transfers say.

create or replace function fee_claim_begins_owed() returns trigger language plpgsql as $$
begin
  if new.collected <> 0 or new.collected_at is not null or new.paid_out_at is not null then
    raise exception 'a claim begins with nothing collected' using errcode = 'CD003';
  end if;
  return new;
end $$;

create or replace function fee_claim_keeps_what_is_owed() returns trigger language plpgsql as $$
begin
  if (new.id, new.agreement_id, new.kind, new.period_no, new.payer_id, new.payee_id, new.amount, new.provider_share,
      new.detail, new.created_at) is distinct from
     (old.id, old.agreement_id, old.kind, old.period_no, old.payer_id, old.payee_id, old.amount, old.provider_share,
      old.detail, old.created_at)
     or new.collected < old.collected
     or (old.paid_out_at is not null and new.paid_out_at is distinct from old.paid_out_at) then
    raise exception 'claim % keeps what is owed', old.id using errcode = 'CD003';
  end if;
  return new;
end $$;

create or replace function fee_claim_has_its_transfers() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  c fee_claims;
begin
  select * into c from fee_claims where id = new.id;
  if c.collected <> coalesce((select sum(amount) from ledger_transfers
                               where claim_id = c.id and kind in ('FEE_PERFORMANCE', 'FEE_SUBSCRIPTION')), 0)
     or (c.paid_out_at is not null)
        <> exists (select from ledger_transfers where claim_id = c.id and kind = 'PAYOUT') then
    raise exception 'claim % has not what its transfers say', c.id using errcode = 'CD003';
  end if;
  return null;
end $$;

-- The transfers of a claim update what it has collected and when it was paid out.
create or replace function transfer_collects_its_claim() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  if new.claim_id is not null and new.kind in ('FEE_PERFORMANCE', 'FEE_SUBSCRIPTION') then
    update fee_claims set collected = collected + new.amount,
                          collected_at = case when collected + new.amount = amount then clock_timestamp() end
     where id = new.claim_id and kind = new.kind and payer_id = new.debit_id;
    if not found then raise exception 'this is no fee of claim %', new.claim_id using errcode = 'CD003'; end if;
  elsif new.claim_id is not null and new.kind = 'PAYOUT' then
    update fee_claims set paid_out_at = clock_timestamp()
     where id = new.claim_id and payee_id = new.credit_id and provider_share = new.amount;
    if not found then raise exception 'this is no payout of claim %', new.claim_id using errcode = 'CD003'; end if;
  end if;
  return null;
end $$;
