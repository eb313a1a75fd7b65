-- What must never happen to a trade is refused here, by keys first and triggers second, for every caller.
--
-- A trade has one identity row and, at every commit, exactly one home:
--   active  => OPEN    (trade_id, status, …)     references trades (id, state, …)
--   history => CLOSED  (trade_id, status, …)     references trades (id, state, …)
--   OPEN    => active  (open_id, deferred)       references active_trades
--   CLOSED  => history (closed_id, deferred)     references trade_history
-- History cannot be changed or deleted, so CLOSED cannot become OPEN again: its history row would be an orphan.
-- These are foreign keys, not queries: they hold in every race, at every isolation level, whatever a snapshot shows.

alter table trades
  add constraint trade_and_what_its_home_repeats_are_one unique (id, state, account_id, ticket_id),
  add column open_id   uuid generated always as (case when state = 'OPEN'   then id end) stored,
  add column closed_id uuid generated always as (case when state = 'CLOSED' then id end) stored;

-- The home repeats account and ticket, so that the hot read needs no join. The key keeps them equal.
alter table active_trades
  add constraint active_trade_belongs_to_an_open_trade
  foreign key (trade_id, status, account_id, ticket_id) references trades (id, state, account_id, ticket_id);
alter table trade_history
  add constraint closed_trade_belongs_to_a_closed_trade
  foreign key (trade_id, status, account_id, ticket_id) references trades (id, state, account_id, ticket_id);
alter table trades
  add constraint open_trade_is_active foreign key (open_id) references active_trades (trade_id)
    deferrable initially deferred,
  add constraint closed_trade_is_history foreign key (closed_id) references trade_history (trade_id)
    deferrable initially deferred;

-- Whenever a row leaves the hot table, the first of these keys looks for an open trade that would lose its home.
create index trades_open_id_idx on trades (open_id) where open_id is not null;

select declare_trigger_function('trade_keeps_its_identity');

create trigger keeps_its_identity before update on trades for each row execute function trade_keeps_its_identity();
create trigger never_deleted before delete on trades for each row execute function refuse_mutation();
create trigger never_truncated before truncate on trades for each statement execute function refuse_mutation();
alter table trades enable always trigger keeps_its_identity, enable always trigger never_deleted,
  enable always trigger never_truncated;

select declare_trigger_function('active_trade_keeps_its_opening');
create trigger keeps_its_opening before update on active_trades
  for each row execute function active_trade_keeps_its_opening();
create trigger never_truncated before truncate on active_trades for each statement execute function refuse_mutation();

select declare_trigger_function('active_trade_goes_with_its_close');
create constraint trigger goes_with_its_close after delete on active_trades deferrable initially deferred
  for each row execute function active_trade_goes_with_its_close();
alter table active_trades enable always trigger keeps_its_opening, enable always trigger never_truncated,
  enable always trigger goes_with_its_close;

-- NaN is above every number, so no "> 0" keeps it out.
alter table active_trades add constraint active_trade_amounts_are_numbers
  check (volume < 'NaN' and opened_volume < 'NaN' and open_price < 'NaN' and sl < 'NaN' and tp < 'NaN');
alter table trade_history add constraint trade_history_amounts_are_numbers
  check (volume < 'NaN' and closed_volume < 'NaN' and open_price < 'NaN' and close_price < 'NaN' and sl < 'NaN'
         and tp < 'NaN' and profit < 'NaN' and closing_profit < 'NaN');
alter table trade_reductions add constraint trade_reduction_amounts_are_numbers
  check (volume < 'NaN' and remaining < 'NaN' and close_price < 'NaN' and profit < 'NaN');

select make_append_only('trade_history'), make_append_only('trade_reductions'), make_append_only('copy_orders');

select declare_trigger_function('stream_number_grows_by_one');
create trigger number_grows_by_one before update of last_seq on strategies
  for each row execute function stream_number_grows_by_one();
alter table strategies enable always trigger number_grows_by_one;
alter table strategies set (fillfactor = 70);
alter table bot_key_generations set (fillfactor = 70);
alter table active_trades set (fillfactor = 80);

create index active_trades_masters_idx on active_trades (strategy_id) where master_trade is null;
create index active_trades_copies_idx on active_trades (account_id) where master_trade is not null;
