-- What the functions write, nobody else writes.
select protect(t, 'select') from unnest(array['copy_skips', 'copiers']::regclass[]) t;
select protect('subscription_terms', 'select, insert'),
       protect('close_debts', 'select, insert, update (level, paid_at)');
