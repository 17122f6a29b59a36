"""Kinds of files: how one is mutated, and which commands read it."""

from __future__ import annotations

import gzip
import io
import json
import random
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from safetensors.numpy import load as load_tensors, save as save_tensors

from atpatch_onnx.hotfix.container import FORMAT, KEY, digest

from . import corpus
from .mutators import mutate_bytes, mutate_json, mutate_message

__all__ = ["KINDS", "Commands"]

Commands = list[list[str]]


def model_case(rng: random.Random, folder: Path) -> Commands:
    """A model: a message changed field by field, or its bytes."""
    name = rng.choice(list(corpus.models()))
    model = onnx.ModelProto()
    model.CopyFrom(corpus.models()[name])
    if rng.random() < 0.75:
        mutate_message(model, rng)
        data = model.SerializeToString()
    else:
        data = mutate_bytes(model.SerializeToString(), rng)
    (folder / "model.onnx").write_bytes(data)
    (folder / "weights.data").write_bytes(bytes(256 if rng.random() < 0.9 else 255))
    (folder / "base.onnx").write_bytes(corpus.models()["tiny"].SerializeToString())
    passes = rng.choice((["--passes", "two"], ["--gating", "none"], ["--telemetry"], ["--freeze"], []))
    commands = [
        ["inspect", "model.onnx", "--json"],
        ["patch", "model.onnx", "--detector", "statistic", "-o", "statistic.onnx", *passes],
        ["patch", "model.onnx", "--detector", "static", "--columns", "1", "-o", "static.onnx"],
        ["unpatch", "statistic.onnx" if (number := rng.random()) < 0.5 else "model.onnx", "-o", "unpatched.onnx"],
        ["diff", "base.onnx", "model.onnx"] if number < 0.5 else ["diff", "model.onnx", "static.onnx", "--json"],
    ]
    if rng.random() < 0.1:
        commands += [
            ["inspect", "model.onnx", "--explain", "layers.0"],
            ["extract", "model.onnx", "layers.0", "-o", "site.onnx"],
        ]
    if rng.random() < 0.02:
        np.savez(folder / "data.npz", **corpus.data_sets()["clean"])
        commands.append(["fit", "model.onnx", "--detector", "oneclass", "--clean", "data.npz", "-o", "made.hotfix"])
    return commands


def hotfix_case(rng: random.Random, folder: Path) -> Commands:
    """A hotfix: its header's tree changed and signed again, its arrays changed, or its bytes."""
    hotfix = corpus.hotfixes()[rng.choice(list(corpus.hotfixes()))]
    body, arrays = hotfix._encode()
    what = rng.random()
    if what < 0.75:
        body = mutate_json(body, rng, alike=0.8) if what > 0.15 else body
        if what < 0.3 and arrays:
            name = rng.choice(sorted(arrays))
            odd = _odd_array(arrays[name], rng)
            arrays[name] = _odd_floats(arrays[name], rng) if rng.random() < 0.7 or odd.dtype.kind in "MUc" else odd
        try:
            head = {"format": FORMAT, "digest": digest(body, arrays), "body": body}
        except ValueError:  # NaN is no JSON; the reader is shown it all the same
            head = {"format": FORMAT, "digest": "", "body": body}
        head = mutate_json(head, rng) if rng.random() < 0.05 else head
        data = save_tensors(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()}, {KEY: json.dumps(head)}
        )
        load_tensors(data)
    else:
        hotfix.save(folder / "whole.hotfix")
        data = mutate_bytes((folder / "whole.hotfix").read_bytes(), rng)
        (folder / "whole.hotfix").unlink()
    (folder / "m.hotfix").write_bytes(data)
    (folder / "model.onnx").write_bytes(corpus.models()["two layers"].SerializeToString())
    more = rng.choice(
        ([], ["--force"], ["--passes", "two"], ["--gating", "none"], ["--telemetry"], ["--values", "own"], ["--freeze"])
    )
    return [
        ["patch", "model.onnx", "--hotfix", "m.hotfix", "-o", "out.onnx", "--json", *more],
        ["unpatch", "out.onnx", "-o", "back.onnx"],
    ]


def data_case(rng: random.Random, folder: Path) -> Commands:
    """A data set: odd arrays under known names, odd members of the archive, or its bytes."""
    name = rng.choice(list(corpus.data_sets()))
    arrays = dict(corpus.data_sets()[name])
    what = rng.random()
    if what < 0.7:
        for _ in range(rng.choice((1, 1, 2))):
            key = rng.choice(list(arrays))
            arrays[key] = _odd_array(np.asarray(arrays[key]), rng)
    if what < 0.1:
        arrays[rng.choice(("y", "labels", "columns", "clean", "é", "x/../y"))] = arrays.pop(rng.choice(list(arrays)))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    data = buffer.getvalue()
    if what > 0.9:
        data = mutate_bytes(data, rng)
    elif what > 0.7:
        data = _odd_archive(data, rng)
    (folder / "data.npz").write_bytes(data)
    np.savez(folder / "clean.npz", **corpus.data_sets()["clean"])
    plain = rng.random() < 0.8
    model = corpus.models()["tiny"] if not plain else onnx.parser.parse_model(_PLAIN)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    compared = {
        "triggered": ["--data", "clean.npz", "--triggered", "data.npz"],
        "flips": ["--data", "clean.npz", "--flips", "data.npz"],
    }
    commands = [
        ["compare", "model.onnx", "model.onnx", "--json", "--numbers", *compared.get(name, ["--data", "data.npz"])]
    ]
    if plain:
        commands.append(["fit", "model.onnx", "--debug", "data.npz", "-o", "made.hotfix"])
    else:
        commands.append(
            [
                "fit",
                "model.onnx",
                "--detector",
                "statistic",
                "--clean",
                "data.npz",
                "-o",
                "made.hotfix",
                "--passes",
                "one",
            ]
        )
    return commands


_PLAIN = '<ir_version: 8, opset_import: ["" : 17]> plain (float[b,5,8] x) => (float[b,5,8] y) { y = Relu (x) }'


def log_case(rng: random.Random, folder: Path) -> Commands:
    """A log: rows changed, doubled, torn; or its bytes; the outcomes with it."""
    rows = list(corpus.logs())
    for _ in range(rng.choice((1, 2, 8))):
        place = rng.randrange(len(rows))
        rows[place] = mutate_json(rows[place], rng)
    data = b"".join(json.dumps(one).encode() + b"\n" for one in rows)
    if rng.random() < 0.3:
        data = mutate_bytes(data, rng)
    data = gzip.compress(data) if rng.random() < 0.1 else data
    (folder / "log.jsonl").write_bytes(mutate_bytes(data, rng) if rng.random() < 0.1 else data)
    outcomes = [{"id": f"r{n}", "label": n % 2, "outcome": n % 2} for n in range(40)]
    if rng.random() < 0.5:
        text = "id,label,outcome\n" + "".join(f"{one['id']},{one['label']},{one['outcome']}\n" for one in outcomes)
    else:
        text = "".join(json.dumps(one) + "\n" for one in mutate_json(outcomes, rng) or [])
    (folder / "outcomes").write_bytes(mutate_bytes(text.encode(), rng) if rng.random() < 0.5 else text.encode())
    return [["ab", "analyze", "log.jsonl"], ["ab", "analyze", "log.jsonl", "--json", "--outcomes", "outcomes"]]


KINDS: dict[str, Callable[[random.Random, Path], Commands]] = {
    "models": model_case,
    "hotfixes": hotfix_case,
    "data": data_case,
    "logs": log_case,
}


def _odd_array(array: np.ndarray, rng: random.Random) -> np.ndarray:
    match rng.randrange(8):
        case 0:
            return array.astype(
                rng.choice(["f2", "f4", "f8", "i1", "i4", "i8", "u1", "u8", "?", "c8", "U3", "M8[s]"]), copy=True
            )
        case 1:
            return array.reshape(-1)[: rng.choice((0, 1, 3))]
        case 2:
            return array[None]
        case 3:
            return np.asarray(array.sum() if array.dtype.kind in "fiub" else array)
        case 4:
            return (
                np.full_like(array, rng.choice((0, 1, -1, 127)))
                if array.dtype.kind in "fi"
                else ~array
                if array.dtype.kind == "b"
                else array
            )
        case 5:
            odd = array.astype(np.float32) if array.dtype.kind in "fiub" else np.zeros(3, np.float32)
            return np.where(
                np.arange(odd.size).reshape(odd.shape) % 5 == 0, np.float32(rng.choice((np.nan, np.inf, 3e38, -1))), odd
            )
        case 6:
            return array[::-1].copy() if array.ndim else array
        case _:
            return np.concatenate([array, array[:1]]) if array.ndim else array


def _odd_floats(array: np.ndarray, rng: random.Random) -> np.ndarray:
    """Finite float32 (or bytes) of another shape or size, as a strict reader of hotfixes takes them."""
    if array.dtype == np.uint8:
        return np.frombuffer(mutate_bytes(array.tobytes(), rng), np.uint8)
    axis = rng.randrange(array.ndim) if array.ndim else None
    match rng.randrange(5):
        case 0:
            return np.full_like(array, rng.choice((0.0, 1.0, 3e38, 1e-45, -1.0)))
        case 1 if axis is not None:
            return np.concatenate([array, array], axis)
        case 2 if axis is not None:
            return array.take([0], axis)
        case 3:
            return array[None]
        case _:
            return array[0] if array.ndim else array


@cache
def _headers() -> tuple[bytes, ...]:
    """Members that an archive may hold in an array's place."""

    def header(shape: str, descr: str = "'<f4'", version: bytes = b"\x01\x00") -> bytes:
        text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text.encode()

    return (
        *(
            b"",
            b"\x93NUMPY",
            b"no array",
            header("(3,)"),
            header("(1099511627776,)") + bytes(64),
            header("(-1,)"),
            header("(2**40,)"),
        ),
        *(
            header("(24, 5, 8)", "'|O'"),
            header("(1, 1)", "[('a', '<f4')]") + bytes(4),
            header("(4294967296, 4294967296)") + bytes(9),
        ),
        *(
            header("()", "'<V0'"),
            header("(24, 5, 8)", version=b"\x09\x00"),
            header("(" + "1, " * 70 + ")") + bytes(4),
            header("x" * 60),
        ),
    )


def _odd_archive(data: bytes, rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
        chosen = rng.choice(source.namelist())
        for name in source.namelist():
            content: Any = source.read(name)
            if name == chosen:
                content = rng.choice(_headers()) if rng.random() < 0.6 else mutate_bytes(content, rng)
                name = rng.choice((name, name, name, name.removesuffix(".npy"), "../x.npy", "x.npy/"))
            target.writestr(name, content)
    return buffer.getvalue()
