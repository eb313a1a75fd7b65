"""Trust's promise as queries: versions without a gap, and every score is what its last assessment says."""

from core import invariants
from core.invariants import Fault

INVARIANTS = {
    "versions have no gap": """
        select user_id || ' ' || kind from trust_assessments group by user_id, kind
        having max(version) <> count(*) or min(version) <> 1""",
    "an assessment builds on the one before": """
        select a.user_id || ' ' || a.kind || ' v' || a.version from trust_assessments a
          left join trust_assessments b on (b.user_id, b.kind, b.version) = (a.user_id, a.kind, a.version - 1)
         where a.version > 1 and (a.prev_score is distinct from b.score)""",
    "a score is what its last assessment says": """
        select s.user_id || ' ' || s.kind from trust_scores s
         where (s.version, s.score) is distinct from (
           select (a.version, a.score) from trust_assessments a where (a.user_id, a.kind) = (s.user_id, s.kind)
            order by a.version desc limit 1)""",
    "every key and trigger that holds the promise is in place and awake": """
        select wanted from unnest(array[
            'trust_scores.moves_by_one', 'trust_scores.never_deleted', 'trust_scores.never_truncated',
            'trust_assessments.append_only', 'trust_assessments.append_only_truncate']) wanted
         where not exists (select from pg_trigger where tgenabled = 'A'
                              and tgrelid = split_part(wanted, '.', 1)::regclass
                              and tgname = split_part(wanted, '.', 2))
        union all
        select wanted from unnest(array[
            'trust_scores.trust_score_is_its_last_assessments', 'trust_scores.trust_score_is_one_of_its_kind',
            'trust_assessments.trust_assessments_pkey', 'trust_assessments.trust_assessment_builds_on_the_last',
            'trust_assessments.trust_assessment_follows_the_one_before']) wanted
         where not exists (select from pg_constraint where convalidated
                              and conrelid = split_part(wanted, '.', 1)::regclass
                              and conname = split_part(wanted, '.', 2))""",
}


def faults() -> list[Fault]:
    """The first offenders of every invariant that does not hold."""
    return invariants.faults(INVARIANTS)
