-- What the functions write, nobody else writes.
select protect(t, 'select') from unnest(array['trades', 'active_trades', 'trade_history', 'trade_reductions',
                                              'copy_orders', 'signed_results']::regclass[]) t;
