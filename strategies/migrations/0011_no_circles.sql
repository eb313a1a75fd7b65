-- A subscription is looked at when it comes to life: made, resumed, or given other ends. Pausing and ending pass, also
-- in a circle that was made before there were these triggers. `trade_check` names such a circle.
select declare_trigger_function('subscription_makes_no_circle');
create trigger makes_no_circle after insert on subscriptions for each row when (new.status <> 'ENDED')
  execute function subscription_makes_no_circle();
create trigger makes_no_circle_again after update on subscriptions for each row
  when (new.status <> 'ENDED' and (old.status = 'ENDED' or (new.status = 'ACTIVE' and old.status <> 'ACTIVE')
        or (new.account_id, new.strategy_id) is distinct from (old.account_id, old.strategy_id)))
  execute function subscription_makes_no_circle();
alter table subscriptions enable always trigger makes_no_circle, enable always trigger makes_no_circle_again;

select declare_trigger_function('strategy_makes_no_circle');
create trigger makes_no_circle after update of account_id on strategies for each row
  when (new.account_id <> old.account_id) execute function strategy_makes_no_circle();
alter table strategies enable always trigger makes_no_circle;
