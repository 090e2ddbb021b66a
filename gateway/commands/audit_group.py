"""The group `holdfast audit`; each module that adds commands to it registers them on this object."""

from __future__ import annotations

import typer

audit = typer.Typer(help="Prove what happened, from the journal alone.", no_args_is_help=True)
