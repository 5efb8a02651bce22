"""All settings, in one file; the product runs with no environment variable set (README, “Settings”)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dj_database_url
from csp.constants import NONE, SELF

from refactai_site import env, settings_file
from refactai_site.data_dir import find_data_dir, make_private, read_or_create_secret_key

BASE_DIR = Path(__file__).resolve().parent.parent

# --- Where things are kept ---------------------------------------------------------------------------------------
DATA_DIR, DATA_DIR_PROBLEM = find_data_dir(env.text("REFACTAI_DATA_DIR", "~/.refactai/data"))
settings_file.load(DATA_DIR)  # before any other variable is read
SECRET_KEY = env.text("REFACTAI_SECRET_KEY", "") or read_or_create_secret_key(DATA_DIR)
REFACTAI_ENCRYPTION_KEYS = env.items("REFACTAI_ENCRYPTION_KEYS")

# --- Django --------------------------------------------------------------------------------------------------------
DEBUG = env.boolean("REFACTAI_DEBUG", False)
ALLOWED_HOSTS = env.hosts("REFACTAI_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_FAILURE_VIEW = "llmkeys.dashboard.error_pages.csrf_failed"
CSRF_TRUSTED_ORIGINS = env.origins("REFACTAI_CSRF_TRUSTED_ORIGINS")
ROOT_URLCONF = "refactai_site.urls"
ASGI_APPLICATION = "refactai_site.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATA_UPLOAD_MAX_MEMORY_SIZE = 2_621_440
DATA_UPLOAD_MAX_NUMBER_FIELDS = 5_000  # the admin confirms up to 2,000 rows by name, a token's form up to 1,000 keys
APPEND_SLASH = True
LOGIN_URL = "login"
LOGOUT_REDIRECT_URL = "login"

INSTALLED_APPS = [
    "llmkeys",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_htmx",
    "django_q",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "csp",
    "axes",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "refactai_site.nul.RefuseNul",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "axes.middleware.AxesMiddleware",
]

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
            ],
        },
    },
]

AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = 0.25  # hours
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_LOCKOUT_CALLABLE = "llmkeys.dashboard.login.locked_out"
AXES_CLIENT_IP_CALLABLE = "llmkeys.dashboard.login.client_address"
AXES_VERBOSE = False

# --- Database ------------------------------------------------------------------------------------------------------
# Together with the wait for the write lock this stays below 8 s, so that a blocked database gives a 503 within 10 s.
DATABASE_BUSY_SECONDS = 3
# How many connections to PostgreSQL a machine needs at most (PostgreSQL's default limit is 100 for all): each web
# worker's threads share a pool, and its writer has one more; the scheduler has up to 7, `serve` and each command 1.
# So with 2 workers: 2 × (10 + 1) + 7 + 1 = 30, and 22 without the scheduler. A thread has a connection while it reads,
# never while it waits for a provider. The pool's timeout is part of the 10 s in which a request gets its 503; it soon
# gives up reconnecting, because the next request tries again.
POSTGRES_POOL = {"min_size": 0, "max_size": 10, "timeout": 3.0, "max_idle": 60.0, "reconnect_timeout": 1.0}
_database_url = env.database_url("DATABASE_URL")
if _database_url and not _database_url.startswith("sqlite"):
    DATABASES = {"default": dj_database_url.parse(_database_url, conn_max_age=None, conn_health_checks=True)}
    if not (find_spec("psycopg") and find_spec("psycopg_pool")):
        env.fault("DATABASE_URL", "the driver for PostgreSQL is not installed; run: make postgres", env.EXAMPLE_URL)
        DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
    else:
        # Options in the URL itself (`?connect_timeout=…`) take precedence. A server that is gone, or a locked row, must
        # not keep a request waiting beyond the 10 s.
        DATABASES["default"]["OPTIONS"] = {
            "connect_timeout": DATABASE_BUSY_SECONDS,
            "tcp_user_timeout": 8000,
            "options": f"-c lock_timeout={DATABASE_BUSY_SECONDS}s",
        } | DATABASES["default"].get("OPTIONS", {})
else:
    _database_file = _database_url.removeprefix("sqlite:///") or str(DATA_DIR / "llmkeys.sqlite3")
    make_private(_database_file)
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": _database_file,
            "CONN_MAX_AGE": None,
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "timeout": DATABASE_BUSY_SECONDS,
                "init_command": (
                    "PRAGMA journal_mode=WAL;PRAGMA synchronous=FULL;PRAGMA foreign_keys=ON;"
                    "PRAGMA cache_size=-1024;PRAGMA temp_store=MEMORY;PRAGMA secure_delete=FAST;"
                    "PRAGMA journal_size_limit=4194304"
                ),
            },
        }
    }

CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

# --- Time and language ---------------------------------------------------------------------------------------------
USE_TZ = True
# The operator's time zone, in which budget days and months begin at midnight and cron schedules run. Rows are in UTC.
TIME_ZONE = env.time_zone("REFACTAI_TIME_ZONE", "UTC")
LANGUAGE_CODE = "en-us"
USE_I18N = False
DATE_FORMAT, TIME_FORMAT, DATETIME_FORMAT = "Y-m-d", "H:i:s", "Y-m-d H:i:s"

# --- Static files: straight from the finders, so that no collectstatic step is needed --------------------------------
STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG
WHITENOISE_MAX_AGE = 300

# --- Security ------------------------------------------------------------------------------------------------------
REFACTAI_HTTPS = env.boolean("REFACTAI_HTTPS", False)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = REFACTAI_HTTPS
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_NAME = "refactai_session"
CSRF_COOKIE_NAME = "refactai_csrf"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SILENCED_SYSTEM_CHECKS = []
if REFACTAI_HTTPS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    SECURE_HSTS_SECONDS = 31_536_000
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True
else:
    # On plain loopback there is no TLS to demand. Each of these comes back with REFACTAI_HTTPS=true.
    SILENCED_SYSTEM_CHECKS += [
        "security.W004",  # HSTS: would lock a browser out of http://127.0.0.1
        "security.W008",  # redirect to HTTPS: nothing listens there
        "security.W012",  # session cookie only over HTTPS: login would be impossible
        "security.W016",  # the same for the CSRF cookie
    ]
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
        "manifest-src": [SELF],
    }
}

# --- REST API --------------------------------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "llmkeys.api.auth.AccessTokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["llmkeys.api.auth.ScopeOrModelPermission"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["llmkeys.api.parsers.StrictJSONParser"],
    "EXCEPTION_HANDLER": "llmkeys.api.errors.handle",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
    "COERCE_DECIMAL_TO_STRING": False,
    "STRICT_JSON": True,
    "URL_FORMAT_OVERRIDE": None,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "RefactAI LLM key management",
    "DESCRIPTION": "API keys of LLM providers, their budgets and usage, and access tokens for programs.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "COMPONENT_SPLIT_REQUEST": True,  # bodies have no id, responses do
    "SCHEMA_PATH_PREFIX": "/api/llm",
    "SERVE_PERMISSIONS": ["rest_framework.permissions.IsAuthenticated"],
    "SERVE_INCLUDE_SCHEMA": False,
    "POSTPROCESSING_HOOKS": ["llmkeys.api.schemas.add_components"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "validatorUrl": None},
}

# --- django-q2 -------------------------------------------------------------------------------------------------------
Q_CLUSTER: dict[str, Any] = {
    "name": "refactai",
    "label": "Schedules",
    "orm": "default",
    "workers": 2,  # a backup may take an hour, and alerts must not wait for it
    "recycle": 500,
    "timeout": 300,
    "retry": 3_660,  # longer than the longest timeout, the backup's, or its task would be started a second time
    "max_attempts": 1,
    "ack_failures": True,
    "catch_up": False,
    "poll": 1,
    "save_limit": 50,
    "save_limit_per": "group",  # per schedule, so that frequent ones do not push out daily ones
    "guard_cycle": 1,
}

# --- The product ------------------------------------------------------------------------------------------------------
PROVIDER_BASE_URLS = {
    "openrouter": env.url("OPENROUTER_BASE_URL", "https://openrouter.ai/api/v1"),
    "openai": env.url("OPENAI_BASE_URL", "https://api.openai.com/v1"),
    "anthropic": env.url("ANTHROPIC_BASE_URL", "https://api.anthropic.com"),
    "google": env.url("GOOGLE_BASE_URL", "https://generativelanguage.googleapis.com"),
}
PRIMARY_MODEL = env.text("REFACTAI_PRIMARY_MODEL", "openai/gpt-6.1-terra")
FALLBACK_MODELS = env.items("REFACTAI_FALLBACK_MODELS", "anthropic/claude-sonnet-5.5,google/gemini-3.8-flash")
DAILY_LIMIT_USD = env.decimal("REFACTAI_DAILY_LIMIT", "10", least="0", most="1000000")
MONTHLY_LIMIT_USD = env.decimal("REFACTAI_MONTHLY_LIMIT", "100", least="0", most="1000000")
TOTAL_LIMIT_USD = env.decimal("REFACTAI_TOTAL_LIMIT", "1000", least="0", most="1000000")
TOKEN_DAILY_LIMIT_USD = env.decimal("REFACTAI_TOKEN_DAILY_LIMIT", "0", least="0", most="1000000")
TOKEN_MONTHLY_LIMIT_USD = env.decimal("REFACTAI_TOKEN_MONTHLY_LIMIT", "0", least="0", most="1000000")
TOKEN_TOTAL_LIMIT_USD = env.decimal("REFACTAI_TOKEN_TOTAL_LIMIT", "0", least="0", most="1000000")
TIMEOUT_SECONDS = env.integer("REFACTAI_TIMEOUT_SECONDS", 30, least=1, most=600)
ANSWER_TIMEOUT_SECONDS = env.integer("REFACTAI_ANSWER_TIMEOUT_SECONDS", 600, least=1, most=86_400)
KEEPALIVE_SECONDS = env.integer("REFACTAI_KEEPALIVE_SECONDS", 15, least=0, most=3600)
CORS_ORIGINS = env.browser_origins("REFACTAI_CORS_ORIGINS")
STREAM_IDLE_SECONDS = env.integer("REFACTAI_STREAM_IDLE_SECONDS", 120, least=1, most=86_400)
STOP_SECONDS = env.integer("REFACTAI_STOP_SECONDS", 30, least=0, most=3600)
MAX_RETRIES = env.integer("REFACTAI_MAX_RETRIES", 3, least=0, most=20)
BUDGET_MODE = env.choice("REFACTAI_BUDGET_MODE", "strict", ("strict", "soft"))
FIT_OUTPUT = env.boolean("REFACTAI_FIT_OUTPUT", True)
KEY_ORDER = env.choice("REFACTAI_KEY_ORDER", "fill", ("fill", "spread"))
DEFAULT_MAX_TOKENS = env.integer("REFACTAI_DEFAULT_MAX_TOKENS", 16_384, least=1, most=10_000_000)
COST_TRACKING = env.boolean("REFACTAI_COST_TRACKING", True)
WARNING_THRESHOLD = env.decimal("REFACTAI_WARNING_THRESHOLD", "0.8", least="0", most="1")
ALERT_URLS = env.alert_urls("REFACTAI_ALERT_URLS")
USAGE_RETENTION_DAYS = env.integer("REFACTAI_USAGE_RETENTION_DAYS", 90, least=1, most=36_500)
MAX_BODY_MB = env.integer("REFACTAI_MAX_BODY_MB", 32, least=1, most=1024)
FALLBACK_USD_PER_TOKEN = env.decimal("REFACTAI_FALLBACK_PRICE_PER_TOKEN", "0.0001", least="0", most="1")

# --- Logging: to stderr, short; a provider's answer or a header is never logged ---------------------------------------
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "llmkeys": {"level": "INFO"},
        "django": {"level": "WARNING", "handlers": ["stderr"], "propagate": False},
        "django.security.DisallowedHost": {"handlers": [], "propagate": False},  # reported on the page
        "django.security.csrf": {"level": "ERROR"},  # the same
        "django-q": {"level": "WARNING", "handlers": ["stderr"], "propagate": False},
        "axes": {"level": "ERROR"},
        "psycopg.pool": {"level": "ERROR"},  # `outages` reports it, once
    },
}
DEFAULT_EXCEPTION_REPORTER_FILTER = "llmkeys.dashboard.error_pages.SecretsFilter"
