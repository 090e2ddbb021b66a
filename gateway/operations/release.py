"""Which release this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version


def version() -> str:
    """The installed distribution's version; "unreleased" where the code runs from a checkout that is not installed."""
    try:
        return installed_version("holdfast")
    except PackageNotFoundError:
        return "unreleased"
