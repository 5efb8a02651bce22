"""What an error report may show: nothing that could be a secret, with DEBUG on and off."""

from __future__ import annotations

import re
from typing import Any

from django.views.debug import SafeExceptionReporterFilter


class SecretsFilter(SafeExceptionReporterFilter):
    """Hide every local variable and header that can carry a key; Django's own list of names is too short for us."""

    hidden_settings = re.compile(
        "API|AUTH|TOKEN|KEY|SECRET|PASS|SIGNATURE|HTTP_COOKIE|CREDENTIAL|DATABASE_URL|ALERT_URLS", flags=re.IGNORECASE
    )

    def is_active(self, request: Any) -> bool:
        return True

    def get_traceback_frame_variables(self, request: Any, tb_frame: Any) -> list[tuple[str, Any]]:
        """Show names only: a secret in clear, a body or a header may stand in any local variable."""
        return [(name, self.cleansed_substitute) for name in tb_frame.f_locals]

    def get_post_parameters(self, request: Any) -> dict[str, Any]:
        if request is None or not hasattr(request, "POST"):
            return {}
        return dict.fromkeys(request.POST, self.cleansed_substitute)
