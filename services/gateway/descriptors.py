"""What the gateway asks of field descriptors."""

from typing import Final, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

__all__ = ["descriptor_of", "enum_type", "is_message", "is_plain", "message_type", "type_name"]

_WELL_KNOWN: Final = "google.protobuf."


def descriptor_of(message: Message) -> Descriptor:
    """A message's own descriptor."""
    return cast(Descriptor, message.DESCRIPTOR)


def is_message(field: FieldDescriptor) -> bool:
    """Whether a field holds messages."""
    return field.message_type is not None


def is_plain(field: FieldDescriptor) -> bool:
    """Whether a field holds messages of ours, whose JSON is an object of their fields."""
    return is_message(field) and not type_name(field).startswith(_WELL_KNOWN)


def type_name(field: FieldDescriptor) -> str:
    """Full name of the type of the messages that a field holds; empty if it holds none."""
    return field.message_type.full_name if field.message_type is not None else ""


def message_type(field: FieldDescriptor) -> Descriptor:
    """Type of the messages that a field holds."""
    if field.message_type is None:
        raise TypeError(f"{field.full_name} holds no messages")
    return field.message_type


def enum_type(field: FieldDescriptor) -> EnumDescriptor:
    """Enum that a field's values are of."""
    if field.enum_type is None:
        raise TypeError(f"{field.full_name} holds no enum")
    return field.enum_type
