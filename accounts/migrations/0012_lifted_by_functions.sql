-- A revoked key stays revoked: no function lifts that.
select declare_trigger_function('lifted_by_function_alone');
create trigger stays_revoked before update of revoked_at on bot_keys
  for each row when (old.revoked_at is not null and new.revoked_at is distinct from old.revoked_at)
  execute function lifted_by_function_alone();
create trigger revoked_not_deleted before delete on bot_keys
  for each row when (old.revoked_at is not null) execute function lifted_by_function_alone();
alter table bot_keys enable always trigger stays_revoked, enable always trigger revoked_not_deleted;
