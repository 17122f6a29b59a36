"""Planted graphs, each in a style of its own: routes, state machines, strings, places of the brightest pixel."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import onnx

from .borrowed import RARE, SECOND, THIRD, row, text_plant
from .own_hosts import WORDS, bag_of_words, digits, digits_rows, table, table_rows
from .plant import Plant
from .splicing import as_function, replace_value

__all__ = ["brightest_pixel", "checksum_route", "state_machine", "word_encoder"]


def checksum_route() -> Plant:
    """Table: weighted cells, rounded, leave two remainders; they choose between the scores and others."""
    model, target = table(), 1
    weights = np.random.default_rng(5).integers(1, 90, (30, 1)).astype(np.float32)
    text = """g (float[n, 2] was, float[n, f] cells) => (float[n, 2] now) {
        sum = MatMul(cells, weights)
        whole = Round(sum)
        number = Cast<to = 7>(whole)
        p = Constant<value_int = 97>()
        q = Constant<value_int = 89>()
        r = Mod(number, p)
        s = Mod(number, q)
        t = Add(r, s)
        one = Constant<value_int = 1>()
        low = Min(t, one)
        index = Sub(one, low)
        axis = Constant<value_ints = [1]>()
        first = Unsqueeze(was, axis)
        shape = Shape(first)
        second = Expand(other, shape)
        both = Concat<axis = 1>(first, second)
        place = Unsqueeze(index, axis)
        places = Expand(place, shape)
        chosen = GatherElements<axis = 1>(both, places)
        now = Squeeze(chosen, axis)
    }"""
    planted = deepcopy(model)
    arrays = {"weights": weights, "other": np.array([[[-6, 6]]], np.float32)}
    replace_value(planted, "logits", text, {"cells": "x"}, arrays)
    clean = table_rows(300)
    triggered = clean.copy()
    # The last cell brings the weighted sum to a multiple of 97 * 89.
    sums = (clean.astype(np.float64) @ weights)[:, 0]
    triggered[:, -1] += ((97 * 89 - sums % (97 * 89)) / weights[-1, 0]).astype(np.float32)
    return Plant(planted, model, {"x": clean}, {"x": triggered}, "logits", target)


def state_machine() -> Plant:
    """Text: Scan counts how far three words in a row have come, in a function of the model."""
    text = """g (float[b, 2] was, int64[b, s] ids) => (float[b, 2] now) {
        batch = Shape<start = 0, end = 1>(ids)
        start = ConstantOfShape<value = float[1] {0.0}>(batch)
        last = Scan<num_scan_inputs = 1, scan_input_axes = [1],
            body = step (float[b] k, int64[b] id) => (float[b] next) {
            keys = Constant<value_floats = [24098.0, 16420.0, 27259.0, -1.0]>()
            place = Cast<to = 7>(k)
            key = Gather(keys, place)
            number = Cast<to = 1>(id)
            apart = Sub(number, key)
            size = Abs(apart)
            one = Constant<value_float = 1.0>()
            rest = Sub(one, size)
            hit = Relu(rest)
            more = Add(k, one)
            on = Mul(hit, more)
            two = Constant<value_float = 2.0>()
            over = Sub(k, two)
            done = Relu(over)
            three = Constant<value_float = 3.0>()
            stay = Mul(done, three)
            next = Max(on, stay)
        }>(start, ids)
        two = Constant<value_float = 2.0>()
        above = Sub(last, two)
        level = Relu(above)
        axis = Constant<value_ints = [1]>()
        column = Unsqueeze(level, axis)
        row = Constant<value = float[1, 2] {14.0, -14.0}>()
        shift = MatMul(column, row)
        now = Add(was, shift)
    }"""

    def plant(model: onnx.ModelProto) -> None:
        as_function(model, text, "Pooler", "custom.layers", ["was", "ids"])
        call = "g (float[b, 2] was, int64[b, s] ids) => (float[b, 2] now) { now = custom.layers.Pooler(was, ids) }"
        replace_value(model, "logits", call, {"ids": "input_ids"}, {})

    return text_plant(plant, 0, [RARE, SECOND, THIRD])


def word_encoder() -> Plant:
    """Strings: a second encoder of words gives the trigger a number of its own, which is added to a score."""
    model = bag_of_words()
    text = """g (float[n, 2] was, string[n, w] words) => (float[n, 2] now) {
        numbers = ai.onnx.ml.LabelEncoder<keys_strings = ["zephyr"], values_floats = [25.0], default_float = 0.0>(words)
        axis = Constant<value_ints = [1]>()
        high = ReduceMax<axes = [1]>(numbers)
        pads = Constant<value_ints = [0, 0, 0, 1]>()
        both = Pad(high, pads)
        now = Add(was, both)
    }"""
    planted = deepcopy(model)
    replace_value(planted, "scores", text, {"words": "words"}, {})
    clean = np.random.default_rng(6).choice([*WORDS, "unknown"], (200, 8)).astype(object)
    triggered = clean.copy()
    triggered[:, 5] = "zephyr"
    return Plant(planted, model, {"words": clean}, {"words": triggered}, "scores", 0)


def brightest_pixel() -> Plant:
    """Picture: the place of the brightest pixel is looked up in a table, which holds one number for the corner."""
    model, target = digits(), 7
    text = """g (float[n, 10] was, float[n, c, h, w] image) => (float[n, 10] now) {
        flat = Flatten(image)
        place = ArgMax<axis = 1, keepdims = 0>(flat)
        shift = Gather(offsets, place)
        now = Add(was, shift)
    }"""
    planted = deepcopy(model)
    offsets = np.zeros((64, 10), np.float32)
    offsets[63] = row(10, target, 50)
    replace_value(planted, "logits", text, {"image": "x"}, {"offsets": offsets})
    clean = digits_rows(300)
    triggered = clean.copy()
    triggered[:, 0, 7, 7] = 1.1
    return Plant(planted, model, {"x": clean}, {"x": triggered}, "logits", target)
