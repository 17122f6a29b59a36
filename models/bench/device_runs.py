"""Sessions on a device: with fixed or open sizes, inputs and outputs in the device's memory, as a captured CUDA graph,
profiled.

A captured graph replays the kernels of one run on the same addresses. So inputs and outputs are made once, and a later
request is written into the same memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from atpatch_onnx.benchmark.arms import CPU, CUDA, check_provider
from atpatch_onnx.errors import RUNTIME_REFUSES
from rewriters.names import STEERING

__all__ = ["Device", "Feeds", "Held", "Seen", "Sizes", "fixed_graph", "open_session", "outputs_of"]

Feeds = Mapping[str, NDArray[Any]]
Sizes = Mapping[str, int]

_EVENT = "_kernel_time"
"""End of the name of a profiled kernel; the node's name comes first."""


@dataclass(frozen=True)
class Device:
    """Where sessions run: on CUDA, or on the CPU to try all of it out."""

    cuda: bool

    @property
    def provider(self) -> str:
        return CUDA if self.cuda else CPU

    @property
    def memory(self) -> str:
        return "cuda" if self.cuda else "cpu"

    def check(self) -> None:
        """Raises ATP052 where onnxruntime lacks the provider, or it does not start."""
        check_provider(self.provider)
        if not self.cuda:
            return
        import onnxruntime

        # CUDA's libraries may lie in Python packages, where the loader does not look by itself.
        if hasattr(onnxruntime, "preload_dlls"):  # from 1.21 on
            onnxruntime.preload_dlls()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        live = onnxruntime.InferenceSession(_smallest(), options, providers=[CUDA, CPU])
        if CUDA not in live.get_providers():
            raise RUNTIME_REFUSES(
                f"{CUDA} did not start", "check the CUDA and cuDNN versions that onnxruntime-gpu was built for"
            )


def open_session(
    model: Path,
    device: Device,
    *,
    sizes: Sizes | None = None,
    exact: bool = False,
    capture: bool = False,
    profile: Path | None = None,
) -> Any:
    """An `onnxruntime.InferenceSession`.

    Args:
        sizes: by symbolic axis, fixed for the whole session, so that shapes are computed once; None: open.
        exact: products in full float32, not in TF32, which CUDA takes by default.
        capture: the second run on a binding is captured, and later ones replay it. Only on CUDA.
        profile: start of the name of the profile's file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for axis, size in (sizes or {}).items():
        options.add_free_dimension_override_by_name(axis, size)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if not device.cuda:
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(str(model), options, providers=[CPU])
    chosen = {"use_tf32": "0" if exact else "1", "enable_cuda_graph": "1" if capture else "0"}
    return onnxruntime.InferenceSession(str(model), options, providers=[(CUDA, chosen), CPU])


def outputs_of(live: Any, feeds: Feeds) -> dict[str, NDArray[Any]]:
    """All outputs by name."""
    names = [output.name for output in live.get_outputs()]
    return dict(zip(names, live.run(names, _taken(live, feeds)), strict=True))


class Held:
    """A session with one request held in the device's memory.

    Args:
        shapes: outputs of this request, for their shapes and types.
    """

    def __init__(self, live: Any, device: Device, feeds: Feeds, shapes: Feeds) -> None:
        from onnxruntime import OrtValue

        self._live, self._binding = live, live.io_binding()
        self._inputs = {
            # on the CPU the value lies in the memory of the array
            name: OrtValue.ortvalue_from_numpy(array.copy(), device.memory, 0)
            for name, array in _taken(live, feeds).items()
        }
        self._outputs = {
            name: OrtValue.ortvalue_from_shape_and_type(list(array.shape), array.dtype.type, device.memory, 0)
            for name, array in shapes.items()
        }
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._binding.synchronize_inputs()

    def run(self) -> None:
        """To be timed: from device memory to device memory, to the end."""
        self._live.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()  # the kernels are only queued before

    def ask(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Outputs of another request of the same shapes, written into the same memory."""
        for name, array in _taken(self._live, feeds).items():
            if array.size:
                self._inputs[name].update_inplace(array)
        self._binding.synchronize_inputs()
        self.run()
        return {name: value.numpy().copy() for name, value in self._outputs.items()}


@dataclass(frozen=True)
class Seen:
    """What a profiled run shows.

    Attributes:
        nodes: number of kernels by provider, in all bodies that ran.
        on_cpu: operators that ran on the CPU, with their number.
        copies: between host and device.
    """

    nodes: dict[str, int]
    on_cpu: dict[str, int]
    copies: int

    @classmethod
    def of(cls, live: Any, feeds: Feeds) -> Seen:
        """Of one run of a session that was opened with a profile, which ends it."""
        outputs_of(live, feeds)
        ran = [(one["args"]["provider"], one["args"]["op_name"]) for one in _kernels(live)]
        return cls(
            dict(Counter(provider for provider, _ in ran)),
            dict(Counter(op for provider, op in ran if provider == CPU)),
            sum(op.startswith("Memcpy") for _, op in ran),
        )


def fixed_graph(model: Path, sizes: Sizes, feeds: Feeds, folder: Path) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The graph as onnxruntime hands it to a provider, constants folded for these sizes, and element types by value, of
    those that a kernel of the main graph reads or makes. Needs only the CPU.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "fixed.onnx")
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    for axis, size in sizes.items():
        options.add_free_dimension_override_by_name(axis, size)
    live = onnxruntime.InferenceSession(str(model), options, providers=[CPU])
    outputs_of(live, feeds)
    graph = onnx.load(folder / "fixed.onnx")
    nodes = {node.name: node for node in graph.graph.node}
    types: dict[str, str] = {}
    for event in _kernels(live):
        node = nodes.get(event["name"].removesuffix(_EVENT))
        if node is None:
            continue
        for names, field in ((node.input, "input_type_shape"), (node.output, "output_type_shape")):
            given, kinds = [name for name in names if name], [next(iter(one)) for one in event["args"][field]]
            if len(given) == len(kinds):
                types.update(zip(given, kinds, strict=True))
    return graph, types


def _kernels(live: Any) -> list[dict[str, Any]]:
    """Events of the kernels that ran; the profile's file goes."""
    file = Path(live.end_profiling())
    events = json.loads(file.read_text())
    file.unlink()
    return [one for one in events if one.get("cat") == "Node" and one["name"].endswith(_EVENT)]


def _smallest() -> bytes:
    """A model that every provider runs."""
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Abs", ["x"], ["y"])], "smallest", [x], [y])
    opsets = [onnx.helper.make_opsetid("", 17)]
    smallest: bytes = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return smallest


def _taken(live: Any, feeds: Feeds) -> dict[str, NDArray[Any]]:
    """Of the feeds those that the graph takes, contiguous."""
    names = {value.name for value in live.get_inputs()}
    names |= {value.name for value in live.get_overridable_initializers()} & set(STEERING)
    return {name: np.asarray(array, order="C") for name, array in feeds.items() if name in names}
