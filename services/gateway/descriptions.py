"""The comments of the contracts, read from the stubs' interface files, where the generator puts them."""

import ast
from functools import cache
from importlib.resources import files

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor, MethodDescriptor

__all__ = ["describe_enum", "describe_field", "describe_message", "describe_method"]


def describe_message(descriptor: Descriptor) -> str:
    """What the contract says of a message."""
    return _comments(descriptor.file).get(_name(descriptor), "")


def describe_field(field: FieldDescriptor) -> str:
    """What the contract says of a field."""
    owner = field.containing_type
    return _comments(owner.file).get(f"{_name(owner)}.{field.name}", "") if owner else ""


def describe_enum(descriptor: EnumDescriptor) -> str:
    """What the contract says of an enum and each of its values."""
    comments, name = _comments(descriptor.file), _name(descriptor)
    values = [
        f"- `{value.name}`: {comments.get(f'_{name}EnumTypeWrapper.{value.name}', '')}" for value in descriptor.values
    ]
    return "\n".join([comments.get(name, ""), "", *values])


def describe_method(method: MethodDescriptor) -> str:
    """What the contract says of a call."""
    service = method.containing_service
    return _comments(service.file, "_pb2_grpc.pyi").get(f"{service.name}Servicer.{method.name}", "")


def _name(descriptor: Descriptor | EnumDescriptor) -> str:
    return descriptor.full_name.removeprefix(f"{descriptor.file.package}.")


@cache
def _comments(file: FileDescriptor, suffix: str = "_pb2.pyi") -> dict[str, str]:
    folder, _, stem = file.name.removesuffix(".proto").rpartition("/")
    source = files(folder.replace("/", ".")).joinpath(f"{stem}{suffix}").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    _collect(ast.parse(source).body, "", found)
    return found


def _collect(body: list[ast.stmt], prefix: str, found: dict[str, str]) -> None:
    target = ""
    for node in body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                if comment := ast.get_docstring(node):
                    found[f"{prefix}{name}"] = " ".join(comment.split())
                _collect(node.body, f"{prefix}{name}.", found)
                target = ""
            case ast.AnnAssign(target=ast.Name(id=name)):
                target = f"{prefix}{name}"
            case ast.Expr(value=ast.Constant(value=str(comment))) if target:
                found[target] = " ".join(comment.split())
                target = ""
            case _:
                target = ""
