select declare_trigger_function('subscription_begins_without_open_trades');
create trigger begins_without_open_trades after insert on subscriptions for each row when (new.status = 'PAUSED')
  execute function subscription_begins_without_open_trades();
create trigger begins_without_open_trades_again after update of status on subscriptions for each row
  when (new.status = 'PAUSED' and old.status = 'ENDED') execute function subscription_begins_without_open_trades();
alter table subscriptions enable always trigger begins_without_open_trades,
  enable always trigger begins_without_open_trades_again;
