"""Whether this runs compiled, and whether what was compiled is what the sources say.

A compiled build (setup.py) leaves extension modules beside the busiest sources, and Python loads them in the sources'
place. Were a source changed afterwards, its old code would run. So a build also leaves a manifest with the SHA-256 of
each source that it was made of, and `refuse_stale` is called when this package is loaded: every compiled module loads
it, because the library that they share lies here.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Iterable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

NAME: Final = "protocol.compiled"
"""What the library that the compiled modules share is named after; it and the manifest lie beside this file."""

_ROOT: Final = Path(__file__).parent.parent
_REMEDY: Final = "run `make compiled` again, or `make interpreted`; an installed wheel is to be installed anew"


def manifest_file(root: Path) -> Path:
    """The manifest of the build for this interpreter, in the folder that holds the packages or in another one."""
    return root / f"{NAME.replace('.', '/')}.{sys.implementation.cache_tag}.json"


def digests(root: Path, sources: Iterable[str]) -> dict[str, str]:
    """SHA-256 in hexadecimal of each source, by its path below the folder; empty for one that is not there."""
    return {
        name: hashlib.sha256((root / name).read_bytes()).hexdigest() if (root / name).is_file() else ""
        for name in sources
    }


def write_manifest(root: Path, modules: Iterable[str], of: dict[str, str]) -> None:
    """Say what was compiled, and of which sources, the last step of a build.

    Args:
        root: the folder into whose packages the extension modules were written.
        modules: paths of the sources that became extension modules.
        of: `digests` of these and of what they import, taken before they were compiled.
    Raises:
        OSError: the manifest cannot be written.
    """
    text = json.dumps({"modules": sorted(modules), "sources": of}, indent=1, sort_keys=True)
    manifest_file(root).write_text(text + "\n", encoding="utf-8")


def remove(root: Path) -> None:
    """Take away every extension module below the packages, of whichever interpreter, and the manifests first."""
    for pattern in (f"{NAME.replace('.', '/')}.*.json", "gateway/**/*.so", "protocol/**/*.so"):
        for path in root.glob(pattern):
            path.unlink()


@functools.cache
def compiled_modules() -> int:
    """How many modules of this installation are compiled; 0 where all are interpreted."""
    return len(json.loads(manifest_file(_ROOT).read_bytes())["modules"]) if _has_library(_ROOT) else 0


def code_kind() -> str:
    """The same in words, for operators: "interpreted" or "compiled, 50 modules"."""
    return f"compiled, {count} modules" if (count := compiled_modules()) else "interpreted"


def refuse_stale(root: Path = _ROOT) -> None:
    """End this process where compiled modules are not of the sources beside them.

    Raises:
        SystemExit: with a line that names the sources and says what to do.
    """
    if not _has_library(root):
        return
    try:
        built: dict[str, str] = json.loads(manifest_file(root).read_bytes())["sources"]
    except (OSError, ValueError, KeyError):
        raise SystemExit(f"holdfast: there are compiled modules whose build was not finished: {_REMEDY}") from None
    now = digests(root, built)
    changed = sorted(name for name in built if built[name] != now[name])
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise SystemExit(f"holdfast: changed since they were compiled: {', '.join(changed[:3])}{more}: {_REMEDY}")


def _has_library(root: Path) -> bool:
    """Whether this interpreter would load compiled modules there: none loads without the library that they share."""
    return (root / f"{NAME.replace('.', '/')}__mypyc{EXTENSION_SUFFIXES[0]}").exists()
