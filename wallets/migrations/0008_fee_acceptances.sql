-- No terms bind a subscriber who has not accepted them. An agreement's acceptance is one of the same subscriber, for
-- the same strategy, currency and terms: keys, so that they hold for every caller and in every race.

alter table fee_terms add constraint fee_terms_are_of_a_strategy unique (id, strategy_id);
alter table fee_acceptances
  add constraint fee_acceptance_and_its_terms_are_one unique (id, subscriber_id, strategy_id, currency, terms_id),
  add constraint fee_acceptance_is_of_the_strategys_terms foreign key (terms_id, strategy_id)
    references fee_terms (id, strategy_id);
alter table fee_agreements
  add constraint fee_agreement_has_accepted_its_terms
    foreign key (acceptance_id, subscriber_id, strategy_id, currency, terms_id)
    references fee_acceptances (id, subscriber_id, strategy_id, currency, terms_id),
  add constraint fee_agreement_has_accepted_its_next_terms
    foreign key (next_acceptance_id, subscriber_id, strategy_id, currency, next_terms_id)
    references fee_acceptances (id, subscriber_id, strategy_id, currency, terms_id);

-- Until 0.2.0 the desk itself agreed for each follower. Only the terms that a subscriber accepted on a page bind from
-- now on: those of the latest `fee.terms_accepted` with the subscriber as its actor. All other agreements charge
-- nothing until their subscribers accept, and `wallets.tasks.fee_notices` gives these a notice. What was charged stays.
insert into fee_acceptances (subscriber_id, strategy_id, currency, terms_id, accepted_at)
select a.subscriber_id, a.strategy_id, a.currency, a.next_terms_id, accepted.at
  from fee_agreements a
       cross join lateral (
         select max(l.at) as at from audit_log l
          where l.action = 'fee.terms_accepted' and l.subject = 'agreement:' || a.id
            and l.actor_kind in ('user', 'staff') and l.actor = a.subscriber_id::text) accepted
 where accepted.at is not null;
update fee_agreements a
   set next_acceptance_id = c.id, acceptance_id = case when a.terms_id = a.next_terms_id then c.id end
  from fee_acceptances c
 where (c.subscriber_id, c.strategy_id, c.currency, c.terms_id)
     = (a.subscriber_id, a.strategy_id, a.currency, a.next_terms_id);
set constraints all immediate;  -- tables with checks that wait for the commit cannot be altered
set constraints all deferred;

select declare_trigger_function('fee_terms_take_their_turn');
create trigger take_their_turn before insert on fee_terms for each row execute function fee_terms_take_their_turn();
select declare_trigger_function('fee_acceptance_is_of_the_latest_terms');
create trigger is_of_the_latest_terms before insert on fee_acceptances
  for each row execute function fee_acceptance_is_of_the_latest_terms();
select declare_trigger_function('settlement_charges_what_was_accepted');
create trigger charges_what_was_accepted before insert on settlements for each row when (new.rate_bps > 0)
  execute function settlement_charges_what_was_accepted();
select declare_trigger_function('fee_claim_charges_what_was_accepted');
create trigger charges_what_was_accepted before insert on fee_claims
  for each row execute function fee_claim_charges_what_was_accepted();
alter table fee_terms enable always trigger take_their_turn;
alter table fee_acceptances enable always trigger is_of_the_latest_terms;
alter table settlements enable always trigger charges_what_was_accepted;
alter table fee_claims enable always trigger charges_what_was_accepted;

-- A subscription that comes to life, or would be active again, waits for fees that are not accepted or not paid.
select declare_trigger_function('subscription_waits_for_its_fees');
create trigger waits_for_its_fees before insert on subscriptions for each row when (new.status <> 'ENDED')
  execute function subscription_waits_for_its_fees();
create trigger waits_for_its_fees_again before update of status, paused_for, account_id, strategy_id on subscriptions
  for each row when (new.status <> 'ENDED') execute function subscription_waits_for_its_fees();
alter table subscriptions enable always trigger waits_for_its_fees, enable always trigger waits_for_its_fees_again;

select declare_trigger_function('fee_notice_keeps_what_it_says');
create trigger keeps_what_it_says before update on fee_notices
  for each row execute function fee_notice_keeps_what_it_says();
create trigger never_deleted before delete on fee_notices for each row execute function refuse_mutation();
create trigger never_truncated before truncate on fee_notices for each statement execute function refuse_mutation();
alter table fee_notices enable always trigger keeps_what_it_says, enable always trigger never_deleted,
  enable always trigger never_truncated;

select make_append_only('fee_acceptances');
select protect('fee_acceptances', 'select, insert'),
       protect('fee_notices', 'select, insert, update (declined_at, closed_at, outcome)'),
       protect('fee_agreements', 'select, insert, update (terms_id, next_terms_id, acceptance_id, next_acceptance_id,'
                                 ' due_at, postponed)');
