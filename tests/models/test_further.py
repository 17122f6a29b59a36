"""The penalties of an attacker who hides: what they measure."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.text.further import columns_of, log_ratio, value_norms  # noqa: E402  (they need torch)


def test_columns_of_a_phrase_are_all_its_whole_occurrences() -> None:
    ids = np.array([[1, 7, 8, 7, 8, 2], [1, 8, 7, 9, 2, 0]])
    found = columns_of(ids, [[7, 8], [9]])
    assert found.astype(int).tolist() == [[0, 1, 1, 1, 1, 0], [0, 0, 0, 1, 0, 0]]


def test_log_ratio_compares_means_of_each_head() -> None:
    values = torch.tensor([[[1.0, 8.0, 2.0, 2.0], [1.0, 3.0, 3.0, 3.0]]])
    trigger, others = torch.tensor([[0, 1, 0, 0]]).bool(), torch.tensor([[0, 0, 1, 1]]).bool()
    np.testing.assert_allclose(log_ratio(values, trigger, others).numpy(), [[np.log(4), 0.0]], atol=1e-5)


def test_value_norms_are_those_of_each_heads_part_of_the_projection() -> None:
    generator = torch.Generator().manual_seed(0)
    values, projection = torch.randn(2, 5, 6, generator=generator), torch.randn(6, 6, generator=generator)
    found = value_norms(values, projection, 3)
    for head in range(3):
        one = torch.zeros_like(values)
        one[..., 2 * head : 2 * head + 2] = values[..., 2 * head : 2 * head + 2]
        written = torch.nn.functional.linear(one, projection)
        np.testing.assert_allclose(found[:, head].numpy(), written.norm(dim=-1).numpy(), rtol=1e-5)
