"""`atpatch-onnx verify`."""

from __future__ import annotations

from typing import Any

import click

from ..signing.options import VerifyOptions
from .options import json_output, options_of
from .rendering import emit_json, note


@click.command()
@click.argument("path", type=click.Path())
@click.option("--signature", type=click.Path(), help="Signature file; by default PATH.sig, or model.sig in the folder.")
@options_of(VerifyOptions)
@json_output
def verify(path: str, signature: str | None, as_json: bool, **options: Any) -> None:
    """Verify the signature of PATH: a hotfix, a model file together with its external data, or a folder.

    Exit status: 0 the signature is good, 1 it is not or there is none, 2 a key or a file cannot be used. Needs the
    extra 'sign'.

    \b
    Example:
      atpatch-onnx verify model.hotfix --key pub.pem
      atpatch-onnx verify served/ --key pub.pem --json
      atpatch-onnx verify model.patched.onnx --chain root.pem
      atpatch-onnx verify model.patched.onnx --identity me@example.com --identity-provider https://accounts.example.com
    """
    from ..signing.verifier import verify as verify_path

    found = verify_path(path, signature, **options)
    if as_json:
        emit_json(found.to_json())
    else:
        files = f"{len(found.files)} file{'s' if len(found.files) > 1 else ''}"
        note(f"the signature of {path} is good: {files} as signed, verified against {found.trusted}")
