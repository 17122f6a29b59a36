"""The messages of the Open Inference Protocol v2 over gRPC, from the field numbers of its published
`grpc_service.proto`.

Only what is served is declared; fields of other versions are skipped by protobuf. The classes live in a pool of their
own, so that a client library with the same package can be imported as well.
Source: open-inference-protocol, specification/protocol/inference_grpc.md; Triton adds `double_param` and
`uint64_param`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["METHODS", "SERVICE", "message_class"]

_PACKAGE = "inference"
SERVICE = f"{_PACKAGE}.GRPCInferenceService"
METHODS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")
"""Each takes `<method>Request` and gives `<method>Response`."""

_TENSOR = (
    "name:1:string datatype:2:string shape:3:*int64 parameters:4:*InferParameterEntry contents:5:InferTensorContents"
)
# Message → name:number:type; a star: repeated; a bar: of the oneof that follows it. Maps are spelled out.
_MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live:1:bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready:1:bool",
    "ModelReadyRequest": "name:1:string version:2:string",
    "ModelReadyResponse": "ready:1:bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name:1:string version:2:string extensions:3:*string",
    "ModelMetadataRequest": "name:1:string version:2:string",
    "TensorMetadata": "name:1:string datatype:2:string shape:3:*int64",
    "ModelMetadataResponse": (
        "name:1:string versions:2:*string platform:3:string inputs:4:*TensorMetadata outputs:5:*TensorMetadata"
    ),
    "InferParameter": (
        "bool_param:1:bool|choice int64_param:2:int64|choice string_param:3:string|choice double_param:4:double|choice "
        "uint64_param:5:uint64|choice"
    ),
    "InferParameterEntry": "key:1:string value:2:InferParameter",
    "InferTensorContents": (
        "bool_contents:1:*bool int_contents:2:*int32 int64_contents:3:*int64 uint_contents:4:*uint32 "
        "uint64_contents:5:*uint64 fp32_contents:6:*float fp64_contents:7:*double bytes_contents:8:*bytes"
    ),
    "InferInputTensor": _TENSOR,
    "InferOutputTensor": _TENSOR,
    "InferRequestedOutputTensor": "name:1:string parameters:2:*InferParameterEntry",
    "ModelInferRequest": (
        "model_name:1:string model_version:2:string id:3:string parameters:4:*InferParameterEntry "
        "inputs:5:*InferInputTensor outputs:6:*InferRequestedOutputTensor raw_input_contents:7:*bytes"
    ),
    "ModelInferResponse": (
        "model_name:1:string model_version:2:string id:3:string parameters:4:*InferParameterEntry "
        "outputs:5:*InferOutputTensor raw_output_contents:6:*bytes"
    ),
}


@cache
def message_class(name: str) -> Any:
    """The class of a message."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{_PACKAGE}.{name}"))


@cache
def _pool() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="atpatch/grpc_service.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field in fields.split():
            _add_field(message, *field.split(":"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def _add_field(message: Any, name: str, number: str, kind: str) -> None:
    kind, _, choice = kind.partition("|")
    types = descriptor_pb2.FieldDescriptorProto
    field = message.field.add(name=name, number=int(number))
    field.label = types.LABEL_REPEATED if kind.startswith("*") else types.LABEL_OPTIONAL
    kind = kind.removeprefix("*")
    if kind in _MESSAGES:
        field.type, field.type_name = types.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    else:
        field.type = types.Type.Value(f"TYPE_{kind.upper()}")
    if choice:
        if not message.oneof_decl:
            message.oneof_decl.add(name=choice)
        field.oneof_index = 0
