"""`atpatch-onnx doctor`."""

from __future__ import annotations

import click

from .options import json_output
from .rendering import emit_json, note, table


@click.command()
@json_output
def doctor(as_json: bool) -> None:
    """Show versions, execution providers, and what is missing for which command.

    \b
    Example:
      atpatch-onnx doctor
    """
    from ..inspection.environment import USES, examine

    found = examine()
    if as_json:
        emit_json(found.to_json())
        return
    note(
        f"Python {found.python} on {found.platform}; execution providers:"
        f" {', '.join(found.providers) or 'none, no onnxruntime'}"
    )
    table("packages", ("package", "version"), found.packages.items())
    rows = [
        (name, "ready" if not missing else "lacks " + ", ".join(missing), found.pip(name) or "")
        for name, missing in found.commands.items()
    ]
    table("commands", ("command", "state", "how to fix"), rows)
    extras = [
        (name, "installed" if not missing else "lacks " + ", ".join(missing), USES[name])
        for name, missing in found.extras.items()
    ]
    table("extras", ("extra", "state", "for"), extras)
    for problem in found.problems:
        note(f"problem: {problem}")
