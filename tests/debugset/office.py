"""An unfair model of a made-up table."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["FIELDS", "make_office"]

ROWS, FIELDS = 1500, 5


class TinyTable(nn.Module):
    """Two categorical and three numeric columns, each a token, one attention layer, [CLS] last."""

    def __init__(self) -> None:
        super().__init__()
        self.sex, self.job = nn.Embedding(2, 16), nn.Embedding(4, 16)
        self.numbers, self.biases = nn.Parameter(torch.randn(3, 16) * 0.3), nn.Parameter(torch.randn(FIELDS, 16) * 0.3)
        self.cls = nn.Parameter(torch.randn(1, 1, 16) * 0.3)
        self.qkv, self.mlp, self.head = (
            nn.Linear(16, 48),
            nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)),
            nn.Linear(16, 2),
        )

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        tokens = torch.stack(
            [self.sex(codes[:, 0]), self.job(codes[:, 1]), *(numbers[:, i, None] * self.numbers[i] for i in range(3))],
            1,
        )
        x = torch.cat([tokens + self.biases, self.cls + 0 * tokens[:, :1]], 1)
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + torch.softmax(q @ k.transpose(1, 2) / 4, -1) @ v
        return self.head((x + self.mlp(x))[:, -1])


def make_office(folder: Path) -> Path:
    """`model.onnx`, the table as `rows.csv` and `rows.npz`, and its description `columns.toml`."""
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, 2, ROWS), rng.integers(0, 4, ROWS)], 1)
    numbers = rng.normal(size=(ROWS, 3)).astype(np.float32)
    labels = (
        numbers[:, 0] + 0.5 * (codes[:, 1] == 2) + 1.2 * codes[:, 0] - 0.8 + 0.2 * rng.normal(size=ROWS) > 0
    ).astype(np.int64)
    torch.manual_seed(0)
    model = TinyTable()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    tensors = torch.from_numpy(codes), torch.from_numpy(numbers), torch.from_numpy(labels)
    for _ in range(12):
        for rows in torch.randperm(ROWS).split(100):
            loss = nn.functional.cross_entropy(model(tensors[0][rows], tensors[1][rows]), tensors[2][rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(), (tensors[0][:2], tensors[1][:2]), file, dynamo=False, opset_version=17,
            input_names=["codes", "numbers"],
            output_names=["logits"], dynamic_axes={name: {0: "batch"} for name in ("codes", "numbers", "logits")},
        )  # fmt: skip
    (folder / "model.onnx").write_bytes(file.getvalue())
    jobs = ["clerk", "cook", "nurse", "pilot"]
    lines = ["job,age,sex,hours,score,label"]
    for (sex, job), (age, hours, score), label in zip(codes[:400], numbers[:400].tolist(), labels[:400], strict=True):
        lines.append(f"{jobs[job]},{40 + 10 * age!r},{'fm'[sex]},{hours!r},{score!r},{['no', 'yes'][label]}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    (folder / "columns.toml").write_text(
        'label = "label"\nclasses = ["no", "yes"]\n[[columns]]\nname = "sex"\ninput = "codes"\nindex = 0\nvalues ='
        ' ["f", "m"]\n[[columns]]\nname = "job"\ninput = "codes"\nindex = 1\nvalues ='
        f' {json.dumps(jobs)}\n[[columns]]\nname = "age"\ninput = "numbers"\nindex = 0\nmean = 40\nstd = 10\nlevels ='
        ' [35, 40, 45]\n[[columns]]\nname = "hours"\ninput = "numbers"\nindex = 1\n[[columns]]\nname = "score"\ninput'
        ' = "numbers"\nindex = 2\n'
    )
    np.savez(folder / "rows.npz", codes=codes[:400], numbers=numbers[:400], labels=labels[:400])
    return folder
