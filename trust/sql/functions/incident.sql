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
begin
  for fault in
    -- Refusals that only the key's owner can have caused: the signature was right. The late open of a trade whose close
    -- arrived first, or that staff closed, or that was signed before its close, does not count: its bot could not know.
    select r.actor as source, 'REPLAY_ATTACK' as what, r.at as moment, '' as of
      from audit_log r
     where r.actor_kind = 'bot' and r.actor = any(p_keys) and r.action in ('request.refused', 'zombie.refused')
       and r.code = 'trade_closed' and r.at between p_since and p_until and not r.detail ? 'signed_before_close'
       and not exists (
         select from trade_history h
          where (h.kind = 'TOMBSTONE' or h.reason = 'STAFF')
            and h.trade_id = case when r.subject ~ '^trade:[0-9a-f-]{36}$' then substr(r.subject, 7)::uuid end)
    union all
    -- A copier without money for a copy: by its reason, or as the older name of a failed order's reason.
    select o.account_id::text, 'INSUFFICIENT_FUNDS', o.reported_at, o.symbol from copy_orders o
     where o.account_id = any(p_accounts) and o.status = 'failed' and o.reported_at between p_since and p_until
       and o.failed_reason in ('no_money', 'INSUFFICIENT_FUNDS')
    union all
    select u.account_id::text, 'INSUFFICIENT_FUNDS', k.told_at,
           coalesce((select a.symbol from active_trades a where a.trade_id = k.master_trade),
                    (select h.symbol from trade_history h where h.trade_id = k.master_trade), '')
      from subscriptions u join copy_skips k on k.subscription_id = u.id
     where u.account_id = any(p_accounts) and k.reason = 'no_money' and k.told_at between p_since and p_until
    union all
    -- Copies whose reported prices, symbol or profit differ from what the desk knows, as wallets recorded it.
    select r.subject, 'REPORT_DIFFERS', r.at, coalesce(r.detail->>'symbol', '') from audit_log r
     where r.subject in (select 'account:' || a.id from unnest(p_accounts) a (id))
       and r.action = 'copy.report_differs' and r.actor_kind = 'system' and r.at between p_since and p_until
    order by source, what, moment, of
  loop
    if (fault.source, fault.what) is distinct from (v_source, v_reason)
       or fault.moment >= v_since + interval '1 hour' then
      v_source := fault.source; v_reason := fault.what; v_since := fault.moment;
      at := fault.moment; reason := fault.what; symbol := fault.of;
      return next;
    end if;
  end loop;
end $$;
