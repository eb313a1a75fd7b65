-- What the open pages of a person depend on: password, rights and being active. Another text whenever one of them
-- changes, and null for a deactivated person.
create or replace function person_standing(p_user uuid) returns text
language plpgsql stable security definer set search_path = public, pg_temp as $$
begin
  return (
    select encode(sha256(convert_to(concat_ws('|', u.password, u.is_staff, u.is_superuser,
             (select string_agg(permission_id::text, ',' order by permission_id)
                from users_user_permissions p where p.user_id = u.id),
             (select string_agg(concat(g.group_id, ':', p.permission_id), ',' order by g.group_id, p.permission_id)
                from users_groups g left join auth_group_permissions p on p.group_id = g.group_id
               where g.user_id = u.id)), 'UTF8')), 'hex')
      from users u where u.id = p_user and u.is_active);
end $$;
select callable_by('person_standing(uuid)', 'copydesk_app');
