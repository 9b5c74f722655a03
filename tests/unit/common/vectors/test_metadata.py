import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.common.vectors.metadata import MARK, decode, encode, encode_key
from tests.unit.common.vectors.filter_model import KEYS, keys, values


def without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_null(item) for key, item in value.items() if item is not None}
    return value


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(keys, values, max_size=4))
def test_what_goes_in_comes_out_but_null(metadata: dict[str, Any]) -> None:
    stored = json.loads(json.dumps(encode(metadata)))
    assert decode(stored) == without_null(metadata)


def test_only_numbers_strings_and_marked_objects_are_indexed() -> None:
    metadata = {"n": 1, "s": "x", "t": True, "l": [1, {"a": None}], "o": {"i": False}, "none": None}
    assert encode(metadata) == {
        "n": 1,
        "s": "x",
        "t": {MARK: True},
        "l": {MARK: [1, {"a": None}]},
        "o": {MARK: "", "i": {MARK: False}},
    }


def test_keys_stay_apart() -> None:
    assert len({encode_key(key) for key in KEYS}) == len(KEYS)
    assert MARK not in {encode_key(key) for key in KEYS}


def test_plain_keys_stay_as_they_are() -> None:
    for key in ("a", "a b", "a.b", "ü😀", "0", "a/b"):
        assert encode_key(key) == key
