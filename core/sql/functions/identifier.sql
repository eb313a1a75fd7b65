-- A UUID of version 7 (RFC 9562): 48 bits of milliseconds, then random bits, so that the index grows at its end.
create or replace function uuid_v7() returns uuid language sql volatile parallel safe as $$
  select encode(
    set_bit(set_bit(
      overlay(uuid_send(gen_random_uuid())
              placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1 for 6),
      52, 1), 53, 1), 'hex')::uuid
$$;

-- The milliseconds in a UUID of version 7: for a trade, the time when the desk learned of it.
create or replace function uuid_v7_ms(p_id uuid) returns bigint language sql immutable as $$
  select ('x' || lpad(left(replace(p_id::text, '-', ''), 12), 16, '0'))::bit(64)::bigint
$$;

-- The name of uuid_v7_ms() in 0.1.0, whose pages call it. It goes with 0.3.0.
create or replace function born_ms(p_trade uuid) returns bigint language sql immutable as $$
  select uuid_v7_ms(p_trade)
$$;
