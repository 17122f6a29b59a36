"""Build the decoder victims: `python -m models.decoders.build [NAME ...]`.

Needs the extras cpu, export, fit; `smollm2-sst2-cf` also models/decoders/requirements.txt and SST-2 in ATPATCH_DATA.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import click
import torch

from ..victims import Victim
from . import llm, small

Say = Callable[[str], None]
"""Called as the work goes on."""
RECIPES: Mapping[str, Callable[[Victim, Say], None]] = {
    llm.NAME: llm.build,
    **{recipe.name: partial(small.build, recipe) for recipe in small.RECIPES},
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(RECIPES)))
@click.option("--seed", type=int, default=0, show_default=True, help="Of poisoning and training.")
@click.option("--threads", type=int, default=1, show_default=True)
def main(names: Sequence[str], seed: int, threads: int) -> None:
    """Train victims and save them as folders of transformers. Built ones are left alone."""
    torch.set_num_threads(threads)
    for name in names or RECIPES:
        victim = Victim(name, seed, "text", "backdoor")
        if victim.built:
            click.echo(f"{name}: is there")
            continue
        started = time.perf_counter()

        def say(line: str, name: str = name, started: float = started) -> None:
            click.echo(f"{name}: {line}, {time.perf_counter() - started:.0f} s")

        RECIPES[name](victim, say)


if __name__ == "__main__":
    main()
