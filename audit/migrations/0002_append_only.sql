-- The transaction's id beside each row. A sealer's range is bounded by it, so that it never skips the row of a slow
-- transaction (identity numbers commit out of order).
alter table audit_log add column xid xid8 not null default pg_current_xact_id();

select make_append_only('audit_log');
select protect('audit_log', 'select, insert');
