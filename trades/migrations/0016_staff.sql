-- What staff do to trades: the figures of a closed trade are corrected by rows that are added and never changed.

alter table trade_requests add constraint trade_request_amounts_are_numbers
  check (close_price < 'NaN' and profit < 'NaN');
alter table trade_corrections add constraint trade_correction_amounts_are_numbers
  check (close_price < 'NaN' and profit < 'NaN' and profit_before < 'NaN');

select declare_trigger_function('trade_correction_follows_its_trade');
create trigger follows_its_trade before insert on trade_corrections
  for each row execute function trade_correction_follows_its_trade();
alter table trade_corrections enable always trigger follows_its_trade;

select declare_trigger_function('trade_request_is_decided_once');
create trigger is_decided_once before update on trade_requests
  for each row execute function trade_request_is_decided_once();
create trigger never_deleted before delete on trade_requests for each row execute function refuse_mutation();
create trigger never_truncated before truncate on trade_requests for each statement execute function refuse_mutation();
alter table trade_requests enable always trigger is_decided_once, enable always trigger never_deleted,
  enable always trigger never_truncated;

select make_append_only('trade_corrections'), make_append_only('ordered_closes');

-- What the functions write, nobody else writes.
select protect('trade_corrections', 'select'), protect('ordered_closes', 'select'),
       protect('trade_requests', 'select, insert, update (state, decided_by_id, decided_at)');
