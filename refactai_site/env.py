"""Settings from the environment, parsed in one place; a value that cannot be parsed becomes a system check error.

A reader never raises. It records the fault and returns the default, so that `manage.py check` can name every wrong
variable in one run (`llmkeys.checks`).
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from ipaddress import ip_address
from typing import Concatenate, ParamSpec, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit
from zoneinfo import ZoneInfo

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fault:
    variable: str
    problem: str
    example: str


FAULTS: list[Fault] = []

# Every variable that was read, with its value: these are the known ones, and a server publishes digests of them.
IN_FORCE: dict[str, object] = {}


def _remembered(read: Callable[Concatenate[str, P], T]) -> Callable[Concatenate[str, P], T]:
    @functools.wraps(read)
    def reader(variable: str, *args: P.args, **kwargs: P.kwargs) -> T:
        value = read(variable, *args, **kwargs)
        IN_FORCE[variable] = value
        return value

    return reader


def fault(variable: str, problem: str, example: str) -> None:
    FAULTS.append(Fault(variable, problem, example))


def _raw(variable: str) -> str | None:
    value = os.environ.get(variable, "").strip()
    return value or None


@_remembered
def text(variable: str, default: str) -> str:
    return _raw(variable) or default


@_remembered
def items(variable: str, default: str = "") -> list[str]:
    return [item.strip() for item in (_raw(variable) or default).split(",") if item.strip()]


@_remembered
def hosts(variable: str, default: str = "") -> list[str]:
    """Read host names: one with a scheme, a port or a path would never match a request."""
    found = [item.strip() for item in (_raw(variable) or default).split(",") if item.strip()]
    for item in found:
        if "/" in item or item.count(":") == 1 or "]:" in item:
            fault(variable, f"“{item}” is not a host name; leave out scheme, port and path", "keys.example.com")
    return found


@_remembered
def origins(variable: str) -> list[str]:
    """Read origins, `scheme://host[:port]`: one with a path would never match a request."""
    found = [item.strip() for item in (_raw(variable) or "").split(",") if item.strip()]
    for item in found:
        if not re.fullmatch(r"https?://[^/\s]+", item):
            fault(
                variable, f"“{item}” is not an origin: a scheme and a host, without a path", "https://keys.example.com"
            )
    return [item for item in found if "://" in item]  # Django's own check would report it again


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[^\s/?#@*:\[\]]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@_remembered
def browser_origins(variable: str) -> list[str]:
    """Read origins of any scheme, as browsers send them: in lower case, without default port and slash.

    Or `*`, or `null`, which browsers send for a page that was opened from a file.
    """
    found = [item.strip().lower().rstrip("/") for item in (_raw(variable) or "").split(",") if item.strip()]
    for item in found:
        if item not in ("*", "null") and not _ORIGIN.fullmatch(item):
            fault(
                variable, f"“{item}” is not an origin: a scheme and a host, without a path", "https://chat.example.com"
            )
    return [item.removesuffix(_DEFAULT_PORTS.get(item.partition(":")[0], "")) for item in found]


@_remembered
def boolean(variable: str, default: bool) -> bool:
    value = _raw(variable)
    if value is None:
        return default
    if value.lower() in {"true", "1", "yes", "on"}:
        return True
    if value.lower() in {"false", "0", "no", "off"}:
        return False
    fault(variable, f"“{value}” is neither true nor false", "true")
    return default


@_remembered
def integer(variable: str, default: int, *, least: int, most: int) -> int:
    value = _raw(variable)
    if value is None:
        return default
    try:
        number = int(value)
    except ValueError:
        fault(variable, f"“{value}” is not a whole number", str(default))
        return default
    if not least <= number <= most:
        fault(variable, f"{number} is not between {least} and {most}", str(default))
        return default
    return number


@_remembered
def decimal(variable: str, default: str, *, least: str, most: str) -> Decimal:
    value = _raw(variable)
    if value is None:
        return Decimal(default)
    try:
        number = Decimal(value)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        fault(variable, f"“{value}” is not a number", default)
        return Decimal(default)
    if not Decimal(least) <= number <= Decimal(most):
        fault(variable, f"{value} is not between {least} and {most}", default)
        return Decimal(default)
    return number


@_remembered
def choice(variable: str, default: str, choices: tuple[str, ...]) -> str:
    value = (_raw(variable) or default).lower()
    if value not in choices:
        fault(variable, f"“{value}” is not one of {', '.join(choices)}", default)
        return default
    return value


@_remembered
def time_zone(variable: str, default: str) -> str:
    value = text(variable, default)
    try:
        ZoneInfo(value)
    except Exception:  # ZoneInfo raises five kinds of exception for a bad name
        fault(variable, f"“{value}” is not a time zone of the IANA database", "Europe/Berlin")
        return default
    return value


@_remembered
def url(variable: str, default: str) -> str:
    value = text(variable, default).rstrip("/")
    try:
        parts = urlsplit(value)
        good = parts.scheme in {"http", "https"} and _can_be_a_host(parts.hostname or "") and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.username or parts.query or parts.fragment:
        fault(variable, "it is not a plain http or https address", default)
        return default
    return value


def _can_be_a_host(name: str) -> bool:
    """Return whether an HTTP client accepts the host of a URL. May also raise ValueError if it does not."""
    if ":" in name:  # it was in brackets
        return bool(ip_address(name))
    name.encode("idna")  # raises for parts that are empty or too long for the name system
    return name.isprintable() and re.fullmatch(r"(?:[a-z0-9._-]|[^\x00-\x7f])+", name) is not None


EXAMPLE_URL = "postgres://user:password@127.0.0.1:5432/llmkeys"


@_remembered
def database_url(variable: str) -> str:
    """Read the URL of a PostgreSQL database, or `sqlite:///FILE`; "" means the file in the data directory.

    It is never repeated in a fault, because it may contain a password.
    """
    value = _raw(variable) or ""
    scheme, _, rest = value.partition("://")
    if scheme in ("postgres", "postgresql"):
        problem = _problem_of_postgresql(value)
    elif scheme == "sqlite":
        problem = "" if len(rest) > 1 and rest[0] == "/" and ":memory:" not in rest else "it does not name a file"
        if "?" in rest:
            problem = "one of SQLite takes no options; leave out the question mark and what follows it"
    elif rest:
        problem = f"{scheme} is not supported; the product runs on SQLite and PostgreSQL"
    else:
        problem = "it is not a database URL" if value else ""
    if problem:
        fault(variable, problem, EXAMPLE_URL)
        return ""
    return value


def _problem_of_postgresql(value: str) -> str:
    try:
        parts = urlsplit(value)
        if not parts.path.strip("/") or parts.port == 0:
            return "it does not name a database"
        length = len(unquote(parts.path[1:]).encode())
    except ValueError:  # also for bytes that are not UTF-8
        return "it is not a database URL"
    if length > 63:
        return f"the name of the database has {length} bytes, and PostgreSQL allows 63"
    if "pool" in parse_qs(parts.query, keep_blank_values=True):
        return "its option “pool” is the product's own; leave it out"
    return ""


class Concealed(str):
    """A secret string, which is masked on pages and in logs that show the settings."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


@_remembered
def alert_urls(variable: str) -> list[str]:
    """Read notification targets; a comma within an address (such as between two recipients) does not end it."""
    targets = [part.strip(" ,") for part in re.split(r",(?=\s*[A-Za-z][A-Za-z0-9]*://)", _raw(variable) or "")]
    targets = [target for target in targets if target]
    for place, target in enumerate(targets, start=1):
        if not re.match(r"[A-Za-z][A-Za-z0-9]*://.", target):  # not repeated, because it may be part of a secret
            example = "mailtos://user:password@example.com,slack://TokenA/TokenB/TokenC"
            fault(variable, f"target {place} of {len(targets)} is not a notification address", example)
            return []
    return [Concealed(target) for target in targets]
