-- No account follows itself, directly or through others: each trade would come back as a new signal.

-- Whether an account that follows `p_provider` follows itself, by the live subscriptions.
create or replace function follows_in_circle(p_account bigint, p_provider bigint) returns boolean
language plpgsql stable security definer set search_path = public, pg_temp as $$
begin
  return exists (
    with recursive followed(account_id) as (
      select p_provider
      union
      select s.account_id from followed f
        join subscriptions u on u.account_id = f.account_id and u.status <> 'ENDED'
        join strategies s on s.id = u.strategy_id)
    select from followed where account_id = p_account);
end $$;
select callable_by('follows_in_circle(bigint, bigint)', 'copydesk_app');

-- Two transactions that each make one half of a circle do not see each other's row, so each waits here for the other's
-- commit and looks afterwards. Above READ COMMITTED the second look would still show the time before that commit.
create or replace function refuse_circle(p_account bigint, p_provider bigint) returns void language plpgsql as $$
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'subscriptions change in READ COMMITTED transactions only' using errcode = '25001';
  end if;
  perform pg_advisory_xact_lock(hashtext('subscription_makes_no_circle'));
  if follows_in_circle(p_account, p_provider) then
    raise exception 'account % would follow itself', p_account
      using errcode = 'check_violation', constraint = 'subscription_makes_no_circle', table = 'subscriptions';
  end if;
end $$;

create or replace function subscription_makes_no_circle() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  perform refuse_circle(new.account_id, (select account_id from strategies where id = new.strategy_id));
  return null;
end $$;

create or replace function strategy_makes_no_circle() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  perform refuse_circle(account_id, new.account_id) from subscriptions
    where strategy_id = new.id and status <> 'ENDED';
  return null;
end $$;
