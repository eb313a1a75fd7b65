-- The conditions that a bot cannot mend by itself. A report holds all that are present, so it opens and clears rows by
-- difference, and a repeat changes nothing.

-- args: {"bot": kind of the key, "alarms": [{"kind", "ticket"?, "strategy"?, "trade_ref"?, "detail"?}]}
create or replace function account_alarms(caller jsonb, args jsonb) returns jsonb
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  v_account bigint := (caller->>'account')::bigint;
  v_bot     text := args->>'bot';
  v_now     timestamptz := clock_timestamp();
begin
  perform from trading_accounts where id = v_account for no key update;  -- the account's bots report one by one
  insert into bot_alarms (account_id, bot, kind, ticket_id, strategy_id, master_trade, trade, detail, raised_at,
                          reported_at)
  select distinct on (a.kind, coalesce(a.ticket, ''), s.id, m.id)
         v_account, v_bot, a.kind, coalesce(a.ticket, ''), s.id, m.id, t.id, coalesce(a.detail, ''), v_now, v_now
    from jsonb_to_recordset(args->'alarms')
           as a(kind text, ticket text, strategy text, trade_ref uuid, detail text)
         left join strategies s on s.name = a.strategy and is_seen_by(s, v_account)
         left join trades m on m.id = a.trade_ref and exists (
           select from strategies led where led.account_id = m.account_id and is_seen_by(led, v_account))
         left join trades t on t.account_id = v_account and t.ticket_id = a.ticket
  on conflict on constraint bot_alarm_is_one_row do update
    set detail = excluded.detail, trade = excluded.trade, reported_at = v_now, cleared_at = null,
        times = bot_alarms.times + (bot_alarms.cleared_at is not null)::int,
        -- One that comes back within minutes is the same: it flaps.
        raised_at = case when bot_alarms.cleared_at < v_now - interval '10 minutes' then v_now
                         else bot_alarms.raised_at end;
  update bot_alarms set cleared_at = v_now
   where account_id = v_account and bot = v_bot and cleared_at is null and reported_at < v_now;
  perform log_alarms(caller, v_account, v_now);
  -- What was logged within the hour stays, because log_alarms() counts it.
  delete from bot_alarms where cleared_at is not null and not is_logged
     and coalesce(logged_at < v_now - interval '1 hour', true) and id in (
    select id from bot_alarms where account_id = v_account and cleared_at is not null
     order by cleared_at desc offset 1000);
  return jsonb_build_object('code', 'told');
end $$;
select callable_by('account_alarms(jsonb, jsonb)', 'copydesk_app');

-- Whether an account leads this strategy, or follows or followed it.
create or replace function is_seen_by(s strategies, p_account bigint) returns boolean language sql stable as $$
  select s.account_id = p_account
      or exists (select from subscriptions u where u.strategy_id = s.id and u.account_id = p_account)
$$;

-- Brings the audit log in line with an account's alarms: one entry when an alarm is raised and one when it is cleared.
-- The log is never shortened, so an alarm that flaps is logged once an hour, and an account's alarms 100 times an hour.
create or replace function log_alarms(caller jsonb, p_account bigint, p_now timestamptz) returns void
language plpgsql as $$
declare
  v_since constant timestamptz := p_now - interval '1 hour';
  a bot_alarms;
begin
  for a in
    update bot_alarms set is_logged = false
     where account_id = p_account and is_logged and cleared_at is not null returning *
  loop
    perform audit(caller, 'alarm.cleared', 'account:' || p_account, '', alarm_facts(a));
  end loop;
  for a in
    update bot_alarms set is_logged = true, logged_at = p_now
     where id in (select id from bot_alarms
                   where account_id = p_account and cleared_at is null and not is_logged
                     and coalesce(logged_at < v_since, true)
                   order by raised_at, id
                   limit greatest(0, 100 - (select count(*) from bot_alarms
                                             where account_id = p_account and logged_at >= v_since)))
    returning *
  loop
    perform audit(caller, 'alarm.raised', 'account:' || p_account, '', alarm_facts(a));
  end loop;
end $$;

create or replace function alarm_facts(a bot_alarms) returns jsonb language sql stable as $$
  select jsonb_strip_nulls(jsonb_build_object(
    'kind', a.kind, 'ticket_id', nullif(a.ticket_id, ''), 'trade', a.trade, 'master_trade', a.master_trade,
    'detail', nullif(a.detail, ''), 'since', a.raised_at))
$$;
