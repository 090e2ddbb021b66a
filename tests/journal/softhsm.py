"""A PKCS #11 token in software: SoftHSM2 with a store of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from tests.crash.amounts import missing, tool

MODULES: Final = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")
PIN: Final = "4321"
PIN_VARIABLE: Final = "TOKEN_PIN"


def module() -> str:
    """The token's library."""
    found = next((path for path in MODULES if Path(path).exists()), None)
    if found is None:
        missing("SoftHSM2 is not installed: apt-get install softhsm2")
    return found


def make_token(folder: Path, name: str) -> dict[str, str]:
    """Make a token in a store in `folder`; the environment in which it is seen, its PIN included."""
    utility, store = tool("softhsm2-util", "softhsm2"), folder / "tokens"
    store.mkdir(exist_ok=True)
    settings = folder / "softhsm2.conf"
    settings.write_text(f"directories.tokendir = {store}\nobjectstore.backend = file\nlog.level = ERROR\n")
    seen = {"SOFTHSM2_CONF": str(settings), PIN_VARIABLE: PIN}
    subprocess.run(  # noqa: S603 - a program of the system's
        [utility, "--init-token", "--free", "--label", name, "--so-pin", "87654321", "--pin", PIN],
        check=True, capture_output=True, env={**os.environ, **seen},
    )  # fmt: skip
    return seen


def uri(token: str, label: str) -> str:
    """How a configuration names a key of it."""
    return f"pkcs11:token={token};object={label}?module-path={module()}&pin-source=env:{PIN_VARIABLE}"
