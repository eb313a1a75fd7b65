alter table account_symbols add constraint account_symbol_amounts_are_numbers
  check (contract_size < 'NaN' and volume_min < 'NaN' and volume_step < 'NaN' and volume_max < 'NaN');
select protect('account_symbols', 'select');
