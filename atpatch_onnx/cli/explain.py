"""`atpatch-onnx explain`."""

from __future__ import annotations

import click


@click.command()
@click.argument("code", required=False)
def explain(code: str | None) -> None:
    """Explain an error CODE, the CODE of a rejected Softmax, or of a rule of the audit. Without CODE, list all.

    \b
    Example:
      atpatch-onnx explain ATP012
      atpatch-onnx explain constant-values
      atpatch-onnx explain AUD203
    """
    from rewriters.finding.finder import REASONS

    from ..auditing.rules import RULES
    from ..errors import CATALOG, UNKNOWN_CODE

    if code is None:
        click.echo("Error codes:")
        for fault in sorted(CATALOG.values(), key=lambda fault: fault.code):
            click.echo(f"  {fault.code}  {fault.summary}")
        click.echo("\nWhy a Softmax is no attention site:")
        for reason, text in REASONS.items():
            click.echo(f"  {reason}  {text}")
        click.echo("\nWhat rules of the audit find:")
        for rule in sorted(RULES.values(), key=lambda rule: rule.code):
            click.echo(f"  {rule.code}  {rule.title}")
        return
    known = CATALOG.get(code.upper())
    if known is not None:
        click.echo(
            f"{known.code}: {known.summary}\n\n{known.detail}\n\nFix: {known.fix}.\nExit code: {known.exit_code}."
            f"\nIn Python: {known.kind.__name__}."
        )
    elif code.lower() in REASONS:
        click.echo(
            f"{code.lower()}: a Softmax, or an operator that contains one, is no attention site because"
            f" {REASONS[code.lower()]}."
        )
    elif code.upper() in RULES:
        found = RULES[code.upper()]
        click.echo(f"{found.code} ({found.check}): {found.title}\n\n{found.about}")
    else:
        raise UNKNOWN_CODE(f"there is no code {code!r}")
