"""Pictures of an evidence file: the trade-off over thresholds, attention by layer, one request's attention before and
after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .measures import Run, fault_of

__all__ = ["draw"]

MARKED, OTHERS, ACCURACY = "#c0392b", "#5d6d7e", "#1f618d"
NAMES = {"asr": "ASR", "asr_star": "ASR*", "uf": "UF"}


def draw(evidence: Mapping[str, Any], folder: Path, stem: str) -> dict[str, str]:
    """Write the pictures beside the evidence; title → file name."""
    import matplotlib

    matplotlib.use("Agg")
    runs = [run for run in evidence["runs"] if "layers" in run["steps"].get("curves", {})]
    drawn = {}
    for name, title, picture, shown in (
        (
            "tradeoff",
            "Accuracy and attack over the threshold",
            _tradeoff,
            [run for run in runs if run["steps"]["curves"]["thresholds"]],
        ),
        ("layers", "Attention by layer", _layers, runs),
        (
            "maps",
            "Attention before and after",
            _maps,
            [run for run in runs if "before" in run["steps"]["curves"]["request"]],
        ),
    ):
        if not shown:
            continue
        file = folder / f"{stem}_{name}.png"
        figure = picture(shown)
        figure.savefig(file, dpi=90, metadata={"Software": None})
        drawn[title] = file.name
    return drawn


def _tradeoff(runs: Sequence[Run]) -> Any:
    figure, panels = _panels(len(runs), 3.2)
    for axes, run in zip(panels[0], runs, strict=True):
        points = run["steps"]["curves"]["thresholds"]
        fault = fault_of(points[0])
        logits = [np.log(point["threshold"] / (1 - point["threshold"])) for point in points]
        for key, name, color, style in (
            ("accuracy", "accuracy", ACCURACY, "-"),
            *((("asr", NAMES["asr"], MARKED, "--"),) if fault == "asr_star" else ()),
            (fault, NAMES[fault], MARKED, "-"),
            ("clean_flagged", "clean requests flagged", OTHERS, ":"),
        ):
            axes.plot(logits, [100 * point[key] for point in points], style, color=color, label=name)
        threshold = run["steps"]["fit"]["hotfix"]["threshold"]
        axes.axvline(
            np.log(threshold / (1 - threshold)), color="black", linewidth=0.8, linestyle="--", label="fitted τ"
        )
        axes.set(title=run["setting"], xlabel="logit of τ", ylim=(-3, 103))
    panels[0][0].set_ylabel("percent")
    _legend(figure, panels)
    return figure


def _layers(runs: Sequence[Run]) -> Any:
    figure, panels = _panels(len(runs), 3.0)
    for axes, run in zip(panels[0], runs, strict=True):
        layers = run["steps"]["curves"]["layers"]
        for shift, (key, name, color) in enumerate(
            (("labeled", "labeled columns", MARKED), ("others", "other columns", OTHERS))
        ):
            low, middle, high = np.array([layer[key] for layer in layers]).T
            place = np.arange(len(layers)) + 0.2 * shift - 0.1
            axes.errorbar(
                place, middle, [middle - low, high - middle], fmt="o", markersize=3, capsize=2, color=color, label=name
            )
        axes.axhline(1, color="black", linewidth=0.6)
        axes.set(title=run["setting"], xlabel="site", yscale="log", xticks=range(len(layers)))
    panels[0][0].set_ylabel("attention, multiples of uniform")
    _legend(figure, panels)
    return figure


def _maps(runs: Sequence[Run]) -> Any:
    figure, panels = _panels(len(runs), 5.2, rows=2)
    for column, run in enumerate(runs):
        request = run["steps"]["curves"]["request"]
        maps = [np.array(request[when]) for when in ("before", "after")]
        most = max(float(np.quantile(one, 0.995)) for one in maps)
        for row, (one, when) in enumerate(zip(maps, ("before", "after"), strict=True)):
            axes = panels[row][column]
            axes.imshow(one, cmap="magma", vmin=0, vmax=most, interpolation="nearest")
            axes.set_title(f"{run['setting']}, {when}: class {request['prediction'][when]}", fontsize=8)
            axes.set_xticks(request["flagged"], ["▲"] * len(request["flagged"]), color=MARKED)
            axes.set_yticks([])
    for row in panels:
        row[0].set_ylabel("query")
    figure.supxlabel("key; ▲ flagged", fontsize=9)
    return figure


def _legend(figure: Any, panels: Any) -> None:
    """Beneath the panels, where it hides no curve."""
    handles, names = panels[0][-1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=8, frameon=False)


def _panels(count: int, height: float, rows: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * count, height), layout="constrained")
    return figure, figure.subplots(rows, count, squeeze=False)
