alter table active_trades add constraint active_trade_first_sl_is_a_number check (first_sl > 0 and first_sl < 'NaN');
alter table trade_history add constraint trade_history_first_sl_is_a_number check (first_sl > 0 and first_sl < 'NaN');
