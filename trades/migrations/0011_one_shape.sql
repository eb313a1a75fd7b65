-- Databases that were migrated while version 0.1.0 was being written lack some of these, or have them under other
-- names.

select declare_trigger_function('active_trade_goes_with_its_close');
drop trigger if exists goes_with_its_close on active_trades;
create constraint trigger goes_with_its_close after delete on active_trades deferrable initially deferred
  for each row execute function active_trade_goes_with_its_close();
alter table active_trades enable always trigger goes_with_its_close;

do $$
declare
  v record;
begin
  for v in select * from (values
    ('active_trades', 'active_trade_amounts_are_numbers',
     'volume < ''NaN'' and opened_volume < ''NaN'' and open_price < ''NaN'' and sl < ''NaN'' and tp < ''NaN'''),
    ('trade_history', 'trade_history_amounts_are_numbers',
     'volume < ''NaN'' and closed_volume < ''NaN'' and open_price < ''NaN'' and close_price < ''NaN'' and sl < ''NaN'''
     ' and tp < ''NaN'' and profit < ''NaN'' and closing_profit < ''NaN'''),
    ('trade_reductions', 'trade_reduction_amounts_are_numbers',
     'volume < ''NaN'' and remaining < ''NaN'' and close_price < ''NaN'' and profit < ''NaN'''))
    c (of_table, name, rule)
  loop
    if not exists (select from pg_constraint where conrelid = v.of_table::regclass and conname = v.name) then
      execute format('alter table %I add constraint %I check (%s)', v.of_table, v.name, v.rule);
    end if;
  end loop;
end $$;
alter table signed_results drop constraint if exists signed_results_key_id_fb59eee6_fk_bot_keys_id;

create index if not exists active_trades_masters_idx on active_trades (strategy_id) where master_trade is null;
create index if not exists active_trades_copies_idx on active_trades (account_id) where master_trade is not null;
drop index if exists active_trades_account_id_e2884205, active_trades_strategy_id_08c73873, active_trades_strategy_idx,
  trade_history_account_id_d2d7c1ad, trade_history_strategy_id_b3d95198;
