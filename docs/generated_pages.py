"""What the site's pages take from the code when the site is built, so that it is written in one place.

MkDocs calls `on_page_markdown` for every page (see `hooks` in mkdocs.yml). A page asks for a part with a comment:

1. `<!-- commands -->`: every command with its options, from click's own help.
2. `<!-- error codes -->`: below it, what the catalog says goes into each section `## ATP0xx`, around its example.
3. `<!-- rejection codes -->`: why a Softmax is no attention site.
4. `<!-- audit rules -->`: what each rule of the audit looks for.
5. `<!-- schema: NAME -->`: the fields of schemas/NAME.json as a table.
6. `<!-- api: NAME NAME -->`: docstrings of public names of `atpatch_onnx`, wherever they live.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

SCHEMAS = Path(__file__).parent / "schemas"
SHARED_ENTRY = re.compile(r"<b><code><span[^>]*>(\w+,)</span></code></b>\s*\(<code>(.*?)</code>\)", re.DOTALL)
LOADED_FROM_ELSEWHERE = re.compile(
    r'<(?:script|img|iframe|link rel="(?:stylesheet|preconnect)")[^>]+(?:src|href)="?https?:[^>]+'
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in what the comments of a page ask for."""
    if "<!-- error codes -->" in markdown:
        markdown = error_codes(markdown)
    for comment, make in (
        ("commands", commands),
        ("rejection codes", rejection_codes),
        ("audit rules", audit_rules),
    ):
        if f"<!-- {comment} -->" in markdown:
            markdown = markdown.replace(f"<!-- {comment} -->", make())
    markdown = re.sub(r"<!-- api: ([\w ]+) -->", lambda found: api(found[1].split()), markdown)
    return re.sub(r"<!-- schema: ([\w-]+) -->", lambda found: schema_table(found[1]), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Names that share an entry of a docstring (`softmax, matmul: nodes`): griffe takes the later ones for a type."""
    return SHARED_ENTRY.sub(lambda found: f"<b><code>{found[1]} {re.sub('<[^>]*>', '', found[2])}</code></b>", html)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Nothing may be loaded from elsewhere.

    Raises:
        ValueError: a script, a style or a picture comes from another host.
    """
    if foreign := LOADED_FROM_ELSEWHERE.search(output):
        raise ValueError(f"{page.file.src_uri} loads from elsewhere: {foreign[0]}")
    return output


# Commands


def command_tree(group: click.Group, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Every command that does something, in the order of `--help`."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, parent=context, info_name=name)
        if isinstance(command, click.Group):
            yield from command_tree(command, inner)
        else:
            yield command, inner


def commands() -> str:
    """One section a command: what it does, its arguments and options, its examples."""
    from atpatch_onnx.cli import cli

    return "\n\n".join(_command(*found) for found in command_tree(cli, click.Context(cli, info_name="atpatch-onnx")))


def help_and_examples(command: click.Command) -> tuple[str, list[str]]:
    """What a command's help says, and its examples, one entry a command line."""
    said, _, examples = inspect.cleandoc(command.help or "").partition("\b\nExample:\n")
    return said.strip(), [line.strip() for line in re.sub(r"\\\n\s*", "", examples).splitlines() if line.strip()]


def _command(command: click.Command, context: click.Context) -> str:
    said, examples = help_and_examples(command)
    text = [f"## {context.command_path.removeprefix('atpatch-onnx ')}", _inline(said)]
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    text.append(f"```text\n{usage}\n```")
    options = [option.get_help_record(context) for option in command.params if isinstance(option, click.Option)]
    rows = [f"| `{record[0].replace(' RANGE', '')}` | {_cell(_inline(record[1]))} |" for record in options if record]
    text.append("\n".join(["| option | meaning |", "|---|---|", *rows]))
    lines = [f"$ {re.sub(r' {2,}#', '  #', line)}" for line in examples]
    text.append("\n".join(["```console", *lines, "```"]))
    return "\n\n".join(text)


def _cell(text: str) -> str:
    """Text for a table: a bar ends a cell, but not inside of code."""
    return re.sub(r"`[^`]*`|\|", lambda found: "\\|" if found[0] == "|" else found[0], text)


def _inline(text: str) -> str:
    """Help text as Markdown: `<` begins no tag, what is quoted or an option is code, and codes lead to their page."""
    text = text.replace("<", "&lt;").replace("*", "\\*")
    text = re.sub(r"\bATP\d{3}\b", lambda found: f"[{found[0]}](error-codes.md#{found[0].lower()})", text)
    text = re.sub(r"(?<![\w`-])(--[a-z][\w-]*)", r"`\1`", text)
    return re.sub(r"'([^'\n]{1,60})'(?!\w)", r"`\1`", text.replace("'`", "'").replace("`'", "'"))


# Codes


def error_codes(markdown: str) -> str:
    """The page with each section `## ATP0xx` put between what the catalog says of the code."""
    from atpatch_onnx.errors import CATALOG

    head, *parts = re.split(r"^## (ATP\d+)$", markdown.replace("<!-- error codes -->", ""), flags=re.MULTILINE)
    for code, example in zip(parts[::2], parts[1::2], strict=True):
        fault = CATALOG[code]
        head += (
            f"## {code}: {fault.summary} {{ #{code.lower()} }}\n\n{fault.detail}\n\n**Example**\n{example.rstrip()}\n\n"
            f"**How to go on:** {fault.fix}. (Exit status {fault.exit_code}; in Python a `{fault.kind.__name__}`.)\n\n"
        )
    return head


def rejection_codes() -> str:
    """A table of the reasons for which a Softmax is no attention site."""
    from rewriters.finding.finder import REASONS

    rows = [f"| `{code}` | {text} |" for code, text in REASONS.items()]
    return "\n".join(["| code | why it is no attention site |", "|---|---|", *rows])


def audit_rules() -> str:
    """One section a rule of the audit."""
    from atpatch_onnx.auditing.rules import RULES

    return "\n\n".join(
        f"## {code}: {rule.title} {{ #{code.lower()} }}\n\n*{rule.check}.* {rule.about}"
        for code, rule in sorted(RULES.items())
    )


# Python


def api(names: list[str]) -> str:
    """What mkdocstrings takes for public names: where they are defined, under the name that users import."""
    import atpatch_onnx

    found = {name: getattr(atpatch_onnx, name) for name in names}
    return "\n\n".join(
        f"::: {value.__module__}.{value.__qualname__}\n    options:\n      heading: {name}\n      toc_label: {name}"
        for name, value in found.items()
    )


# Schemas


def schema_table(name: str) -> str:
    """The fields of a JSON schema: where, of what type, and what they mean; a link to the schema itself."""
    schema = json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))
    rows = [f"| `{path}` | {kind} | {said} |" for path, kind, said in _fields(schema, schema, "")]
    told = f"{schema['description']} Schema: [`{name}.json`](../schemas/{name}.json)."
    return "\n".join([told, "", "| field | type | meaning |", "|---|---|---|", *rows])


def _fields(
    schema: dict[str, Any], root: dict[str, Any], at: str, shown: set[str] | None = None
) -> Iterator[tuple[str, str, str]]:
    """Fields in order; `[]` stands for the entries of a list, `*` for any name. A part that several fields share is
    taken apart where it comes first.
    """
    shown = set() if shown is None else shown
    for key, value in {**schema.get("properties", {}), "*": schema.get("additionalProperties")}.items():
        if not isinstance(value, dict):
            continue
        field = _resolved(value, root)
        path = f"{at}.{key}" if at else key
        optional = "" if key == "*" or key in schema.get("required", ()) else ", may be absent"
        if said := value.get("description") or field.get("description"):
            yield path, _type(field) + optional, said
        items = field.get("items") if isinstance(field.get("items"), dict) else None
        parts = {part["$ref"] for part in (value, items or {}) if "$ref" in part}
        if not parts or not parts <= shown:
            shown |= parts
            yield from _fields(_resolved(items, root) if items else field, root, path + "[]" * bool(items), shown)


def _resolved(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return _resolved(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    return schema


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    kinds = schema.get("type", "any")
    return " or ".join([kinds] if isinstance(kinds, str) else kinds)
