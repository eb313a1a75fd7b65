-- What lifts a restriction. Each function writes its audit row in the same transaction; a trigger lets nothing else
-- lift it. Each returns whether there was something to lift.

-- args: {"strategy": id, "reason", "why"?: only if it is frozen for that}
create or replace function strategy_thaw(caller jsonb, args jsonb) returns boolean
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  v_name text;
begin
  update strategies set status = 'ACTIVE', frozen_for = ''
   where id = (args->>'strategy')::bigint and status <> 'ACTIVE' and frozen_for = coalesce(args->>'why', frozen_for)
  returning name into v_name;
  if v_name is null then return false; end if;
  perform audit(caller, 'strategy.thawed', 'strategy:' || v_name, '', jsonb_build_object('reason', args->>'reason'));
  return true;
end $$;
select callable_by('strategy_thaw(jsonb, jsonb)', 'copydesk_app');

-- args: {"strategy": id, "reason"}
create or replace function strategy_open_to_new(caller jsonb, args jsonb) returns boolean
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  v_name text;
begin
  update strategies set takes_subscribers = true
   where id = (args->>'strategy')::bigint and not takes_subscribers returning name into v_name;
  if v_name is null then return false; end if;
  perform audit(caller, 'strategy.opened_to_new', 'strategy:' || v_name, '',
                jsonb_build_object('reason', args->>'reason'));
  return true;
end $$;
select callable_by('strategy_open_to_new(jsonb, jsonb)', 'copydesk_app');

-- args: {"subscription": id, "why"?: only if it is paused for that, "paused"?: only if it is paused and has not ended}
create or replace function subscription_resume(caller jsonb, args jsonb) returns boolean
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  v_sub_id text;
begin
  update subscriptions set status = 'ACTIVE', paused_for = ''
   where id = (args->>'subscription')::bigint and status <> 'ACTIVE'
     and paused_for = coalesce(args->>'why', paused_for) and (status = 'PAUSED' or not args ? 'paused')
  returning sub_id into v_sub_id;
  if v_sub_id is null then return false; end if;
  perform audit(caller, 'subscription.resumed', 'subscription:' || v_sub_id, '', '{}');
  return true;
end $$;
select callable_by('subscription_resume(jsonb, jsonb)', 'copydesk_app');
