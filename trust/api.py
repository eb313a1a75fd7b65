"""What the judged may read of their scores, and say to them."""

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
WHICH = parsing.one_of(ScoreKind.values).named("ScoreKind")
KIND = WHICH.shape
REASON = shapes.schema(
    "ScoreReason",
    obj(
        {
            "name": {"type": "string"},
            "says": {"type": "string", "description": "In plain words."},
            "state": {"type": "string", "enum": ["counts", "well", "too few", "for information"]},
            "points": {"type": "number", "description": "By how many the score would be higher without it."},
            "remedy": {"type": "string", "description": "What would raise the score. Empty where it takes nothing."},
            "n": {"type": "integer", "description": "How many observations it rests on."},
            "least_n": {"type": ["integer", "null"], "description": "From how many on it counts."},
            "value": STATISTIC,
            "warn": {**STATISTIC, "description": "From here on it takes points."},
            "red": {**STATISTIC, "description": "Here it takes all that its weight allows."},
        }
    ),
)
APPEAL = shapes.schema(
    "Appeal",
    obj(
        {
            "kind": KIND,
            "version": {"type": "integer", "description": "Of the score that it is about."},
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
TOLD = shapes.schema(
    "Score",
    obj(
        {
            "kind": KIND,
            "question": {"type": "string"},
            "score": SCORE,
            "band": {"type": "string", "enum": Band.values},
            "close_only": {"type": "boolean", "description": "Nothing new is opened; closes pass."},
            "follows": {"type": "string", "description": "What it leads to, and how that ends."},
            "version": {"type": "integer", "description": "Grows by one with each calculation."},
            "as_of": {"type": "string", "description": "The latest event that is in it."},
            "calculated_at": MOMENT,
            "strategy": {"type": "string", "description": "The worst-scored of your strategies. Empty for a bot."},
            "reasons": described(shapes.array(REASON), "What took most points first."),
            "held": nullable(HOLD),
            "appeal": nullable(APPEAL),
        }
    ),
)
SCORES = shapes.schema("Scores", obj({"data": shapes.array(TOLD)}))
OBJECT = Body(need("kind", WHICH), need("note", parsing.text(2000)))
ASKED = OBJECT.published("AppealRequest")
REASON_FIELDS = tuple(shapes.shape_of(REASON)["properties"])


class Scores(PeopleView):
    """One's own scores, each with its reasons."""

    @operations.personal("trust", "Your scores, each with its reasons", {200: SCORES})
    def get(self, request: Request) -> HttpResponse:
        return json_response({"data": [_score_body(one) for one in explanations.explain(person_of(request))]})


class Appeals(PeopleView):
    """A note to staff about one's latest score."""

    @operations.personal(
        "appeal",
        "Object to a score of yours",
        {201: APPEAL},
        ASKED,
        refuses=["appealed_already", "unsupported_media_type"],
    )
    def post(self, request: Request) -> HttpResponse:
        said = bodies.json_body(OBJECT, request._request.body)
        made = services.appeal(user=person_of(request), **said, actor=actor_of(request._request))
        return json_response(_appeal_body(made), 201)


def _score_body(one: explanations.ScoreExplanation) -> dict[str, Any]:
    score = one.score
    return {
        "kind": score.kind,
        "question": one.question,
        "score": f"{score.score:.2f}",
        "band": score.band,
        "close_only": one.is_restricted,
        "follows": one.follows,
        "version": score.version,
        "as_of": score.as_of,
        "calculated_at": responses.iso(score.calculated_at),
        "strategy": one.strategy,
        "reasons": [_reason(reason) for reason in one.reasons],
        "held": _hold_body(one.hold) if one.hold else None,
        "appeal": _appeal_body(one.appeal) if one.appeal else None,
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
