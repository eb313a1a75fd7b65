-- Terms without a largest copy get one when they are made, also by the version before.
select declare_trigger_function('terms_have_a_largest_copy');
create trigger has_a_largest_copy before insert on subscription_terms for each row
  when (new.max_volume is null and new.mode in ('MULTIPLIER', 'FIXED')) execute function terms_have_a_largest_copy();
alter table subscription_terms enable always trigger has_a_largest_copy;

-- Subscriptions whose latest terms have none get new terms from now on. What is open keeps the terms that it was opened
-- under, so no copy shrinks.
insert into subscription_terms
select (jsonb_populate_record(null::subscription_terms, to_jsonb(m) || jsonb_build_object(
         'id', nextval(pg_get_serial_sequence('subscription_terms', 'id')),
         'since', greatest(m.since, date_trunc('milliseconds', clock_timestamp())), 'made_at', clock_timestamp(),
         'max_volume', greatest(100, m.min_volume, m.fixed_lots)))).*
  from subscriptions u cross join lateral (
       select * from subscription_terms t where t.subscription_id = u.id order by t.id desc limit 1) m
 where m.max_volume is null;
