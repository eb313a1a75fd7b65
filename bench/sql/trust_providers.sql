-- Providers, each with an account and a strategy.
with owners as (
  insert into users (id, password, is_superuser, username, first_name, last_name, email, is_staff, is_active, date_joined)
  select gen_random_uuid(), '', false, 'bench-trust-' || n, '', '', '', false, true, now() from generate_series(1, COUNT) n
  returning id, username),
accounts as (
  insert into trading_accounts (name, owner_id, broker, server, login, currency, generation, copy_seq)
  select username, id, 'b', 's', username, 'USD', 1, 0 from owners returning id, owner_id, name)
insert into strategies (name, title, owner_id, account_id, status, last_seq)
select name, '', owner_id, id, 'ACTIVE', 0 from accounts;
