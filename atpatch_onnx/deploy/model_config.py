"""Triton's model configuration as protobuf messages, from the field numbers of its published `model_config.proto`.

Only what is written here is declared. The classes live in a pool of their own, so that Triton's client library can be
imported in the same process.
Source: triton-inference-server/common, protobuf/model_config.proto.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

__all__ = ["KINDS", "config_text", "model_config_class"]

_PACKAGE = "inference"
DATA_TYPES: tuple[str, ...] = (
    "INVALID",
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
)
DATA_TYPES += ("FP16", "FP32", "FP64", "STRING", "BF16")
KINDS = ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL")

# Message → (field, number, type); a star: repeated; a bar: of the oneof that follows it.
_FIELDS: dict[str, tuple[tuple[str, int, str], ...]] = {
    "ModelTensorReshape": (("shape", 1, "*int64"),),
    "ModelInput": (
        ("name", 1, "string"),
        ("data_type", 2, "DataType"),
        ("dims", 4, "*int64"),
        ("reshape", 5, "ModelTensorReshape"),
    ),
    "ModelOutput": (
        ("name", 1, "string"),
        ("data_type", 2, "DataType"),
        ("dims", 3, "*int64"),
        ("reshape", 5, "ModelTensorReshape"),
    ),
    "ModelInstanceGroup": (("count", 2, "int32"), ("gpus", 3, "*int32"), ("kind", 4, "ModelInstanceGroup.Kind")),
    "ModelVersionPolicy": (("specific", 3, "ModelVersionPolicy.Specific|policy_choice"),),
    "ModelVersionPolicy.Specific": (("versions", 1, "*int64"),),
    "ModelDynamicBatching": (("preferred_batch_size", 1, "*int32"), ("max_queue_delay_microseconds", 2, "uint64")),
    "ModelParameter": (("string_value", 1, "string"),),
    "ModelConfig.ParametersEntry": (("key", 1, "string"), ("value", 2, "ModelParameter")),
    "ModelConfig": (
        ("name", 1, "string"),
        ("backend", 17, "string"),
        ("version_policy", 3, "ModelVersionPolicy"),
        ("max_batch_size", 4, "int32"),
        ("input", 5, "*ModelInput"),
        ("output", 6, "*ModelOutput"),
        ("dynamic_batching", 11, "ModelDynamicBatching|scheduling_choice"),
        ("instance_group", 7, "*ModelInstanceGroup"),
        ("default_model_filename", 8, "string"),
        ("parameters", 14, "*ModelConfig.ParametersEntry"),
    ),
}


@cache
def model_config_class() -> Any:
    """The class `inference.ModelConfig`."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.ModelConfig"))


def config_text(config: Any) -> str:
    """The content of a config.pbtxt."""
    text: str = text_format.MessageToString(config)
    return text


def _file() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="atpatch/model_config.proto", package=_PACKAGE, syntax="proto3")
    _add_enum(file.enum_type.add(name="DataType"), tuple(f"TYPE_{name}" for name in DATA_TYPES))
    messages: dict[str, Any] = {}
    for name in sorted(_FIELDS):  # an outer message comes before those inside it
        outer, _, inner = name.rpartition(".")
        messages[name] = messages[outer].nested_type.add(name=inner) if outer else file.message_type.add(name=name)
        for field, number, kind in _FIELDS[name]:
            _add_field(messages[name], field, number, kind)
    messages["ModelConfig.ParametersEntry"].options.map_entry = True
    _add_enum(messages["ModelInstanceGroup"].enum_type.add(name="Kind"), KINDS)
    return file


def _add_enum(enum: Any, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names):
        enum.value.add(name=name, number=number)


def _add_field(message: Any, name: str, number: int, kind: str) -> None:
    kind, _, choice = kind.partition("|")
    field_type = descriptor_pb2.FieldDescriptorProto
    field = message.field.add(name=name, number=number)
    field.label = field_type.LABEL_REPEATED if kind.startswith("*") else field_type.LABEL_OPTIONAL
    kind = kind.removeprefix("*")
    if kind in ("DataType", "ModelInstanceGroup.Kind"):
        field.type, field.type_name = field_type.TYPE_ENUM, f".{_PACKAGE}.{kind}"
    elif kind in _FIELDS:
        field.type, field.type_name = field_type.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    else:
        field.type = field_type.Type.Value(f"TYPE_{kind.upper()}")
    if choice:
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=choice)
