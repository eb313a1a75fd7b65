-- When money needs a second person: above a limit at once, or above a sum in 24 hours or 30 days. The database decides
-- by money_settings, which only the tables' owner writes (manage.py migrate).
--
-- A sum is of what was moved alone: deposits, withdrawals, adjustments and reversals that nobody else approved. Each
-- counts with its full amount whichever way it went, so a reversal does not free the sum that its original used up.
-- What waits, was rejected, or was approved by a second person does not count, nor do fees and their refunds.
-- A sum is of a customer, over all wallets, or of the person who acted. Amounts in other currencies are converted by
-- their limits: half of one currency's limit and half of another's use up a sum.

create or replace function money_setting(p_name text, p_currency text default '') returns numeric
language sql stable as $$
  select value from money_settings where name = p_name and currency in (p_currency, '') order by currency desc limit 1
$$;

-- Fees and the refunds of fees follow from settlements, and are no decision of one person.
create or replace function is_moved_by_hand(p_kind text, p_claim bigint, p_scope text) returns boolean
language sql immutable as $$
  select p_claim is null and p_scope not like 'refund:%'
         and p_kind in ('DEPOSIT', 'WITHDRAWAL', 'TRANSFER', 'PAYOUT', 'ADJUSTMENT', 'REVERSAL')
$$;

-- Serialises the movements of these people until the commit: the next one sees the sum that this one leaves. A writer
-- that read an older state (repeatable read) fails, because the row has changed.
create or replace function lock_movers(p_people uuid[]) returns void language plpgsql as $$
declare
  v_person uuid;
begin
  for v_person in select distinct person from unnest(p_people) person where person is not null order by 1 loop
    insert into money_movers (person_id, movements) values (v_person, 1)
      on conflict (person_id) do update set movements = money_movers.movements + 1;
  end loop;
end $$;

-- What this customer, or this person who acted, has moved alone since then, in this currency. p_except: a transfer
-- that is not counted.
create or replace function moved_alone(p_customer uuid, p_actor uuid, p_since timestamptz, p_currency text,
                                       p_except uuid) returns numeric language sql stable as $$
  with moved as (
    select t.id from wallets w join ledger_transfers t on t.debit_id = w.id
     where w.owner_id = p_customer and t.at > p_since
    union
    select t.id from wallets w join ledger_transfers t on t.credit_id = w.id
     where w.owner_id = p_customer and t.at > p_since
    union
    select m.transfer_id from money_requests m where m.requested_by_id = p_actor and m.decided_at > p_since
    union
    select t.id from ledger_transfers t where t.moved_by_id = p_actor and t.at > p_since
       and not exists (select from money_requests m where m.transfer_id = t.id)),
  of_currency as (
    select currency, sum(amount) as amount
      from moved join ledger_transfers t using (id)
     where t.at > p_since and t.id is distinct from p_except
       and (t.reverses_id is not null or is_moved_by_hand(t.kind, t.claim_id, t.scope))
       and not exists (select from money_requests m where m.transfer_id = t.id and m.needs_second)
     group by currency)
  select coalesce(sum(amount * money_setting('above', p_currency) / money_setting('above', currency)), 0)
    from of_currency
$$;

-- An amount for people: never less than it is, so that what is above a limit also looks like it.
create or replace function in_words(p_amount numeric) returns text language sql immutable as $$
  select to_char(ceil(p_amount * 100) / 100, 'FM999,999,999,999,990.00')
$$;

-- Why this movement of money needs a second person; null where it needs none. Locks the customer and the person who
-- acts until the commit, so that the answer stays true until then.
create or replace function second_person_reason(p_wallet bigint, p_kind text, p_amount numeric, p_by uuid,
                                                p_except uuid default null) returns text
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  w       wallets;
  v_above numeric;
  v_sum   numeric;
  r       record;
begin
  select * into w from wallets where id = p_wallet;
  perform lock_movers(array[w.owner_id, p_by]);
  if w.owner_id = p_by and p_kind <> 'WITHDRAWAL' then return 'to the requester''s own wallet'; end if;
  v_above := coalesce(money_setting('above', w.currency), 0);
  if p_amount > v_above then
    return format('%s of %s %s at once', in_words(p_amount), in_words(v_above), w.currency);
  end if;
  for r in
    select whose, is_actor, words, span, v_above * coalesce(money_setting(setting), 0) as most
      from (values ('customer', false, 'in 24 hours', interval '24 hours', 'day'),
                   ('customer', false, 'in 30 days', interval '720 hours', 'thirty_days'),
                   ('teller', true, 'in 24 hours', interval '24 hours', 'day'),
                   ('teller', true, 'in 30 days', interval '720 hours', 'staff_thirty_days'))
           sums (whose, is_actor, words, span, setting)
     where not is_actor or p_by <> w.owner_id  -- a customer's own withdrawals are in the customer's sum
  loop
    v_sum := p_amount + moved_alone(case when not r.is_actor then w.owner_id end, case when r.is_actor then p_by end,
                                    now() - r.span, w.currency, p_except);
    if v_sum > r.most then
      return format('%s %s of %s %s by this %s', r.words, in_words(v_sum), in_words(r.most), w.currency, r.whose);
    end if;
  end loop;
  return null;
end $$;
select callable_by('second_person_reason(bigint, text, numeric, uuid, uuid)', 'copydesk_app');

-- A request states why it needs a second person, whatever its writer thinks.
create or replace function money_request_says_who_decides() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  v_reason text := second_person_reason(new.wallet_id, new.kind, abs(new.amount), new.requested_by_id, new.transfer_id);
begin
  new.needs_second := new.needs_second or v_reason is not null;
  new.second_reason := coalesce(v_reason, '');
  if new.needs_second and new.state = 'DONE' then
    raise exception 'a second person has to approve this: %', coalesce(v_reason, 'as requested')
      using errcode = 'CD008';
  end if;
  return new;
end $$;

-- A request that is done moved its own money in the same transaction, and no money from before: otherwise a late
-- approval of something else would free the sum that a movement used up. The second person is an active member of
-- staff, not the owner of the wallet, and (as a check says) not who requested it.
create or replace function money_request_is_decided_properly() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  if new.state <> 'DONE' then return null; end if;
  if not exists (select from ledger_transfers where id = new.transfer_id and kind = new.kind and at >= now()
                    and amount = abs(new.amount) and new.wallet_id in (debit_id, credit_id)) then
    raise exception 'request % has not moved its own money', new.id using errcode = 'CD003';
  end if;
  if new.needs_second
     and not exists (select from users where id = new.decided_by_id and is_active and is_staff
                        and id is distinct from (select owner_id from wallets where id = new.wallet_id)) then
    raise exception 'a second person has to approve this: an active member of staff who does not own the wallet'
      using errcode = 'CD008';
  end if;
  return null;
end $$;

-- Whether a transfer gives back a fee to its payer, or recovers the provider's share of it, and no more than all of it
-- together with the others of this refund. An agreement's refunds never exceed its fees.
create or replace function is_of_a_refund(t ledger_transfers) returns boolean language sql stable as $$
  select exists (
    select from fee_refunds r
     where 'refund:' || r.agreement_id || '/' || r.period_no = t.scope
       and exists (select from wallets where id in (t.debit_id, t.credit_id) and kind = 'ADJUSTMENTS')
       and case when t.credit_id = r.payee_id then r.amount when t.debit_id = r.payer_id then r.provider_share end
           >= (select sum(other.amount) from ledger_transfers other
                where other.scope = t.scope and (other.credit_id = r.payee_id) = (t.credit_id = r.payee_id))
       and (select sum(amount) from fee_refunds where agreement_id = r.agreement_id)
           <= (select sum(fee) from settlements where agreement_id = r.agreement_id))
$$;

-- At the commit: what was moved by hand is within the limits of one person, or a second person approved exactly that.
create or replace function transfer_is_within_the_limits() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  m        money_requests;
  v_reason text;
  v_wallet bigint;
begin
  if new.kind = 'REVERSAL' and new.scope like 'refund:%' and new.reverses_id is null then
    if is_of_a_refund(new) then return null; end if;
    raise exception 'this is no refund of a fee' using errcode = 'CD003';
  end if;
  select * into m from money_requests where transfer_id = new.id;
  if m.id is null and (new.kind = 'WITHDRAWAL'
                       or exists (select from wallets where id = new.credit_id and kind = 'CASH_OUT')) then
    raise exception 'money is paid out by a request that names its destination' using errcode = 'CD010';
  end if;
  if m.needs_second then return null; end if;
  for v_wallet in select id from wallets where id in (new.debit_id, new.credit_id) and kind = 'PERSON' order by owner_id
  loop
    v_reason := second_person_reason(v_wallet, new.kind, new.amount, coalesce(m.requested_by_id, new.moved_by_id),
                                     new.id);
    if v_reason is not null then
      raise exception 'a second person has to approve this: %', v_reason using errcode = 'CD008';
    end if;
  end loop;
  return null;
end $$;
