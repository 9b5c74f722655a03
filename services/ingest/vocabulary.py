"""Vocabularies: the words that tags are chosen from. Some come with the service, the others lie in the object store."""

import asyncio
import time
from importlib import resources
from typing import Final

from pydantic import ValidationError

from saccade.ingest.v1 import ingest_service_pb2 as pb
from services.common.errors import FailedPrecondition, Internal, InvalidArgument, NotFound
from services.common.objects import ObjectMissing, ObjectStore
from services.common.records import (
    VocabularyEntryRecord,
    VocabularyRecord,
    check_collection_name,
    vocabulary_key,
)
from services.ingest.check import check_visible

__all__ = ["TRUSTED_S", "Vocabularies", "vocabulary_from_message", "vocabulary_to_message"]

MAX_ENTRIES: Final = 2_000
MAX_NAME_CHARS: Final = 64
MAX_TEMPLATES: Final = 16
MAX_TEMPLATE_CHARS: Final = 200
TRUSTED_S: Final = 5.0


def vocabulary_from_message(message: pb.Vocabulary, path: str = "vocabulary") -> VocabularyRecord:
    """Read and check a vocabulary; InvalidArgument names the field below `path`."""
    name = _checked_name(message.name, f"{path}.name")
    if not 1 <= len(message.entries) <= MAX_ENTRIES:
        raise InvalidArgument(
            f"a vocabulary has 1 to {MAX_ENTRIES:,} words, this one has {len(message.entries):,}",
            field=f"{path}.entries",
        )
    entries: dict[str, VocabularyEntryRecord] = {}
    for i, entry in enumerate(message.entries):
        word, category = entry.name.strip(), entry.category.strip()
        if not 1 <= len(word) <= MAX_NAME_CHARS:
            raise InvalidArgument(f"a word has 1 to {MAX_NAME_CHARS} characters", field=f"{path}.entries[{i}].name")
        check_visible(word, f"{path}.entries[{i}].name")
        if len(category) > MAX_NAME_CHARS:
            raise InvalidArgument(
                f"a category has at most {MAX_NAME_CHARS} characters", field=f"{path}.entries[{i}].category"
            )
        if word in entries:
            raise InvalidArgument(f"the word {word!r} is there twice", field=f"{path}.entries[{i}].name")
        entries[word] = VocabularyEntryRecord(name=word, category=category)
    return VocabularyRecord(
        name=name,
        prompt_templates=_checked_templates(list(message.prompt_templates), f"{path}.prompt_templates"),
        entries=tuple(entries.values()),
    )


def vocabulary_to_message(record: VocabularyRecord) -> pb.Vocabulary:
    """Write a vocabulary."""
    return pb.Vocabulary(
        name=record.name,
        prompt_templates=record.prompt_templates,
        entries=[pb.Vocabulary.Entry(name=entry.name, category=entry.category) for entry in record.entries],
    )


class Vocabularies:
    """The vocabularies that collections may name.

    What was read is trusted for five seconds, so that a change by another replica is seen soon.
    """

    def __init__(self, objects: ObjectStore, *, default: str) -> None:
        """`default` is the one that an empty name means."""
        self._objects = objects
        self._default = default
        self._shipped = _shipped()
        self._known: dict[str, tuple[float, VocabularyRecord]] = {}

    async def get(self, name: str, field: str = "name", *, anew: bool = False) -> VocabularyRecord:
        """The vocabulary of that name, or the default one, read `anew` or lately; NotFound if there is none."""
        name = name or self._default
        if record := self._shipped.get(name):
            return record
        read_at, known = self._known.get(name, (0.0, None))
        if known is not None and not anew and time.monotonic() - read_at < TRUSTED_S:
            return known
        try:
            data = await self._objects.get(vocabulary_key(_checked_name(name, field)))
            record = await asyncio.to_thread(VocabularyRecord.model_validate_json, data)
        except ObjectMissing as exc:
            names = ", ".join(sorted(self._shipped))
            raise NotFound(
                f"there is no vocabulary {name!r}; make it with PutVocabulary, or name one of {names}",
                field=field,
                reason="VOCABULARY_NOT_FOUND",
            ) from exc
        except ValidationError as exc:
            raise Internal(f"the object of the vocabulary {name!r} can not be read; put it anew") from exc
        self._known[name] = (time.monotonic(), record)
        return record

    async def publish(self) -> None:
        """Put those that come with the service where the other services find them."""
        for record in self._shipped.values():
            await self._objects.put(vocabulary_key(record.name), record.to_bytes(), content_type="application/json")

    async def put(self, record: VocabularyRecord) -> None:
        """Keep a vocabulary; FailedPrecondition for one that comes with the service and would become another."""
        if (shipped := self._shipped.get(record.name)) is not None:
            if record == shipped:
                return
            raise FailedPrecondition(
                f"the vocabulary {record.name!r} comes with the service and can not be replaced; choose another name",
                field="vocabulary.name",
                reason="VOCABULARY_SHIPPED",
            )
        await self._objects.put(vocabulary_key(record.name), record.to_bytes(), content_type="application/json")
        self._known[record.name] = (time.monotonic(), record)


def _shipped() -> dict[str, VocabularyRecord]:
    folder = resources.files("services.ingest").joinpath("vocabularies")
    records = (
        VocabularyRecord.model_validate_json(file.read_bytes())
        for file in folder.iterdir()
        if file.name.endswith(".json")
    )
    return {record.name: record for record in records}


def _checked_name(name: str, field: str) -> str:
    try:
        return check_collection_name(name, field)
    except InvalidArgument as exc:
        raise InvalidArgument(
            "a vocabulary's name has 1 to 48 of a-z, 0-9 and '_', beginning with a letter",
            field=field,
            reason="VOCABULARY_NAME",
        ) from exc


def _checked_templates(templates: list[str], path: str) -> tuple[str, ...]:
    if len(templates) > MAX_TEMPLATES:
        raise InvalidArgument(f"has {len(templates)} sentences; at most {MAX_TEMPLATES} are taken", field=path)
    for i, template in enumerate(templates):
        if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
            raise InvalidArgument(
                "a sentence has exactly one {}, where the word goes, and no other braces", field=f"{path}[{i}]"
            )
        if len(template) > MAX_TEMPLATE_CHARS:
            raise InvalidArgument(f"a sentence has at most {MAX_TEMPLATE_CHARS} characters", field=f"{path}[{i}]")
    return tuple(templates)
