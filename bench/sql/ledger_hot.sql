-- The same, all out of one wallet.
\set n :n + 1
select ledger_move('{"kind": "system", "actor": ""}'::jsonb, '{"scope": "bench-:client_id", "key": "hot-:start-:n", "kind": "FEE_PERFORMANCE", "amount": "0.01000000", "note": "", "debit": :first_wallet, "credit_house": "FEES", "wait": true}'::jsonb)::text;
