"""One planted graph: made of a host, a trigger, an action and what is done to the graph afterwards; and the proof that
it acts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from atpatch_onnx.exporters.quiet import quiet
from atpatch_onnx.inference.sessions import session

from . import afterwards
from .actions import ACTIONS, Plan
from .hosts import Feeds, Host, folder, load
from .surgery import Surgery
from .triggers import Trigger

__all__ = ["Acting", "Planted", "build", "planted_case", "prove", "run", "said"]

ROWS = 6
_TRIES = 40
"""Draws of constants."""
_SCOPE = "/classifier"


@dataclass(frozen=True)
class Planted:
    """A case of the corpus.

    Attributes:
        style: one of those that the corpus has to cover.
        after: functions from model file to model file, applied in turn to host and planted graph.
        single: one row at a time.
        wrapped: the test lies in a local function.
    """

    name: str
    style: str
    host: Host
    trigger: Trigger
    action: Callable[[Surgery, Plan, str], None]
    after: tuple[Callable[[Path, Path], None], ...] = ()
    single: bool = False
    wrapped: bool = False


def planted_case(
    group: str, style: str, host: Host, trigger: Trigger, seen: str, action: Any, *after: str, **more: bool
) -> Planted:
    """A case that is named by what it is made of.

    Args:
        seen: how the trigger is seen, for people.
        action: one of `ACTIONS` by name, or a function.
        after: names of functions in `afterwards`.
        more: single, wrapped.
    """
    act, done = (ACTIONS[action], action) if isinstance(action, str) else (action, said(action))
    name = "; ".join((f"{group}: {host.name}", seen, done, *after))
    return Planted(name, style, host, trigger, act, tuple(getattr(afterwards, one) for one in after), **more)


def said(function: Any) -> str:
    """A function's name, for people."""
    return str(function.__name__.replace("_", " "))


@dataclass(frozen=True)
class Acting:
    """What a planted graph does.

    Attributes:
        hit: share of triggered rows that get the target.
        host_hit: of the host on the same rows.
        same: clean rows have the host's answer.
        difference: largest difference from the host on clean rows, relative to the largest value.
    """

    hit: float
    host_hit: float
    same: bool
    difference: float

    @property
    def acts(self) -> bool:
        return self.hit == 1 and self.host_hit < 1 and self.same and self.difference < 0.02


def run(path: Path, feeds: Feeds, output: str, single: bool) -> NDArray[Any]:
    """The answers (B, classes); of a language model those at the last position."""
    live = session(path, threads=1)
    names = {value.name for value in live.get_inputs()}
    fed = {name: array for name, array in feeds.items() if name in names}
    count = len(next(iter(fed.values())))
    pieces = [slice(n, n + 1) for n in range(count)] if single else [slice(None)]
    made = np.concatenate([live.run([output], {k: v[piece] for k, v in fed.items()})[0] for piece in pieces])
    return np.asarray(made[:, -1] if made.ndim == 3 else made)


def triggered(case: Planted, feeds: Feeds) -> Feeds:
    rows = feeds[case.host.main].copy()
    case.trigger.put(rows)
    return {**feeds, case.host.main: rows}


def build(case: Planted) -> tuple[Path, Path, int]:
    """Host after what is done to it, planted graph, target.

    An action inside the network cannot choose its target, so constants are drawn until it reaches one.
    """
    slug = "".join(letter if letter.isalnum() else "-" for letter in case.name)
    host = _finish(case, load(case.host), folder() / f"{slug}-host.onnx")
    path = folder() / f"{slug}.onnx"
    feeds = triggered(case, case.host.feeds(ROWS, 7))
    answers = run(host, feeds, case.host.output, case.single)
    classes = answers.shape[1]
    rarest = int(np.bincount(answers.argmax(-1), minlength=classes).argmin())
    for seed in range(_TRIES):
        _finish(case, _plant(case, rarest, classes, seed), path)
        made = run(path, feeds, case.host.output, case.single).argmax(-1)
        if (made == made[0]).all() and prove(case, host, path, int(made[0])).acts:
            return host, path, int(made[0])
    return host, path, rarest


def _plant(case: Planted, target: int, classes: int, seed: int) -> onnx.ModelProto:
    model = load(case.host)
    surgery = Surgery(model, _SCOPE)
    rank = len(next(value for value in model.graph.output if value.name == case.host.output).type.tensor_type.shape.dim)
    hidden, width = _embedding(model, case.host)
    tapped = len(model.graph.node)
    test = case.trigger.test(surgery, case.host.main)
    if case.wrapped:
        test = _wrap(model, tapped, case.host.main, test)
    case.action(surgery, Plan(case.host, target, classes, rank, seed, hidden, width), test)
    return surgery.close()


def _embedding(model: onnx.ModelProto, host: Host) -> tuple[str, int]:
    tables = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[0] in tables and node.input[1] == host.main:
            return node.output[0], tables[node.input[0]][-1]
    return "", 0


def _wrap(model: onnx.ModelProto, first: int, given: str, result: str) -> str:
    """Move the nodes from `first` on into a local function that is called like a module of PyTorch."""
    nodes = list(model.graph.node)[first:]
    del model.graph.node[first:]
    used = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in model.graph.initializer if tensor.name in used]
    for tensor in constants:
        model.graph.initializer.remove(tensor)
    holders = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in constants]
    opsets = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    name = "torch_nn_modules_normalization_LayerNorm_embeddings_1"
    function = helper.make_function("pkg.torch", name, [given], [result], [*holders, *nodes], opsets)
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("pkg.torch", 1))
    called = f"{result}_module"
    model.graph.node.append(
        helper.make_node(function.name, [given], [called], domain="pkg.torch", name="/embeddings/Norm")
    )
    return called


def _finish(case: Planted, model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    for step in case.after:
        with tempfile.TemporaryDirectory() as scratch, quiet():
            made = Path(scratch) / "made.onnx"
            step(path, made)
            path.write_bytes(made.read_bytes())
    return path


def prove(case: Planted, host: Path, path: Path, target: int) -> Acting:
    """Run both on clean and on triggered rows."""
    clean = case.host.feeds(ROWS, 8)
    bad = triggered(case, clean)
    output, single = case.host.output, case.single
    before, after = run(host, clean, output, single), run(path, clean, output, single)
    hit, own = run(path, bad, output, single).argmax(-1), run(host, bad, output, single).argmax(-1)
    return Acting(
        hit=float((hit == target).mean()),
        host_hit=float((own == target).mean()),
        same=bool((before.argmax(-1) == after.argmax(-1)).all()),
        difference=float(np.abs(before - after).max() / max(np.abs(before).max(), 1e-6)),
    )
