alter table subscription_terms
  add constraint terms_default_stop_is_a_number check (risk_default_stop_bps < 'NaN'),
  add constraint terms_factors_are_well_formed check (
    jsonb_typeof(symbol_factors) = 'object' and not symbol_factors @?
    '$.* ? (@.type() != "string" || !(@ like_regex "^[0-9]{1,6}([.][0-9]{1,8})?$") || @ like_regex "^[0.]*$")');
