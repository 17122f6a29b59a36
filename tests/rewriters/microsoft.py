"""Single-operator graphs of `com.microsoft` attention, and what each computes, in numpy from the operators'
documentation.

`CASES` is the table. Sizes: B samples, S query rows, T key columns, P cached columns, N heads, M key heads, H head
size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["CASES", "GROUPED", "Case", "N", "Truth", "case", "one_node"]

Array = NDArray[Any]

B, S, N, H = 3, 6, 4, 16
M, P, L, BUFFER = 2, 3, 7, 12
FILTER = -10000.0


@dataclass(frozen=True)
class Truth:
    """Map (B, N, S, T) and values (B, N, T, D), float64."""

    map: Array
    values: Array

    @property
    def output(self) -> Array:
        """(B, S, N·D)."""
        product = self.map @ self.values
        return product.transpose(0, 2, 1, 3).reshape(product.shape[0], product.shape[2], -1)


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        id: operator and variant.
        model: one node, from graph inputs (and constants) to all outputs asked for; `out` is the first.
        feeds: graph inputs.
        truth: what the node computes.
        key_mask: graph input that the site names as its mask.
        self_attention: what the site says.
        valid: (B, T) columns that are real.
    """

    id: str
    model: onnx.ModelProto
    feeds: dict[str, Array]
    truth: Truth
    key_mask: str | None = None
    self_attention: bool = True
    valid: Array | None = None

    @property
    def sound(self) -> Array:
        """(B, S) query rows that see a real column.

        Others add -10000 to all they see, which costs float32 three digits.
        """
        if self.valid is None:
            return np.ones(self.truth.map.shape[::2], bool)
        rows = self.truth.map.mean(1)
        return (rows * self.valid[:, None]).sum(-1) > 0.5 * rows.sum(-1)


def heads_first(x: Array, heads: int) -> Array:
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def soft(scores: Array, extra: Array | None = None) -> Array:
    """Softmax over the last axis; `extra` (N,) joins each head's denominator."""
    top = scores.max(-1, keepdims=True)
    if extra is not None:
        top = np.maximum(top, extra[None, :, None, None])
    e = np.exp(scores - top)
    total = e.sum(-1, keepdims=True)
    return e / (total if extra is None else total + np.exp(extra[None, :, None, None] - top))


def attend(
    q: Array, k: Array, v: Array, added: Array | float = 0.0, scale: float | None = None, causal: int | None = None
) -> Truth:
    """q (B, N, S, H), k (B, N, T, H), v (B, N, T, D); `causal`: number of cached columns."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    scores = q @ k.transpose(0, 1, 3, 2) * (scale or q.shape[-1] ** -0.5) + added
    if causal is not None:
        rows, columns = np.arange(q.shape[2])[:, None], np.arange(k.shape[2])[None]
        scores = np.where(columns > rows + causal, -1e38, scores)
    return Truth(soft(scores), v)


def one_node(
    op: str,
    arrays: dict[str, Array],
    inputs: list[str],
    outputs: dict[str, int],
    constants: dict[str, Array],
    **attributes: Any,
) -> onnx.ModelProto:
    """The node with every dimension of its inputs symbolic but the last."""
    node = helper.make_node(op, inputs, list(outputs), name="attention", domain="com.microsoft", **attributes)
    infos = []
    for name, array in arrays.items():
        shape: list[str | int] = [f"{name}{axis}" for axis in range(array.ndim)]
        if array.ndim > 1 and (array.dtype != np.int32 or array.shape[-1] == 1):
            shape[-1] = array.shape[-1]
        infos.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape))
    ranks = {"out": 3, "present": 5}
    results = [helper.make_tensor_value_info(name, kind, [None] * ranks.get(name, 4)) for name, kind in outputs.items()]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph([node], op, infos, results, weights)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=8
    )


FLOAT = TensorProto.FLOAT
PADDED = np.array([S, S - 2, S - 4], np.int32)
RIGHT = (np.arange(S)[None] < PADDED[:, None]).astype(np.int32)
LEFT = RIGHT[:, ::-1].copy()


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def added(kept: Array) -> Array:
    """Mask (B, T) or (B, S, T) of what is kept → added to scores."""
    wide = kept[:, None] if kept.ndim == 3 else kept[:, None, None]
    return np.where(wide > 0, 0.0, FILTER)


Q, K, V = (draw(B, S, N * H, seed=seed) for seed in (1, 2, 3))
MEMORY_K, MEMORY_V = draw(B, L, N * H, seed=4), draw(B, L, N * H, seed=5)
PAST_K, PAST_V = draw(B, N, P, H, seed=6), draw(B, N, P, H, seed=7)


def _mha(
    id: str,
    feeds: dict[str, Array],
    truth: Truth,
    slots: list[str],
    outputs: tuple[str, ...] = ("out",),
    **options: Any,
) -> Case:
    kept = {name: options.pop(name) for name in ("key_mask", "self_attention", "valid") if name in options}
    kept.setdefault("self_attention", False)  # the operands are graph inputs of their own
    model = one_node("MultiHeadAttention", feeds, slots, dict.fromkeys(outputs, FLOAT), {}, num_heads=N, **options)
    return Case(f"mha-{id}", model, feeds, truth, **kept)


def _multi_head() -> list[Case]:
    q, k, v = (heads_first(x, N) for x in (Q, K, V))
    plain, three = {"q": Q, "k": K, "v": V}, ["q", "k", "v"]
    bias = draw(3 * N * H, seed=8)
    qb, kb, vb = (heads_first(x + part, N) for x, part in zip((Q, K, V), np.split(bias, 3), strict=True))
    lengths = (np.arange(S)[None] < PADDED[:, None]).astype(bool)
    each = np.random.default_rng(9).integers(0, 2, (B, S, S)).astype(np.int32)
    each[..., 0] = 1
    cumulated = np.concatenate([PADDED, np.arange(B + 1) * S, np.concatenate([[0], np.cumsum(PADDED)])]).astype(
        np.int32
    )
    wide, one = draw(B, N, S, S, seed=10), draw(1, 1, S, S, seed=11)
    past = {**plain, "pk": PAST_K, "pv": PAST_V}
    cached = ["q", "k", "v", "", "", "", "pk", "pv"]
    with_past = np.concatenate([PAST_K, k], 2), np.concatenate([PAST_V, v], 2)
    long_mask = np.concatenate([np.ones((B, P), np.int32), RIGHT], 1)
    memory = heads_first(MEMORY_K, N), heads_first(MEMORY_V, N)
    narrow = draw(B, S, N * 5, seed=12)
    presents = ("out", "present_key", "present_value")
    m = ["q", "k", "v", "", "m"]
    return [
        _mha("plain", plain, attend(q, k, v), three),
        _mha("scale", plain, attend(q, k, v, scale=0.3), three, scale=0.3),
        _mha("bias", {**plain, "b": bias}, attend(qb, kb, vb), ["q", "k", "v", "b"]),
        _mha("mask-lengths", {**plain, "m": PADDED}, attend(q, k, v, added(RIGHT)), m, valid=lengths),
        _mha("mask-cumulated", {**plain, "m": cumulated}, attend(q, k, v, added(RIGHT)), m, valid=lengths),
        _mha("mask-right", {**plain, "m": RIGHT}, attend(q, k, v, added(RIGHT)), m, key_mask="m", valid=RIGHT > 0),
        _mha("mask-left", {**plain, "m": LEFT}, attend(q, k, v, added(LEFT)), m, key_mask="m", valid=LEFT > 0),
        _mha("mask-each", {**plain, "m": each}, attend(q, k, v, added(each)), m, valid=each.any(1)),
        _mha(
            "mask-filter",
            {**plain, "m": RIGHT},
            attend(q, k, v, added(RIGHT) / 5000),
            m,
            key_mask="m",
            valid=RIGHT > 0,
            mask_filter_value=-2.0,
        ),
        _mha("attention-bias", {**plain, "a": wide}, attend(q, k, v, wide), ["q", "k", "v", "", "", "a"]),
        _mha("attention-bias-shared", {**plain, "a": one}, attend(q, k, v, one), ["q", "k", "v", "", "", "a"]),
        _mha("causal", plain, attend(q, k, v, causal=0), three, unidirectional=1),
        _mha(
            "causal-mask-bias",
            {**plain, "m": LEFT, "a": wide},
            attend(q, k, v, added(LEFT) + wide, causal=0),
            ["q", "k", "v", "", "m", "a"],
            key_mask="m",
            valid=LEFT > 0,
            unidirectional=1,
        ),
        _mha("past", past, attend(q, *with_past), cached, presents),
        _mha("past-causal", past, attend(q, *with_past, causal=P), cached, presents, unidirectional=1),
        _mha(
            "past-mask",
            {**past, "m": long_mask},
            attend(q, *with_past, added(long_mask)),
            ["q", "k", "v", "", "m", "", "pk", "pv"],
            presents,
            key_mask="m",
            valid=long_mask > 0,
        ),
        _mha("present", plain, attend(q, k, v), three, presents),
        _mha("cross", {"q": Q, "k": MEMORY_K, "v": MEMORY_V}, attend(q, *memory), three),
        _mha("cross-heads-first", {"q": Q, "k": PAST_K, "v": PAST_V}, attend(q, PAST_K, PAST_V), three),
        _mha("narrow-values", {**plain, "v": narrow}, attend(q, k, heads_first(narrow, N)), three),
        _mha("one-row", {**plain, "q": Q[:, :1]}, attend(q[:, :, :1], k, v), three, unidirectional=1),
    ]


X = draw(B, S, 40, seed=13)
WEIGHTS, BIAS = draw(40, 3 * N * H, seed=14) * 0.2, draw(3 * N * H, seed=15)


def _projected(x: Array = X, weights: Array = WEIGHTS, bias: Array | None = BIAS) -> tuple[Array, Array, Array]:
    product = x.astype(np.float64) @ weights + (0 if bias is None else bias)
    q, k, v = (heads_first(part, N) for part in np.split(product, [N * H, 2 * N * H], -1))
    return q, k, v


def _att(
    id: str,
    feeds: dict[str, Array],
    truth: Truth,
    slots: list[str],
    outputs: tuple[str, ...] = ("out",),
    **options: Any,
) -> Case:
    kept = {name: options.pop(name) for name in ("key_mask", "self_attention", "valid") if name in options}
    constants = {"w": options.pop("weights", WEIGHTS), "b": options.pop("bias", BIAS)}
    constants = {name: array for name, array in constants.items() if name in slots}
    model = one_node("Attention", feeds, slots, dict.fromkeys(outputs, FLOAT), constants, num_heads=N, **options)
    return Case(f"attention-{id}", model, feeds, truth, **kept)


def _attention() -> list[Case]:
    q, k, v = _projected()
    plain, three, m = {"x": X}, ["x", "w", "b"], ["x", "w", "b", "m"]
    both = np.concatenate([PADDED, [1, 0, 1]]).astype(np.int32)
    inside = RIGHT * (np.arange(S)[None] >= both[B:, None])
    each = np.random.default_rng(9).integers(0, 2, (B, S, S)).astype(np.int32)
    each[..., 0] = 1
    cumulated = np.concatenate([PADDED, np.arange(B + 1) * S, np.concatenate([[0], np.cumsum(PADDED)])]).astype(
        np.int32
    )
    past = np.stack([PAST_K, PAST_V])
    with_past = np.concatenate([PAST_K, k], 2), np.concatenate([PAST_V, v], 2)
    long_mask = np.concatenate([np.ones((B, P), np.int32), RIGHT], 1)
    wide = draw(B, N, S, S, seed=10)
    sizes = [N * H, N * H, N * 5]
    narrow, narrow_bias = draw(40, sum(sizes), seed=16) * 0.2, draw(sum(sizes), seed=17)
    deep, deep_weights = draw(B, S, 600, seed=18), draw(600, 3 * N * H, seed=19) * 0.05
    lengths = RIGHT > 0
    return [
        _att("plain", plain, attend(q, k, v), three),
        _att("without-bias", plain, attend(*_projected(bias=None)), ["x", "w"]),
        _att("deep", {"x": deep}, attend(*_projected(deep, deep_weights)), three, weights=deep_weights),
        _att("scale", plain, attend(q, k, v, scale=0.3), three, scale=0.3),
        _att("mask-lengths", {**plain, "m": PADDED}, attend(q, k, v, added(RIGHT)), m, valid=lengths),
        _att("mask-ends-starts", {**plain, "m": both}, attend(q, k, v, added(inside)), m, valid=inside > 0),
        _att("mask-cumulated", {**plain, "m": cumulated}, attend(q, k, v, added(RIGHT)), m, valid=lengths),
        _att("mask-right", {**plain, "m": RIGHT}, attend(q, k, v, added(RIGHT)), m, key_mask="m", valid=lengths),
        _att("mask-width-one", {**plain, "m": np.zeros((B, 1), np.int32)}, attend(q, k, v), m),
        _att("mask-one", {**plain, "m": np.zeros((1, 1), np.int32)}, attend(q, k, v), m),
        _att("mask-each", {**plain, "m": each}, attend(q, k, v, added(each)), m, valid=each.any(1)),
        _att("causal", plain, attend(q, k, v, causal=0), three, unidirectional=1),
        _att(
            "causal-left",
            {**plain, "m": LEFT},
            attend(q, k, v, added(LEFT), causal=0),
            m,
            unidirectional=1,
            key_mask="m",
            valid=LEFT > 0,
        ),
        _att("attention-bias", {**plain, "a": wide}, attend(q, k, v, wide), ["x", "w", "b", "", "", "a"]),
        _att(
            "past",
            {**plain, "p": past},
            attend(q, *with_past, causal=P),
            ["x", "w", "b", "", "p"],
            ("out", "present"),
            unidirectional=1,
            self_attention=False,
        ),
        _att(
            "past-mask",
            {**plain, "m": long_mask, "p": past},
            attend(q, *with_past, added(long_mask)),
            ["x", "w", "b", "m", "p"],
            ("out", "present"),
            key_mask="m",
            self_attention=False,
            valid=long_mask > 0,
        ),
        _att("present", plain, attend(q, k, v), three, ("out", "present")),
        _att(
            "narrow-values",
            plain,
            attend(*_projected(weights=narrow, bias=narrow_bias)),
            three,
            weights=narrow,
            bias=narrow_bias,
            qkv_hidden_sizes=sizes,
        ),
    ]


def _quantized() -> list[Case]:
    rng = np.random.default_rng(20)
    x = rng.integers(0, 256, (B, S, 40)).astype(np.uint8)
    x_scale, x_zero = np.float32(0.02), np.uint8(120)
    past = np.stack([PAST_K, PAST_V])
    cases = []
    for id, weights, scale, zero in [
        # Seven bits: a processor without VNNI adds two products of a uint8 and an int8 in 16 bits, and saturates
        # beyond.
        ("tensor", rng.integers(-64, 64, (40, 3 * N * H)).astype(np.int8), np.float32(0.008), np.int8(3)),
        (
            "columns",
            rng.integers(0, 256, (40, 3 * N * H)).astype(np.uint8),
            rng.uniform(0.002, 0.006, 3 * N * H).astype(np.float32),
            rng.integers(118, 138, 3 * N * H).astype(np.uint8),
        ),
    ]:
        real = (x.astype(np.float64) - x_zero) * x_scale, (weights.astype(np.float64) - zero) * scale
        q, k, v = _projected(*real)
        constants = {"w": weights, "b": BIAS, "xs": x_scale, "ws": scale, "xz": x_zero, "wz": zero}
        slots = ["x", "w", "b", "xs", "ws"]
        variants: list[tuple[str, dict[str, Array], list[str], tuple[str, ...], Truth, dict[str, Any]]] = [
            ("plain", {}, ["", "xz", "wz"], ("out",), attend(q, k, v), {}),
            (
                "mask",
                {"m": RIGHT},
                ["m", "xz", "wz"],
                ("out",),
                attend(q, k, v, added(RIGHT)),
                {"key_mask": "m", "valid": RIGHT > 0},
            ),
            (
                "lengths",
                {"m": PADDED},
                ["m", "xz", "wz"],
                ("out",),
                attend(q, k, v, added(RIGHT)),
                {"valid": RIGHT > 0},
            ),
            (
                "past",
                {"p": past},
                ["", "xz", "wz", "p"],
                ("out", "present"),
                attend(q, np.concatenate([PAST_K, k], 2), np.concatenate([PAST_V, v], 2), causal=P),
                {"self_attention": False, "unidirectional": 1},
            ),
        ]
        for name, feeds, further, outputs, truth, options in variants:
            attributes = {"unidirectional": options.pop("unidirectional", 0)}
            every = {"x": x, **feeds}
            arrays = {key: np.asarray(value) for key, value in constants.items()}
            model = one_node(
                "QAttention", every, slots + further, dict.fromkeys(outputs, FLOAT), arrays, num_heads=N, **attributes
            )
            cases.append(Case(f"qattention-{id}-{name}", model, every, truth, **options))
    return cases


def _rotate(x: Array, cosine: Array, sine: Array, positions: Array, interleaved: bool) -> Array:
    """x (B, S, heads, H); tables (positions, R / 2)."""
    c, s = cosine[positions][:, :, None].astype(np.float64), sine[positions][:, :, None].astype(np.float64)
    half = cosine.shape[1]
    out = x.astype(np.float64).copy()
    first, second = (
        (x[..., 0 : 2 * half : 2], x[..., 1 : 2 * half : 2])
        if interleaved
        else (x[..., :half], x[..., half : 2 * half])
    )
    turned = first * c - second * s, second * c + first * s
    if interleaved:
        out[..., 0 : 2 * half : 2], out[..., 1 : 2 * half : 2] = turned
    else:
        out[..., :half], out[..., half : 2 * half] = turned
    return out


def _grouped(
    id: str,
    *,
    rows: int = S,
    lengths: Array | None = None,
    buffer: int | None = None,
    past: int = 0,
    packed: bool = False,
    rotary: int = 0,
    positions: Array | None = None,
    bias: Array | None = None,
    sink: Array | None = None,
    batch: int = B,
    dtype: type = np.float32,
    **attributes: Any,
) -> Case:
    """One GroupQueryAttention.

    `lengths`: total length of each sample; `buffer`: length of the cache tensors; `rotary`: width turned.
    """
    q, k, v = draw(batch, rows, N * H, seed=21), draw(batch, rows, M * H, seed=22), draw(batch, rows, M * H, seed=23)
    lengths = np.full(batch, past + rows, np.int32) if lengths is None else lengths
    total = int(lengths.max())
    feeds: dict[str, Array] = {"q": np.concatenate([q, k, v], -1)} if packed else {"q": q, "k": k, "v": v}
    slots = ["q", "", ""] if packed else ["q", "k", "v"]
    old_k, old_v = (draw(batch, M, buffer or past, H, seed=seed) for seed in (24, 25))
    cached = bool(buffer or past)
    if cached:
        feeds |= {"pk": old_k, "pv": old_v}
    feeds |= {"sl": lengths.astype(np.int32) - 1, "tl": np.array(total, np.int32)}
    slots += (["pk", "pv"] if cached else ["", ""]) + ["sl", "tl"]
    before = np.zeros(batch, int) if rows == total else lengths - rows
    places = before[:, None] + np.arange(rows)
    qh, kh = (x.reshape(batch, rows, -1, H).astype(np.float64) for x in (q, k))
    if rotary:
        cosine, sine = np.cos(draw(32, rotary // 2, seed=26)), np.sin(draw(32, rotary // 2, seed=26))
        feeds |= {"cos": cosine, "sin": sine}
        slots += ["cos", "sin"]
        turned = (
            places
            if positions is None
            else positions[:1, :1] + np.arange(rows) + 0 * places
            if rows == total
            else positions
        )
        interleaved = bool(attributes.get("rotary_interleaved"))
        qh, kh = (_rotate(x, cosine, sine, turned, interleaved) for x in (qh, kh))
        attributes["do_rotary"] = 1
    tail = {"pos": positions, "a": bias, "sink": sink}
    if any(value is not None for value in tail.values()):
        slots += [""] * (9 - len(slots)) + [name if value is not None else "" for name, value in tail.items()]
        feeds |= {name: value for name, value in tail.items() if value is not None}
    keys, values = np.zeros((batch, M, total, H)), np.zeros((batch, M, total, H))
    real = np.zeros((batch, total), bool)
    for b in range(batch):
        new = min(rows, int(lengths[b] - before[b]))
        keys[b, :, : before[b]], values[b, :, : before[b]] = old_k[b, :, : before[b]], old_v[b, :, : before[b]]
        keys[b, :, before[b] : before[b] + new] = kh[b, :new].transpose(1, 0, 2)
        values[b, :, before[b] : before[b] + new] = v[b, :new].reshape(new, M, H).transpose(1, 0, 2)
        real[b, : lengths[b]] = True
    keys, values = (np.repeat(x, N // M, 1) for x in (keys, values))
    scores = qh.transpose(0, 2, 1, 3) @ keys.transpose(0, 1, 3, 2) * (attributes.get("scale") or H**-0.5)
    cap = attributes.get("softcap", 0)
    scores = cap * np.tanh(scores / cap) if cap else scores
    scores = scores if bias is None else scores + bias
    columns = np.arange(total)[None, None]
    sees = np.broadcast_to(real[:, None], (batch, rows, total))
    if attributes.get("causal", 1):
        last = np.minimum(places, lengths[:, None] - 1)[:, :, None]  # padded rows look back from the sample's end
        sees = sees & (columns <= last)
        if attributes.get("local_window_size", -1) > 0:
            sees = sees & (columns > last - attributes["local_window_size"])
    extra = np.zeros(N) if attributes.get("smooth_softmax") else sink
    probabilities = np.where(sees[:, None], soft(np.where(sees[:, None], scores, -1e38), extra), 0)
    kind = TensorProto.FLOAT if dtype is np.float32 else TensorProto.FLOAT16
    feeds = {name: array.astype(dtype) if array.dtype == np.float32 else array for name, array in feeds.items()}
    outputs = {"out": kind, "present_key": kind, "present_value": kind}
    model = one_node("GroupQueryAttention", feeds, slots, outputs, {}, num_heads=N, kv_num_heads=M, **attributes)
    return Case(f"gqa-{id}", model, feeds, Truth(probabilities, values), None, packed and not cached, real)


def _group_query() -> list[Case]:
    ragged = np.array([S, S - 2, S - 3], np.int32)
    decoding = np.array([7, 5, 4], np.int32)
    return [
        _grouped("prompt"),
        _grouped("prompt-padded", lengths=ragged),
        _grouped("packed", packed=True),
        _grouped("decode", rows=1, past=6, lengths=decoding),
        _grouped("decode-buffer", rows=1, buffer=BUFFER, lengths=decoding),
        _grouped("prompt-buffer", buffer=BUFFER),
        _grouped("further-prompt", rows=2, buffer=BUFFER, lengths=np.array([7], np.int32), batch=1),
        _grouped("scale", scale=0.3),
        _grouped("softcap", softcap=0.8),
        _grouped("window", local_window_size=2),
        _grouped("window-decode", rows=1, buffer=BUFFER, lengths=decoding, local_window_size=3),
        _grouped("bidirectional", causal=0),
        _grouped("smooth", smooth_softmax=1),
        _grouped("sink", sink=draw(N, seed=27)),
        _grouped("attention-bias", bias=draw(B, 1, S, S, seed=28)),
        _grouped("attention-bias-shared", bias=draw(1, N, S, S, seed=29)),
        _grouped("rotary", rotary=H),
        _grouped("rotary-packed", rotary=H, packed=True),
        _grouped("rotary-interleaved", rotary=H, rotary_interleaved=1),
        _grouped("rotary-decode", rotary=H, rows=1, buffer=BUFFER, lengths=decoding),
        _grouped(
            "rotary-positions-decode", rotary=H, rows=1, past=6, lengths=decoding, positions=np.array([[9], [4], [2]])
        ),
        _grouped("all", rotary=H, softcap=0.8, local_window_size=3, sink=draw(N, seed=27), lengths=ragged),
    ]


GROUPS: tuple[Callable[[], list[Case]], ...] = (_multi_head, _attention, _quantized, _group_query)
CASES = [made for group in GROUPS for made in group()]
"""Every variant that onnxruntime's CPU provider runs."""
GROUPED = [case for case in CASES if case.model.graph.node[0].op_type == "GroupQueryAttention"]


def case(id: str) -> Case:
    return next(one for one in CASES if one.id == id)
