"""Where an attack lives: attention to the labeled columns, site by site, beside attention to the others."""

from __future__ import annotations

from typing import Any

import numpy as np

from atpatch_onnx.inference.capture import Capture
from atpatch_onnx.inference.datasets import load_dataset
from rewriters.finding.finder import find_sites
from rewriters.model import io as model_io

from ..victims import Victim

__all__ = ["MOST", "attention_levels"]

MOST = 400
"""Attacked rows looked at."""


def attention_levels(victim: Victim) -> list[dict[str, Any]]:
    """Per site, on attacked rows of the debugging set, relative to uniform attention (1 = as much as every valid token
    gets).

    Each is a mean over heads and rows: the mean over all valid query rows, and the row of [CLS] alone, of labeled
    columns (`trigger`) and of the sentence's other tokens ([CLS] and [SEP] left out, `benign`). `trigger_top`: share of
    rows whose largest column mean among the sentence's tokens is a labeled one.
    """
    data = load_dataset(victim.file("debug.npz"))
    assert data.columns is not None
    model = model_io.load(victim.file("model.onnx"))
    sites, _ = find_sites(model)
    capture = Capture(model, victim.folder, sites, data, data.columns.shape[1], threads=1)
    sums: dict[str, np.ndarray] = {}
    attacked = np.flatnonzero(data.columns.any(1))[:MOST]
    for rows, batch in capture.batches(data, attacked):
        for name, site in batch.items():
            length = site.valid.sum(1)
            weights = site.valid / length[:, None]
            mean = np.einsum("bq,bhqk->bk", weights, site.map) / site.map.shape[1] * length[:, None]
            cls = site.map[:, :, 0].mean(1) * length[:, None]
            tokens = site.valid.copy()
            tokens[:, 0] = False
            tokens[np.arange(len(rows)), length - 1] = False
            labeled, others = data.columns[rows] & tokens, tokens & ~data.columns[rows]
            top = np.where(tokens, mean, -np.inf).argmax(1)
            found = [mean[labeled], mean[others], cls[labeled], cls[others], labeled[np.arange(len(rows)), top]]
            sums[name] = sums.get(name, 0) + np.array([(values.sum(), values.size) for values in found])
    names = ("trigger", "benign", "cls_trigger", "cls_benign", "trigger_top")
    return [
        {"site": name, **{key: round(float(s / n), 3) for key, (s, n) in zip(names, total, strict=True)}}
        for name, total in sums.items()
    ]
