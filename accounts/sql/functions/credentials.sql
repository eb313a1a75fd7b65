-- A changed credential starts a cooling time in which no money leaves. A password counts whatever changed it. The first
-- password of a new user is no change, nor is a password that was taken away. The time never goes back.
create or replace function user_credentials_changed() returns trigger language plpgsql as $$
begin
  if new.password is distinct from old.password and old.password <> '' and new.password not like '!%' then
    new.credentials_changed_at := clock_timestamp();
  else
    new.credentials_changed_at := greatest(old.credentials_changed_at, new.credentials_changed_at);
  end if;
  return new;
end $$;
