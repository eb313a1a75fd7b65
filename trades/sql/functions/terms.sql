-- The terms of subscriptions, as strategies/sizing.py reads them. Amounts are text.

-- Equal settings give equal text, so that a trade is sized once for all who copy it alike. Version 0.1.0 reads this
-- text and refuses members that it does not know; later versions read sizing_of().
create or replace function settings_of(m subscription_terms, p_currency text) returns text language plpgsql stable as $$
begin
  return jsonb_strip_nulls(jsonb_build_object(
    'mode', m.mode, 'multiplier', m.multiplier::text, 'fixed_lots', m.fixed_lots::text, 'risk_pct', m.risk_pct::text,
    'min_volume', m.min_volume::text, 'max_volume', m.max_volume::text, 'raises_to_min', m.raises_to_min,
    'reverse', m.reverse, 'symbols', to_jsonb(m.symbols), 'symbol_map', m.symbol_map)
    || case when m.mode in ('EQUITY', 'RISK')
       then jsonb_build_object('equity', m.equity::text, 'master_equity', m.master_equity::text, 'currency', p_currency)
       else '{}' end
    || case when m.mode = 'RISK'
       then jsonb_build_object('contracts', (select jsonb_object_agg(symbol, contract_size::text) from instruments))
       else '{}' end)::text;
end $$;

-- Those settings with the facts that were stored with the terms: currencies, rates, contract sizes.
create or replace function sizing_of(m subscription_terms, p_currency text) returns text language plpgsql stable as $$
begin
  return jsonb_strip_nulls(settings_of(m, p_currency)::jsonb
    || case when m.symbol_factors = '{}' then '{}' else jsonb_build_object('symbol_factors', m.symbol_factors) end
    || case when m.facts ? 'sizes' then jsonb_build_object('sizes', m.facts->'sizes') else '{}' end
    || case when m.facts ? 'known' then jsonb_build_object('known', m.facts->'known') else '{}' end
    || case when m.mode in ('EQUITY', 'RISK') then jsonb_build_object(
         'currency', coalesce(m.facts->>'currency', p_currency), 'master_currency', m.facts->>'master_currency',
         'rates', (select jsonb_object_agg(currency, rate->>'rate')
                     from jsonb_each(m.facts->'rates') as r (currency, rate)))
       else '{}' end
    || case when m.mode = 'RISK' then jsonb_build_object(
         'risk_default_stop_bps', m.risk_default_stop_bps::text,
         'contracts', coalesce((select jsonb_object_agg(symbol, contract_size::text) from instruments), '{}')
                      || coalesce(m.facts->'contracts', '{}'))
       else '{}' end)::text;
end $$;

-- The terms under which a subscription's open trades were opened, and all terms of the last minute (a trade that is
-- being opened has its id already), oldest first: [[since in ms, settings], …]. `p_facts`: the settings with the facts.
create or replace function terms_in_force(p_subscription bigint, p_strategy bigint, p_currency text, p_facts boolean)
returns jsonb
language plpgsql stable as $$
declare
  v_recent constant timestamptz := now() - interval '1 minute';
begin
  return (
    select jsonb_agg(jsonb_build_array((extract(epoch from m.since) * 1000)::bigint,
                                       case when p_facts then sizing_of(m, p_currency)
                                            else settings_of(m, p_currency) end)
                     order by m.since, m.id)
      from subscription_terms m
     where m.id = any(array(
       select recent.id from subscription_terms recent
        where recent.subscription_id = p_subscription and recent.since > v_recent
       union
       select (select valid.id from subscription_terms valid
                where valid.subscription_id = p_subscription and valid.since <= opened.at
                order by valid.since desc, valid.id desc limit 1)
         from (select v_recent as at
               union select to_timestamp(uuid_v7_ms(trade_id) / 1000.0) from active_trades
                      where strategy_id = p_strategy and master_trade is null) opened)));
end $$;

-- The same by its name in 0.1.0, which knows no facts.
create or replace function terms_of(p_subscription bigint, p_strategy bigint, p_currency text) returns jsonb
language plpgsql stable as $$
begin
  return terms_in_force(p_subscription, p_strategy, p_currency, false);
end $$;
