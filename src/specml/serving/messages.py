"""The messages of the Open Inference Protocol over gRPC, as classes: ``ModelInferRequest`` and the others by name.

https://github.com/kserve/open-inference-protocol (open_inference_grpc.proto). They are described here rather than
generated: nothing has to be generated anew when protobuf or its compiler changes, and they live in a pool of their own,
beside what a client of the protocol in the same process brings along. A test holds them to Triton's.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
    from google.protobuf.message import Message

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

_TENSOR = "string name = 1; string datatype = 2; repeated int64 shape = 3"
_FILLED = f"{_TENSOR}; map<InferParameter> parameters = 4; InferTensorContents contents = 5"

FIELDS = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live = 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready = 1",
    "ModelReadyRequest": "string name = 1; string version = 2",
    "ModelReadyResponse": "bool ready = 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name = 1; string version = 2; repeated string extensions = 3",
    "ModelMetadataRequest": "string name = 1; string version = 2",
    "ModelMetadataResponse": (
        "string name = 1; repeated string versions = 2; string platform = 3; repeated .TensorMetadata inputs = 4; "
        "repeated .TensorMetadata outputs = 5"
    ),
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "InferParameter": (
        "oneof bool bool_param = 1; oneof int64 int64_param = 2; oneof string string_param = 3; "
        "oneof double double_param = 4; oneof uint64 uint64_param = 5"
    ),
    "InferTensorContents": (
        "repeated bool bool_contents = 1; repeated int32 int_contents = 2; repeated int64 int64_contents = 3; "
        "repeated uint32 uint_contents = 4; repeated uint64 uint64_contents = 5; repeated float fp32_contents = 6; "
        "repeated double fp64_contents = 7; repeated bytes bytes_contents = 8"
    ),
    "ModelInferRequest": (
        "string model_name = 1; string model_version = 2; string id = 3; map<InferParameter> parameters = 4; "
        "repeated .InferInputTensor inputs = 5; repeated .InferRequestedOutputTensor outputs = 6; "
        "repeated bytes raw_input_contents = 7"
    ),
    "ModelInferRequest.InferInputTensor": _FILLED,
    "ModelInferRequest.InferRequestedOutputTensor": "string name = 1; map<InferParameter> parameters = 2",
    "ModelInferResponse": (
        "string model_name = 1; string model_version = 2; string id = 3; map<InferParameter> parameters = 4; "
        "repeated .InferOutputTensor outputs = 5; repeated bytes raw_output_contents = 6"
    ),
    "ModelInferResponse.InferOutputTensor": _FILLED,
}
"""The fields of each message: kind, name and number. ``map<…>`` has texts for keys; a kind that begins with a dot is
a message inside this one; those of ``oneof`` exclude each other."""

_FIELD = re.compile(r"(?:(repeated|oneof) )?(map<)?([.\w]+)>? (\w+) = (\d+)")


@cache
def message(name: str) -> type[Message]:
    """The class of a message."""
    from google.protobuf import message_factory

    found: type[Message] = message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{PACKAGE}.{name}"))
    return found


@cache
def _pool() -> Any:
    from google.protobuf.descriptor_pool import DescriptorPool

    pool = DescriptorPool()
    pool.AddSerializedFile(_file().SerializeToString())
    return pool


def _file() -> FileDescriptorProto:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    file = FileDescriptorProto(name="specml/open_inference.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, DescriptorProto] = {}
    for path, fields in FIELDS.items():
        outer, _, name = path.rpartition(".")
        one = made[path] = made[outer].nested_type.add(name=name) if outer else file.message_type.add(name=name)
        for label, mapped, kind, field, number in _FIELD.findall(fields):
            _add(one, f".{PACKAGE}.{path}", kind, field, int(number), label or ("map" if mapped else ""))
    return file


def _add(to: DescriptorProto, path: str, kind: str, name: str, number: int, label: str) -> None:  # noqa: PLR0917 -- as a field is written
    """Add a field; ``label``: repeated, map, oneof or nothing."""
    field = to.field.add(name=name, number=number)
    field.label = field.LABEL_REPEATED if label in ("repeated", "map") else field.LABEL_OPTIONAL
    if label == "map":  # a list of entries of key and value
        entry = to.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _add(entry, path, "string", "key", 1, "")
        _add(entry, path, kind, "value", 2, "")
        kind = f".{entry.name}"
    if label == "oneof":
        if not to.oneof_decl:
            to.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    if kind[0].islower():
        field.type = getattr(field, f"TYPE_{kind.upper()}")
    else:
        field.type = field.TYPE_MESSAGE
        field.type_name = f"{path}{kind}" if kind.startswith(".") else f".{PACKAGE}.{kind}"
