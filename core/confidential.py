"""Values that must not be printed: a text type for secrets, and what the page of an unhandled error leaves out."""

import re
from collections.abc import ItemsView
from typing import Any

from django.http import HttpRequest
from django.views.debug import SafeExceptionReporterFilter

_PASSWORD_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@")


class Secret(str):
    """A text whose `repr` hides it, so that logs, error pages and consoles that print a structure do not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<secret>" if self else "''"


class ReporterFilter(SafeExceptionReporterFilter):
    """Hides secrets in settings, requests and local variables, also where DEBUG is on: a page of an error is shown to
    anybody who reaches the desk, and gets copied into reports."""

    hidden_settings = re.compile(
        r"API|AUTH|TOKEN|KEY|KEK|SECRET|PASS|SIG|COOKIE|CREDENTIAL|SEALED|DATABASE\w*_URL|REDIS|BROKER",
        flags=re.IGNORECASE,
    )

    def is_active(self, request: HttpRequest | None) -> bool:
        return True

    def cleanse_setting(self, key: Any, value: Any) -> Any:
        if isinstance(value, Secret) or (isinstance(value, str) and _PASSWORD_IN_URL.search(value)):
            return self.cleansed_substitute
        return super().cleanse_setting(key, value)

    def get_post_parameters(self, request: HttpRequest | None) -> dict[str, Any]:
        return {name: self.cleanse_setting(name, value) for name, value in super().get_post_parameters(request).items()}

    def get_traceback_frame_variables(self, request: HttpRequest | None, tb_frame: Any) -> ItemsView[str, Any]:
        variables = super().get_traceback_frame_variables(request, tb_frame)
        return {name: self.cleanse_setting(name, value) for name, value in variables}.items()
