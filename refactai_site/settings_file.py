"""`settings.env` in the data directory: the settings of `serve` and all commands, with one `NAME=value` per line.

It is read into the environment before anything else; variables that are set there already win, even if empty.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from refactai_site.env import FAULTS, Fault

NAME = "settings.env"
DATA_DIR = "REFACTAI_DATA_DIR"  # says where this file is, so it cannot be set in it
KEY_VARIABLES = ("OPENROUTER_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "GEMINI_API_KEY")

# The product's own, and what its libraries read: proxies and certificate authorities.
_ACCEPTED = re.compile(
    r"REFACTAI_[A-Z0-9_]+|DATABASE_URL|(OPENROUTER|OPENAI|ANTHROPIC|GOOGLE)_BASE_URL|DJANGO_SUPERUSER_(USERNAME|PASSWORD)"
    r"|(https?|HTTPS?|all|ALL|no|NO)_(proxy|PROXY)|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|"
    + "|".join(KEY_VARIABLES)
)
_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")

UNKNOWN: list[str] = []  # unknown names in the file
FROM_FILE: dict[str, str] = {}  # what the file has set


def load(directory: Path) -> None:
    """Load the file into the environment. A fault becomes a system check error, as with other settings."""
    file = directory / NAME
    try:
        _make_private(file)
        text = file.read_text("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not valid UTF-8"
        FAULTS.append(Fault(str(file), f"it cannot be read: {reason}", ""))
        return
    for name, value in parse(text, str(file)).items():
        if name == DATA_DIR:
            problem = f"it cannot be set in {file}, which is in that directory; set it in the environment"
            FAULTS.append(Fault(name, problem, "~/.refactai/data"))
        elif not _ACCEPTED.fullmatch(name):
            UNKNOWN.append(name)
        elif name not in os.environ:
            os.environ[name] = FROM_FILE[name] = value


def parse(text: str, source: str = NAME) -> dict[str, str]:
    """Return the settings in a file's text; a malformed line becomes a fault. The last of repeated names counts."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:  # not repeated, because it may contain a secret
            FAULTS.append(Fault(f"{source}, line {number}", "it is not NAME=value", "REFACTAI_DAILY_LIMIT=5"))
            continue
        found[match[1]] = _unquoted(match[2])
    return found


def _unquoted(value: str) -> str:
    """Remove quotes, as a shell would, and a comment after the value."""
    quoted = re.fullmatch(r"""(["'])(.*?)\1\s*(#.*)?""", value)
    return quoted[2] if quoted else re.sub(r"(^|\s+)#.*$", "", value).strip()


def _make_private(file: Path) -> None:
    facts = file.stat()
    if facts.st_mode & 0o077 and facts.st_uid == os.geteuid():
        file.chmod(0o600)
