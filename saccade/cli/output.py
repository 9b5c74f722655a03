"""What the command writes: tables and JSON to standard output, progress and complaints to standard error."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from saccade.common.v1 import types_pb2
from saccade.errors import ApiError

__all__ = [
    "START_HINT",
    "complain",
    "explain",
    "note",
    "parse_json",
    "show_table",
    "state_of",
    "time_of",
    "to_dict",
    "unanswered",
    "write_json",
]

KEY_HINT = (
    "set SACCADE_API_KEY, or give --key @FILE; `saccade keys create` makes one where the services' file of keys is"
)
START_HINT = "is it running? `make demo` or `make run` starts it"

_NO_ANSWER = " does not answer ("

# The services name the contract's calls: what does the same here.
_COMMANDS = {
    "CreateCollection": "`saccade create`",
    "PutVocabulary": "`saccade vocabulary put`",
    "ListJobs": "`saccade jobs`",
}


def parse_json(text: str, option: str) -> Mapping[str, Any]:
    """A JSON object given on the command line; ValueError names the option."""
    try:
        value = json.loads(text)
    except (RecursionError, ValueError) as exc:
        raise ValueError(f"{option} is no JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise ValueError(f"{option} must be a JSON object")
    return value


def to_dict(message: Message) -> dict[str, Any]:
    """A message in its JSON mapping, with the contract's field names; numbers and booleans at 0 are there too."""
    result: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return result


def write_json(value: Any) -> None:
    """One JSON value on a line of its own."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table for people, or the sentence `empty`; columns of numbers, and of dashes for none, are right-aligned."""
    listed = [[str(cell) for cell in row] for row in rows]
    if not listed:
        note(empty)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        number = all(row[index] == "-" or row[index].replace(".", "").replace(",", "").isdigit() for row in listed)
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in listed:
        # Names come from files and callers: they are shown as they are, not read as markup.
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    if not console.is_terminal:
        # A pipe has no width: lines are not folded there.
        console.width = 10_000
    console.print(table)


def note(sentence: str) -> None:
    """Something for people beside the result."""
    Console(stderr=True).print(escape(sentence), highlight=False, soft_wrap=True)


def complain(sentence: str) -> None:
    """What went wrong."""
    Console(stderr=True).print(f"[bold red]error:[/] {escape(sentence)}", highlight=False, soft_wrap=True)


def explain(error: ApiError | OSError | ValueError) -> str:
    """An error as a person at the command line can act on it."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    text = str(error)
    if not isinstance(error, ApiError):
        return text
    if unanswered(error):
        return f"{text}\n{START_HINT}"
    if error.code == grpc.StatusCode.UNAVAILABLE and not error.reason:
        # A stream that broke knows no more than what gRPC says.
        return f"a service does not answer ({text})\n{START_HINT}"
    if error.code == grpc.StatusCode.UNAUTHENTICATED:
        return f"{text}\n{KEY_HINT}"
    for call, command in _COMMANDS.items():
        text = text.replace(f"with {call}", f"with {command}")
    return text


def unanswered(error: ApiError) -> bool:
    """Whether nobody was there, as the client then says: a service that is starting is UNAVAILABLE too."""
    return error.code == grpc.StatusCode.UNAVAILABLE and not error.reason and _NO_ANSWER in error.message


def time_of(stamp: Timestamp) -> str:
    """A time, in UTC to the second; empty where unset."""
    if not stamp.seconds:
        return ""
    return datetime.fromtimestamp(stamp.seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def state_of(image: types_pb2.Image) -> str:
    """How far an image has come, in a word."""
    return types_pb2.ImageState.Name(image.state).removeprefix("IMAGE_STATE_").lower()
