-- Restrictions of strategies and subscriptions are lifted by functions alone (sql/functions/restriction.sql).
select declare_trigger_function('lifted_by_function_alone');
create trigger lifted_by_function before update of status, frozen_for, takes_subscribers on strategies
  for each row when (new.status = 'ACTIVE' and old.status <> 'ACTIVE'
                     or new.takes_subscribers and not old.takes_subscribers
                     or old.frozen_for = 'HAND' and new.frozen_for <> 'HAND')
  execute function lifted_by_function_alone();
create trigger frozen_not_deleted before delete on strategies
  for each row when (old.status <> 'ACTIVE') execute function lifted_by_function_alone();
alter table strategies enable always trigger lifted_by_function, enable always trigger frozen_not_deleted;
create trigger lifted_by_function before update of status, paused_for on subscriptions
  for each row when (new.status = 'ACTIVE' and old.status <> 'ACTIVE'
                     or old.status = 'PAUSED' and new.status = 'PAUSED'
                        and new.paused_for not in (old.paused_for, 'HAND'))
  execute function lifted_by_function_alone();
alter table subscriptions enable always trigger lifted_by_function;
