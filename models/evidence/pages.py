"""What is written of an evidence file: itself, its pictures, RESULTS.md, and the parts of the documentation's page of
results that are made of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

from rewriters.model.atomic import write_file

from .defenses import sentences
from .goals import goals, having
from .measures import fitted_again
from .plots import draw
from .table import render
from .verdicts import Verdict

__all__ = ["GUIDE", "RESULTS", "guide_parts", "with_parts", "write_pages"]

RESULTS = Path(__file__).parents[1] / "results"
GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "results.md"
MARK = "<!-- made by models.evidence.build: {} {} -->"


def write_pages(evidence: dict[str, Any], output: Path) -> Path:
    """All of them; returns the page. The documentation is left alone where the output is another folder than the
    committed one.
    """
    output.mkdir(parents=True, exist_ok=True)
    quick = evidence["quick"]
    stem = "evidence_quick" if quick else "evidence"
    evidence["pictures"] = draw(evidence, output, stem)
    write_file(output / f"{stem}.json", _lines(evidence).encode())
    page = output / "evidence_quick.md" if quick else output.parent / "RESULTS.md"
    write_file(page, render(evidence, "" if quick else f"{output.name}/").encode())
    if not quick and output == RESULTS:
        write_file(GUIDE, with_parts(GUIDE.read_text("utf-8"), guide_parts(evidence)).encode())
    return page


def guide_parts(evidence: Mapping[str, Any]) -> dict[str, str]:
    """Name → text that the page of results has between two comments."""
    found = goals(evidence)
    met, shown, missed = (len(having(found, one)) for one in (Verdict.MET, Verdict.NOT_SHOWN, Verdict.NOT_MET))
    count = f"Of {met + shown + missed} targets {met} are met, {shown} are not shown, and {missed} are not met."
    again = fitted_again(evidence)
    few = (
        f" There are fewer victims than fits in {again}: their intervals say nothing of other victims." if again else ""
    )
    targets = [f"{count} {JUDGED}{few}"]
    for verdict in (Verdict.NOT_MET, Verdict.NOT_SHOWN, Verdict.MET):
        if those := having(found, verdict):
            targets += [f"{verdict.capitalize()}:", "\n".join(f"* {goal.what}: {goal.found}" for goal in those)]
    return {name: "\n\n".join(map(_wrapped, parts)) for name, parts in (
        ("targets", targets), ("peers", sentences(evidence)))}  # fmt: skip


JUDGED = (
    "A target is *met* where the bad end of the 95 % interval lies within it, *not met* where the good end lies outside"
    " of it, else *not shown*: three victims, or three fits of one, and some thousand requests are too few to tell."
)


def with_parts(text: str, parts: Mapping[str, str]) -> str:
    """The text with new parts between the comments."""
    for name, part in parts.items():
        begin, end = MARK.format(name, "begin"), MARK.format(name, "end")
        before, _, rest = text.partition(begin)
        if end not in rest:
            raise ValueError(f"no part {name} between two comments")
        text = f"{before}{begin}\n\n{part}\n\n{end}{rest.partition(end)[2]}"
    return text


def _wrapped(paragraph: str) -> str:
    """Lines of a page; a figure and its unit stay together."""
    tied = paragraph.replace(" %", "\u00a0%").replace("≤ ", "≤\u00a0").replace("≥ ", "≥\u00a0")
    lines = (fill(line, 118, subsequent_indent="  " * line.startswith("* ")) for line in tied.splitlines())
    return "\n".join(lines).replace("\u00a0", " ")


def _lines(evidence: Mapping[str, Any]) -> str:
    """JSON with one line a run, so that a change shows in a few lines."""
    runs = ",\n".join(json.dumps(run, allow_nan=False) for run in evidence["runs"])
    rest = {name: value for name, value in evidence.items() if name != "runs"}
    head = ",\n".join(f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in rest.items())
    return f'{{\n{head},\n"runs": [\n{runs}\n]\n}}\n'
