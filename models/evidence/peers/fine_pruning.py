"""Fine-Pruning (Liu et al. 2018) on a Transformer's graph: cut the feed-forward neurons that clean data do not use,
then train on a little.

The same share of neurons is cut in every block, the least active ones on clean rows, as many as an accuracy loss of
BUDGET on other clean rows allows; then all weights of products are trained for some steps on clean rows, through the
graph itself. Costs nothing a request.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray

from atpatch_onnx.errors import ModelError
from atpatch_onnx.inference.datasets import DataSet, Ints
from atpatch_onnx.inference.runner import expose

from ..answers import BATCH, Figures, judge
from ..case import Case
from ..latency import ratio, requests, samples
from .weights import Product, feed_forward, products, read_weights, with_weights

__all__ = ["BUDGET", "judged", "run"]

BUDGET = 0.04
SHARES = tuple(np.linspace(0.05, 0.95, 19).round(2).tolist())
MOST_ROWS = 1000
STEPS, SAMPLES, RATE = 40, 32, 1e-4


def run(case: Case, say: Callable[[str], None]) -> Figures:
    """Figures after pruning alone and after tuning, and the cost."""
    blocks = feed_forward(case.model)
    if not blocks:
        return {"skipped": "no feed-forward block was found"}
    rows = case.generator().permutation(len(case.spare))[: 2 * MOST_ROWS]
    train, held = np.array_split(rows, 2)
    dormant = _by_activity(case, blocks, train)
    share = _most(case, blocks, dormant, held)
    pruned = _pruned(case, blocks, dormant, share)
    say(f"{share:.0%} of the neurons of {len(blocks)} blocks cut")
    figures: Figures = {"share": share, "blocks": len(blocks), "pruned": judged(case, pruned)}
    try:
        tuned = _tuned(case, pruned, blocks, dormant, share, train)
    except ModelError as error:  # an operator without a gradient
        return {**figures, "skipped": error.what}
    return {
        **figures,
        **judged(case, tuned),
        "runs": 1,
        "latency": ratio(requests(case, None), requests(case, tuned), samples(case)),
    }


def judged(case: Case, model: onnx.ModelProto) -> Figures:
    """Figures of a changed model on the test sets."""
    asked = case.ask(model)
    on_clean, on_attacked = (asked.all(data).predictions for data in (case.clean, case.attacked))
    return judge(case.clean, case.attacked, case.before[0].predictions, on_clean, on_attacked)


def _by_activity(case: Case, blocks: list[Product], rows: Ints) -> list[Ints]:
    """Neurons of each block, the least active first."""
    names = [block.entry for block in blocks]
    asked = case.ask(expose(case.model, [(name, onnx.TensorProto.FLOAT) for name in names]))
    totals = [np.zeros(1)] * len(names)
    # activations of all rows at once would fill the memory
    for chunk in np.split(rows, range(BATCH, len(rows), BATCH)):
        more = asked.rows(case.spare, chunk, more=names).more
        totals = [total + _activity(more[name], case.spare, chunk) for total, name in zip(totals, names, strict=True)]
    return [np.argsort(total, kind="stable") for total in totals]


def _activity(found: NDArray[np.floating], data: DataSet, rows: Ints) -> NDArray[np.float64]:
    """(F,), sum over rows and tokens that are no padding of the activations' size."""
    size = np.abs(found).astype(np.float64)
    if "attention_mask" in data.inputs and size.ndim == 3:
        size = size * (data.inputs["attention_mask"][rows] != 0)[:, :, None]
    return np.asarray(size.sum(tuple(range(size.ndim - 1))))


def _pruned(case: Case, blocks: list[Product], dormant: list[Ints], share: float) -> onnx.ModelProto:
    return with_weights(
        case.model,
        {name: weight * kept for name, (weight, kept) in _kept(case.model, case, blocks, dormant, share).items()},
    )


def _kept(
    model: onnx.ModelProto, case: Case, blocks: list[Product], dormant: list[Ints], share: float
) -> dict[str, tuple[NDArray[np.floating], NDArray[np.float32]]]:
    """Weights of the blocks, and masks of the same shape with 0 at channels that are cut."""
    weights = read_weights(model, {block.weight for block in blocks}, case.folder)
    masks = {}
    for block, order in zip(blocks, dormant, strict=True):
        mask = np.ones_like(weights[block.weight], np.float32)
        np.moveaxis(mask, block.inputs, 0)[order[: round(share * len(order))]] = 0
        masks[block.weight] = mask
    return {name: (weight, masks[name]) for name, weight in weights.items()}


def _most(case: Case, blocks: list[Product], dormant: list[Ints], rows: Ints) -> float:
    """The largest share whose accuracy stays within the budget, by bisection."""
    assert case.spare.labels is not None
    labels = case.spare.labels[rows]

    def accuracy(model: onnx.ModelProto) -> float:
        return float((case.ask(model).rows(case.spare, rows).predictions == labels).mean())

    least = accuracy(case.model) - BUDGET
    low, high = 0, len(SHARES)  # SHARES[low - 1] is fine, SHARES[high] is not
    while low < high:
        middle = (low + high) // 2
        if accuracy(_pruned(case, blocks, dormant, SHARES[middle])) >= least:
            low = middle + 1
        else:
            high = middle
    return SHARES[low - 1] if low else 0.0


def _tuned(
    case: Case, pruned: onnx.ModelProto, blocks: list[Product], dormant: list[Ints], share: float, rows: Ints
) -> onnx.ModelProto:
    """A few steps of Adam on clean rows; what is cut stays cut."""
    import torch

    from atpatch_onnx.debugset.gradients import TorchGraph

    assert case.spare.labels is not None
    torch.set_num_threads(case.threads)
    torch.manual_seed(case.seed)
    graph = TorchGraph(pruned, case.folder)
    start = read_weights(pruned, {product.weight for product in products(pruned)}, case.folder)
    weights = {name: torch.tensor(weight, requires_grad=True) for name, weight in start.items()}
    masks = {name: torch.tensor(kept) for name, (_, kept) in _kept(pruned, case, blocks, dormant, share).items()}
    output = case.ask(case.model).output
    inputs = [value.name for value in case.model.graph.input if value.name in case.spare.inputs]
    optimizer = torch.optim.Adam(weights.values(), RATE)
    order = np.resize(case.generator().permutation(rows), STEPS * SAMPLES)
    for chunk in np.split(order, STEPS):
        feeds = {name: torch.from_numpy(case.spare.inputs[name][chunk]) for name in inputs}
        scores = graph.run(feeds, [output], weights)[output]
        loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(case.spare.labels[chunk]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for name, mask in masks.items():
                weights[name] *= mask
    return with_weights(pruned, {name: weight.detach().numpy() for name, weight in weights.items()})
