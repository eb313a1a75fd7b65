"""Workers are killed during recalculations and Redis is emptied: every user that is due is still assessed."""

import os
import random
import subprocess
import sys
import time
from typing import Any

import pytest
import redis
from django.conf import settings
from django.utils import timezone

from tests import databases
from tests.conftest import ROOT
from tests.races.test_trust_races import make_users
from trust import checks, tasks
from trust.models import ScoreKind, TrustAssessment, TrustSubject

KILLS = int(os.environ.get("COPYDESK_KILLS", "4"))
USERS = 40


def worker(database: Any) -> Any:
    environ = {**os.environ, **databases.urls(database), "DJANGO_SETTINGS_MODULE": "config.settings"}
    command = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "config", "worker", "-P", "solo", "-l", "error"]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=ROOT, env=environ, start_new_session=True, **silent)


def kill(process: Any) -> None:
    os.killpg(process.pid, 9)
    process.wait()


def assessed() -> Any:
    return TrustAssessment.objects.filter(kind=ScoreKind.FLOW, version=1, user__username__startswith="judged").count()


@pytest.mark.crash
def test_every_due_user_is_assessed_although_workers_are_killed_and_redis_is_emptied(desk_db: str) -> None:
    make_users(USERS, deals=12)
    rng, interrupted = random.Random(20260401), 0
    queue = redis.Redis.from_url(settings.REDIS_URL)
    for _ in range(KILLS):
        tasks.sweep.delay()
        process = worker(desk_db)
        before, deadline = assessed(), time.monotonic() + 180
        while assessed() == before < USERS:
            assert time.monotonic() < deadline, "the worker did nothing"
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        kill(process)
        interrupted += 0 < assessed() < USERS
        for key in queue.scan_iter(f"{settings.REDIS_PREFIX}*"):
            queue.delete(key)
    assert interrupted, "no kill interrupted the work"

    tasks.sweep.delay()
    process = worker(desk_db)
    deadline = time.monotonic() + 180
    while TrustSubject.objects.filter(due_at__lte=timezone.now()).exists() or assessed() < USERS:
        assert time.monotonic() < deadline, "a user was forgotten"
        time.sleep(0.05)
    kill(process)

    assert assessed() == USERS
    assert checks.faults() == []  # every version once, without a gap
