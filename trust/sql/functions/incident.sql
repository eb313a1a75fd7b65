-- The incidents of these keys and accounts. The same fault of one key or account within an hour is one incident,
-- because a bot that restarts repeats itself. One pass in time order, so that a flood of faults costs one look at each.
create or replace function trust_incidents(p_keys text[], p_accounts bigint[], p_since timestamptz,
                                           p_until timestamptz)
returns table (at timestamptz, reason text, symbol text) language plpgsql stable as $$
declare
  fault record;
  v_source text;
  v_reason text;
  v_since timestamptz;
  v_count int;
begin
  for fault in
    -- Refusals that only the key's owner can have caused: the signature was right. The late open of a trade whose close
    -- arrived first, or that staff closed, does not count: its bot could not know.
    select r.actor as source, case r.code when 'seq_replayed' then 'DUPLICATE_SEQ' else 'REPLAY_ATTACK' end as what,
           r.at as moment, '' as of
      from audit_log r
     where r.actor_kind = 'bot' and r.actor = any(p_keys) and r.action in ('request.refused', 'zombie.refused')
       and r.code in ('seq_replayed', 'trade_closed') and r.at between p_since and p_until
       and not exists (
         select from trade_history h
          where r.code = 'trade_closed' and (h.kind = 'TOMBSTONE' or h.reason = 'STAFF')
            and h.trade_id = case when r.subject ~ '^trade:[0-9a-f-]{36}$' then substr(r.subject, 7)::uuid end)
    union all
    -- A late signal is the copier's own fault only where its own part took a second or more.
    select o.account_id::text, o.failed_reason, o.reported_at, o.symbol from copy_orders o
     where o.account_id = any(p_accounts) and o.status = 'failed' and o.reported_at between p_since and p_until
       and (o.failed_reason = 'INSUFFICIENT_FUNDS'
            or o.failed_reason in ('TTL_EXPIRED', 'PRICE_DEVIATION') and o.latency_ms >= 1000)
    order by source, what, moment, of
  loop
    if (fault.source, fault.what) is distinct from (v_source, v_reason)
       or fault.moment >= v_since + interval '1 hour' then
      v_source := fault.source; v_reason := fault.what; v_since := fault.moment; v_count := 0;
    end if;
    v_count := v_count + 1;
    -- A repeated number may be a retry after a lost answer, so only the third within the hour makes an incident.
    if v_count = (case v_reason when 'DUPLICATE_SEQ' then 3 else 1 end) then
      at := fault.moment; reason := fault.what; symbol := fault.of;
      return next;
    end if;
  end loop;
end $$;
