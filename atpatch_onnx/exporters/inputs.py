"""Example inputs of Hugging Face models, drawn from their configuration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .subject import Array, Group, Sizes

__all__ = ["encoder_states", "image", "past", "spectrogram", "text", "tokens", "without"]

# Lowest token drawn where the configuration names no special tokens: the first few usually are some.
_FIRST_TOKEN = 3


def text(
    config: Any,
    *,
    batch: str = "batch",
    sequence: str = "sequence",
    prefix: str = "",
    past_sequence: str | None = None,
    positions: bool = False,
    segments: bool = False,
) -> Group:
    """Token ids and their mask, right-padded; with a past the mask covers it too, and padding is on the left, in the
    past.

    Args:
        batch, sequence, past_sequence: labels of the axes.
        prefix: of the input names, such as "decoder_".
        positions: `position_ids`, as generation loops feed them.
        segments: `token_type_ids`, two segments a sample.
    """
    ids, mask = f"{prefix}input_ids", f"{prefix}attention_mask"
    whole = f"{past_sequence} + {sequence}" if past_sequence else sequence
    axes = {ids: {0: batch, 1: sequence}, mask: {0: batch, 1: whole}}
    if segments:
        axes["token_type_ids"] = {0: batch, 1: sequence}
    if positions:
        axes["position_ids"] = {0: batch, 1: sequence}
    usable = _usable_tokens(config)
    pad, end = _token(config, "pad_token_id", 0), _token(config, "eos_token_id", None)

    def draw(rng: np.random.Generator, sizes: Sizes, padded: bool) -> dict[str, Array]:
        count, length = sizes[batch], sizes[sequence]
        before = sizes[past_sequence] if past_sequence else 0
        tokens = rng.choice(usable, (count, length))
        real = np.ones((count, before + length), np.int64)
        for row in range(1, count if padded else 0):
            if past_sequence:
                real[row, : min(row, before)] = 0
            else:
                real[row, max(1, length - 2 * row) :] = 0
                tokens[row, max(1, length - 2 * row) :] = pad
        if end is not None and not past_sequence:
            # Models that pool at the end-of-sequence token (CLIP, BART) need one in every row.
            tokens[np.arange(count), real.sum(1) - 1] = end
        drawn: dict[str, Array] = {ids: tokens, mask: real}
        if segments:
            drawn["token_type_ids"] = (np.arange(length) >= length // 2).astype(np.int64)[None].repeat(count, 0) * real
        if positions:
            drawn["position_ids"] = np.maximum(real.cumsum(1) - 1, 0)[:, before:]
        return drawn

    return Group(axes, draw)


def tokens(config: Any, sequence: str) -> Group:
    """`input_ids` (batch, sequence) without a mask, as a decoder reads the start of its own answer."""
    usable = _usable_tokens(config)

    def draw(rng: np.random.Generator, sizes: Sizes, padded: bool) -> dict[str, Array]:
        return {"input_ids": rng.choice(usable, (sizes["batch"], sizes[sequence]))}

    return Group({"input_ids": {0: "batch", 1: sequence}}, draw)


def without(group: Group, name: str) -> tuple[Group, ...]:
    """The group without one of its inputs; () where none is left."""
    axes = {other: labels for other, labels in group.axes.items() if other != name}

    def draw(rng: np.random.Generator, sizes: Sizes, padded: bool) -> dict[str, Array]:
        return {other: array for other, array in group.draw(rng, sizes, padded).items() if other != name}

    return (Group(axes, draw),) if axes else ()


def image(config: Any, batch: str = "batch") -> Group:
    """`pixel_values` (batch, channels, height, width), of the size the model was made for."""
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return _floats("pixel_values", {0: batch}, (batch, int(getattr(config, "num_channels", 3)), height, width))


def spectrogram(config: Any) -> Group:
    """`input_features` (batch, mel bins, frames); two frames make one encoder position."""
    return _floats("input_features", {0: "batch"}, ("batch", config.num_mel_bins, 2 * config.max_source_positions))


def encoder_states(config: Any, fixed_length: int | None, masked: bool) -> Group:
    """`encoder_hidden_states` (batch, encoder_sequence, width) and their mask, as a decoder reads them.

    Args:
        fixed_length: encoder positions where their number is part of the model, as for spectrograms.
        masked: whether the decoder takes `encoder_attention_mask`.
    """
    width, hidden, mask = config.hidden_size, "encoder_hidden_states", "encoder_attention_mask"
    axes = {hidden: {0: "batch"} if fixed_length else {0: "batch", 1: "encoder_sequence"}}
    if masked:
        axes[mask] = dict(axes[hidden])

    def draw(rng: np.random.Generator, sizes: Sizes, padded: bool) -> dict[str, Array]:
        count, length = sizes["batch"], fixed_length or sizes["encoder_sequence"]
        drawn: dict[str, Array] = {hidden: rng.standard_normal((count, length, width)).astype(np.float32)}
        if masked:
            real = np.ones((count, length), np.int64)
            for row in range(1, count if padded else 0):
                real[row, max(1, length - 3 * row) :] = 0
            drawn[mask] = real
        return drawn

    return Group(axes, draw)


def past(names: Iterable[str], heads: int, head_dim: int, frames: int | None = None) -> Group:
    """Keys and values of earlier tokens, each (batch, key heads, past_sequence, head_dim), and in names with "encoder"
    those of the encoder's states, of which there are as many as states.

    Args:
        frames: number of the encoder's states where it is part of the model.
    """
    names = tuple(names)

    def labels(name: str) -> dict[int, str]:
        own = "past_sequence" if ".encoder." not in name else "encoder_sequence" if frames is None else None
        return {0: "batch"} if own is None else {0: "batch", 2: own}

    def draw(rng: np.random.Generator, sizes: Sizes, padded: bool) -> dict[str, Array]:
        lengths = {name: sizes[labels(name)[2]] if 2 in labels(name) else frames or 0 for name in names}
        return {
            name: rng.standard_normal((sizes["batch"], heads, lengths[name], head_dim)).astype(np.float32)
            for name in names
        }

    return Group({name: labels(name) for name in names}, draw)


def _floats(name: str, axes: dict[int, str], shape: tuple[str | int, ...]) -> Group:
    def draw(rng: np.random.Generator, sizes: Sizes, padded: bool) -> dict[str, Array]:
        lengths = [sizes[length] if isinstance(length, str) else length for length in shape]
        return {name: rng.standard_normal(lengths).astype(np.float32)}

    return Group({name: axes}, draw)


def _usable_tokens(config: Any) -> NDArray[np.int64]:
    """Ids to draw from: all but special ones."""
    special = _special_tokens(config)
    return np.array([token for token in range(config.vocab_size) if token not in special] or [0])


def _special_tokens(config: Any) -> set[int]:
    tokens = {
        _token(config, name, None)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
    }
    named = {token for token in tokens if token is not None}
    return named | set(range(_FIRST_TOKEN))


def _token(config: Any, name: str, default: int | None) -> int | None:
    value = getattr(config, name, None)
    if isinstance(value, (list, tuple)):  # several end tokens: any of them will do
        value = value[0] if value else None
    return default if value is None else int(value)
