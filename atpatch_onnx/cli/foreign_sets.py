"""The options of `debugset` for poisoned sets that other tools wrote."""

from __future__ import annotations

import click

from .options import group

__all__ = ["foreign_sets"]

foreign_sets = group(
    click.option(
        "--backdoorbench",
        type=click.Path(),
        metavar="FOLDER",
        help="Images that an attack of BackdoorBench wrote: its record, or a folder in it; --data is the clean data"
        " set in its own order.",
    ),
    click.option(
        "--openbackdoor",
        type=click.Path(),
        metavar="FOLDER|FILE",
        help="Texts that OpenBackdoor poisoned: poison_data/SET/TARGET/ATTACK, or one SPLIT-poison.csv in it.",
    ),
    click.option(
        "--rows",
        type=click.IntRange(min=1),
        default=2000,
        show_default=True,
        help="--backdoorbench and --openbackdoor: maximum number of triggered rows; more are drawn at random.",
    ),
    click.option(
        "--pixels",
        metavar="MEAN/DEVIATION",
        help="--backdoorbench: how the model reads pixels, such as 0/1 or 0.5/0.5, one number or one for each channel;"
        " by default as the clean rows show it.",
    ),
)
