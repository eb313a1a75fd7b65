"""Settings, from the environment alone (.env.example lists every variable)."""

import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import environ
from celery.schedules import crontab

from config import embedded, logins
from core.confidential import Secret

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()
VAR_DIR = BASE_DIR / env.str("COPYDESK_VAR", "var")

VERSION: str = tomllib.loads((BASE_DIR / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
DEBUG = env.bool("DEBUG", False)
_generated_secrets = embedded.development_secrets(VAR_DIR) if DEBUG else {}


def secret(name: str) -> Secret:
    """Return a secret from the environment. Outside DEBUG it has no default, and config.checks refuses an empty one."""
    return Secret(env.str(name, "") or _generated_secrets.get(name, ""))


SECRET_KEY = secret("DJANGO_SECRET_KEY") or Secret("missing")  # Django needs some value to reach the checks
COPYDESK_KEKS = secret("COPYDESK_KEKS")
ALLOWED_HOSTS: list[str] = env.list("ALLOWED_HOSTS", default=["127.0.0.1", "localhost", "[::1]"] if DEBUG else [])
ALLOWED_ORIGINS: list[str] = env.list("ALLOWED_ORIGINS", default=[]) or [
    f"{scheme}://{host}" for host in ALLOWED_HOSTS for scheme in (("http", "https") if DEBUG else ("https",))
]
TRUSTED_PROXIES = env.int("TRUSTED_PROXIES", 0)
RATE_PER_IP = env.int("RATE_PER_IP", 0 if DEBUG else 6000)
RATE_PER_ACCOUNT = env.int("RATE_PER_ACCOUNT", 3000)
V1_SUNSET = env.str("V1_SUNSET", "Thu, 31 Dec 2027 23:59:59 GMT")
METRICS_TOKEN = Secret(env.str("METRICS_TOKEN", ""))
ACCESS = {  # who may see these pages: open, token or loopback (config.access)
    name: env.str(f"{name}_ACCESS", default)
    for name, default in {"READYZ": "open", "METRICS": "token", "DOCS": "open"}.items()
}
SECOND_PERSON_ABOVE = env.str("SECOND_PERSON_ABOVE", "1000")  # wallets.limits parses both, config.checks checks them
SECOND_PERSON_SUMS = env.str("SECOND_PERSON_SUMS", "")
DESTINATION_COOLING_H = env.int("DESTINATION_COOLING_H", 0 if DEBUG else 48)
CREDENTIALS_COOLING_H = env.int("CREDENTIALS_COOLING_H", 0 if DEBUG else 24)
REAUTHENTICATE_AFTER_MIN = env.int("REAUTHENTICATE_AFTER_MIN", 10)
FEE_NOTICE_DAYS = env.int("FEE_NOTICE_DAYS", 30)
STAFF_PRICE_BOUND_PCT = Decimal(env.str("STAFF_PRICE_BOUND_PCT", "2"))
FEE_PRICE_DAYS = env.int("FEE_PRICE_DAYS", 5)
WEB_THREADS = env.int("WEB_THREADS", 8)
RATE_PER_PERSON = env.int("RATE_PER_PERSON", 0 if DEBUG else 300)
RATE_OF_EXPORTS = env.int("RATE_OF_EXPORTS", 0 if DEBUG else 10)
PEOPLE_THREADS = env.int("PEOPLE_THREADS", 4)
EXPORT_THREADS = env.int("EXPORT_THREADS", 2)
RATE_PER_VISITOR = env.int("RATE_PER_VISITOR", 0 if DEBUG else 600)
SOCKETS = {  # the most of one caller in one process; 0: no limit
    "key": env.int("SOCKETS_PER_KEY", 0 if DEBUG else 8),
    "session": 16,
    "user": 32,
    "address": env.int("SOCKETS_PER_ADDRESS", 0 if DEBUG else 500),
}
STREAM_EPOCH = env.str("STREAM_EPOCH", "1")
DESK_URL = env.str("DESK_URL", "") or f"http://127.0.0.1:{env.str('PORT', '') or '8000'}"
DEMO_GUEST = env.str("DEMO_GUEST", "") if DEBUG else ""  # the user that an anonymous visitor of a demo acts as

INSTALLED_APPS = [
    "core",
    "audit",
    "accounts",
    "market",
    "strategies",
    "trades",
    "wallets",
    "trust",
    "portal",
    "config",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "channels",
]
MIDDLEWARE = [
    "config.middleware.RequestLog",
    "config.middleware.SecurityHeaders",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "config.middleware.PeopleOnly",  # PEOPLE_MIDDLEWARE, not on bots' routes
]
PEOPLE_MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
SILENCED_SYSTEM_CHECKS = [
    "admin.E408", "admin.E409", "admin.E410", "security.W002", "security.W003",  # these are in PEOPLE_MIDDLEWARE
    "security.W001",  # its headers and the refusal of plain HTTP are in config.middleware
]  # fmt: skip
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
ASGI_APPLICATION = "config.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# --- PostgreSQL: three aliases of one database, each with a login of its own (config.logins)


def database(variable: str, *, health_checks: bool = True) -> dict[str, Any]:
    """Return one alias. Connections last as long as their thread."""
    url = env.str(variable, "")
    config: dict[str, Any] = environ.Env.db_url_config(url) if url else {"NAME": "copydesk"}
    options = config.setdefault("OPTIONS", {})
    options["missing"] = "" if url else variable
    if session := logins.SETTINGS[logins.VARIABLES[variable]]:
        options["options"] = " ".join(f"-c {name}={value}" for name, value in session.items())
    return config | {"ENGINE": "core.postgres", "CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": health_checks}


DATABASES = {
    "default": database("DATABASE_URL"),
    # Bots' connections have no health check, which is one round trip a request: a bot that gets "unavailable" repeats
    # its request under the same Idempotency-Key.
    "bot": database("DATABASE_BOT_URL", health_checks=False),
    "owner": database("DATABASE_OWNER_URL"),
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
MIGRATION_DATABASE = "owner"
CATALOGUE = BASE_DIR / "config" / "catalogue.json"  # what the database must have (core.catalogue)

# --- Redis: one server, with a prefix for the desk's keys

REDIS_PREFIX = env.str("REDIS_PREFIX", "desk")
REDIS_URL = env.str("REDIS_URL", "redis://127.0.0.1:6379/0")
_redis = urlsplit(REDIS_URL)
_over_socket = _redis.scheme == "unix"
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        # redis-py's own time-out of 5 s would tear down an idle subscription.
        "CONFIG": {"hosts": [{"address": REDIS_URL, "socket_timeout": None}], "prefix": REDIS_PREFIX},
    }
}
LIMITS_STORAGE = REDIS_URL.replace("unix://", "redis+unix://", 1) if _over_socket else REDIS_URL
CELERY_BROKER_URL = f"redis+socket://{_redis.path}" if _over_socket else REDIS_URL
CELERY_BROKER_TRANSPORT_OPTIONS = {"global_keyprefix": f"{REDIS_PREFIX}-celery:", "visibility_timeout": 600}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULE = {
    "every trade in exactly one home": {"task": "trades.tasks.check_homes", "schedule": 300.0},
    "accounts that fell too far": {"task": "strategies.tasks.stop_drawdowns", "schedule": 15.0},
    "terms by equity, packet secrets": {"task": "strategies.tasks.keep_terms", "schedule": 60.0},
    "closes that are owed": {"task": "trades.tasks.track_overdue_closes", "schedule": 10.0},
    "the books are right": {"task": "wallets.tasks.check_ledger", "schedule": 300.0},
    "fees that are due": {"task": "wallets.tasks.sweep", "schedule": 60.0},
    "fee terms that wait for an answer": {"task": "wallets.tasks.fee_notices", "schedule": 60.0},
    "scores that are due": {"task": "trust.tasks.sweep", "schedule": 60.0},
    "fees of open periods set aside": {"task": "wallets.tasks.reserve", "schedule": 3600.0},
    "files of bars": {"task": "market.tasks.import_uploads", "schedule": 10.0},
    "reports of copies compared": {"task": "wallets.tasks.compare_reports", "schedule": 3600.0},
    "no zombies": {"task": "config.tasks.zombie_drill", "schedule": crontab(hour=3, minute=17)},
}

# --- people

AUTH_USER_MODEL = "accounts.User"
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.ScryptPasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "accounts.password_trace.RecordsChanges"},
]
PASSWORD_RESET_TIMEOUT = 3600
EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
EMAIL_FILE_PATH = VAR_DIR / "mail"
if mail_url := env.str("EMAIL_URL", ""):
    globals().update(env.email_url_config(mail_url))
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = SERVER_EMAIL = env.str("EMAIL_FROM", "Copydesk <desk@localhost>")
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "portal:desk"
LOGOUT_REDIRECT_URL = "login"
SESSION_ENGINE = "core.sessions"
SESSION_COOKIE_AGE = 12 * 3600
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = not DEBUG
if not DEBUG:
    SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "__Host-sessionid", "__Host-csrftoken"
    SECURE_HSTS_SECONDS, SECURE_HSTS_INCLUDE_SUBDOMAINS, SECURE_HSTS_PRELOAD = 31_536_000, True, True
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if TRUSTED_PROXIES else None
CSRF_TRUSTED_ORIGINS = [origin for origin in ALLOWED_ORIGINS if origin.startswith("https://") and "[" not in origin]
X_FRAME_OPTIONS = "DENY"
DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024 * 1024
APPEND_SLASH = True

DEFAULT_EXCEPTION_REPORTER_FILTER = "core.confidential.ReporterFilter"
CSRF_FAILURE_VIEW = "config.middleware.csrf_failure"

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False
FORMAT_MODULE_PATH = ["config.formats"]
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
WHITENOISE_USE_FINDERS = DEBUG

# --- the API

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": [],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": [],
    "EXCEPTION_HANDLER": "core.problem.handle",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Copydesk",
    "DESCRIPTION": "Bots open, follow and close trades with signed requests; people read the results.\n\n"
    "For authors of bots: [signing requests](/docs/protocol/), [the stream](/docs/stream/), [copiers](/docs/copier/).",
    "VERSION": "2",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SCHEMA_PATH_PREFIX": r"/api/v2",
    "POSTPROCESSING_HOOKS": ["config.openapi.complete"],
}

LOGGING_CONFIG = "config.logging.configure"
LOGGING: dict[str, Any] = {"version": 1}  # not empty, because Django ignores an empty one
