-- What debit_wallet sends: a fee out of the client's own wallet.
\set n :n + 1
\set wallet :first_wallet + :client_id
select ledger_move('{"kind": "system", "actor": ""}'::jsonb, '{"scope": "bench-:client_id", "key": "debit-:start-:n", "kind": "FEE_PERFORMANCE", "amount": "0.01000000", "note": "", "debit": :wallet, "credit_house": "FEES", "wait": trueMORE}'::jsonb)::text;
