-- Adds one row to the audit log, in the caller's transaction. An empty code means that the action succeeded.
create or replace function audit(p_caller jsonb, p_action text, p_subject text, p_code text, p_detail jsonb)
returns void language plpgsql as $$
begin
  insert into audit_log (actor_kind, actor, ip, request_id, action, subject, outcome, code, detail)
  values (coalesce(p_caller->>'kind', 'system'), coalesce(p_caller->>'actor', ''), (p_caller->>'ip')::inet,
          coalesce(p_caller->>'request_id', ''), p_action, p_subject,
          case when p_code = '' then 'ok' else 'refused' end, p_code, p_detail);
end $$;
