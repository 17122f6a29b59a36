"""Text in a model that is no description: code, and paths to other files."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from rewriters.model.bodies import walk_bodies

from ..finding import Finding, NotTried
from .material import Material
from .rule import Rule

__all__ = ["RULES"]

_CODE = re.compile(
    r"\b(?:exec|eval|__import__|compile)\s*\(\s*(?:['\"]|base64|bytes|open|input|codecs|zlib|marshal)"
    r"|\b(?:os\s*\.\s*(?:system|popen|exec\w*)|subprocess\s*\.\s*\w+|pickle\s*\.\s*loads?|marshal\s*\.\s*loads?"
    r"|runpy\s*\.\s*run_\w+|ctypes\s*\.\s*CDLL|socket\s*\.\s*socket|pty\s*\.\s*spawn)\s*\("
    r"|__reduce(?:_ex)?__|__import__\s*\(|<script\b|javascript:|\bpowershell(?:\.exe)?\s+-|#!\s*/(?:usr/)?bin/"
    r"|\b(?:curl|wget)\s+(?:-\S+\s+)*https?:|\b(?:bash|sh)\s+-c\s",
    re.IGNORECASE,
)
_MAGIC = (b"\x7fELF", b"MZ\x90", b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"\xca\xfe\xba\xbe")
_BLOB = re.compile(r"[A-Za-z0-9+/]{64,}={0,2}")
_LONGEST = 1 << 22


def _texts(material: Material) -> Iterator[tuple[str, str]]:
    model = material.model
    yield "the model's description", model.doc_string
    yield "the graph's description", model.graph.doc_string
    for entry in (*model.metadata_props, *model.graph.metadata_props):
        yield f"metadata {entry.key!r}", entry.value
    for function in model.functions:
        yield f"the description of function {function.name}", function.doc_string
    for where, body in walk_bodies(model):
        for node in body.node:
            for entry in node.metadata_props:
                if not entry.key.startswith("pkg.torch"):  # stack traces: lines of the model's own source
                    yield f"metadata {entry.key!r} of node {node.name}", entry.value
            if not where:
                yield f"the description of node {node.name}", node.doc_string


def _code(rule: Rule, material: Material) -> Iterator[Finding | NotTried]:
    for where, text in _texts(material):
        if len(text) > _LONGEST:
            yield rule.not_tried(f"{where} has {len(text)} characters")
        elif found := _CODE.search(text):
            yield rule.finding(where, f"it holds code: {found[0][:60]!r}", (), "do not run or render it")
        elif any(_is_program(blob[0]) for blob in _BLOB.finditer(text)):
            yield rule.finding(where, "it holds a program, an archive or a pickle in base64", (), "do not decode it")


def _is_program(blob: str) -> bool:
    try:
        return base64.b64decode(blob[:64], validate=True).startswith(_MAGIC)
    except (binascii.Error, ValueError):
        return False


def _outside(rule: Rule, material: Material) -> Iterator[Finding | NotTried]:
    if material.unread is not None and material.path is None:
        yield rule.not_tried(material.unread)
    elif material.unread is not None:
        why, remedy = material.unread, "do not load it with a tool that follows such paths"
        yield rule.finding("external data", why, (), remedy)


RULES = (
    Rule(
        "AUD141",
        "external data that is missing or outside the folder",
        "error",
        "Exporters write weights next to the model, under a plain file name. A location with '..', an absolute path or"
        " a link out of the folder makes a loader read other files of the machine.",
        _outside,
    ),
    Rule(
        "AUD142",
        "code in the metadata",
        "error",
        "Metadata holds names, versions and licenses; PyTorch adds lines of the model's source to its nodes. Calls that"
        " run programs or unpack objects, scripts, and programs in base64 are for somebody who will run them.",
        _code,
    ),
)
