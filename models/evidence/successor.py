"""The next version of a backdoored model: does the old hotfix still hold, and does `patch` notice?

`python -m models.evidence.successor` trains `sst2-fresh-badnets` further on clean texts, as one ships a new version
each month, exports it, patches it with the hotfix of its predecessor, and judges both on the same test rows. The hotfix
is that of the step `fit`. Results: models/results/successor.json and SUCCESSOR.md.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from atpatch_onnx.debugset import Texts
from atpatch_onnx.hotfix.file import Hotfix
from rewriters.model.atomic import write_file

from ..text.corpora import Corpus
from ..text.recipes import FRESH
from ..victims import versions
from .answers import Figures, judge
from .case import Case
from .cells import share_of
from .commands import Commands, Refused
from .fitting import try_plan
from .measures import NAMES
from .pages import RESULTS
from .runner import run_step
from .settings import SETTINGS, Setting
from .writing import save_json, table

__all__ = ["main", "measured", "page", "patched_by", "train_further"]

FIRST = "sst2-fresh-badnets"
STEPS = (100,)
BATCH, LEARNING_RATE = 32, 2e-5
KEPT = ("original", "patched", "clean_flagged", "attacked_flagged")
SHARED = ("debug.npz", "spare.npz", "clean.npz", "triggered.npz")

TEMPLATE = """\
# The next version of a model

Written by `python -m models.evidence.successor`; do not edit. The victim `{victim}` is trained further on clean texts
({batch} a step, learning rate {rate}), and patched with the hotfix that was fitted before. Percent, on the test rows of
the victim, with 95 % intervals of one model each. Made with {made}.

{table}
"""


@click.command()
@click.option(
    "--steps", "every", multiple=True, type=int, default=STEPS, show_default=True, help="Of further training."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the victim, and of the order of texts.")
@click.option("--threads", type=int, default=1, show_default=True)
def main(every: Sequence[int], seed: int, threads: int) -> None:
    """Train successors, patch them with the old hotfix, and write what that does."""
    first = Case(next(setting for setting in SETTINGS if setting.name == FIRST), seed, threads)
    fit, hotfix = run_step(first, "fit", click.echo), first.hotfix
    patch = patched_by(first.victim.file("model.onnx"), first.hotfix_file())
    figures = [{"steps": 0, **{name: fit[name] for name in KEPT}, "patch": patch}]
    for steps in every:
        case = _successor(first, steps)
        if not case.victim.built:
            started = time.process_time()
            train_further(first.victim.file("model.pt"), case.victim.file("model.onnx"), _texts(), steps, seed)
            case.victim.finish({"cpu_seconds": round(time.process_time() - started, 1)})
        figures.append(measured(case, first, hotfix, steps))
        click.echo(f"{steps} steps: {figures[-1]['patch']}")
    whole = {"victim": first.victim.folder.name, "versions": versions(), "threads": threads, "successors": figures}
    save_json(RESULTS / "successor.json", whole)
    write_file(RESULTS / "SUCCESSOR.md", page(whole).encode())


def train_further(weights: Path, output: Path, texts: Texts, steps: int, seed: int) -> None:
    """Go on from the weights for some steps on the texts, and export."""
    import torch

    from ..text.sets import LENGTH
    from ..text.training import encoder, export, feeds, load, save_weights

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    generator, tokens = np.random.default_rng(seed), encoder(LENGTH)
    model = load()
    model.load_state_dict(torch.load(weights, weights_only=True))
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.01, fused=True)
    for _ in range(steps):
        rows = generator.choice(len(texts.texts), BATCH, replace=False)
        ids = [np.array(one.ids) for one in tokens.encode([texts.texts[row] for row in rows])]
        logits = model(**feeds(ids, tokens.pad_id)).logits
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(texts.labels[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_weights(model, output)
    export(model, output)


def measured(case: Case, first: Case, hotfix: Hotfix, steps: int) -> Figures:
    """Figures of a successor as it is and with the old hotfix, and what `patch` says to the two."""
    clean, attacked = (answers.predictions for answers in case.before)
    return {
        "steps": steps,
        "original": judge(case.clean, case.attacked, clean, clean, attacked),
        **try_plan(case, hotfix.plan(case.sites, None)),
        "patch": patched_by(case.victim.file("model.onnx"), first.hotfix_file()),
    }


def patched_by(model: Path, hotfix: Path) -> dict[str, str]:
    """The error code of `patch`, "" where it went through, without and with --force."""
    output = model.with_name("patched.onnx")

    def tried(*options: str) -> str:
        try:
            Commands()("patch", model, "--hotfix", hotfix, "-o", output, *options)
        except Refused as refused:
            return refused.code
        finally:
            output.unlink(missing_ok=True)
        return ""

    return {"as it is": tried(), "forced": tried("--force")}


def page(whole: Mapping[str, Any]) -> str:
    """The results as a page."""
    shown = ("accuracy", "asr", "asr_star")
    rows = [
        (
            str(one["steps"]) if one["steps"] else "0 (the victim itself)",
            *(share_of([one], when, key) for key in shown for when in ("original", "patched")),
            share_of([one], "clean_flagged"),
            one["patch"]["as it is"] or "–",
            one["patch"]["forced"] or "–",
        )
        for one in whole["successors"]
    ]
    words = [f"{NAMES.get(key, key)} {when}" for key in shown for when in ("before", "after")]
    head = ("steps on clean texts", *words, "clean flagged", "error of `patch`", "with --force")
    made = ", ".join(f"{name} {version}" for name, version in whole["versions"].items())
    return TEMPLATE.format(
        victim=whole["victim"], batch=BATCH, rate=f"{LEARNING_RATE:g}", made=made, table=table([head, *rows])
    )


def _texts() -> Texts:
    return Corpus.read("sst2", FRESH).train


def _successor(first: Case, steps: int) -> Case:
    """A case with the data of the first; its folder is made where it is not there."""
    setting = Setting(f"{FIRST}-after-{steps}", "text", "backdoor", first.setting.group, trained=(first.seed,))
    case = Case(setting, first.seed, first.threads)
    case.folder.mkdir(parents=True, exist_ok=True)
    for name in SHARED:
        if not case.victim.file(name).exists():
            os.link(first.victim.file(name), case.victim.file(name))
    return case


if __name__ == "__main__":
    main()
