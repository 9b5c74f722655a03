import math
from typing import Any, Final

import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saccade.common.v1 import types_pb2
from services.common.errors import InvalidArgument
from services.common.vectors import FilterTarget, compile_filter
from tests.unit.common.vectors.filter_model import filters

IMAGES: Final = FilterTarget.IMAGES
SEGMENTS: Final = FilterTarget.SEGMENTS
OF_SEGMENTS: Final = FilterTarget.IMAGES_OF_SEGMENTS


def parsed(value: dict[str, Any]) -> types_pb2.Filter:
    return json_format.ParseDict(value, types_pb2.Filter())


def compiled(value: dict[str, Any], target: FilterTarget = IMAGES) -> str:
    return compile_filter(parsed(value), target)


def test_an_unset_filter_is_empty() -> None:
    assert compile_filter(types_pb2.Filter(), IMAGES) == ""


@pytest.mark.parametrize(
    ("value", "expression"),
    [
        ({"tags": {"names": ["a"]}}, 'array_contains_any(tags, ["a"])'),
        ({"tags": {"names": ["a", 'b"'], "all": True}}, 'array_contains_all(tags, ["a", "b\\""])'),
        ({"negated": {"tags": {"names": ["a"]}}}, 'not (array_contains_any(tags, ["a"]))'),
        ({"ids": {"ids": ["a", "b.c"]}}, 'id in ["a", "b.c"]'),
        ({"width": {"min": 10.2}}, "width >= 11"),
        ({"height": {"min": 1, "max": 10.9}}, "(height >= 1 and height <= 10)"),
        ({"create_time": {"min": 1.001, "max": 2}}, "(created_at >= 1001 and created_at <= 2000)"),
        ({"metadata": {"path": ["a", "b"], "equals": 'x"\\\n'}}, 'metadata["a"]["b"] == "x\\"\\\\\\n"'),
        ({"metadata": {"path": ["a"], "equals": 2}}, 'metadata["a"] == 2'),
        ({"metadata": {"path": ["a"], "equals": -0.5}}, 'metadata["a"] == -0.5'),
        ({"metadata": {"path": ["a"], "equals": True}}, 'metadata["a"]["$"] == true'),
        ({"metadata": {"path": ["a"], "any_of": [1, "x"]}}, '(metadata["a"] == 1 or metadata["a"] == "x")'),
        ({"metadata": {"path": ["a"], "exists": True}}, '(exists metadata["a"])'),
        ({"metadata": {"path": ["a"], "exists": False}}, 'not ((exists metadata["a"]))'),
        ({"metadata": {"path": ["a"], "range": {"max": 3}}}, 'metadata["a"] <= 3'),
        (
            {"negated": {"metadata": {"path": ["a"], "equals": 2}}},
            '(not (exists metadata["a"]) or metadata["a"] != 2)',
        ),
        (
            {"negated": {"metadata": {"path": ["a"], "range": {"min": 3}}}},
            '((not (exists metadata["a"]) or metadata["a"] >= "")'
            ' or ((exists metadata["a"]["$"]) or metadata["a"] < 3))',
        ),
        (
            {"all": {"filters": [{"width": {"min": 1}}, {"any": {"filters": [{"height": {"min": 2}}]}}]}},
            "(width >= 1 and height >= 2)",
        ),
        (
            {"negated": {"all": {"filters": [{"width": {"min": 1}}, {"height": {"min": 2}}]}}},
            "(not (width >= 1) or not (height >= 2))",
        ),
        ({"negated": {"negated": {"width": {"min": 1}}}}, "width >= 1"),
    ],
)
def test_what_a_filter_becomes(value: dict[str, Any], expression: str) -> None:
    assert compiled(value) == expression


def test_a_target_says_where_fields_stand() -> None:
    tags, ids = {"tags": {"names": ["a"]}}, {"ids": {"ids": ["a"]}}
    assert compiled(tags, SEGMENTS) == 'array_contains_any(tags, ["a"])'
    assert compiled(tags, OF_SEGMENTS) == 'array_contains_any(image_tags, ["a"])'
    assert compiled(ids, SEGMENTS) == compiled(ids, OF_SEGMENTS) == 'image_id in ["a"]'
    assert compiled({"segment_area_fraction": {"min": 0.5, "max": 1}}, SEGMENTS) == "(area >= 0.5 and area <= 1)"


def deep(levels: int) -> types_pb2.Filter:
    message = parsed({"width": {"min": 1}})
    for _ in range(levels):
        message = types_pb2.Filter(negated=message)
    return message


NESTED: Final = {"all": {"filters": [{"width": {"min": 1}}, {"metadata": {"path": [], "exists": True}}]}}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"all": {}}, "filter.all.filters"),
        ({"any": {"filters": []}}, "filter.any.filters"),
        ({"all": {"filters": [{}]}}, "filter.all.filters[0]"),
        ({"negated": {}}, "filter.negated"),
        (NESTED, "filter.all.filters[1].metadata.path"),
        ({"negated": {"any": NESTED["all"]}}, "filter.negated.any.filters[1].metadata.path"),
        ({"tags": {}}, "filter.tags.names"),
        ({"tags": {"names": ["x"] * 65}}, "filter.tags.names"),
        ({"tags": {"names": ["x", ""]}}, "filter.tags.names[1]"),
        ({"tags": {"names": ["x" * 257]}}, "filter.tags.names[0]"),
        ({"tags": {"names": ["x"], "min_confidence": 1.5}}, "filter.tags.min_confidence"),
        ({"metadata": {"path": ["a"]}}, "filter.metadata"),
        ({"metadata": {"path": ["a"] * 9, "exists": True}}, "filter.metadata.path"),
        ({"metadata": {"path": ["a", "k" * 257], "exists": True}}, "filter.metadata.path[1]"),
        ({"metadata": {"path": ["a"], "equals": None}}, "filter.metadata.equals"),
        ({"metadata": {"path": ["a"], "equals": [1]}}, "filter.metadata.equals"),
        ({"metadata": {"path": ["a"], "equals": "x" * 4097}}, "filter.metadata.equals"),
        ({"metadata": {"path": ["a"], "any_of": []}}, "filter.metadata.any_of"),
        ({"metadata": {"path": ["a"], "any_of": [1, {"b": 2}]}}, "filter.metadata.any_of[1]"),
        ({"metadata": {"path": ["a"], "any_of": [1] * 257}}, "filter.metadata.any_of"),
        ({"metadata": {"path": ["a"], "range": {}}}, "filter.metadata.range"),
        ({"metadata": {"path": ["a"], "range": {"min": 2, "max": 1}}}, "filter.metadata.range"),
        ({"metadata": {"path": ["a"], "range": {"min": "NaN"}}}, "filter.metadata.range.min"),
        ({"width": {"max": "Infinity"}}, "filter.width.max"),
        ({"create_time": {}}, "filter.create_time"),
        ({"segment_area_fraction": {"min": 0.1}}, "filter.segment_area_fraction"),
        ({"ids": {}}, "filter.ids.ids"),
        ({"ids": {"ids": ["a"] * 1001}}, "filter.ids.ids"),
        ({"ids": {"ids": ["a", 'b" or id != "']}}, "filter.ids.ids[1]"),
    ],
)
def test_a_bad_filter_is_refused_by_its_path(value: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        compiled(value)
    assert caught.value.field == field


def test_a_constant_must_be_finite() -> None:
    message = parsed({"metadata": {"path": ["a"], "equals": 1}})
    for value in (math.nan, math.inf, -math.inf):
        message.metadata.equals.number_value = value
        with pytest.raises(InvalidArgument) as caught:
            compile_filter(message, IMAGES)
        assert caught.value.field == "filter.metadata.equals"


def test_depth_and_size_are_limited() -> None:
    assert compile_filter(deep(15), IMAGES)
    with pytest.raises(InvalidArgument) as caught:
        compile_filter(deep(16), IMAGES)
    assert caught.value.reason == "FILTER_TOO_DEEP"
    parts = [{"metadata": {"path": ["a"], "any_of": list(range(100))}}] * 3
    with pytest.raises(InvalidArgument) as caught:
        compiled({"all": {"filters": parts}})
    assert (caught.value.reason, caught.value.field) == ("FILTER_TOO_LARGE", "filter.all.filters[2].metadata.any_of")


def nesting(expression: str) -> int:
    depth = deepest = 0
    for char in outside_literals(expression):
        depth += {"(": 1, ")": -1}.get(char, 0)
        deepest = max(deepest, depth)
    return deepest


def test_large_filters_stay_shallow() -> None:
    many = {"metadata": {"path": ["a"], "any_of": list(range(250))}}
    assert nesting(compiled(many)) <= 8
    assert nesting(compiled({"negated": many})) <= 10
    message = parsed({"metadata": {"path": ["a"], "any_of": list(range(16))}})
    for level in range(14):
        parts = [parsed({"metadata": {"path": ["a"], "any_of": list(range(16))}}), message]
        if level % 2:
            message = types_pb2.Filter(all=types_pb2.Filter.All(filters=parts))
        else:
            message = types_pb2.Filter(any=types_pb2.Filter.Any(filters=parts))
    for each in (message, types_pb2.Filter(negated=message)):
        assert nesting(compile_filter(each, IMAGES)) <= 25


@pytest.mark.parametrize(("every", "operator"), [(True, "and"), (False, "or")])
def test_confidences_are_compared_by_name(every: bool, operator: str) -> None:
    expression = compiled({"tags": {"names": ["x", "y"], "all": every, "min_confidence": 0.5}})
    assert expression == f'(tag_confidences["x"] >= 0.5 {operator} tag_confidences["y"] >= 0.5)'


def test_places_belong_to_segments() -> None:
    box = {"x0": 0.25, "y0": 0.0, "x1": 1.0, "y1": 0.5}
    expression = compiled({"segment_within": box}, FilterTarget.SEGMENTS)
    assert expression == "((x0 >= 0.25 and y0 >= 0) and (x1 <= 1 and y1 <= 0.5))"
    with pytest.raises(InvalidArgument) as caught:
        compiled({"segment_within": box}, IMAGES)
    assert caught.value.field == "filter.segment_within"


def test_areas_belong_to_segments() -> None:
    with pytest.raises(InvalidArgument):
        compiled({"segment_area_fraction": {"min": 0.1}}, OF_SEGMENTS)


def outside_literals(expression: str) -> str:
    """The expression without its string literals; fails if one does not end."""
    rest, inside, escaped = [], False, False
    for char in expression:
        if not inside:
            inside = char == '"'
            rest.append(char)
        elif escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == '"':
            inside = False
    assert not inside
    return "".join(rest)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(filters(SEGMENTS), st.sampled_from(FilterTarget))
def test_no_text_leaves_its_literal(message: types_pb2.Filter, target: FilterTarget) -> None:
    try:
        expression = compile_filter(message, target)
    except InvalidArgument as refused:
        assert refused.field.endswith(("segment_area_fraction", "segment_within"))
        return
    assert "\n" not in expression
    assert "\r" not in expression
    assert set(outside_literals(expression)) <= set('abcdefghijklmnopqrstuvwxyz_0123456789()[]<>=!,.+- "')
