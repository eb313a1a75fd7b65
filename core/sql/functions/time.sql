-- Times in the API: ISO 8601 in UTC with milliseconds.
create or replace function iso(p_at timestamptz) returns text language sql stable parallel safe as $$
  select to_char(p_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

create or replace function from_ms(p_ms text) returns timestamptz language sql immutable as $$
  select to_timestamp(p_ms::numeric / 1000)
$$;
