"""Descriptors -> JSON Schema, as OpenAPI 3.0 has it, of protobuf's JSON mapping."""

from typing import Any, Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from services.gateway.descriptions import describe_enum, describe_field, describe_message
from services.gateway.descriptors import enum_type, message_type

__all__ = ["Schemas"]

Schema = dict[str, Any]

_SCALARS: Final[dict[int, Schema]] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "format": "byte"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "format": "int64", "minimum": 0, "maximum": 4_294_967_295},
    FieldDescriptor.TYPE_INT64: {"type": "string", "format": "int64"},
    FieldDescriptor.TYPE_UINT64: {"type": "string", "format": "uint64"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
}

# These have a JSON form of their own.
_WELL_KNOWN: Final[dict[str, Schema]] = {
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    "google.protobuf.Value": {"description": "Any JSON value."},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?\d+(\.\d{1,9})?s$", "example": "0.042s"},
    "google.protobuf.FieldMask": {"type": "string", "example": "title,tags"},
}


class Schemas:
    """Collects the components that a document refers to."""

    def __init__(self) -> None:
        """Start with none."""
        self.components: dict[str, Schema] = {}

    def message(self, descriptor: Descriptor) -> Schema:
        """A reference to a message's schema, which is added with all that it needs."""
        if descriptor.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[descriptor.full_name])
        name = _component(descriptor)
        if name not in self.components:
            # Named before it is filled, since messages may hold themselves.
            schema = self.components[name] = {"type": "object", "additionalProperties": False}
            if comment := _full_comment(descriptor):
                schema["description"] = comment
            schema["properties"] = {field.name: self.field(field) for field in descriptor.fields}
        return {"$ref": f"#/components/schemas/{name}"}

    def field(self, field: FieldDescriptor) -> Schema:
        """The schema of a field."""
        schema = self._one(field)
        comment = describe_field(field)
        if field.is_repeated:
            schema = {"type": "array", "items": schema}
        elif comment and "$ref" in schema:
            # In OpenAPI 3.0 nothing may stand beside $ref.
            schema = {"allOf": [schema]}
        if comment:
            schema["description"] = comment
        return schema

    def _one(self, field: FieldDescriptor) -> Schema:
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            return self.message(message_type(field))
        if field.type == FieldDescriptor.TYPE_ENUM:
            return self._enum(enum_type(field))
        return dict(_SCALARS[field.type])

    def _enum(self, descriptor: EnumDescriptor) -> Schema:
        name = _component(descriptor)
        if name not in self.components:
            self.components[name] = {
                "type": "string",
                "enum": [value.name for value in descriptor.values],
                "description": describe_enum(descriptor),
            }
        return {"$ref": f"#/components/schemas/{name}"}


def _component(descriptor: Descriptor | EnumDescriptor) -> str:
    """`saccade.common.v1.Filter.Tags` -> `Filter.Tags`: no two of our messages share a name."""
    return str(descriptor.full_name.removeprefix(f"{descriptor.file.package}."))


def _full_comment(descriptor: Descriptor) -> str:
    lines = [describe_message(descriptor)]
    # An optional field is a group of its own.
    groups = [[f"`{field.name}`" for field in group.fields] for group in descriptor.oneofs if len(group.fields) > 1]
    lines += [f"At most one of {', '.join(group)}." for group in groups]
    return " ".join(line for line in lines if line)
