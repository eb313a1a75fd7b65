-- Fees on trades that were corrected: a settlement may lower the mark before it, and gives back what was too much.

-- The version before inserts settlements without this column.
alter table settlements alter column corrections set default '[]';

alter table settlements
  drop constraint settlement_follows_from_its_base,
  drop constraint settlement_amounts_are_numbers,
  add constraint settlement_amounts_are_numbers check (
    closed_result < 'NaN' and floating_result < 'NaN' and base < 'NaN' and mark < 'NaN' and fee < 'NaN'
    and mark_corrected < 'NaN'),
  add constraint settlement_follows_from_its_base check (
    (period_no = 0 and prev_no is null and mark_before is null and mark_corrected is null and base = 0 and mark = 0
      and fee = 0 and starts_at = ends_at)
    or (period_no > 0 and prev_no is not null and prev_no = period_no - 1 and mark_before is not null
      and coalesce(mark_corrected >= 0 and mark_corrected < mark_before, true)
      and ends_at > starts_at and base = closed_result + floating_result
      and mark = greatest(coalesce(mark_corrected, mark_before), base)
      -- Cut down to the last unit. Multiplied, not divided, because a quotient would be rounded before it is cut.
      and fee = trunc((mark - coalesce(mark_corrected, mark_before)) * rate_bps * 0.0001, 8)));

alter table fee_refunds
  add constraint fee_refund_amounts_are_numbers
    check (amount < 'NaN' and provider_share < 'NaN' and recovered < 'NaN'),
  add constraint fee_refund_is_of_a_settlement foreign key (agreement_id, period_no)
    references settlements (agreement_id, period_no);

select declare_trigger_function('fee_refund_only_recovers');
create trigger only_recovers before update on fee_refunds for each row execute function fee_refund_only_recovers();
create trigger never_deleted before delete on fee_refunds for each row execute function refuse_mutation();
create trigger never_truncated before truncate on fee_refunds for each statement execute function refuse_mutation();
alter table fee_refunds enable always trigger only_recovers, enable always trigger never_deleted,
  enable always trigger never_truncated;
select protect('fee_refunds', 'select, insert, update (recovered)');
