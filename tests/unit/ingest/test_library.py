from typing import Any

import pytest

from services.common.records import ImageRecord, TagRecord
from services.ingest.library import Changes
from tests.unit.ingest.test_markers import RECORD


@pytest.mark.parametrize(
    ("before", "after"),
    [({"a": 1}, {"a": True}), ({"a": [0]}, {"a": [False]}), ({"a": {"b": 1}}, {"a": {"b": True}}), ({"a": None}, {})],
)
def test_metadata_of_another_kind_is_a_change(before: dict[str, Any], after: dict[str, Any]) -> None:
    record = RECORD.model_copy(update={"metadata": before})
    changed = Changes(metadata=after).applied(record)
    assert changed.metadata == after
    assert str(changed.metadata) == str(after)
    assert changed.etag != record.etag


def test_what_the_record_says_already_is_no_change() -> None:
    record = RECORD.model_copy(update={"title": "t", "user_tags": ("a",), "metadata": {"a": 1, "b": [None, 0.5]}})
    again = Changes(title="t", user_tags=("a",), metadata={"b": [None, 0.5], "a": 1})
    assert again.applied(record) is record


# A model that is all but sure says 1 in a message, which has float32.
SURE = 1 - 1e-12


def tagged(*names: str) -> ImageRecord:
    """A record with two tags of the model's, and these of a person's."""
    models = (TagRecord(name="sure", confidence=SURE), TagRecord(name="likely", confidence=0.9))
    return RECORD.model_copy(update={"model_tags": models, "user_tags": names})


@pytest.mark.parametrize(
    ("sent", "user_tags"),
    [
        ({"sure": 1.0, "new": 1.0}, ("new",)),
        ({"sure": 0.0}, ("sure",)),
        ({"likely": 1.0}, ("likely",)),
        ({"likely": 0.0, "new": 0.0}, ("likely", "new")),
    ],
)
def test_a_tag_that_comes_back_as_the_model_gave_it_stays_the_models(
    sent: dict[str, float], user_tags: tuple[str, ...]
) -> None:
    assert Changes(user_tags=tuple(sent), confidences=sent).applied(tagged()).user_tags == user_tags


def test_a_tag_that_a_person_gave_too_stays_a_persons() -> None:
    assert Changes(user_tags=("sure",), confidences={"sure": 1.0}).applied(tagged("sure", "old")).user_tags == ("sure",)
