-- What an account sees: its streams, and the trades that are open in them.

-- The streams that each account sees: the strategy it leads and those it follows. A paused subscription still sees its
-- closes. `terms` grows with each change of the terms.
create or replace function streams_of_each(p_accounts bigint[])
returns table (account_id bigint, strategy_id bigint, name text, last_seq bigint, sub_id text, subscription_id bigint,
               currency text, status text, paused_for text, generation int, terms bigint, closes boolean)
language plpgsql stable as $$
begin
  return query
    select s.account_id, s.id, s.name::text, s.last_seq, null::text, null::bigint, null::text, 'LEADS', '', 0,
           0::bigint, false
      from strategies s where s.account_id = any(p_accounts)
    union all
    select u.account_id, s.id, s.name::text, s.last_seq, u.sub_id::text, u.id, a.currency::text, u.status::text,
           u.paused_for::text, u.packet_generation, m.id, u.paused_for = 'DRAWDOWN' and m.closes_on_drawdown
      from subscriptions u join strategies s on s.id = u.strategy_id join trading_accounts a on a.id = u.account_id
           cross join lateral (select latest.id, latest.closes_on_drawdown from subscription_terms latest
                                where latest.subscription_id = u.id order by latest.id desc limit 1) m
     where u.account_id = any(p_accounts) and u.status <> 'ENDED';
end $$;

-- The streams that somebody with all these accounts sees, each once.
create or replace function streams_of(p_accounts bigint[])
returns table (strategy_id bigint, name text, last_seq bigint, sub_id text, subscription_id bigint, currency text,
               status text, paused_for text, generation int, terms bigint, closes boolean)
language plpgsql stable as $$
begin
  return query
    select distinct on (e.strategy_id) e.strategy_id, e.name, e.last_seq, e.sub_id, e.subscription_id, e.currency,
           e.status, e.paused_for, e.generation, e.terms, e.closes
      from streams_of_each(p_accounts) e order by e.strategy_id, e.status, e.sub_id;
end $$;

-- The open trades of its strategy that a paused subscription does not see: those of which its account has no open copy,
-- and of which it reported or the desk recorded why there is none, or whose copy is closed. What its copier may hold
-- without a report, because it opened before the pause, stays visible: it must learn of its close.
create or replace function hidden_trades(p_subscription bigint) returns uuid[] language plpgsql stable as $$
begin
  return (
    select coalesce(array_agg(a.trade_id), '{}')
      from subscriptions u join active_trades a on a.strategy_id = u.strategy_id and a.master_trade is null
     where u.id = p_subscription
       and not exists (select from active_trades c where c.account_id = u.account_id and c.master_trade = a.trade_id)
       and (exists (select from copy_skips k where k.subscription_id = u.id and k.master_trade = a.trade_id)
            or exists (select from trade_history h
                        where h.account_id = u.account_id and h.master_trade = a.trade_id)));
end $$;

-- The version of these accounts' snapshot: another text exactly when the snapshot may have changed.
create or replace function snapshot_mark(p_accounts bigint[]) returns text language plpgsql stable as $$
begin
  return coalesce((select string_agg(concat_ws(':', strategy_id, last_seq, status, paused_for, generation, terms,
                                               case status when 'PAUSED'
                                                    then cardinality(hidden_trades(subscription_id)) end), ','
                                     order by strategy_id)
                     from streams_of(p_accounts)), '')
      || '/' || coalesce((select string_agg(copy_seq::text, ',' order by id)
                            from trading_accounts where id = any(p_accounts)), '');
end $$;

-- What is active now. Because the function is STABLE, all its queries see the one database snapshot of its caller.
create or replace function snapshot_with(p_accounts bigint[], p_facts boolean) returns json
language plpgsql stable security definer set search_path = public, pg_temp as $$
declare
  v_hidden uuid[] := array(select unnest(hidden_trades(subscription_id)) from streams_of(p_accounts)
                            where status = 'PAUSED');
begin
  return json_build_object(
    'mark', snapshot_mark(p_accounts), 'hidden', v_hidden,
    'streams', coalesce((
      select json_agg(json_build_object(
               'id', strategy_id, 'name', name, 'seq', last_seq, 'sub_id', sub_id, 'status', status,
               'paused_for', paused_for, 'generation', generation, 'number', terms, 'closes', closes,
               'terms', terms_in_force(subscription_id, strategy_id, currency, p_facts)) order by strategy_id)
        from streams_of(p_accounts)), '[]'),
    -- The provider's trades whose copies staff ordered to be closed: their targets are zero.
    'ordered_closes', coalesce((
      select json_agg(distinct o.master_trade)
        from ordered_closes o join active_trades m on m.trade_id = o.master_trade
       where o.account_id = any(p_accounts)), '[]'),
    'trades', coalesce((
      select json_agg(active_row(a, s.name) order by a.opened_at, a.trade_id)
        from active_trades a join strategies s on s.id = a.strategy_id
       where (a.master_trade is null and a.strategy_id in (select strategy_id from streams_of(p_accounts))
              and a.trade_id <> all(v_hidden))
          or (a.master_trade is not null and a.account_id = any(p_accounts))), '[]'));
end $$;
select callable_by('snapshot_with(bigint[], boolean)', 'copydesk_app', 'copydesk_bot');

-- The same by its name in 0.1.0, which knows no facts.
create or replace function active_snapshot(p_accounts bigint[]) returns json
language plpgsql stable security definer set search_path = public, pg_temp as $$
begin
  return snapshot_with(p_accounts, false);
end $$;
select callable_by('active_snapshot(bigint[])', 'copydesk_app', 'copydesk_bot');
