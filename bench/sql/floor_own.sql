-- Our very statement, as a web process sends it: one open and its close, each a transaction and a round trip of its own.
\set n :n + 1
\set ticket :start + :n
\set seq :start + :n * 2
select signed_call(:generation + :client_id, :seq, '{"kind": "bot", "actor": "ck_0123456789abcdef.1", "account": :own_account, "ip": "127.0.0.1", "request_id": "0123456789abcdef0123456789abcdef"}'::jsonb, '[{"idem": "open-:ticket", "fingerprint": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "verb": "trade_open", "args": {"ticket_id": ":ticket", "symbol": "EURUSD", "type": "BUY", "volume": "0.10000000", "open_price": "1.10500000", "sl": "1.10000000", "tp": "1.12000000", "comment": ""}}]'::jsonb)::text;
