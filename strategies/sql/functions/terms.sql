-- The largest copy of a subscription that names none: 100 lots, or what its other settings ask for.
create or replace function terms_have_a_largest_copy() returns trigger language plpgsql as $$
begin
  new.max_volume := greatest(100, new.min_volume, new.fixed_lots);
  return new;
end $$;
