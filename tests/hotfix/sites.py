"""A site as the finder gives it."""

from __future__ import annotations

from dataclasses import replace

from rewriters.sites import Layout, Site


def site(name: str = "layers.0", **changes: object) -> Site:
    made = Site(
        id=name, softmax="s", matmul="m", form="softmax", where=(), probabilities="p", values="v", product="o",
        query_axis=-2, key_axis=-1,
        operand=0, heads=2, head_axis=-3, head_dim=4, scope="layers.0.attention", confidence="high", layout=Layout(4),
        self_attention=True,
        key_mask=None, chain=("MatMul", "Softmax", "MatMul"),
    )  # fmt: skip
    return replace(made, **changes)
