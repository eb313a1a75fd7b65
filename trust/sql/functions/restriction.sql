-- Holds, and the end of a score's restriction. Each function writes its audit row in the same transaction; a trigger
-- lets nothing else change a hold or lift a restriction.

-- Overrides a score; a hold in force ends. args: {"user", "kind", "effect", "reason", "by": id or null, "expires_at",
-- "now"}. Returns the hold's id.
create or replace function trust_hold(caller jsonb, args jsonb) returns bigint
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  v_user constant uuid := (args->>'user')::uuid;
  v_id bigint;
begin
  update trust_holds set ended_at = (args->>'now')::timestamptz
   where user_id = v_user and kind = args->>'kind' and ended_at is null;
  insert into trust_holds (user_id, kind, effect, reason, by_id, expires_at)
  values (v_user, args->>'kind', args->>'effect', args->>'reason', (args->>'by')::uuid,
          (args->>'expires_at')::timestamptz)
  returning id into v_id;
  perform audit(caller, 'trust.held', 'user:' || v_user, '',
                jsonb_build_object('kind', args->>'kind', 'effect', args->>'effect', 'reason', args->>'reason'));
  return v_id;
end $$;
select callable_by('trust_hold(jsonb, jsonb)', 'copydesk_app');

-- args: {"hold": id, "now"}. Returns whether it was in force.
create or replace function trust_hold_end(caller jsonb, args jsonb) returns boolean
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  h trust_holds;
begin
  update trust_holds set ended_at = (args->>'now')::timestamptz
   where id = (args->>'hold')::bigint and ended_at is null returning * into h;
  if h.id is null then return false; end if;
  perform audit(caller, 'trust.hold_ended', 'user:' || h.user_id, '', jsonb_build_object('kind', h.kind));
  return true;
end $$;
select callable_by('trust_hold_end(jsonb, jsonb)', 'copydesk_app');

-- args: {"user", "kind", "score"}. Returns whether the score restricted anything.
create or replace function trust_restore(caller jsonb, args jsonb) returns boolean
language plpgsql security definer set search_path = public, pg_temp as $$
begin
  update trust_scores set restricted_at = null, by_hold = false, clean_since = null
   where user_id = (args->>'user')::uuid and kind = args->>'kind' and restricted_at is not null;
  if not found then return false; end if;
  perform audit(caller, 'trust.restored', 'user:' || (args->>'user'), '',
                jsonb_build_object('kind', args->>'kind', 'score', args->>'score'));
  return true;
end $$;
select callable_by('trust_restore(jsonb, jsonb)', 'copydesk_app');
