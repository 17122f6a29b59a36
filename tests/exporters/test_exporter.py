"""The exporter: what it writes, what it checks, what it refuses, and a sample of the table in models/results."""

from __future__ import annotations

import importlib
import json
import math
import shutil
import site
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.exporters.exporter import export_model
from atpatch_onnx.exporters.quiet import quiet
from atpatch_onnx.exporters.tasks import TASKS
from atpatch_onnx.exporters.transformers_models import load_subject
from models.exports.families import HOLES, ROWS, Row
from models.exports.table import render, unexplained
from models.exports.tiny import save_model
from models.exports.trial import WAYS, Cell, try_export

from ..tiny import snapshot

RESULTS = Path(__file__).parents[2] / "models" / "results"
BY_NAME = {row.name: row for row in ROWS}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tiny Hugging Face models lie, each made once."""
    return tmp_path_factory.mktemp("huggingface")


@pytest.fixture
def model(folder):
    """Row name → folder of its model."""

    def make(name: str) -> Path:
        with quiet():
            return save_model(BY_NAME[name], folder)

    return make


@pytest.fixture
def plain(tmp_path, monkeypatch):
    """Source of a Python module → its importable name; it lies in the working directory, as a user's would."""
    home = tmp_path / "code"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(home))
    made: list[str] = []

    def write(source: str) -> str:
        name = f"plain_module_{len(made)}"
        (home / f"{name}.py").write_text("import torch\nfrom torch import nn\n" + textwrap.dedent(source))
        importlib.invalidate_caches()
        made.append(name)
        return name

    yield write
    for name in made:
        sys.modules.pop(name, None)


def run(path: Path, **feeds: np.ndarray) -> list[np.ndarray]:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)


# the table


SAMPLE = [
    ("bert", "torchscript, sdpa"),
    ("gpt2 with cache", "torchscript, eager"),
    ("t5 decoder", "torchscript, sdpa"),
    ("clip", "torchscript, eager"),
    ("whisper encoder", "torchscript, sdpa"),
    ("vit", "dynamo, eager"),
    # torch traces these two wrongly as long as their weights ask for gradients
    ("beit", "dynamo, sdpa"),
    ("t5 encoder", "dynamo, sdpa"),
    # a rotary embedding becomes one operator here, which needs position_ids of the whole batch
    ("llama", "dynamo, sdpa, opset 23"),
    # two maps of different lengths, which onnxruntime takes for one shape
    ("t5 decoder", "dynamo, sdpa, opset 23"),
    ("mpnet", "dynamo, sdpa"),
]


def committed() -> dict[str, object]:
    return json.loads((RESULTS / "exports.json").read_text())


def cells() -> dict[tuple[str, str], Cell]:
    return {(c["row"], c["way"]): Cell(**{**c, "forms": tuple(c["forms"])}) for c in committed()["cells"]}


@pytest.mark.parametrize(("row", "way"), SAMPLE, ids=lambda text: text.replace(", ", "-").replace(" ", "-"))
def test_a_sample_of_the_table_still_holds(row, way, folder):
    cell = try_export(BY_NAME[row], next(w for w in WAYS if str(w) == way), folder)
    known = cells()[row, way]
    facts = ("status", "sites", "expected", "forms", "silent", "fires")
    assert {fact: getattr(cell, fact) for fact in facts} == {fact: getattr(known, fact) for fact in facts}
    assert cell.whole == (row not in HOLES)


def test_the_committed_table_is_complete_and_every_hole_is_explained():
    assert set(cells()) == {(row.name, str(way)) for row in ROWS for way in WAYS}
    assert unexplained(list(cells().values())) == []
    assert len({row.model.partition("For")[0] for row in ROWS}) >= 20
    assert (RESULTS / "EXPORTS.md").read_text() == render(committed())


def test_a_new_hole_and_a_closed_one_are_both_noticed():
    good = next(cell for cell in cells().values() if cell.whole)
    lost = Cell(**{**good.to_json(), "sites": 1})
    closed = Cell(**{**good.to_json(), "row": "mpnet", "way": "dynamo, sdpa"})
    assert len(unexplained([lost])) == 1
    assert len(unexplained([closed])) == 1
    assert unexplained([good]) == []


# what is written


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_axes_are_dynamic_and_named(exporter, model, tmp_path):
    done = export_model(model("xlm-roberta"), tmp_path / "m.onnx", exporter=exporter)
    assert done.task == "token-classification"
    assert done.inputs == dict.fromkeys(["input_ids", "attention_mask", "token_type_ids"], ("batch", "sequence"))
    assert done.outputs == {"logits": ("batch", "sequence", 2)}
    ones = np.ones((5, 23), np.int64)
    (logits,) = run(tmp_path / "m.onnx", input_ids=7 * ones, attention_mask=ones, token_type_ids=0 * ones)
    assert logits.shape == (5, 23, 2)


def test_segments_are_an_input_where_the_model_has_them(model, tmp_path):
    done = export_model(model("bert"), tmp_path / "m.onnx", exporter="torchscript")
    assert list(done.inputs) == ["input_ids", "attention_mask", "token_type_ids"]
    ids = np.arange(3, 15).reshape(1, 12)
    first, second = (
        run(
            tmp_path / "m.onnx",
            input_ids=ids,
            attention_mask=np.ones_like(ids),
            token_type_ids=np.full_like(ids, segment),
        )[0]
        for segment in (0, 1)
    )
    assert not np.allclose(first, second, atol=1e-3)


def test_generation_with_cache_agrees_with_torch_without(model, tmp_path):
    """A prompt, then one token at a time; torch sees the whole text at once."""
    from transformers import AutoModelForCausalLM

    source = model("llama")
    done = export_model(source, tmp_path / "m.onnx", exporter="torchscript", kv_cache=True)
    assert done.inputs["attention_mask"] == ("batch", "past_sequence + sequence")
    assert done.inputs["past_key_values.0.key"] == ("batch", 2, "past_sequence", 8)
    assert done.outputs["present.1.value"] == ("batch", 2, "past_sequence + sequence", 8)
    text = np.random.default_rng(3).integers(3, 99, (2, 9))
    with quiet(), torch.no_grad():
        whole = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)(torch.from_numpy(text)).logits.numpy()
    live = ort.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    cache = [np.zeros((2, 2, 0, 8), np.float32)] * 4
    names = [value.name for value in live.get_inputs() if value.name.startswith("past")]
    at = 0
    for new in (5, 1, 1, 1, 1):
        positions = np.arange(at, at + new)[None].repeat(2, 0)
        feeds = {
            "input_ids": text[:, at : at + new],
            "attention_mask": np.ones((2, at + new), np.int64),
            "position_ids": positions,
        }
        logits, *cache = live.run(None, {**feeds, **dict(zip(names, cache, strict=True))})
        np.testing.assert_allclose(logits, whole[:, at : at + new], atol=2e-5)
        at += new
    assert at == text.shape[1]


def test_half_precision(model, tmp_path):
    done = export_model(model("vit"), tmp_path / "m.onnx", exporter="torchscript", dtype="float16")
    written = onnx.load(tmp_path / "m.onnx")
    assert {value.type.tensor_type.elem_type for value in [*written.graph.input, *written.graph.output]} == {
        onnx.TensorProto.FLOAT16
    }
    assert len(done.sites) == 2
    # Rounded to 11 bits it cannot be as near as single precision is.
    assert 1e-5 < done.parity["logits"].difference < 1e-2


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_weights_in_a_file_of_their_own(exporter, model, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    done = export_model(model("vit"), home / "m.onnx", exporter=exporter, external_data=True)
    assert done.data == ("m.onnx.data",)
    assert sorted(path.name for path in home.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert (home / "m.onnx.data").stat().st_size > (home / "m.onnx").stat().st_size / 10
    assert (home / "m.onnx.data").stat().st_mode == (home / "m.onnx").stat().st_mode
    moved = tmp_path / "moved"
    shutil.move(home, moved)
    run(moved / "m.onnx", pixel_values=np.zeros((1, 3, 16, 16), np.float32))
    before = snapshot(moved)
    with pytest.raises(AtpatchError, match="ATP018"):
        export_model(model("vit"), moved / "m.onnx", exporter=exporter, external_data=True)
    assert snapshot(moved) == before


def test_weights_beyond_the_limit_of_one_file_go_outside(model, tmp_path, monkeypatch):
    monkeypatch.setattr("atpatch_onnx.exporters.exporter._MOST_INSIDE", 10_000)
    assert export_model(model("vit"), tmp_path / "m.onnx", exporter="torchscript").data == ("m.onnx.data",)


def test_dynamo_leaves_no_paths_of_this_machine(model, tmp_path):
    export_model(model("vit"), tmp_path / "m.onnx", exporter="dynamo")
    content = (tmp_path / "m.onnx").read_bytes()
    for path in [*site.getsitepackages(), str(Path(__file__).parents[2]), str(Path.home())]:
        assert path.encode() not in content
    # What the finder names sites by stays.
    assert b"pkg.torch.onnx.name_scopes" in content


def test_the_file_that_was_there_is_replaced(model, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"old")
    export_model(model("vit"), tmp_path / "m.onnx", exporter="torchscript")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    onnx.checker.check_model(tmp_path / "m.onnx")


# plain torch modules


TABULAR = """
class Scorer(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.codes = nn.Embedding(5, 16)
        self.numbers = nn.Parameter(torch.randn(4, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 1)

    def forward(self, amounts, kinds):
        tokens = torch.cat([amounts[:, :, None] * self.numbers, self.codes(kinds)], 1)
        return {"score": self.head(self.encoder(tokens)[:, 0]), "features": tokens}

def scorer():
    return Scorer(), {"amounts": torch.randn(3, 4), "kinds": torch.randint(0, 5, (3, 2))}

def one_row():
    return Scorer(), (torch.randn(1, 4), torch.randint(0, 5, (1, 2)))
"""


@pytest.mark.parametrize(
    ("factory", "exporter"), [("scorer", "torchscript"), ("one_row", "torchscript"), ("scorer", "dynamo")]
)
def test_tabular_module(factory, exporter, plain, tmp_path):
    """Also the fused kernel of torch's encoder layers, which no exporter knows, and an example of a single row."""
    name = plain(TABULAR)
    done = export_model(f"{name}:{factory}", tmp_path / "m.onnx", exporter=exporter)
    assert (done.task, done.attention) == ("tabular", None)
    assert done.inputs == {"amounts": ("batch", 4), "kinds": ("batch", 2)}
    assert done.outputs == {"score": ("batch", 1), "features": ("batch", 6, 16)}
    assert len(done.sites) == 2
    score, _ = run(tmp_path / "m.onnx", amounts=np.ones((7, 4), np.float32), kinds=np.zeros((7, 2), np.int64))
    assert score.shape == (7, 1)


TEXT = """
class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(50, 16)
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, tokens, mask):
        x = self.embed(tokens)
        return self.attend(x, x, x, key_padding_mask=mask == 0)

EXAMPLE = torch.randint(0, 50, (2, 10)), torch.ones(2, 10, dtype=torch.long)

def by_task():
    return Encoder(), EXAMPLE

def by_name():
    return Encoder(), EXAMPLE, {"tokens": {0: "n", 1: "words"}, "mask": {0: "n", 1: "words"}}
"""


@pytest.mark.parametrize(
    ("factory", "task", "axes"),
    [("by_task", "feature-extraction", ("batch", "sequence")), ("by_name", None, ("n", "words"))],
)
def test_dynamic_axes_of_a_plain_module(factory, task, axes, plain, tmp_path):
    name = plain(TEXT)
    done = export_model(f"{name}:{factory}", tmp_path / "m.onnx", task=task)
    assert done.inputs == {"tokens": axes, "mask": axes}
    assert done.outputs["output_0"] == (*axes, 16)
    assert len(done.sites) == 1
    hidden, weights = run(tmp_path / "m.onnx", tokens=np.ones((3, 17), np.int64), mask=np.ones((3, 17), np.int64))
    assert (hidden.shape, weights.shape) == ((3, 17, 16), (3, 17, 17))


BROKEN = """
class Frozen(nn.Module):
    '''TorchScript writes the number of rows into the graph.'''
    def forward(self, x):
        return x * float(len(x))

class Branching(nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x - 1

class Square(nn.Module):
    def forward(self, x):
        return torch.linalg.det(x).reshape(1)

class Attending(nn.MultiheadAttention):
    '''TorchScript writes the length that torch's own module reshapes by into the graph.'''
    def forward(self, x):
        return super().forward(x, x, x)[0]

def attending(): return Attending(8, 2, batch_first=True), torch.ones(2, 6, 8)
def frozen(): return Frozen(), torch.ones(2, 3)
def branching(): return Branching(), torch.ones(2, 3)
def brain_float(): return nn.Linear(3, 3).bfloat16(), torch.ones(2, 3).bfloat16()
def no_example(): return Frozen()
def failing(): return Frozen(), [torch.ones(2, 3), torch.ones(2, 3)]
def uneven(): return Branching(), {"x": torch.ones(2, 3), "y": torch.ones(3, 3)}
def raising(): raise RuntimeError("no weights here")
def square(): return Square(), torch.eye(3)
"""

REFUSALS = {
    "frozen factor": ("frozen", [], 1, "ATP073"),
    "frozen length": (
        "attending",
        ["--task", "feature-extraction"],
        1,
        "onnxruntime fails on the graph at batch 3, sequence 3",
    ),
    "control flow": ("branching", ["--exporter", "dynamo"], 2, "ATP072"),
    "bfloat16": ("brain_float", [], 2, "ATP070"),
    "opset too old for dynamo": (
        "attending",
        ["--exporter", "dynamo", "--opset", "15"],
        2,
        "dynamo wrote opset 18, not 15",
    ),
    "opset of the future": ("frozen", ["--opset", "99"], 2, "ATP060"),
    "no example": ("no_example", [], 2, "ATP070"),
    "module fails": ("failing", [], 2, "ATP070"),
    "module fails at other sizes": ("square", [], 2, "ATP070: the module fails on inputs of other sizes, x (4, 3)"),
    "rows differ": ("uneven", [], 2, "ATP070"),
    "factory raises": ("raising", [], 2, "no weights here"),
    "no such factory": ("nothing", [], 2, "ATP070"),
    "attention of a plain module": ("frozen", ["--attention", "sdpa"], 2, "ATP060"),
    "cache of a plain module": ("frozen", ["--kv-cache"], 2, "ATP060"),
    "dtype of a plain module": ("frozen", ["--dtype", "float16"], 2, "ATP060"),
    "task of Hugging Face models": ("frozen", ["--task", "clip"], 2, "ATP071"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_plain_modules_leave_nothing(case, plain, tmp_path, atpatch):
    factory, options, exit_code, words = REFUSALS[case]
    name = plain(BROKEN)
    target = tmp_path / "out"
    target.mkdir()
    (target / "m.onnx").write_bytes(b"old")
    report = atpatch("export", f"{name}:{factory}", "-o", target / "m.onnx", "--exporter", "torchscript", *options)
    assert report.code == exit_code
    assert words in report.err
    assert report.out == ""
    assert len(report.err.splitlines()) == 2
    assert [path.name for path in target.iterdir()] == ["m.onnx"]
    assert (target / "m.onnx").read_bytes() == b"old"


def test_tolerance_decides(plain, tmp_path):
    source = f"{plain(BROKEN)}:frozen"
    done = export_model(source, tmp_path / "m.onnx", exporter="torchscript", tolerance=1.0)
    # 3 rows of 3 against a frozen 2, and 1 row of 1 against 2.
    assert done.parity["output"].difference == 1.0
    assert done.parity["output"].scale == 3.0
    with pytest.raises(AtpatchError, match="ATP073"):
        export_model(source, tmp_path / "m.onnx", exporter="torchscript", tolerance=0.3)
    with pytest.raises(AtpatchError, match="ATP060"):
        export_model(source, tmp_path / "m.onnx", tolerance=math.nan)


# Hugging Face models that are refused


def test_a_head_without_weights_is_refused(model, tmp_path):
    """transformers would fill it with random numbers."""
    with pytest.raises(AtpatchError, match=r"ATP070.*score\.weight") as error:
        export_model(model("llama"), tmp_path / "m.onnx", task="text-classification")
    assert "--task" in error.value.fix
    assert list(tmp_path.iterdir()) == []


def test_code_of_a_repository_is_never_run(tmp_path):
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "config.json").write_text(
        json.dumps(
            {
                "model_type": "evil",
                "architectures": ["EvilModel"],
                "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.M"},
            }
        )
    )
    (evil / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(AtpatchError, match=r"ATP070.*never executed"):
        export_model(evil, tmp_path / "m.onnx", task="feature-extraction")
    assert not (tmp_path / "ran").exists()


def test_a_hub_id_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(AtpatchError, match=r"ATP070.*no-such-organization/none") as error:
        export_model("no-such-organization/none", tmp_path / "m.onnx")
    assert "folder" in error.value.fix


@pytest.mark.parametrize(("row", "task", "code"), [
    ("t5 encoder", None, "ATP071"),
    ("t5 encoder", "feature-extraction", "ATP071"),
    ("vit", "causal-lm", "ATP071"),
    ("vit", "seq2seq-decoder", "ATP071"),
    ("vit", "tabular", "ATP071"),
])  # fmt: skip
def test_tasks_that_do_not_fit(row, task, code, model, tmp_path):
    with pytest.raises(AtpatchError, match=code):
        export_model(model(row), tmp_path / "m.onnx", task=task)


def test_every_task_but_the_plain_one_is_in_the_table():
    implied = {row.task for row in ROWS} | {
        name for name, task in TASKS.items() if any(row.model.endswith(task.endings) for row in ROWS)
    }
    assert implied - {None} == set(TASKS) - {"tabular"}


def test_places_and_options_are_checked_first(model, tmp_path, atpatch):
    source = model("vit")
    assert "ATP019" in atpatch("export", source, "-o", tmp_path / "nowhere" / "m.onnx").err
    assert "ATP019" in atpatch("export", source, "-o", tmp_path).err
    assert "ATP002" in atpatch("export", tmp_path / "nothing", "-o", tmp_path / "m.onnx").err
    assert "ATP002" in atpatch("export", tmp_path / ("a" * 300), "-o", tmp_path / "m.onnx").err
    assert "ATP060" in atpatch("export", source, "-o", tmp_path / "m.onnx", "--kv-cache").err
    assert atpatch("export", source).code == 2


# the check itself


@pytest.mark.parametrize("row", ["bert", "clip", "bart decoder", "gpt2 with cache"])
def test_graphs_are_checked_on_other_sizes_and_padded(row, folder):
    spec: Row = BY_NAME[row]
    with quiet():
        subject, _ = load_subject(str(save_model(spec, folder)), spec.task, "eager", "float32", spec.kv_cache)
    axes = {label for labels in subject.axes.values() for label in labels.values()}
    for probe in subject.probes:
        assert set(probe.sizes) == axes
        differing = [label for label in axes if probe.sizes[label] != subject.traced.sizes[label]]
        assert len(differing) >= len(axes) - 1
    assert 1 in {probe.sizes.get("batch", probe.sizes.get("text_batch")) for probe in subject.probes}
    padded = next(probe for probe in subject.probes if probe.padded)
    for name, tensor in subject.feeds(padded).tensors.items():
        if name.endswith("attention_mask"):
            lengths = tensor.sum(1)
            assert len(set(lengths.tolist())) == len(lengths), "every row has a length of its own"
            assert lengths.min() > 0
    assert all(torch.equal(a, b) for a, b in zip(*(subject.feeds(padded).positional() for _ in range(2)), strict=True))


# the command


def test_command_prints_the_figures_and_no_noise(model, tmp_path, atpatch):
    report = atpatch(
        "export",
        model("vit"),
        "-o",
        tmp_path / "m.onnx",
        "--exporter",
        "torchscript",
        "--attention",
        "sdpa",
        "--opset",
        "16",
    )
    assert report.code == 0
    assert report.out == ""
    assert "2 attention sites" in report.err
    assert "image-classification (torchscript, sdpa, opset 16, float32)" in report.err
    assert "batch × 3 × 16 × 16" in report.err
    assert "e-0" in report.err
    assert "Warning" not in report.err
    assert onnx.load(tmp_path / "m.onnx").opset_import[0].version == 16


def test_command_json(model, tmp_path, atpatch):
    done = atpatch("export", model("vit"), "-o", tmp_path / "m.onnx", "--exporter", "torchscript", "--json").json
    assert set(done) == {
        "output", "data", "source", "task", "exporter", "attention", "opset", "dtype", "inputs", "outputs", "parity",
        "tolerance", "sites",
        "rejected", "seconds",
    }  # fmt: skip
    assert done["sites"] == [s["id"] for s in atpatch("inspect", tmp_path / "m.onnx", "--json").json["sites"]]
    assert done["parity"]["logits"]["difference"] < 1e-4
    assert done["inputs"] == {"pixel_values": ["batch", 3, 16, 16]}


@pytest.mark.parametrize("module", ["torch", "transformers", "onnxscript"])
def test_without_the_extra(module, tmp_path):
    """Run in a process that cannot import it."""
    script = (
        f"import sys; sys.modules[{module!r}] = None; "
        f"sys.argv = ['atpatch-onnx', 'export', 'some/model', '-o', {str(tmp_path / 'm.onnx')!r}]; "
        "from atpatch_onnx.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"export needs {module}" in done.stderr
    assert "pip install 'atpatch-onnx[export]'" in done.stderr
