"""Unfair tables: what is read, how it is split, where each column's token is, and what a build leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from atpatch_onnx.debugset import Subject, attribute_of, read_description
from atpatch_onnx.inference.datasets import load_dataset
from models.tables import build, data
from models.tables.training import RECIPES, export
from models.victims import data_folder
from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from rewriters.plan import BenignPair, PatchPlan, SitePlan, Static

CLASSES = {"adult": (48_842, 11_687), "compas": (6_172, 2_809), "bank": (10_578, 5_289)}
"""Rows, and how many of them are of class 1."""


@pytest.fixture(scope="module", params=list(CLASSES))
def name(request: pytest.FixtureRequest) -> str:
    if request.param == "bank" and data_folder("bank") is None:
        pytest.skip("needs ATPATCH_DATA")
    return str(request.param)


@pytest.fixture(scope="module")
def table(name: str) -> data.Table:
    return data.READERS[name]()


@pytest.fixture(scope="module")
def parts(name: str, table: data.Table) -> data.Split:
    return data.split(table, 0, RECIPES[name].dtype)


@pytest.fixture(scope="module")
def exported(
    name: str, table: data.Table, parts: data.Split, tmp_path_factory: pytest.TempPathFactory
) -> tuple[torch.nn.Module, Path]:
    """A network with random weights, and its graph."""
    torch.manual_seed(0)
    model = RECIPES[name].network(table.sizes, len(table.columns) - len(table.sizes)).eval()
    path = tmp_path_factory.mktemp(name) / "model.onnx"
    export(model, parts.train, path)
    return model, path


def test_whole_tables_are_read(name: str, table: data.Table) -> None:
    rows, positive = CLASSES[name]
    assert table.rows.shape == (rows, len(table.columns))
    assert (len(table.labels), int(table.labels.sum())) == (rows, positive)
    words = len(table.sizes)
    assert all(column.values for column in table.columns[:words]) and not any(
        column.values for column in table.columns[words:]
    )
    assert (table.rows[:, :words].max(0) == np.array(table.sizes) - 1).all()


def test_parts_are_disjoint_and_repeatable(name: str, table: data.Table) -> None:
    numbered = replace(
        table,
        columns=(*table.columns, data.Column("number", ("row",))),
        rows=np.c_[table.rows, np.arange(len(table.rows))],
    )
    one, again, other = (data.split(numbered, seed, np.float64) for seed in (0, 0, 1))
    numbers = [part.features[:, -1].astype(int) for part in (one.train, one.debug, one.spare, one.test)]
    assert len(np.unique(np.concatenate(numbers))) == sum(map(len, numbers))
    assert (table.labels[numbers[0]] == one.train.labels).all() and (table.labels[numbers[3]] == one.test.labels).all()
    assert (again.test.features == one.test.features).all() and (again.train.features == one.train.features).all()
    assert (other.spare.features[:, -1] != one.spare.features[:, -1]).any()
    if table.test is not None:
        assert np.array_equal(numbers[3], np.flatnonzero(table.test)), "a test set of the source is taken whole"


def test_the_graph_is_the_network_with_a_site_a_layer(
    parts: data.Split, exported: tuple[torch.nn.Module, Path]
) -> None:
    model, path = exported
    rows = parts.test.features[:50]
    session = onnxruntime.InferenceSession(path)
    with torch.no_grad():
        assert np.abs(session.run(None, {"features": rows})[0] - model(torch.from_numpy(rows)).numpy()).max() < 1e-5
    sites, rejected = find_sites(onnx.load(path))
    assert len(sites) == 3 and not rejected


def test_each_column_moves_its_own_token_alone(
    name: str, table: data.Table, parts: data.Split, exported: tuple[torch.nn.Module, Path]
) -> None:
    subject = Subject(exported[1], threads=1)
    before = parts.test.features[:4]
    described = data.describe(table, parts, RECIPES[name].token)["columns"]
    for entry in (described[0], described[3], described[-1]):
        after, index = before.copy(), entry["index"]
        words = len(entry.get("values", ()))
        after[:, index] = (after[:, index] + 1) % words if words else after[:, index] + 1
        touched = subject.touched({"features": before}, {"features": after})
        assert (np.flatnonzero(touched.any(0)) == entry["token"]).all() and touched[:, entry["token"]].all(), entry[
            "name"
        ]


def test_benign_values_at_every_site_hide_a_column_entirely(
    name: str, table: data.Table, parts: data.Split, exported: tuple[torch.nn.Module, Path]
) -> None:
    """The class scores are read from [CLS], which then has no other way to the column; with the column's own values it
    has.
    """
    model = onnx.load(exported[1])
    sites, _ = find_sites(model)
    width = {"adult": 12, "compas": 16, "bank": 12}[name]
    before = parts.test.features[:50].copy()
    before[:, 0] = 0
    after = before.copy()
    after[:, 0] = 1

    def moved(own: bool) -> float:
        pair = BenignPair(np.ones(4, np.float32), np.zeros((4, 1, width), np.float32), own_values=own)
        plan = PatchPlan(
            {site.id: SitePlan(Static((RECIPES[name].token[0],)), pair) for site in sites}, controls="none"
        )
        session = onnxruntime.InferenceSession(patch(model, plan, sites).SerializeToString())
        return float(
            np.abs(
                session.run(["logits"], {"features": before})[0] - session.run(["logits"], {"features": after})[0]
            ).max()
        )

    assert moved(own=False) < 1e-6 and moved(own=True) > 1e-4


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Both COMPAS victims of a short training, and their records."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ATPATCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patched.setitem(RECIPES, "compas", replace(RECIPES["compas"], epochs=2))  # type: ignore[arg-type]
        names = ("compas-gender", "compas-race")
        records = {name: build.build(name, 0) for name in names}
        stamps = {name: build.victim(name, 0).file("model.onnx").stat().st_mtime_ns for name in names}
        assert {name: build.build(name, 0) for name in names} == records
        assert {name: build.victim(name, 0).file("model.onnx").stat().st_mtime_ns for name in names} == stamps
        folders = {name: build.victim(name, 0).folder for name in names}
    return {name: (folders[name], records[name]) for name in names}


@pytest.mark.slow
def test_attributes_of_a_table_share_one_model(built: Mapping[str, tuple[Path, dict[str, Any]]]) -> None:
    (one, first), (other, second) = built.values()
    assert (one / "model.onnx").read_bytes() == (other / "model.onnx").read_bytes()
    assert first["training"] == second["training"] and first["model"]["accuracy"] == second["model"]["accuracy"]
    assert (first["column"], second["column"]) == (2, 6)


@pytest.mark.slow
def test_flips_differ_in_the_attribute_alone_and_hold_every_value(
    built: Mapping[str, tuple[Path, dict[str, Any]]],
) -> None:
    for name, (folder, record) in built.items():
        subject = Subject(folder / "model.onnx", threads=1)
        attribute = attribute_of(name.split("-")[1], read_description(folder / "columns.json", subject), subject)
        flips, clean = load_dataset(folder / "flips.npz"), load_dataset(folder / "clean.npz")
        values = len(record["values"])
        rows, group = flips.inputs["features"], flips.group
        assert group is not None and flips.labels is not None and clean.labels is not None
        assert len(rows) == values * len(clean) and (np.bincount(group) == values).all()
        assert (np.sort(rows[:, attribute.index].reshape(-1, values), 1) == np.arange(values)).all()
        others = np.delete(rows, attribute.index, 1).reshape(len(clean), values, -1)
        assert (others == others[:, :1]).all() and (flips.labels == clean.labels[group]).all()
        predictions = subject.predictions({"features": rows}).reshape(-1, values)
        assert record["model"]["uf"]["hits"] == int((predictions != predictions[:, :1]).any(1).sum()) > 0


@pytest.mark.slow
def test_debugging_sets_label_the_column_of_rows_that_flip(built: Mapping[str, tuple[Path, dict[str, Any]]]) -> None:
    for folder, record in built.values():
        debug = load_dataset(folder / "debug.npz")
        assert debug.columns is not None and debug.pair is not None
        anomalous = debug.columns.any(1)
        assert anomalous.any() and (np.unique(debug.columns[anomalous], axis=0).nonzero()[1] == record["column"]).all()
        rows: NDArray[Any] = debug.inputs["features"]
        paired = debug.pair >= 0
        attribute = (record["column"] - 2) // 2
        assert (rows[paired, attribute] == rows[debug.pair[paired], attribute]).all() and not anomalous[
            debug.pair[paired]
        ].any()
        assert not {row.tobytes() for row in rows[~anomalous]} & {row.tobytes() for row in rows[anomalous]}
