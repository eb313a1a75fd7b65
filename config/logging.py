"""Logs are JSON lines with the request's id and its caller: user, key, address. They never contain a secret, signature
or cookie."""

import logging
import sys
from typing import Any

import orjson
import structlog

from core import requests


def _json(line: dict[str, Any], **_: Any) -> bytes:
    return orjson.dumps(line, default=str)


def _with_caller(_logger: Any, _name: str, line: Any) -> Any:
    """Add to a line that was written while a request is answered whose it is."""
    request = requests.current.get()
    return line if request is None else {**requests.caller_of(request), **line}


def configure(_settings: dict[str, Any]) -> None:
    """The desk's lines, one a request, go straight to stderr; libraries' lines go through `logging`. All look alike."""
    if structlog.is_configured():
        return  # django.setup() ran before; loggers in use would keep the older configuration
    shared: list[Any] = [
        _with_caller,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendered: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_json)]
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered[:-1], _text],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("django.request", "django.security", "django.channels", "celery.app.trace"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # the drill's bots would log each request


def _text(_logger: Any, _name: str, line: Any) -> str:
    return _json(dict(line)).decode()
