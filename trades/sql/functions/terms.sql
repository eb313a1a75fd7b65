-- The terms of subscriptions, as strategies/sizing.py reads them. Amounts are text.

-- Equal settings give equal text, so that a trade is sized once for all who copy it alike.
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

-- The terms under which a subscription's open trades were opened, and all terms of the last minute (a trade that is
-- being opened has its id already), oldest first: [[since in ms, settings], …].
create or replace function terms_of(p_subscription bigint, p_strategy bigint, p_currency text) returns jsonb
language plpgsql stable as $$
declare
  v_recent constant timestamptz := now() - interval '1 minute';
begin
  return (
    select jsonb_agg(jsonb_build_array((extract(epoch from m.since) * 1000)::bigint, settings_of(m, p_currency))
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
