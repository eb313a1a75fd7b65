-- Our very statement as a web process sends it: an open, then its close, each one transaction and one round trip.
\set n :n + 1
\set ticket :start + :n
\set open_seq :start + 2 * :n
\set close_seq :start + 2 * :n + 1
\set generation :first_generation + :client_id
select signed_call(:generation, :open_seq, '{"ip": "127.0.0.1", "request_id": "0123456789abcdef0123456789abcdef", "has_limits": true}'::jsonb, '[{"idem": "open-floor-:ticket", "fingerprint": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "verb": "trade_open", "args": {"ticket_id": ":ticket", "symbol": "EURUSD", "type": "BUY", "volume": "0.10000000", "open_price": "1.10500000", "sl": "1.10000000", "tp": "1.12000000", "comment": ""}}]'::jsonb)::text;
select signed_call(:generation, :close_seq, '{"ip": "127.0.0.1", "request_id": "0123456789abcdef0123456789abcdef", "has_limits": true}'::jsonb, '[{"idem": "close-floor-:ticket", "fingerprint": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "verb": "trade_close", "args": {"ticket_id": ":ticket", "close_price": "1.11000000", "profit": "5.00000000", "reason": "TP"}}]'::jsonb)::text;
