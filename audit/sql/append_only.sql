-- The transaction's id beside each row: what a sealer takes is bounded by it, so that no slow transaction's row
-- is ever skipped (identity numbers commit out of order).
alter table audit_log add column xid xid8 not null default pg_current_xact_id();

select make_append_only('audit_log');

create function audit(p_caller jsonb, p_action text, p_subject text, p_code text, p_detail jsonb) returns void
language plpgsql as $$
begin
  insert into audit_log (actor_kind, actor, ip, request_id, action, subject, outcome, code, detail)
  values (coalesce(p_caller->>'kind', 'system'), coalesce(p_caller->>'actor', ''), (p_caller->>'ip')::inet,
          coalesce(p_caller->>'request_id', ''), p_action, p_subject,
          case when p_code = '' then 'ok' else 'refused' end, p_code, p_detail);
end $$;

select protect('audit_log', 'select, insert');
