-- What these keys and accounts did wrong, one row an incident: the same fault of one of them within an hour is one, for a
-- bot that restarts repeats itself. Read in one pass, so that a flood of faults costs no more than a look at each.
create function trust_incidents(p_keys text[], p_accounts bigint[], p_since timestamptz, p_until timestamptz)
returns table (at timestamptz, reason text, symbol text) language plpgsql stable as $$
declare
  fault record;
  v_who text;
  v_reason text;
  v_since timestamptz;
  v_count int;
begin
  for fault in
    -- A refusal that only the key's owner can have caused: its signature was right. The late open of a trade whose close
    -- came first, or that staff closed, is left out: its bot could not know.
    select r.actor as who, case r.code when 'seq_replayed' then 'DUPLICATE_SEQ' else 'REPLAY_ATTACK' end as what,
           r.at as moment, '' as of
      from audit_log r
     where r.actor_kind = 'bot' and r.actor = any(p_keys) and r.action in ('request.refused', 'zombie.refused')
       and r.code in ('seq_replayed', 'trade_closed') and r.at between p_since and p_until
       and not exists (
         select from trade_history h where r.code = 'trade_closed' and (h.kind = 'TOMBSTONE' or h.reason = 'STAFF')
            and h.trade_id = case when r.subject ~ '^trade:[0-9a-f-]{36}$' then substr(r.subject, 7)::uuid end)
    union all
    -- A late signal is the copier's own fault only where its own leg took a second or more.
    select o.account_id::text, o.failed_reason, o.reported_at, o.symbol from copy_orders o
     where o.account_id = any(p_accounts) and o.status = 'failed' and o.reported_at between p_since and p_until
       and (o.failed_reason = 'INSUFFICIENT_FUNDS'
            or o.failed_reason in ('TTL_EXPIRED', 'PRICE_DEVIATION') and o.latency_ms >= 1000)
    order by who, what, moment, of
  loop
    if (fault.who, fault.what) is distinct from (v_who, v_reason) or fault.moment >= v_since + interval '1 hour' then
      v_who := fault.who; v_reason := fault.what; v_since := fault.moment; v_count := 0;
    end if;
    v_count := v_count + 1;
    -- So many make it one: a number used twice may be a retry after a lost answer, or a captured copy.
    if v_count = (case v_reason when 'DUPLICATE_SEQ' then 3 else 1 end) then
      at := fault.moment; reason := fault.what; symbol := fault.of;
      return next;
    end if;
  end loop;
end $$;
