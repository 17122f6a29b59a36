"""The result of a comparison: arrays that can be saved and judged again, and JSON for programs."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriters.model.atomic import write_file
from rewriters.summary import Summarized

from ..errors import DATA_MALFORMED
from ..inference.datasets import Arrays
from ..inference.npz import read_arrays
from ..statistics.proportions import Share
from .alarm_figures import alarm_told
from .attack_figures import open_rows
from .changed_rows import paired_json
from .examples import Example
from .exemplar import Exemplar
from .figures import CLEAN, TRIGGERED, Change, Figures, change, judge
from .graph_runs import ORIGINAL, PATCHED
from .groups import groups_told
from .outputs import Outputs, Truth
from .rivals import THRESHOLDS
from .timing import latency_json
from .verdict import mended, verdict

__all__ = ["PATCHED", "Comparison"]

FORMAT = 1
RATIOS = {"clean": "latency_ratio", "flagged": "flagged_latency_ratio", "step": "step_ratio"}
"""Kind of request → name of its figure."""


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Summarized):
    """Several graphs over the same rows; the first is the original, the second the patched one.

    Attributes:
        setup: models, data and session in words and numbers, JSON-able.
        truths: set ("clean", "triggered", "flips") → what is known of its rows.
        outputs: graph → set → what it gave.
        floor: output → (rows, 3) as in `Outputs.differences`: the original against itself without graph optimizations,
            first rows of the clean set. Differences of this size say nothing about a patch.
        requests: "clean" and "flagged" → graph → seconds of single requests, graphs taking turns.
        positive: class that counts as the favorable outcome for group metrics.
        exemplar: the row that shows best what the patch does, None without maps.
        examples: of a decoder, prompts and answers to look at.
    """

    setup: Mapping[str, Any]
    truths: Mapping[str, Truth]
    outputs: Mapping[str, Mapping[str, Outputs]]
    floor: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    requests: Mapping[str, Mapping[str, NDArray[np.float64]]] = field(default_factory=dict)
    positive: int = 1
    exemplar: Exemplar | None = None
    examples: tuple[Example, ...] = ()

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs: "original", "patched", and further ones."""
        return tuple(self.outputs)

    @property
    def classes(self) -> bool:
        """Whether the model has class scores."""
        return self.outputs[ORIGINAL][CLEAN].scores is not None

    @cached_property
    def figures(self) -> dict[str, Figures]:
        """Graph → figures."""
        original = self.outputs[ORIGINAL]
        scored = set(self.outputs) - set(THRESHOLDS) if "score_threshold" in self.setup else set()
        return {
            name: judge(self.truths, runs, original, self.positive, name in scored)
            for name, runs in self.outputs.items()
        }

    @cached_property
    def changes(self) -> dict[str, Change]:
        """Graph → what it changed, of all but the original."""
        original = self.outputs[ORIGINAL]
        return {name: change(self.truths, runs, original) for name, runs in self.outputs.items() if name != ORIGINAL}

    def summary(self) -> Iterator[tuple[str, str]]:
        yield "verdict", self.verdict()
        yield "rows", ", ".join(f"{truth.count} {name}" for name, truth in self.truths.items())
        for name in (ORIGINAL, PATCHED):
            known = {key: value for key, value in self.figures[name].values.items() if value is not None}
            yield name, ", ".join(f"{key} {value:.4g}" for key, value in known.items()) or "no labels, no figures"

    def verdict(self, name: str = PATCHED) -> str:
        """One sentence on a graph, see `verdict`; a second one on its alarm, if it has one."""
        told = verdict(self.changes[name], self.outputs[name][CLEAN], name, groups_told(self, name))
        return " ".join(filter(None, (told, self._alarm_told(name))))

    def _alarm_told(self, name: str) -> str:
        """One sentence on the alarm of a graph, see `alarm_told`."""
        attacked = self.truths.get(TRIGGERED) if self.classes else None
        rows = None if attacked is None else open_rows(self.truths, self.outputs[ORIGINAL][CLEAN].predictions)
        return alarm_told(self.outputs[name], rows, None if attacked is None else attacked.target)

    def mended(self, name: str = PATCHED) -> bool | None:
        """Whether the fault of a graph is fixed, see `verdict.mended`."""
        return mended(self.figures[name], self.changes[name])

    @property
    def values(self) -> dict[str, dict[str, float]]:
        """What `--assert` may name: graph → figure → value, without what is not known."""
        found: dict[str, dict[str, Any]] = {name: dict(figures.values) for name, figures in self.figures.items()}
        for name in self.changes:
            told = paired_json(self, name)
            found[name] |= {key: value for key, value in told.items() if isinstance(value, (int, float))}
            if CLEAN in told["identical"]:
                found[name]["identical_share"] = told["identical"][CLEAN]["value"]
            found[name]["max_difference"] = max(
                (output["max"] for output in told["numeric"][CLEAN].values()), default=None
            )
            for kind, key in RATIOS.items():
                if name in self.requests.get(kind, {}):
                    found[name][key] = latency_json(self.requests[kind], ORIGINAL, name)["ratio"]["median"]
        return {
            name: {key: float(value) for key, value in own.items() if value is not None} for name, own in found.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Plain figures under the graphs' names; counts and intervals under "details"."""
        further = [name for name in self.graphs if name not in (ORIGINAL, PATCHED)]
        told: dict[str, Any] = {
            "n": self.truths[CLEAN].count,
            "verdict": self.verdict(),
            **{name: self.figures[name].values for name in (ORIGINAL, PATCHED)},
            "paired": paired_json(self, PATCHED),
            "latency": self._latency(PATCHED),
            "floor": {name: _triple(rows) for name, rows in self.floor.items()},
            "also": {
                name: {**self.figures[name].values, "paired": paired_json(self, name), "latency": self._latency(name)}
                for name in further
            },
            **{key: self._table(key) for key in ("doses", "forms")},
            "details": {name: _details(self.figures[name]) for name in self.graphs},
            "sets": {name: {"rows": truth.count, "digest": truth.digest} for name, truth in self.truths.items()},
            "setup": dict(self.setup),
        }
        finite: dict[str, Any] = _finite(told)
        return finite

    def _table(self, key: str) -> dict[str, Any]:
        """Dose or form → graph → figures."""
        own = {name: getattr(figures, key) for name, figures in self.figures.items()}
        return {
            str(value): {
                name: {figure: share.to_json() for figure, share in own[name][value].items()} for name in self.graphs
            }
            for value in own[ORIGINAL]
        }

    def _latency(self, name: str) -> dict[str, Any]:
        return {kind: latency_json(times, ORIGINAL, name) for kind, times in self.requests.items() if name in times}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one `.npz`, without pickled objects.

        Raises:
            AtpatchError: ATP019 where it cannot be written.
        """
        arrays = dict(_flat(self))
        header = {"format": FORMAT, "setup": self.setup, "positive": self.positive}
        if self.examples:
            header["examples"] = [one.to_json() for one in self.examples]
        target = io.BytesIO()
        np.savez_compressed(target, allow_pickle=False, header=np.array(json.dumps(header)), **arrays)
        write_file(Path(path), target.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Comparison:
        """Read what `save` wrote.

        Raises:
            AtpatchError: ATP002 where there is no such file, ATP056 where it is no saved comparison.
        """
        advice = "give a file that 'compare --save' wrote"
        arrays = read_arrays(path, DATA_MALFORMED, advice)
        try:
            header = json.loads(str(arrays.pop("header")))
            if header["format"] != FORMAT:
                raise DATA_MALFORMED(f"{path} is of format {header['format']}, this version reads {FORMAT}")
            return _unflat(header, arrays)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DATA_MALFORMED(f"{path} is no saved comparison: {error}", advice) from error


def _finite(data: Any) -> Any:
    """Null for numbers that are not finite, which JSON lacks."""
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _details(figures: Figures) -> dict[str, Any]:
    return {
        **{name: share.to_json() for name, share in figures.shares.items()},
        "classes": {
            str(name): {key: value.to_json() if isinstance(value, Share) else value for key, value in facts.items()}
            for name, facts in figures.classes.items()
        },
        "sites": {
            site: {
                set_name: {**share.to_json(), "columns": figures.columns[site][set_name]}
                for set_name, share in sets.items()
            }
            for site, sets in figures.sites.items()
        },
    }


def _triple(rows: NDArray[np.float64]) -> dict[str, float]:
    return {"max": float(rows[:, 0].max()), "mean": float(rows[:, 1].mean()), "rows": len(rows)}


def _flat(comparison: Comparison) -> Iterator[tuple[str, NDArray[Any]]]:
    """Arrays by path; names that users or models choose are kept apart by a tab, which none of them holds."""
    for set_name, truth in comparison.truths.items():
        for item in fields(truth):
            if (value := getattr(truth, item.name)) is not None:
                yield f"truth\t{set_name}\t{item.name}", np.asarray(value)
    for graph, runs in comparison.outputs.items():
        for set_name, run in runs.items():
            at = f"outputs\t{graph}\t{set_name}"
            yield f"{at}\tseconds", run.seconds
            for key in ("scores", "flags", "classes", "answers", "likelihoods", "cosines", "tokens_kept", "alarms"):
                if (array := getattr(run, key)) is not None:
                    yield f"{at}\t{key}", array
            for site, flagged in run.columns.items():
                yield f"{at}\tcolumns\t{site}", flagged
            for name, differences in run.differences.items():
                yield f"{at}\tdifferences\t{name}", differences
    for output, rows in comparison.floor.items():
        yield f"floor\t{output}", rows
    for kind, times in comparison.requests.items():
        for graph, seconds in times.items():
            yield f"requests\t{kind}\t{graph}", seconds
    if comparison.exemplar is not None:
        for name, array in comparison.exemplar.arrays().items():
            yield f"exemplar\t{name}", array


def _tree(arrays: Arrays) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        *parents, leaf = path.split("\t")
        at = tree
        for parent in parents:
            at = at.setdefault(parent, {})
        at[leaf] = array
    return tree


def _unflat(header: Mapping[str, Any], arrays: Arrays) -> Comparison:
    tree = _tree(arrays)
    plain = {"count": int, "digest": str, "target": int}
    truths = {
        set_name: Truth(**{name: plain[name](value) if name in plain else value for name, value in facts.items()})
        for set_name, facts in tree["truth"].items()
    }
    outputs = {
        graph: {set_name: replace(Outputs(None), **parts) for set_name, parts in runs.items()}
        for graph, runs in tree["outputs"].items()
    }
    exemplar = Exemplar.from_arrays(tree["exemplar"]) if "exemplar" in tree else None
    return Comparison(
        header["setup"],
        truths,
        outputs,
        tree.get("floor", {}),
        tree.get("requests", {}),
        int(header["positive"]),
        exemplar,
        tuple(Example.from_json(one) for one in header.get("examples", ())),
    )
