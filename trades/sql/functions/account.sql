-- What a bot reports of its account: funds, currency, kind, and the broker's conditions for its symbols.

-- Records the symbols of a report, and returns those whose contract size is new or another: {symbol: [before, now]}.
create or replace function account_symbols_noted(p_account bigint, p_symbols jsonb) returns jsonb
language plpgsql as $$
declare
  v_now     constant timestamptz := clock_timestamp();
  v_most    constant int := 1024;  -- symbols of one account, so that no bot fills the table
  v_changes jsonb;
begin
  select coalesce(jsonb_object_agg(given.symbol, jsonb_build_array(
           known.contract_size::text, given.contract_size::numeric(20,8)::text)), '{}') into v_changes
    from jsonb_to_recordset(p_symbols) as given (symbol text, contract_size numeric)
         left join account_symbols known on known.account_id = p_account and known.symbol = given.symbol
   where known.contract_size is distinct from given.contract_size::numeric(20,8)
     and (known.symbol is not null
          or (select count(*) from account_symbols where account_id = p_account) < v_most);  -- others are not recorded
  insert into account_symbols as known (account_id, symbol, contract_size, volume_min, volume_step, volume_max,
                                        changed_at, updated_at)
  select distinct on (symbol) p_account, symbol, contract_size, volume_min, volume_step, volume_max, v_now, v_now
    from jsonb_to_recordset(p_symbols) as given (
           symbol text, contract_size numeric, volume_min numeric, volume_step numeric, volume_max numeric)
   where (select count(*) from account_symbols where account_id = p_account) < v_most
      or exists (select from account_symbols old where old.account_id = p_account and old.symbol = given.symbol)
   order by symbol
  on conflict (account_id, symbol) do update
    set contract_size = excluded.contract_size, volume_min = excluded.volume_min, volume_step = excluded.volume_step,
        volume_max = excluded.volume_max, updated_at = excluded.updated_at,
        changed_at = case when known.contract_size = excluded.contract_size then known.changed_at
                          else excluded.changed_at end;
  return v_changes;
end $$;

-- Raises or clears the desk's alarm that lots of this account are another amount than the desk lists, by which fees are
-- calculated. A symbol that the account's terms map to its own name is compared under the provider's name.
create or replace function contract_sizes_compared(caller jsonb, p_account bigint) returns void language plpgsql as $$
declare
  v_now    constant timestamptz := clock_timestamp();
  v_detail text;
begin
  select left(string_agg(format('%s: %s here, %s at the desk', own.symbol, trim_scale(own.contract_size),
                                trim_scale(i.contract_size)), '; ' order by own.symbol), 300) into v_detail
    from account_symbols own
         join instruments i on i.symbol = coalesce(
           (select given.name from subscriptions u
                   cross join lateral (select latest.symbol_map from subscription_terms latest
                                        where latest.subscription_id = u.id order by latest.id desc limit 1) m
                   cross join lateral jsonb_each_text(m.symbol_map) as given (name, mapped)
             where u.account_id = p_account and u.status <> 'ENDED' and given.mapped = own.symbol
             order by given.name limit 1), own.symbol)
   where own.account_id = p_account and own.contract_size <> i.contract_size;
  if v_detail is null then
    update bot_alarms set cleared_at = v_now
     where account_id = p_account and bot = 'desk' and kind = 'contract_differs' and cleared_at is null;
  else
    insert into bot_alarms (account_id, bot, kind, detail, raised_at, reported_at)
    values (p_account, 'desk', 'contract_differs', v_detail, v_now, v_now)
    on conflict on constraint bot_alarm_is_one_row do update
      set detail = excluded.detail, reported_at = v_now, cleared_at = null,
          times = bot_alarms.times + (bot_alarms.cleared_at is not null)::int,
          raised_at = case when bot_alarms.cleared_at is not null then v_now else bot_alarms.raised_at end;
  end if;
  perform log_alarms(caller, p_account, v_now);
end $$;

-- Records a change that a bot reports of its account or lease, at most 20 an hour: the log is never shortened. What is
-- beyond is counted, and the next row says how many there were (`unrecorded`). The account's row is locked.
create or replace function account_change(caller jsonb, p_account bigint, p_action text, p_code text, p_detail jsonb)
returns void language plpgsql security definer set search_path = public, pg_temp as $$
declare
  v_most constant int := 20;
  v_unrecorded int := 0;
  a trading_accounts;
begin
  select * into a from trading_accounts where id = p_account;
  if coalesce(a.changes_since < clock_timestamp() - interval '1 hour', true) then
    v_unrecorded := greatest(0, a.changes - v_most);
    a.changes_since := clock_timestamp();
    a.changes := 0;
  end if;
  update trading_accounts set changes_since = a.changes_since, changes = a.changes + 1 where id = p_account;
  if a.changes < v_most then
    perform audit(caller, p_action, 'account:' || p_account, p_code,
                  p_detail || case when v_unrecorded > 0 then jsonb_build_object('unrecorded', v_unrecorded)
                                   else '{}' end);
  end if;
end $$;
-- The bots' verbs alone call it, as its owner.
select callable_by('account_change(jsonb, bigint, text, text, jsonb)', variadic '{}');

-- Records a report. Where the currency is not the registered one, its amounts and symbols are of another account: only
-- the fact is recorded. A report without a currency (an older bot's, or a heartbeat) leaves that as it was.
-- args: {"balance", "equity", "currency"?, "kind"?, "login"?, "server"?, "symbols"?}
create or replace function account_noted(caller jsonb, args jsonb) returns jsonb language plpgsql as $$
declare
  v_account constant bigint := (caller->>'account')::bigint;
  v_subject constant text := 'account:' || v_account;
  a trading_accounts;
  b trading_accounts;
  v_symbols jsonb := '{}';
begin
  select * into a from trading_accounts where id = v_account for no key update;
  update trading_accounts
     set reported_currency = coalesce(args->>'currency', reported_currency),
         currency = case when currency = '' and args->>'currency' ~ '^[A-Z]{3}$' then args->>'currency'
                         else currency end
   where id = v_account returning * into b;
  if a.currency <> b.currency then
    perform audit(caller, 'account.currency_registered', v_subject, '', jsonb_build_object('currency', b.currency));
  end if;
  if b.reported_currency not in ('', b.currency) then
    if a.reported_currency <> b.reported_currency then
      perform account_change(caller, v_account, 'account.refused', 'currency_differs',
                             jsonb_build_object('registered', b.currency, 'reported', b.reported_currency));
    end if;
    return refused('currency_differs', jsonb_build_object(
      'registered', b.currency, 'reported', b.reported_currency,
      'changed', a.reported_currency <> b.reported_currency));
  end if;
  update trading_accounts
     set balance = (args->>'balance')::numeric, equity = (args->>'equity')::numeric, told_at = clock_timestamp(),
         kind = coalesce(args->>'kind', kind), reported_login = coalesce(args->>'login', reported_login),
         reported_server = coalesce(args->>'server', reported_server)
   where id = v_account returning * into b;
  if (a.kind, a.reported_currency, a.reported_login, a.reported_server)
     <> (b.kind, b.reported_currency, b.reported_login, b.reported_server) then
    perform account_change(caller, v_account, 'account.facts_changed', '', jsonb_build_object(
      'kind', b.kind, 'currency', b.reported_currency, 'login', b.reported_login, 'server', b.reported_server));
  end if;
  if args->'symbols' is not null then v_symbols := account_symbols_noted(v_account, args->'symbols'); end if;
  if v_symbols <> '{}' then
    perform account_change(caller, v_account, 'account.symbols_changed', '', v_symbols);
    perform contract_sizes_compared(caller, v_account);
  end if;
  return jsonb_build_object('code', 'told', 'currency', b.currency,
                            'changed', a.reported_currency <> b.reported_currency or v_symbols <> '{}');
end $$;

-- The symbols of which the desk wants to know the conditions, by the account's own names, with what it knows: those
-- that the account has open or has reported, and those of the strategies that it follows. The provider's contract size
-- is the one that a copy in this symbol is compared with. No closed trade is looked at.
create or replace function account_symbols_wanted(p_account bigint) returns jsonb language plpgsql stable as $$
begin
  return (
    with followed as (
      select s.name, s.account_id, s.id as strategy_id, m.symbols, m.symbol_map
        from subscriptions u join strategies s on s.id = u.strategy_id
             cross join lateral (select latest.symbols, latest.symbol_map from subscription_terms latest
                                  where latest.subscription_id = u.id order by latest.id desc limit 1) m
       where u.account_id = p_account and u.status <> 'ENDED'
    ), named as (
      select f.name as strategy, f.account_id as provider, its.symbol as provider_symbol, f.symbol_map
        from followed f cross join lateral (
               select symbol from active_trades where strategy_id = f.strategy_id and master_trade is null
               union select symbol from account_symbols where account_id = f.account_id
               union select unnest(f.symbols)
               union select jsonb_object_keys(f.symbol_map)) its
       where cardinality(f.symbols) = 0 or its.symbol = any(f.symbols)
    ), wanted as (
      select coalesce(symbol_map->>provider_symbol, provider_symbol) as symbol, strategy, provider, provider_symbol
        from named
      union all
      select symbol, null, null, null from active_trades where account_id = p_account
      union all
      select symbol, null, null, null from account_symbols where account_id = p_account
    ), each_once as (
      select distinct on (symbol) * from wanted order by symbol, strategy, provider_symbol limit 256
    )
    select coalesce(jsonb_agg(jsonb_build_object(
             'symbol', w.symbol, 'contract_size', own.contract_size::text, 'strategy', w.strategy,
             'provider_symbol', w.provider_symbol, 'provider_contract_size', theirs.contract_size::text)
             order by w.symbol), '[]')
      from each_once w
           left join account_symbols own on own.account_id = p_account and own.symbol = w.symbol
           left join account_symbols theirs on theirs.account_id = w.provider and theirs.symbol = w.provider_symbol);
end $$;

-- The report of a bot; the answer names the symbols that its next report should hold.
create or replace function account_tell(caller jsonb, args jsonb) returns jsonb
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  v_outcome constant jsonb := account_noted(caller, args);
begin
  if v_outcome ? 'refused' then return v_outcome; end if;
  return v_outcome || jsonb_build_object('symbols', account_symbols_wanted((caller->>'account')::bigint));
end $$;
select callable_by('account_tell(jsonb, jsonb)', 'copydesk_app');
