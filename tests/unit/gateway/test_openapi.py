from typing import Any

import pytest
from openapi_spec_validator import validate

from services.gateway.backends import SERVICES
from services.gateway.openapi import openapi_document

from .conftest import Gateway


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi_document()


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validate(document)


def test_every_call_is_in_it_with_its_own_words(document: dict[str, Any]) -> None:
    operations = {op["operationId"]: op for path in document["paths"].values() for op in path.values()}
    for service in SERVICES:
        for method in service.methods:
            assert operations[method.name]["summary"].endswith(".")
            content = next(iter(operations[method.name]["responses"]["200"]["content"].values()))
            assert content["schema"]["$ref"].endswith(f"/{method.output_type.name}")


def test_every_field_and_value_is_described(document: dict[str, Any]) -> None:
    bare = [
        f"{name}.{field}"
        for name, schema in document["components"]["schemas"].items()
        for field, about in schema.get("properties", {}).items()
        if not about.get("description")
    ]
    assert bare == []
    mode = document["components"]["schemas"]["SearchMode"]
    assert "SEARCH_MODE_TAGS" in mode["enum"]
    assert "`SEARCH_MODE_TAGS`: Tags alone" in mode["description"]


def test_forms_are_offered_where_a_body_holds_a_picture(document: dict[str, Any]) -> None:
    search = document["paths"]["/v1/collections/{collection}/search"]["post"]["requestBody"]["content"]
    collection = document["paths"]["/v1/collections"]["post"]["requestBody"]["content"]
    assert set(search) == {"application/json", "multipart/form-data"}
    assert set(collection) == {"application/json"}


async def test_it_is_served(gateway: Gateway, document: dict[str, Any]) -> None:
    assert (await gateway.http.get("/openapi.json")).json() == document
