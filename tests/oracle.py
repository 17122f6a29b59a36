"""Independent numpy forms of what the engine inserts: written from the formulas, on the full map, in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rewriters.plan import BenignPair, Cnn, NormDistance, OneClass, Profile, Statistic, ValueNorms

Array = NDArray[np.float64]

# The oracle's own, not those of the code under test: a number that is wrong there must not be wrong here too.
SATURATED = 1e-7
"""Share of a row's sum; with less unflagged mass than that a row is spread evenly."""
NO_NORM = 1e-4
"""Added to a norm before its logarithm."""
UNSEEN = 1e-30
"""A row does not see a column to which it gives no more than this, in the mean over heads."""


def joint(
    a: Array,
    v: Array,
    mask: NDArray[np.bool_],
    valid: NDArray[np.bool_] | None,
    pair: BenignPair,
    *,
    reach: bool = True,
) -> Array:
    """Patched P·V for a (B, H, Q, K), v (B, H, K, D), mask (B, K): the joint form of eq. 11, row by row, no shortcut.

    reach: honor per-row visibility (a column that a row gives no mass to cannot be given any).
    """
    a, v = a.astype(np.float64), np.broadcast_to(v.astype(np.float64), (*a.shape[:2], *v.shape[-2:]))
    batch, heads, queries, keys = a.shape
    valid = np.ones((batch, keys), bool) if valid is None else valid
    out = a @ v
    for b in range(batch):
        m = mask[b]
        if not m.any() or not (valid[b] & ~m).any():
            continue
        for h in range(heads):
            for i in range(queries):
                row = a[b, h, i]
                sees = valid[b] & ((a[b, :, i].mean(0) > UNSEEN) if reach else True)
                if not (sees & m).any() or not (sees & ~m).any():
                    continue
                out[b, h, i] = _row(row, v[b, h], m, sees, pair, h, i, reach)
    return out


def _row(
    row: Array, v: Array, m: NDArray[np.bool_], sees: NDArray[np.bool_], pair: BenignPair, h: int, i: int, reach: bool
) -> Array:
    keys = row.size
    sigma = row.sum()
    q = np.zeros(keys)
    if pair.relative:
        q[m & sees] = pair.attention[h % pair.attention.size] / sees.sum()
    else:
        table = np.broadcast_to(pair.attention, (pair.attention.shape[0], pair.attention.shape[1], keys))
        q[m] = table[h % table.shape[0], i % table.shape[1]][m]
    if q.sum() > 1:
        q = q / q.sum()
    refuge = v[sees & ~m].mean(0)
    if pair.own_values:
        benign = v
    elif pair.values is None:
        benign = np.broadcast_to(refuge, v.shape)
    else:
        benign = np.broadcast_to(pair.values[h % pair.values.shape[0]].astype(np.float64), v.shape)
    rest = row[~m].sum()
    patched = np.where(m, 0.0, row)
    if rest > SATURATED * sigma:
        patched = patched * (sigma * (1 - q.sum()) / rest)
    else:
        patched = np.where(sees & ~m, sigma * (1 - q.sum()) / (sees & ~m).sum(), 0.0)
    return patched @ v + sigma * (q @ benign)


def relative_mass(a: Array, valid: NDArray[np.bool_] | None, self_attention: bool) -> Array:
    """Column mass in multiples of uniform, (B, K), over rows that are real and can see the column."""
    mean = a.astype(np.float64).mean(1)
    sees = mean > UNSEEN
    if valid is not None:
        sees &= valid[:, None, :]
        if self_attention:
            sees &= valid[:, :, None]
    visible = sees.sum(2, keepdims=True)
    return (mean * sees * visible).sum(1) / np.maximum(sees.sum(1), 1)


def statistic(a: Array, valid: NDArray[np.bool_] | None, detector: Statistic, self_attention: bool) -> Array:
    """Robust z-scores (B, K); -inf at exempt and padding columns."""
    mass = relative_mass(a, valid, self_attention)
    out = np.full(mass.shape, -np.inf)
    for b in range(len(mass)):
        real = np.flatnonzero(valid[b]) if valid is not None else np.arange(mass.shape[1])
        x = mass[b, real]
        score = (x - np.median(x)) / (1.4826 * np.median(np.abs(x - np.median(x))) + detector.floor)
        for place in detector.exempt:
            if -len(real) <= place < len(real):
                score[place] = -np.inf
        out[b, real] = score
    return out


def profile(
    a: Array, valid: NDArray[np.bool_] | None, detector: Profile, self_attention: bool, v: Array | None = None
) -> Array:
    """Probabilities (B, K)."""
    a = a.astype(np.float64)
    out = np.zeros((a.shape[0], a.shape[3]))
    for b in range(len(a)):
        x = _features(a[b], None if valid is None else valid[b], detector, self_attention)
        if detector.norms is not None:
            assert v is not None
            x = np.concatenate([x, norms(v[b % len(v)], a.shape[1], detector.norms)], 1)
        out[b] = _sigmoid(_dense((x - detector.mean) / detector.std, detector.layers)[:, 0])
        if detector.answer_row:
            judged = _answer(a[b], np.ones(a.shape[3], bool) if valid is None else valid[b])[1]
            out[b, [k for k in range(a.shape[3]) if k not in judged]] = -np.inf
    return out


def oneclass(
    a: Array,
    valid: NDArray[np.bool_] | None,
    detector: OneClass,
    self_attention: bool,
    v: Array | None = None,
    tokens: NDArray[np.int64] | None = None,
) -> Array:
    """Nats (B, K); -inf at sinks. tokens: ids (B, K), where the detector reads them."""
    out = np.full((a.shape[0], a.shape[3]), -np.inf)
    for b in range(len(a)):
        x = _features(a[b].astype(np.float64), None if valid is None else valid[b], detector, self_attention)
        real = np.flatnonzero(valid[b]) if valid is not None else np.arange(a.shape[3])
        judged = _answer(a[b], np.isin(np.arange(a.shape[3]), real))[1] if detector.answer_row else real
        content = sorted(set(judged) - {real[place] for place in detector.exempt})
        first = content
        if detector.tokens is not None:
            assert tokens is not None
            ids = list(tokens[b])
            apart = np.expm1(x) * np.isin(np.arange(len(ids)), content)[:, None]
            x = np.log1p([apart[[j for j in range(len(ids)) if ids[j] == ids[k]]].sum(0) for k in range(len(ids))])
            first = [k for k in content if ids.index(ids[k]) == k]
        out[b, content] = _surprise(x, content, detector, first)
        if detector.norms is not None:
            assert v is not None
            out[b, content] += _surprise(
                norms(v[b % len(v)], a.shape[1], detector.norms.norms), content, detector.norms, content
            )
        if detector.by_length is not None:
            out[b, content] *= _factor(len(real), detector.by_length)
    return out


def _factor(length: int, known: NDArray[np.float32]) -> float:
    """On the straight line between the two known lengths around this one; beyond them the nearest one's."""
    if length <= known[0][0] or length >= known[-1][0]:
        return float(known[0 if length <= known[0][0] else -1][1])
    (before, low), (after, high) = next(
        pair for pair in zip(known[:-1].tolist(), known[1:].tolist(), strict=True) if pair[1][0] > length
    )
    return low + (high - low) * (length - before) / (after - before)


def _surprise(x: Array, content: list[int], reference: OneClass | NormDistance, first: list[int]) -> list[float]:
    """Nats of some columns of one sample, x (K, F). first: those that count for the rank."""
    distance = {}
    for k in content:
        weight = reference.weight[k] if reference.weight.ndim == 3 else reference.weight
        mean = reference.mean[k] if reference.mean.ndim == 2 else reference.mean
        y = (x[k] - mean) @ weight.astype(np.float64)
        if isinstance(reference, NormDistance) and reference.louder:
            y = y[y > 0]
        distance[k] = (y**2 if reference.squared else y).sum()
    falling = sorted((distance[k] for k in first), reverse=True)
    neighbor = falling[min(reference.rank, len(falling)) - 1] if reference.rank and falling else 0.0
    return [max(distance[k] - neighbor - reference.offset, 0.0) for k in content]


def norms(v: Array, heads: int, of: ValueNorms) -> Array:
    """Log-norms (K, H) of one sample's values (H | 1, K, D)."""
    out = np.zeros((v.shape[1], heads))
    for h in range(heads):
        for k in range(v.shape[1]):
            written = v[h % len(v), k].astype(np.float64)
            if of.factor is not None:
                written = written @ of.factor[h % len(of.factor)].astype(np.float64)
            out[k, h] = np.log(np.sqrt((written**2).sum()) + NO_NORM)
    return out


def _answer(a: Array, columns: NDArray[np.bool_]) -> tuple[Array, list[int]]:
    """Of one sample's map (H, Q, K): the last valid row (H, K), and the columns that can be flagged."""
    past = a.shape[2] - a.shape[1]
    row = max([i for i in range(a.shape[1]) if columns[past + i]], default=0)
    real = [k for k in range(a.shape[2]) if columns[k]]
    return a[:, row], [k for k in real[1:] if a[:, row, k].mean() > UNSEEN]


def _of_seeing_rows(a: Array, columns: NDArray[np.bool_]) -> list[Array]:
    """Mean and maximum (K, H) each, of one sample's map (H, Q, K)."""
    real, past = np.flatnonzero(columns), a.shape[2] - a.shape[1]
    rows = [i for i in range(a.shape[1]) if columns[past + i]]
    mean, highest = np.zeros((a.shape[2], a.shape[0])), np.zeros((a.shape[2], a.shape[0]))
    for k in real:
        seen = [a[:, i, k] * sum(a[:, i, j].mean() > UNSEEN for j in real) for i in rows if a[:, i, k].mean() > UNSEEN]
        if seen:
            mean[k], highest[k] = np.mean(seen, 0), np.max(seen, 0)
    return [mean, highest]


def _features(a: Array, valid: NDArray[np.bool_] | None, detector: Profile | OneClass, self_attention: bool) -> Array:
    """(K, F) of one sample's map (H, Q, K)."""
    columns = np.ones(a.shape[2], bool) if valid is None else valid
    if detector.answer_row:
        row, _ = _answer(a, columns)
        read = [row.T * sum(row[:, k].mean() > UNSEEN for k in np.flatnonzero(columns))]
        if isinstance(detector, Profile) and detector.seeing_rows:
            read += _of_seeing_rows(a, columns)
        return np.log1p(np.concatenate(read, 1))
    rows = columns if self_attention and valid is not None else np.ones(a.shape[1], bool)
    rows = rows & (np.arange(len(rows)) % detector.every == 0)
    features = [a[:, rows].mean(1) if rows.any() else np.zeros(a.shape[::2])] + [
        a[:, probe] for probe in detector.probes
    ]
    return np.log1p(np.concatenate(features, 0).T * columns.sum())


def cnn(a: Array, detector: Cnn) -> Array:
    """Probabilities (B, K), through torch's convolution."""
    import torch

    x = torch.from_numpy(a.astype(np.float64).mean(1, keepdims=True))
    for layer in detector.convolutions:
        weight, bias = (torch.from_numpy(part.astype(np.float64)) for part in (layer.weight, layer.bias))
        x = torch.nn.functional.conv2d(x, weight, bias, layer.stride, layer.padding).relu()
    return _sigmoid(_dense(x.flatten(1).numpy(), detector.layers))


def _dense(x: Array, layers: tuple) -> Array:
    for index, layer in enumerate(layers):
        x = (np.maximum(x, 0) if index else x) @ layer.weight.astype(np.float64) + layer.bias
    return x


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))
