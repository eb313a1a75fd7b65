-- From one wallet of the client's to another of its own: no row is shared with anybody.
\set n :n + 1
\set source :first_wallet + :client_id
\set target :first_wallet + :clients + :client_id
select ledger_move('{"kind": "system", "actor": ""}'::jsonb, '{"scope": "bench-:client_id", "key": "transfer-:start-:n", "kind": "TRANSFER", "amount": "0.01000000", "note": "", "debit": :source, "credit": :target, "wait": true}'::jsonb)::text;
