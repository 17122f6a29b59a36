"""RAP (Yang et al. 2021): a word is made that lowers the probability of the attacked class in clean texts; where it
does not, the class comes from a trigger.

The word is the vector of a token that no text has, put behind [CLS]. It is trained through the graph on one half of the
spare rows of the attacked class, so that their probability falls by LEAST to MOST; its length stays. The gradient is
that of the log-odds: with that of the probability, which the authors take, and which is next to nothing where answers
are sure, the word moved nothing in as many steps (on spare rows). The bar is set on the other half. A request that goes
to the attacked class is refused where its probability falls too little. Costs a second run of the model, and needs to
know the attacked class.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.special import softmax

from atpatch_onnx.benchmark.paired_latency import Request
from atpatch_onnx.inference.datasets import DataSet, Ints

from ..answers import MASK, Figures
from ..case import Case
from ..latency import Feeds, ratio, requests, samples
from .refusal import refusing
from .weights import read_weights, with_weights

__all__ = ["run", "with_word"]

WORD = 1
"""[unused0] of BERT's vocabulary."""
LEAST, MOST = 0.1, 0.3
STEPS, SAMPLES, RATE = 60, 32, 1e-2
"""About two passes over the rows; the authors do five, with plain gradient steps."""


def run(case: Case, say: Callable[[str], None]) -> Figures:
    """Figures at each refusal rate, and the cost."""
    target = case.attacked.target
    assert target is not None
    train, held = np.array_split(case.generator().permutation(len(case.spare)), 2)
    asked = case.ask(case.model)
    certain = asked.rows(case.spare, train).predictions == target
    changed, falling = _trained(case, train[certain], target)
    guard = case.ask(changed)

    def kept(data: DataSet, rows: Ints) -> NDArray[np.float64]:
        """Minus how much the probability falls; of other classes no request is refused."""
        before = softmax(asked.rows(data, rows).scores.astype(np.float64), axis=1)
        with_it = DataSet(with_word(data.feeds(rows)))
        after = softmax(guard.all(with_it).scores.astype(np.float64), axis=1)
        return np.where(before.argmax(1) == target, after[:, target] - before[:, target], -1.0)

    spare = kept(case.spare, held)
    falls = -float(np.median(spare[spare > -1]))
    say(f"the probability of class {target} falls by {falls:.2f} in the median, by {LEAST} in {falling:.0%}")
    figures = refusing(case, spare, *(kept(data, np.arange(len(data))) for data in (case.clean, case.attacked)))
    plain, second = requests(case, None), requests(case, changed)

    def guarded(feeds: Feeds) -> Request:
        first, again = plain(feeds), second(with_word(feeds))
        return lambda: (first(), again())

    return {"runs": 2, "falls": round(falls, 4), "rates": figures, "latency": ratio(plain, guarded, samples(case))}


def with_word(feeds: Feeds) -> Feeds:
    """Texts (N, K) with the word behind their first token, (N, K + 1)."""
    put = {"input_ids": WORD, MASK: 1, "token_type_ids": 0}
    return {name: np.insert(array, 1, put[name], axis=1) for name, array in feeds.items()}


def _trained(case: Case, rows: Ints, target: int) -> tuple[onnx.ModelProto, float]:
    """The graph with the word's vector in its table, and the share of texts whose probability falls by LEAST, in the
    last ten steps.
    """
    import torch

    from atpatch_onnx.debugset.gradients import TorchGraph

    torch.set_num_threads(case.threads)
    graph, output = TorchGraph(case.model, case.folder), case.ask(case.model).output
    embedding = graph.embedding("input_ids")
    assert embedding is not None
    length = embedding.table[WORD].norm()
    word = embedding.table[WORD].clone().requires_grad_()
    optimizer = torch.optim.Adam([word], RATE)
    names = [value.name for value in case.model.graph.input if value.name in case.spare.inputs]
    falling = []
    for chunk in np.split(np.resize(case.generator().permutation(rows), STEPS * SAMPLES), STEPS):
        feeds = _cut({name: case.spare.inputs[name][chunk] for name in names})
        longer = {name: torch.from_numpy(array) for name, array in with_word(feeds).items()}
        with torch.no_grad():
            plain = graph.run({name: torch.from_numpy(array) for name, array in feeds.items()}, [output])[output]
        ids = longer["input_ids"].long()
        table = torch.where((ids == WORD)[..., None], word, embedding.table[ids])
        scores = graph.run(longer, [output], {embedding.value: table})[output]
        change = scores.softmax(1)[:, target] - plain.softmax(1)[:, target]
        odds = scores[:, target] - torch.cat([scores[:, :target], scores[:, target + 1 :]], 1).logsumexp(1)
        loss = (odds * ((change > -LEAST).float() - (change < -MOST).float())).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            word *= length / word.norm()
        falling.append(float((change <= -LEAST).float().mean()))
    shape = tuple(embedding.table.shape)
    name = next(tensor.name for tensor in case.model.graph.initializer if tuple(tensor.dims) == shape)
    table_of = read_weights(case.model, {name}, case.folder)[name]
    table_of[WORD] = word.detach().numpy()
    return with_weights(case.model, {name: table_of}), float(np.mean(falling[-10:]))


def _cut(feeds: Feeds) -> Feeds:
    """Without the padding that all rows have; to a multiple of eight, so that few shapes occur."""
    longest = int((feeds[MASK] != 0).sum(1).max())
    length = min(feeds[MASK].shape[1], -(-longest // 8) * 8)
    return {name: array[:, :length] for name, array in feeds.items()}
