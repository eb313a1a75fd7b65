-- A score is what its last assessment says, and an assessment builds on the one before. So a worker that read an old
-- score cannot commit: its version is taken, or the score that it builds on does not exist.

alter table trust_assessments
  add constraint trust_assessment_and_its_score_are_one unique (user_id, kind, version, score),
  add constraint trust_assessment_builds_on_the_last foreign key (user_id, kind, prev_version, prev_score)
    references trust_assessments (user_id, kind, version, score);

alter table trust_scores
  add constraint trust_score_is_its_last_assessments foreign key (user_id, kind, version, score)
    references trust_assessments (user_id, kind, version, score) deferrable initially deferred;

select declare_trigger_function('trust_score_moves_by_one');
create trigger moves_by_one before update on trust_scores for each row execute function trust_score_moves_by_one();
create trigger never_deleted before delete on trust_scores for each row execute function refuse_mutation();
create trigger never_truncated before truncate on trust_scores for each statement execute function refuse_mutation();
alter table trust_scores enable always trigger moves_by_one, enable always trigger never_deleted,
  enable always trigger never_truncated;

select make_append_only('trust_assessments');
select protect('trust_assessments', 'select, insert');
alter table trust_scores set (fillfactor = 70);
