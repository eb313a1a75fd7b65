"""The invariants of trust as queries: versions have no gap, and every score equals its last assessment."""

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
    "a score equals its last assessment": """
        select s.user_id || ' ' || s.kind from trust_scores s
         where (s.version, s.score) is distinct from (
           select (a.version, a.score) from trust_assessments a where (a.user_id, a.kind) = (s.user_id, s.kind)
            order by a.version desc limit 1)""",
}
APPS = ("trust",)


def faults() -> list[Fault]:
    """The first rows that break each invariant, and the constraints and triggers that are missing."""
    return invariants.faults(INVARIANTS) + invariants.structural_faults(APPS)
