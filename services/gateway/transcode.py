"""JSON and text <-> protobuf messages: protobuf's JSON mapping, with errors that name the exact path at fault.

Names in JSON may be snake_case or lowerCamelCase; answers have snake_case, and every field that has no notion of
absence, whether set or not. Bytes are base64, 64-bit integers are strings.
"""

import base64
import binascii
import json
import re
from typing import Any, Final, NoReturn

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from services.common.errors import InvalidArgument
from services.gateway.descriptors import descriptor_of, enum_type, is_message, is_plain, type_name

__all__ = ["fill", "parse_json", "set_text", "to_json"]

# Below protobuf's own limit of 100 levels, of which each level of a Struct takes three.
MAX_DEPTH: Final = 30

_SHOWN_CHARACTERS: Final = 40
_INDEX: Final = re.compile(r"[0-9]{1,6}")
_INTEGERS: Final = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
}


def to_json(message: Message) -> bytes:
    """A message as JSON on one line."""
    text: str = json_format.MessageToJson(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        indent=None,
        ensure_ascii=False,
    )
    return text.encode()


def parse_json(raw: bytes | str, field: str = "") -> Any:
    """Read JSON strictly: no NaN, no key twice. InvalidArgument names `field`, and says where it breaks."""
    try:
        value = json.loads(raw, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (json.JSONDecodeError, UnicodeDecodeError) as exc:
        raise InvalidArgument(f"this is not JSON: {exc}", reason="JSON_SYNTAX", field=field) from exc
    except ValueError as exc:
        # Python itself refuses to read whole numbers of more than 4,300 digits.
        raise InvalidArgument("a number has too many digits", reason="JSON_SYNTAX", field=field) from exc
    except RecursionError as exc:
        raise _too_deep(field) from exc
    _check_depth(value, field)
    return value


def fill(message: Message, value: Any, path: str = "") -> None:
    """Merge a JSON object into a message; InvalidArgument names what does not fit."""
    if not isinstance(value, dict):
        _refuse(path, "needs an object", value)
    seen: set[str] = set()
    for key, item in value.items():
        field = _field(descriptor_of(message), key, path)
        at = _join(path, field.name)
        if field.name in seen:
            raise InvalidArgument(f"{at} is given twice, under both of its names", field=at)
        seen.add(field.name)
        if item is not None or _takes_null(field):
            _check_oneof(message, field, at)
            _set(message, field, item, at)


def set_text(
    message: Message, path: str, value: str | bytes, given_as: str = "", given: set[str] | None = None
) -> None:
    """Set one field from a form or a query string.

    Args:
        message: Message to change.
        path: Field names and indexes joined by dots, such as `parts.0.image`; an index may be one past the end.
        value: Bytes as they are; enums with or without their prefix; messages as JSON; text is added to repeated ones.
        given_as: What the caller called it, for errors; empty: the path.
        given: Fields of `message` that were set so far, to which this one is added; to set one of them again is
            InvalidArgument, but for repeated ones.
    """
    shown = given_as or path
    steps = path.split(".")
    if len(steps) > MAX_DEPTH:
        raise InvalidArgument(f"a name may have {MAX_DEPTH} steps at most", field=shown)
    place = ""
    while True:
        field = _field(descriptor_of(message), steps.pop(0), "", shown)
        # Not as it was written: a field has two names, and an index may begin with zeros.
        place = _join(place, field.name)
        if not steps:
            break
        if field.is_repeated:
            items, index = getattr(message, field.name), _index(message, field, steps.pop(0), shown)
            place = _join(place, str(index))
            if not steps:
                if index < len(items):
                    raise _twice(shown)
                _set_leaf(message, field, [_from_text(field, value, shown)], shown)
                return
            _descend(field, shown)
            message = items[index] if index < len(items) else items.add()
        else:
            _descend(field, shown)
            _check_oneof(message, field, shown)
            message = getattr(message, field.name)
    if given is not None and not field.is_repeated:
        if place in given:
            raise _twice(shown)
        given.add(place)
    _check_oneof(message, field, shown)
    item = _from_text(field, value, shown)
    if field.is_repeated and not isinstance(item, list):
        item = [item]
    _set(message, field, item, shown)


def _set(message: Message, field: FieldDescriptor, item: Any, at: str) -> None:
    if not is_plain(field):
        _set_leaf(message, field, item, at)
    elif not field.is_repeated:
        child = getattr(message, field.name)
        child.SetInParent()
        fill(child, item, at)
    elif isinstance(item, list):
        for index, element in enumerate(item):
            fill(getattr(message, field.name).add(), element, f"{at}[{index}]")
    else:
        _refuse(at, "needs a list", item)


def _set_leaf(message: Message, field: FieldDescriptor, item: Any, at: str) -> None:
    if field.is_repeated:
        if not isinstance(item, list):
            _refuse(at, "needs a list", item)
        for index, element in enumerate(item):
            _set_one(message, field, element, f"{at}[{index}]")
    else:
        _set_one(message, field, item, at)


def _set_one(message: Message, field: FieldDescriptor, item: Any, at: str) -> None:
    value = _read_one(message, field, item, at)
    if field.is_repeated:
        getattr(message, field.name).append(value)
    elif is_message(field):
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


def _read_one(message: Message, field: FieldDescriptor, item: Any, at: str) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return item if isinstance(item, bytes) else _decode_base64(item, at)
    if field.type == FieldDescriptor.TYPE_STRING:
        if not isinstance(item, str) or not _is_unicode(item):
            _refuse(at, "needs a string of Unicode characters", item)
        return item
    if isinstance(item, str) and not _is_unicode(item):
        _refuse(at, _needs(field), item)
    scratch = type(message)()
    try:
        json_format.ParseDict({field.name: [item] if field.is_repeated else item}, scratch)
    except (json_format.ParseError, RecursionError, AttributeError, OverflowError, TypeError, ValueError) as exc:
        raise _refusal(at, _needs(field), item) from exc
    read = getattr(scratch, field.name)
    return read[0] if field.is_repeated else read


def _decode_base64(item: Any, at: str) -> bytes:
    if not isinstance(item, str):
        _refuse(at, "needs bytes as a base64 string", item)
    try:
        text = item.encode("ascii").rstrip(b"=")
        return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=_alphabet(text), validate=True)
    except (UnicodeEncodeError, binascii.Error) as exc:
        raise _refusal(at, "needs bytes as a base64 string", item) from exc


def _is_unicode(text: str) -> bool:
    """JSON can spell halves of characters, which no other encoding has, and on which protobuf's look-ups break."""
    return _printable(text) == text


def _printable(text: str) -> str:
    """The text with halves of characters spelled as in JSON."""
    return text.encode(errors="backslashreplace").decode()


def _alphabet(text: bytes) -> bytes | None:
    return b"-_" if b"-" in text or b"_" in text else None


def _from_text(field: FieldDescriptor, value: str | bytes, shown: str) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return value if isinstance(value, bytes) else value.encode()
    try:
        text = value if isinstance(value, str) else value.decode()
    except UnicodeDecodeError as exc:
        raise InvalidArgument(f"{shown} is not UTF-8 text", field=shown) from exc
    if is_message(field) and type_name(field) != "google.protobuf.FieldMask":
        return parse_json(text, shown)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return _enum_name(field, text)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return {"true": True, "1": True, "": True, "false": False, "0": False}.get(text.lower(), text)
    return text


def _enum_name(field: FieldDescriptor, text: str) -> str:
    names = [value.name for value in enum_type(field).values]
    # Every enum of ours begins its first name with the prefix of all and ends it with this word.
    prefix = names[0].removesuffix("UNSPECIFIED")
    full = text.upper()
    return full if full in names else f"{prefix}{full}"


def _field(descriptor: Descriptor, key: str, path: str, shown: str = "") -> FieldDescriptor:
    field = None
    if _is_unicode(key):
        field = descriptor.fields_by_name.get(key) or descriptor.fields_by_camelcase_name.get(key)
    if field is None:
        known = ", ".join(field.name for field in descriptor.fields)
        raise InvalidArgument(
            f"there is no field {key!r}; {descriptor.name} has {known or 'none'}",
            field=_printable(shown or _join(path, key)),
            reason="UNKNOWN_FIELD",
        )
    return field


def _index(message: Message, field: FieldDescriptor, text: str, shown: str) -> int:
    count = len(getattr(message, field.name))
    if not _INDEX.fullmatch(text) or int(text) > count:
        given = text[:_SHOWN_CHARACTERS]
        raise InvalidArgument(f"{given!r} is no index; {field.name} has {count}, count from 0", field=shown)
    return int(text)


def _twice(shown: str) -> InvalidArgument:
    return InvalidArgument(f"{shown} is given twice, and takes one value", field=shown)


def _check_oneof(message: Message, field: FieldDescriptor, at: str) -> None:
    group = field.containing_oneof
    if group is None:
        return
    present = message.WhichOneof(group.name)
    if present and present != field.name:
        raise InvalidArgument(f"only one of {', '.join(f.name for f in group.fields)} may be given", field=at)


def _takes_null(field: FieldDescriptor) -> bool:
    return type_name(field) == "google.protobuf.Value"


def _descend(field: FieldDescriptor, shown: str) -> None:
    if not is_plain(field):
        raise InvalidArgument(f"{field.name} has no fields of its own", field=shown, reason="UNKNOWN_FIELD")


def _needs(field: FieldDescriptor) -> str:
    if field.type in _INTEGERS:
        low, high = _INTEGERS[field.type]
        return f"needs a whole number from {low} to {high}"
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return "needs a number"
    if field.type == FieldDescriptor.TYPE_BOOL:
        return "needs true or false"
    if field.type == FieldDescriptor.TYPE_ENUM:
        return f"needs one of {', '.join(value.name for value in enum_type(field).values)}"
    kinds = {"Struct": "an object", "ListValue": "a list", "FieldMask": "field names joined by commas"}
    return f"needs {kinds.get(type_name(field).rpartition('.')[2], 'a JSON value')}"


def _refuse(at: str, needs: str, got: Any) -> NoReturn:
    raise _refusal(at, needs, got)


def _refusal(at: str, needs: str, got: Any) -> InvalidArgument:
    shown = json.dumps(got, ensure_ascii=False) if not isinstance(got, bytes) else "bytes"
    if len(shown) > _SHOWN_CHARACTERS:
        shown = f"{shown[:_SHOWN_CHARACTERS]}..."
    shown = _printable(shown)
    return InvalidArgument(f"{at or 'the body'} {needs}, not {shown}", field=at)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise InvalidArgument(f"{name!r} is given twice in one object", field=_printable(name))
        found[name] = value
    return found


def _no_constant(name: str) -> NoReturn:
    raise InvalidArgument(f"{name} is no JSON number", reason="JSON_SYNTAX")


def _check_depth(value: Any, field: str) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level for child in _children(item)]
        if not level:
            return
    raise _too_deep(field)


def _children(item: Any) -> list[Any]:
    if isinstance(item, dict):
        return [child for child in item.values() if isinstance(child, dict | list)]
    if isinstance(item, list):
        return [child for child in item if isinstance(child, dict | list)]
    return []


def _too_deep(field: str) -> InvalidArgument:
    return InvalidArgument(f"JSON may be {MAX_DEPTH} levels deep at most", reason="JSON_TOO_DEEP", field=field)
