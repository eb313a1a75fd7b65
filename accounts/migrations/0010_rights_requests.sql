-- Rights are raised by two people. The functions are in accounts/sql/functions/rights.sql.

select declare_trigger_function('rights_request_takes_two_people');
create trigger takes_two_people before insert or update on rights_requests
  for each row execute function rights_request_takes_two_people();
create trigger never_deleted before delete on rights_requests for each row execute function refuse_mutation();
create trigger never_truncated before truncate on rights_requests for each statement execute function refuse_mutation();
alter table rights_requests enable always trigger takes_two_people, enable always trigger never_deleted,
  enable always trigger never_truncated;
select protect('rights_requests', 'select, insert, update (state, decided_by_id, decided_at)');

select declare_trigger_function('user_rights_are_approved');
create trigger rights_are_approved before insert or update of is_active, is_staff, is_superuser on users
  for each row execute function user_rights_are_approved();
alter table users enable always trigger rights_are_approved;

select declare_trigger_function('user_grant_is_approved');
create trigger grant_is_approved before insert or update on users_groups
  for each row execute function user_grant_is_approved();
create trigger grant_is_approved before insert or update on users_user_permissions
  for each row execute function user_grant_is_approved();
alter table users_groups enable always trigger grant_is_approved;
alter table users_user_permissions enable always trigger grant_is_approved;

select declare_trigger_function('group_with_members_gets_no_more');
create trigger gets_no_more before insert or update on auth_group_permissions
  for each row execute function group_with_members_gets_no_more();
alter table auth_group_permissions enable always trigger gets_no_more;
