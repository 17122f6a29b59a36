"""`atpatch-onnx sign`."""

from __future__ import annotations

from typing import Any

import click

from ..signing.options import SignOptions
from .options import json_output, options_of, output
from .rendering import emit_json, note


@click.command()
@click.argument("path", type=click.Path())
@output("Signature file; by default PATH.sig, or model.sig inside of a folder.")
@options_of(SignOptions, but=("password",))
@click.option(
    "--password",
    envvar="ATPATCH_KEY_PASSWORD",
    help="Password of an encrypted key. Others on this machine can read a command line, and not the variable."
    "  [env: ATPATCH_KEY_PASSWORD]",
)
@json_output
def sign(path: str, output: str | None, as_json: bool, **options: Any) -> None:
    """Sign PATH: a hotfix, a model file together with its external data, or a folder with everything in it.

    The signature is one of sigstore's model-signing. 'verify' checks it, and so does that package's own command. Needs
    the extra 'sign'.

    \b
    Example:
      atpatch-onnx sign model.hotfix --key key.pem
      atpatch-onnx sign served/ --key key.pem
      atpatch-onnx sign model.patched.onnx --key key.pem --certificate signer.pem --chain intermediate.pem
      atpatch-onnx sign model.patched.onnx --keyless ambient
    """
    from ..signing.signer import sign as sign_path

    done = sign_path(path, output, **options)
    if as_json:
        emit_json(done.to_json())
    else:
        note(f"signed {path}: {len(done.files)} file{'s' if len(done.files) > 1 else ''}, signature {done.signature}")
