"""What each call asks of its caller, read from the contracts: how much, and in which collections.

A request names a collection in every string field called `collection` or `collections`, however deep it lies, and in
the field `name` of a message about a collection itself (`Collection`, `GetCollectionRequest`). Nothing has to be
registered: a new call or field is found by these names.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from saccade.common.v1 import access_pb2
from services.common.access.principal import Scope

__all__ = ["Rule", "collections_in", "collections_of", "naming_fields", "rule_of"]

# The request names a job and no collection; the service asks about the job's collection itself, by `guard.require`.
_ASKS_ITSELF: Final = frozenset({"saccade.ingest.v1.IngestService.CancelJob"})


@dataclass(frozen=True)
class Rule:
    """What one call asks of its caller.

    Attributes:
        scope: The least that the caller must be allowed; NONE where the contract does not say: nobody may.
        names: Whether its requests have a field for the name of a collection.
        answers: Whether its answers have one, so that what a caller may not see can be told.
        shared: Whether it changes what all collections share, so that it takes a caller who is bound to none.
    """

    scope: Scope
    names: bool
    answers: bool
    shared: bool


@cache
def rule_of(method: MethodDescriptor) -> Rule:
    """The rule of a call."""
    scope = Scope(method.GetOptions().Extensions[access_pb2.access])
    names = bool(naming_fields(method.input_type))
    return Rule(
        scope=scope,
        names=names,
        answers=bool(naming_fields(method.output_type)),
        shared=scope > Scope.READ and not names and method.full_name not in _ASKS_ITSELF,
    )


def collections_of(message: Message) -> Iterator[tuple[str, str]]:
    """The collections that a message names: path of the field, and the name, which may be empty."""
    for field in naming_fields(message.DESCRIPTOR):
        yield from collections_in(message, field)


def collections_in(message: Message, field: FieldDescriptor) -> Iterator[tuple[str, str]]:
    """The same, of one of the message's naming fields."""
    value: Any = getattr(message, field.name)
    if field.type == FieldDescriptor.TYPE_STRING:
        for index, name in enumerate(value if field.is_repeated else [value]):
            yield (f"{field.name}[{index}]" if field.is_repeated else field.name), name
    elif field.is_repeated:
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _below(f"{field.name}[{key}]", item)
    elif message.HasField(field.name):
        yield from _below(field.name, value)


def _below(path: str, message: Message) -> Iterator[tuple[str, str]]:
    for inner, name in collections_of(message):
        yield f"{path}.{inner}", name


@cache
def naming_fields(descriptor: Descriptor) -> tuple[FieldDescriptor, ...]:
    """The fields of a message that name a collection, or hold messages that do."""
    return tuple(field for field in descriptor.fields if _names(field, frozenset()))


def _names(field: FieldDescriptor, above: frozenset[str]) -> bool:
    if field.type == FieldDescriptor.TYPE_STRING:
        return field.name in {"collection", "collections"} or (field.name == "name" and _of_a_collection(field))
    inner = field.message_type
    # A message that holds itself is looked at once: whatever it names is found on the way down.
    if inner is None or inner.full_name in above:
        return False
    return any(_names(each, above | {inner.full_name}) for each in inner.fields)


def _of_a_collection(field: FieldDescriptor) -> bool:
    message = field.containing_type
    return message is not None and message.name.removesuffix("Request").endswith("Collection")
