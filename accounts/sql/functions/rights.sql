-- Who may raise whose rights: a member of staff requests, a superuser approves, and neither is the person.

-- Whether this statement needs no request: the tables' owner runs it (an operator on the server), or the desk has no
-- superuser yet. The last superuser stays, so the second case does not come back.
create or replace function grants_are_free(p_table oid) returns boolean language plpgsql stable as $$
begin
  return (select pg_get_userbyid(relowner) from pg_class where oid = p_table) = session_user
      or not exists (select from users where is_superuser and is_active);
end $$;

create or replace function rights_request_takes_two_people() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  if tg_op = 'INSERT' then
    if new.state <> 'PENDING' then
      raise exception 'a request for rights begins as pending' using errcode = 'CD003';
    end if;
    if not exists (select from users where id = new.requested_by_id and is_staff and is_active) then
      raise exception 'only staff request rights' using errcode = 'CD008';
    end if;
    return new;
  end if;
  if old.state <> 'PENDING' then
    raise exception 'request % is decided for ever', old.id using errcode = 'CD001';
  end if;
  if to_jsonb(new) - '{state,decided_by_id,decided_at}'::text[]
     <> to_jsonb(old) - '{state,decided_by_id,decided_at}'::text[] then
    raise exception 'request % can only be decided', old.id using errcode = 'CD003';
  end if;
  if new.state = 'DONE' and (
       not exists (select from users where id = new.decided_by_id and is_superuser and is_staff and is_active)
       or not exists (select from users where id = new.requested_by_id and is_staff and is_active)) then
    raise exception 'a superuser approves what a member of staff requested' using errcode = 'CD008';
  end if;
  if new.state <> 'PENDING' then new.decided_at := now(); end if;  -- of the transaction, in which it takes effect
  return new;
end $$;

-- Raised powers of a user need a request that was approved in the same transaction.
create or replace function user_rights_are_approved() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  v_was_staff  boolean := tg_op = 'UPDATE' and old.is_staff and old.is_active;
  v_was_super  boolean := tg_op = 'UPDATE' and old.is_superuser and old.is_active;
begin
  if v_was_super and not (new.is_superuser and new.is_active) and session_user <> (
       select pg_get_userbyid(relowner) from pg_class where oid = tg_relid) then
    -- Locked, so that two superusers cannot take each other's rights away at the same time.
    perform from users where is_superuser and is_active and id <> new.id order by id limit 1 for no key update;
    if not found then raise exception 'the last superuser stays' using errcode = 'CD008'; end if;
  end if;
  if not new.is_active or (new.is_staff <= v_was_staff and new.is_superuser <= v_was_super)
     or grants_are_free(tg_relid) then
    return new;
  end if;
  if not exists (
       select from rights_requests r
        where r.person_id = new.id and r.kind = 'RIGHTS' and r.state = 'DONE' and r.decided_at = now()
          and (r.is_active, r.is_staff, r.is_superuser) = (new.is_active, new.is_staff, new.is_superuser)) then
    raise exception 'rights of % need a request that another person approved', new.id using errcode = 'CD008';
  end if;
  return new;
end $$;

-- The same for a user's own permissions and groups. (A user's rows have no other meaning.)
create or replace function user_grant_is_approved() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  if not grants_are_free(tg_relid) and not exists (
       select from rights_requests r
        where r.person_id = new.user_id and r.kind = 'RIGHTS' and r.state = 'DONE' and r.decided_at = now()
          and case tg_table_name when 'users_groups' then (to_jsonb(new)->>'group_id')::int = any(r.groups)
                                 else (to_jsonb(new)->>'permission_id')::int = any(r.permissions) end) then
    raise exception 'rights of % need a request that another person approved', new.user_id using errcode = 'CD008';
  end if;
  return new;
end $$;

-- A group with members gets no more permissions, because its members would get them.
create or replace function group_with_members_gets_no_more() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  if not grants_are_free(tg_relid) and exists (select from users_groups where group_id = new.group_id) then
    raise exception 'group % has members: make another group', new.group_id using errcode = 'CD008';
  end if;
  return new;
end $$;
