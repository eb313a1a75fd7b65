select declare_trigger_function('user_credentials_changed');
create trigger credentials_changed before update of password, credentials_changed_at on users
  for each row execute function user_credentials_changed();
alter table users enable always trigger credentials_changed;
