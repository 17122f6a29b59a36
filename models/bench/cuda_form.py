"""What onnxruntime's CUDA provider would do with a graph, told from the graph, without a GPU.

1. A captured CUDA graph allows no control flow, no copy between host and device, and no operator whose output's size
   depends on values. Shapes may be computed on the CPU.
2. A node goes to CUDA where there is a kernel for the types of its inputs (`KERNELS`).
3. Except that it goes to the CPU where all it reads is there: shapes, small constants and graph inputs. That is
   onnxruntime's `GetCpuPreferredNodes`.
4. A copy is needed where a value is made on one side and read on the other. Kernels read some inputs, such as new
   shapes, in the CPU's memory (`HOST_INPUTS`); nothing is copied for these if they are made there.

Read in onnxruntime's sources (docs/OperatorKernels.md, core/framework/fallback_cpu_capability.cc,
core/optimizer/transformer_memcpy.cc). A forecast: what counts is what the profile of a run on CUDA says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from rewriters.model.bodies import reads, walk_bodies

__all__ = ["CONTROL_FLOW", "DYNAMIC", "HOST_INPUTS", "KERNELS", "Forecast", "forecast"]

CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
DYNAMIC = frozenset({"NonZero", "Compress", "Unique", "NonMaxSuppression"})
"""Their outputs' sizes depend on values, so the host waits for the device."""

SMALL = 100
"""Most elements of a constant that does not keep a node from the CPU."""

_FLOATS = "float float16 double bfloat16 "
_WHOLE = _FLOATS + "int32 int64 "
_ALL = _WHOLE + "bool int8 int16 uint8 uint16 uint32 uint64 "
_BY_TYPES = {
    _ALL: """Cast Concat ConstantOfShape Expand Flatten Gather GatherElements Identity Reshape ScatterElements ScatterND
        Shape Size Slice Split Squeeze Transpose Trilu Unsqueeze MemcpyFromHost MemcpyToHost""",
    _WHOLE: """Abs Add CumSum Div Greater GreaterOrEqual Less LessOrEqual Max Min Mod Mul Neg Pow ReduceMax ReduceMin
        ReduceSum Sign Sub Tile TopK""",
    _WHOLE + "bool": "Equal",
    _WHOLE + "uint8": "Where",
    _FLOATS + "int64": "Clip",
    _FLOATS + "int64 bool": "GatherND",
    _FLOATS + "int32": "ReduceL1 ReduceL2 ReduceMean ReduceProd",
    _FLOATS + "bool": "Pad",
    "float double int16 int32 int64": "Range",
    "bool": "And Not Or Xor",
    _FLOATS: """ArgMax ArgMin Attention BiasGelu BiasSoftmax Ceil Conv Cos Einsum Erf Exp FastGelu Floor FusedMatMul
        Gelu Gemm IsInf IsNaN LayerNormalization Log LogSoftmax MatMul MultiHeadAttention QuickGelu RMSNormalization
        Reciprocal ReduceSumSquare Relu RotaryEmbedding Round Sigmoid SimplifiedLayerNormalization Sin
        SkipLayerNormalization SkipSimplifiedLayerNormalization Softmax Sqrt Sum Tanh""",
    "float16 bfloat16": "GroupQueryAttention",
}
KERNELS: dict[str, frozenset[str]] = {
    op: frozenset(types.split()) for types, ops in _BY_TYPES.items() for op in ops.split()
}
"""Operator → element types, onnxruntime's names for them, of the input that decides."""

_DECIDES = {"Where": 1}
"""Which input decides, where it is not the first."""

HOST_INPUTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Clip", "OneHot"), (1, 2)),
    **dict.fromkeys(("Expand", "Reshape", "Tile", "TopK", "CumSum", "Trilu", "Split", "Squeeze", "Unsqueeze"), (1,)),
    **dict.fromkeys((op for op in KERNELS if op.startswith("Reduce")), (1,)),
    "Slice": (1, 2, 3, 4),
    "Pad": (1, 2),
    "Range": (0, 1, 2),
    "ConstantOfShape": (0,),
    "If": (0,),
    "GroupQueryAttention": (6,),
}
"""Operator → its inputs that the CUDA kernel reads in the CPU's memory."""

_HOST_OUTPUTS = frozenset({"Shape", "Size"})


@dataclass(frozen=True)
class Forecast:
    """What keeps a graph from CUDA.

    Attributes:
        control_flow, dynamic: operators that a capture does not allow, with their number.
        without_kernel: operators and types that have no kernel there.
        on_cpu: operators that go to the CPU, with their number; `copies`: values that are copied, with the operator
            that makes and one that reads each.
    """

    control_flow: dict[str, int] = field(default_factory=dict)
    dynamic: dict[str, int] = field(default_factory=dict)
    without_kernel: tuple[str, ...] = ()
    on_cpu: dict[str, int] = field(default_factory=dict)
    copies: tuple[str, ...] = ()

    @property
    def capturable(self) -> bool:
        return not (self.control_flow or self.dynamic or self.without_kernel or self.copies)


def forecast(model: onnx.ModelProto, types: Mapping[str, str]) -> Forecast:
    """The forecast for the main graph of a model as onnxruntime has optimized it.

    Args:
        types: element types by value, as a run has seen them (`device_runs.Seen.types`); a value that is not there is
            taken to have any type.
    """
    counts: dict[str, int] = {}
    for _, body in walk_bodies(model):
        for node in body.node:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    lacking = {index: text for index, node in enumerate(model.graph.node) if (text := _lacking(node, types))}
    host = _on_host(model.graph, set(lacking))
    placed: dict[str, int] = {}
    for index in sorted(host):
        op = model.graph.node[index].op_type
        placed[op] = placed.get(op, 0) + 1
    return Forecast(
        {op: count for op, count in counts.items() if op in CONTROL_FLOW},
        {op: count for op, count in counts.items() if op in DYNAMIC},
        tuple(sorted(set(lacking.values()))),
        placed,
        tuple(_copies(model.graph, host)),
    )


def _lacking(node: onnx.NodeProto, types: Mapping[str, str]) -> str:
    """The operator, with its type, where there is no kernel."""
    if node.op_type in CONTROL_FLOW | DYNAMIC or node.op_type == "Constant":
        return ""
    if node.op_type not in KERNELS:
        return node.op_type
    decides = _DECIDES.get(node.op_type, 0)
    kind = types.get(node.input[decides], "") if decides < len(node.input) else ""
    return f"{node.op_type} of {kind}" if kind and kind not in KERNELS[node.op_type] else ""


def _on_host(graph: onnx.GraphProto, lacking: set[int]) -> set[int]:
    """Indices of the nodes that run on the CPU; nodes stand in topological order."""
    free = {value.name for value in graph.input}
    free |= {tensor.name for tensor in graph.initializer if math.prod(tensor.dims) <= SMALL}
    found, values = set(lacking), {""}
    for index, node in enumerate(graph.node):
        if node.op_type in _HOST_OUTPUTS:
            values.update(node.output)
            continue
        if index not in lacking:
            kernel = HOST_INPUTS.get(node.op_type, ())
            follows = any(name in values for name in node.input if name)
            moved = [name for place, name in enumerate(node.input) if place not in kernel and name not in free]
            if not follows or any(name not in values for name in moved):
                continue
            if any(node.input[place] in values for place in kernel if place < len(node.input) and node.input[place]):
                continue
            found.add(index)
        values.update(node.output)
    return found


def _copies(graph: onnx.GraphProto, host: set[int]) -> list[str]:
    """Values made on one side and read on the other."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    found = {}
    for index, node in enumerate(graph.node):
        for name in reads(node):
            if name not in makers:
                continue
            maker = makers[name]
            places = [place for place, given in enumerate(node.input) if given == name]
            there = maker in host or graph.node[maker].op_type in _HOST_OUTPUTS
            wanted = index in host or (
                bool(places) and all(place in HOST_INPUTS.get(node.op_type, ()) for place in places)
            )
            if there != wanted:
                found[name] = f"{graph.node[maker].op_type} → {node.op_type}: {name}"
    return sorted(found.values())
