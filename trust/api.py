"""The API of a user's own scores and appeals."""

from typing import Any

from django.http import HttpResponse
from rest_framework.request import Request

from accounts import operations
from accounts.session_views import PeopleView, person_of
from audit.actors import actor_of
from core import bodies, parsing, responses, shapes
from core.bodies import Body, need
from core.responses import json_response
from core.shapes import MOMENT, described, nullable, obj
from trust import explanations, services
from trust.models import Band, ScoreKind, TrustAppeal, TrustHold

SCORE: shapes.Schema = {"type": "string", "pattern": r"^[0-9]{1,3}\.[0-9]{2}$", "examples": ["83.20"]}
STATISTIC: shapes.Schema = {"type": ["number", "null"]}
SCORE_KIND = parsing.one_of(ScoreKind.values).named("ScoreKind")
KIND = SCORE_KIND.shape
REASON = shapes.schema(
    "ScoreReason",
    obj(
        {
            "name": {"type": "string"},
            "says": {"type": "string", "description": "The reason in plain words."},
            "state": {"type": "string", "enum": ["counts", "well", "too few", "for information"]},
            "points": {"type": "number", "description": "By how many the score would be higher without it."},
            "remedy": {"type": "string", "description": "How to raise the score. Empty where no points were taken."},
            "n": {"type": "integer", "description": "The number of observations."},
            "least_n": {"type": ["integer", "null"], "description": "The number of observations from which it counts."},
            "value": STATISTIC,
            "warn": {**STATISTIC, "description": "The value from which it takes points."},
            "red": {**STATISTIC, "description": "The value at which it takes the maximum of its weight."},
        }
    ),
)
APPEAL = shapes.schema(
    "Appeal",
    obj(
        {
            "kind": KIND,
            "version": {"type": "integer", "description": "The version of the score."},
            "note": {"type": "string"},
            "created_at": MOMENT,
            "answer": {"type": "string"},
            "answered_at": nullable(MOMENT),
        }
    ),
)
HOLD = shapes.schema(
    "ScoreHold",
    obj(
        {
            "effect": {"type": "string", "enum": TrustHold.Effect.values},
            "reason": {"type": "string"},
            "expires_at": MOMENT,
        }
    ),
)
SCORE_BODY = shapes.schema(
    "Score",
    obj(
        {
            "kind": KIND,
            "question": {"type": "string"},
            "score": SCORE,
            "band": {"type": "string", "enum": Band.values},
            "close_only": {"type": "boolean", "description": "No new trades are opened; closes always pass."},
            "follows": {"type": "string", "description": "The restriction that the score leads to, and how it ends."},
            "version": {"type": "integer", "description": "Grows by one with each assessment."},
            "as_of": {"type": "string", "description": "The latest event in the calculation."},
            "calculated_at": MOMENT,
            "strategy": {"type": "string", "description": "The worst-scored of your strategies. Empty for a bot."},
            "reasons": described(shapes.array(REASON), "Sorted by points, most first."),
            "held": nullable(HOLD),
            "appeal": nullable(APPEAL),
        }
    ),
)
SCORES = shapes.schema("Scores", obj({"data": shapes.array(SCORE_BODY)}))
APPEAL_FIELDS = Body(need("kind", SCORE_KIND), need("note", parsing.text(2000)))
APPEAL_REQUEST = APPEAL_FIELDS.published("AppealRequest")
REASON_FIELDS = tuple(shapes.shape_of(REASON)["properties"])


class Scores(PeopleView):
    """The caller's scores, each with its reasons."""

    @operations.personal("trust", "Your scores, each with its reasons", {200: SCORES})
    def get(self, request: Request) -> HttpResponse:
        return json_response(
            {"data": [_score_body(explanation) for explanation in explanations.explain(person_of(request))]}
        )


class Appeals(PeopleView):
    """Appeals against the caller's latest score."""

    @operations.personal(
        "appeal",
        "Appeal against a score of yours",
        {201: APPEAL},
        APPEAL_REQUEST,
        refuses=["appealed_already", "unsupported_media_type"],
    )
    def post(self, request: Request) -> HttpResponse:
        fields = bodies.json_body(APPEAL_FIELDS, request._request.body)
        appeal = services.appeal(user=person_of(request), **fields, actor=actor_of(request._request))
        return json_response(_appeal_body(appeal), 201)


def _score_body(explanation: explanations.ScoreExplanation) -> dict[str, Any]:
    score = explanation.score
    return {
        "kind": score.kind,
        "question": explanation.question,
        "score": f"{score.score:.2f}",
        "band": score.band,
        "close_only": explanation.is_restricted,
        "follows": explanation.consequence,
        "version": score.version,
        "as_of": score.as_of,
        "calculated_at": responses.iso(score.calculated_at),
        "strategy": explanation.strategy,
        "reasons": [_reason(reason) for reason in explanation.reasons],
        "held": _hold_body(explanation.hold) if explanation.hold else None,
        "appeal": _appeal_body(explanation.appeal) if explanation.appeal else None,
    }


def _reason(reason: explanations.Reason) -> dict[str, Any]:
    return {name: getattr(reason, name) for name in REASON_FIELDS}


def _hold_body(hold: TrustHold) -> dict[str, Any]:
    return {"effect": hold.effect, "reason": hold.reason, "expires_at": responses.iso(hold.expires_at)}


def _appeal_body(appeal: TrustAppeal) -> dict[str, Any]:
    return {
        "kind": appeal.kind,
        "version": appeal.version,
        "note": appeal.note,
        "created_at": responses.iso(appeal.created_at),
        "answer": appeal.answer,
        "answered_at": responses.iso(appeal.answered_at) if appeal.answered_at else None,
    }
