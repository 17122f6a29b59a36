"""The tools of the table.

Each reads one model file and writes another; versions are pinned in tests/third_party.txt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx

__all__ = ["TOOLS", "Tool"]


@dataclass(frozen=True)
class Tool:
    """One way to call one tool.

    Attributes:
        name: as the table says it.
        package: whose version the table gives.
        convert: reads one file, writes the other.
        changes: what the tool means to change: nothing that shows in a result, nodes into fused ones that round
            otherwise, all numbers to half precision, or weights to integers.
        prefix: put before the names of the inputs.
        suffix: of the file that the tool writes.
        spare: the same call of a lossy tool with the option that leaves nodes of these names as they are.
    """

    name: str
    package: str
    convert: Callable[[Path, Path], None]
    changes: Literal["nothing", "fusions", "precision", "integers"] = "nothing"
    prefix: str = ""
    suffix: str = ".onnx"
    spare: Callable[[Path, Path, list[str]], None] | None = None

    @property
    def lossy(self) -> bool:
        """Whether scores move so much that flags may cross the threshold."""
        return self.changes in ("precision", "integers")


def _of_graphs(edit: Callable[[onnx.ModelProto], Any]) -> Callable[[Path, Path], None]:
    """A tool that takes and returns a ModelProto."""

    def convert(source: Path, target: Path) -> None:
        onnx.save_model(edit(onnx.load(source)), target)

    return convert


def _onnxslim(model: onnx.ModelProto) -> Any:
    import onnxslim

    return onnxslim.slim(model)


def _onnxsim(model: onnx.ModelProto) -> Any:
    import onnxsim

    return onnxsim.simplify(model)[0]


def _onnxoptimizer(model: onnx.ModelProto) -> Any:
    import onnxoptimizer

    return onnxoptimizer.optimize(model)


def _fold_constants(model: onnx.ModelProto) -> Any:
    import onnx_graphsurgeon as gs

    return gs.export_onnx(gs.import_onnx(model).fold_constants().cleanup())


def _toposort(model: onnx.ModelProto) -> Any:
    import onnx_graphsurgeon as gs

    return gs.export_onnx(gs.import_onnx(model).cleanup().toposort())


def _onnxscript_optimize(model: onnx.ModelProto) -> Any:
    from onnxscript import optimizer

    return optimizer.optimize(model)


def _onnxscript_rewrite(model: onnx.ModelProto) -> Any:
    from onnxscript import rewriter

    return rewriter.rewrite(model)


def _prefix(model: onnx.ModelProto) -> Any:
    return onnx.compose.add_prefix(model, "left/")


def _extract(source: Path, target: Path) -> None:
    graph = onnx.load(source, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in weights]
    onnx.utils.extract_model(str(source), str(target), inputs, [value.name for value in graph.output])


def _inline(model: onnx.ModelProto) -> Any:
    import onnx.inliner

    return onnx.inliner.inline_local_functions(model)


def _newer_opset(model: onnx.ModelProto) -> Any:
    from onnx import version_converter

    version = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return version_converter.convert_version(model, version + 1)


def _infer_shapes(model: onnx.ModelProto) -> Any:
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _infer_symbolic_shapes(model: onnx.ModelProto) -> Any:
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    return SymbolicShapeInference.infer_shapes(model, auto_merge=True)


def _half_common(source: Path, target: Path, spared: list[str] | None = None) -> None:
    from onnxconverter_common import float16

    onnx.save_model(
        float16.convert_float_to_float16(onnx.load(source), keep_io_types=True, node_block_list=spared), target
    )


def _half_transformers(source: Path, target: Path, spared: list[str] | None = None) -> None:
    from onnxruntime.transformers import float16

    onnx.save_model(
        float16.convert_float_to_float16(onnx.load(source), keep_io_types=True, node_block_list=spared), target
    )


def _fuse(source: Path) -> Any:
    from onnxruntime.transformers import optimizer

    # 0: heads and width are read off the graph.
    return optimizer.optimize_model(str(source), "bert", num_heads=0, hidden_size=0, opt_level=1, use_gpu=False)


def _transformers(source: Path, target: Path) -> None:
    _fuse(source).save_model_to_file(str(target))


def _transformers_half(source: Path, target: Path, spared: list[str] | None = None) -> None:
    fused = _fuse(source)
    fused.convert_float_to_float16(keep_io_types=True, node_block_list=spared)
    fused.save_model_to_file(str(target))


def _quantize_dynamic(source: Path, target: Path, spared: list[str] | None = None) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(source, target, nodes_to_exclude=spared)


def _quant_pre_process(source: Path, target: Path) -> None:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(source), str(target), auto_merge=True)


def _saved(source: Path, target: Path) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


TOOLS: tuple[Tool, ...] = (
    Tool("onnxslim", "onnxslim", _of_graphs(_onnxslim)),
    Tool("onnxsim", "onnxsim", _of_graphs(_onnxsim)),
    Tool("onnxoptimizer", "onnxoptimizer", _of_graphs(_onnxoptimizer)),
    Tool("onnx-graphsurgeon fold_constants", "onnx-graphsurgeon", _of_graphs(_fold_constants)),
    Tool("onnx-graphsurgeon cleanup, toposort", "onnx-graphsurgeon", _of_graphs(_toposort)),
    Tool("onnxscript optimizer.optimize", "onnxscript", _of_graphs(_onnxscript_optimize)),
    Tool("onnxscript rewriter.rewrite", "onnxscript", _of_graphs(_onnxscript_rewrite)),
    Tool("onnx.compose.add_prefix", "onnx", _of_graphs(_prefix), prefix="left/"),
    Tool("onnx.utils.extract_model", "onnx", _extract),
    Tool("onnx.inliner", "onnx", _of_graphs(_inline)),
    Tool("onnx.version_converter, opset + 1", "onnx", _of_graphs(_newer_opset)),
    Tool("onnx.shape_inference", "onnx", _of_graphs(_infer_shapes)),
    Tool("onnxruntime symbolic shape inference", "onnxruntime", _of_graphs(_infer_symbolic_shapes)),
    Tool(
        "onnxconverter-common fp16, keep_io_types",
        "onnxconverter-common",
        _half_common,
        changes="precision",
        spare=_half_common,
    ),
    Tool(
        "onnxruntime.transformers fp16, keep_io_types",
        "onnxruntime",
        _half_transformers,
        changes="precision",
        spare=_half_transformers,
    ),
    Tool("onnxruntime.transformers optimizer (bert)", "onnxruntime", _transformers, changes="fusions"),
    Tool(
        "onnxruntime.transformers optimizer (bert), fp16",
        "onnxruntime",
        _transformers_half,
        changes="precision",
        spare=_transformers_half,
    ),
    Tool("onnxruntime quant_pre_process", "onnxruntime", _quant_pre_process),
    Tool("onnxruntime quantize_dynamic", "onnxruntime", _quantize_dynamic, changes="integers", spare=_quantize_dynamic),
    Tool("onnxruntime optimized_model_filepath", "onnxruntime", _saved),
    Tool("onnxruntime .ort", "onnxruntime", _saved, suffix=".ort"),
)
