-- Refunds of fees. What is given back never changes, and what is recovered from the provider only grows.
create or replace function fee_refund_only_recovers() returns trigger language plpgsql as $$
begin
  if (new.id, new.agreement_id, new.period_no, new.payee_id, new.payer_id, new.amount, new.provider_share,
      new.created_at) is distinct from
     (old.id, old.agreement_id, old.period_no, old.payee_id, old.payer_id, old.amount, old.provider_share,
      old.created_at)
     or new.recovered < old.recovered then
    raise exception 'refund % keeps what was given back', old.id using errcode = 'CD003';
  end if;
  return new;
end $$;
