#!/usr/bin/env python3
"""Compare proto/onnx.proto with the descriptor that the installed `onnx` package carries; list every difference.

    pip install onnx grpcio-tools
    check_proto.py [proto/onnx.proto]

What the package has must be in the file: messages, fields (number, label, type, packing, oneof), enum values. What only
the file has may not use a number or a name that the package uses otherwise or has reserved.
"""
import os, sys, tempfile
import onnx
from google.protobuf import descriptor_pb2 as pb
from grpc_tools import protoc


def compile_proto(path):
    path = os.path.abspath(path)
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "set.bin")
        if protoc.main(["protoc", f"-I{os.path.dirname(path)}", f"--descriptor_set_out={out}", path]):
            sys.exit(f"{path} does not compile")
        with open(out, "rb") as f:
            return pb.FileDescriptorSet.FromString(f.read()).file[0]


def field_facts(field, message, file):
    kind = pb.FieldDescriptorProto
    named = field.type in (kind.TYPE_MESSAGE, kind.TYPE_ENUM)
    scalar = not named and field.type not in (kind.TYPE_STRING, kind.TYPE_BYTES)
    packed = field.options.packed if field.options.HasField("packed") else file.syntax == "proto3"
    return {
        "number": field.number,
        "label": kind.Label.Name(field.label),
        "type": field.type_name.removeprefix(f".{file.package}.") if named else kind.Type.Name(field.type),
        "packed": packed and field.label == kind.LABEL_REPEATED and (scalar or field.type == kind.TYPE_ENUM),
        "oneof": message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") and not field.proto3_optional else None,
        "default": field.default_value,
    }


def walk(file):
    """{"message Node" | "enum Kind": {member: facts}} and {the same: [(first, last) reserved number]}."""
    members, reserved = {}, {}

    def enum(e, prefix):
        members[f"enum {prefix}{e.name}"] = {v.name: {"number": v.number} for v in e.value}
        reserved[f"enum {prefix}{e.name}"] = [(r.start, r.end) for r in e.reserved_range]

    def message(m, prefix):
        members[f"message {prefix}{m.name}"] = {f.name: field_facts(f, m, file) for f in m.field}
        reserved[f"message {prefix}{m.name}"] = [(r.start, r.end - 1) for r in m.reserved_range]
        for e in m.enum_type: enum(e, f"{prefix}{m.name}.")
        for n in m.nested_type: message(n, f"{prefix}{m.name}.")

    for e in file.enum_type: enum(e, "")
    for m in file.message_type: message(m, "")
    return members, reserved


def differences(ours, theirs):
    (ours, _), (theirs, reserved) = walk(ours), walk(theirs)
    for owner, want in theirs.items():
        if owner not in ours:
            yield f"{owner} is missing"
            continue
        have = ours[owner]
        for name, facts in want.items():
            if name not in have:
                yield f"{owner}: {name} = {facts['number']} is missing"
                continue
            for fact, value in facts.items():
                if have[name][fact] != value:
                    yield f"{owner}: {name} has {fact} {have[name][fact]!r}, the package {value!r}"
        numbers = {f["number"]: n for n, f in want.items()}
        for name in have.keys() - want.keys():
            number = have[name]["number"]
            if number in numbers:
                yield f"{owner}: {name} takes number {number} of {numbers[number]}"
            elif any(first <= number <= last for first, last in reserved[owner]):
                yield f"{owner}: {name} takes number {number}, which is reserved"


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "..", "proto", "onnx.proto")
    theirs = pb.FileDescriptorProto()
    onnx.onnx_ml_pb2.DESCRIPTOR.CopyToProto(theirs)
    ours = compile_proto(path)
    found = sorted(differences(ours, theirs))
    if ours.package != theirs.package:
        found.insert(0, f"package is {ours.package!r}, the package's {theirs.package!r}")
    print("\n".join(found) or f"{os.path.basename(path)} agrees with onnx {onnx.__version__}: {len(walk(theirs)[0])} messages and enums")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
