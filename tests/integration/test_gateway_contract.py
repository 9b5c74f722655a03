"""The whole stack against the gateway's own OpenAPI document: requests that fit it, and requests that do not."""

import base64
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

import httpx
import pytest
import requests
import schemathesis
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode, checks

from saccade.keys import create_key
from services.gateway.calls import CALLS
from services.gateway.descriptors import is_plain, message_type
from services.gateway.openapi import openapi_document
from services.stack.stack import temporary_stack
from tests.integration.ingest_support import picture

SCHEMA: Final = schemathesis.openapi.from_dict(openapi_document())
OPERATIONS: Final = [cast(Any, found).ok() for found in SCHEMA.get_all_operations()]
CALLS_BY_LABEL: Final = {f"{call.verb} {call.path}": call for call in CALLS}
PICTURE: Final = base64.b64encode(picture("red", "blue")).decode()
# The same requests in every run.
EXAMPLES: Final = settings(
    max_examples=10,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
CHECKS: Final = [
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.status_code_conformance,
]
PATIENCE_S: Final = 90
COLLECTION: Final = "demo"

INTERNALS: Final = re.compile(
    r"""Traceback|File\ "|\.py\b|site-packages|\bservices\.|\bgrpc\.|pymilvus|Milvus.*Exception|Errno|
        \bobject\ at\ 0x|<class|\b(work|tmp|usr|home|root)/|127\.0\.0\.1:\d""",
    re.VERBOSE,
)
"""What no message for callers may show."""


@dataclass(frozen=True)
class Api:
    """The gateway, and a key that may do everything."""

    url: str
    session: requests.Session
    headers: dict[str, str]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("contract")
    key, _ = create_key(folder / "keys.json", "tester", scope="admin", collections=["*"])
    env = {name: value for name, value in os.environ.items() if not name.startswith("SACCADE_")}
    env |= {
        "SACCADE_AUTH": "keys",
        "SACCADE_KEYS_FILE": str(folder / "keys.json"),
        "SACCADE_PEER_KEY": "p" * 32,
        "SACCADE_FETCH_TIMEOUT_S": "2",
    }
    headers = {"authorization": f"Bearer {key}"}
    with temporary_stack(env, model="toy", inherit=True) as stack, requests.Session() as session:
        with httpx.Client(base_url=stack.gateway_url, headers=headers, timeout=PATIENCE_S) as http:
            fill(http)
        yield Api(stack.gateway_url, session, headers)


def fill(http: httpx.Client) -> None:
    """A collection with pictures in it, and a vocabulary: what requests are about if they are to get anywhere."""
    words = [{"name": name} for name in ("red", "blue", "green")]
    http.put("/v1/vocabularies/words", json={"entries": words}).raise_for_status()
    http.post("/v1/collections", json={"name": COLLECTION, "vocabulary": "words"}).raise_for_status()
    for name, colours in (("a", ("red", "blue")), ("b", ("green", "pink"))):
        files = {"file": (f"{name}.png", picture(*colours))}
        form = {"id": name, "title": f"picture {name}", "wait_for": "segmented"}
        http.post(f"/v1/collections/{COLLECTION}/images", data=form, files=files).raise_for_status()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.name.lower())
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_an_operation_keeps_to_its_contract(api: Api, operation: Any, mode: GenerationMode) -> None:
    @EXAMPLES
    @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
    def check(case: Any, known: bool) -> None:
        # Its own deadline would be the case's, or none at all.
        case.headers.pop("X-Request-Timeout", None)
        if known:
            aim(case)
        response = case.call(base_url=api.url, session=api.session, headers=api.headers, timeout=PATIENCE_S)
        assert response.status_code < 500 or response.status_code == 501, response.text
        if response.status_code >= 400:
            assert response.headers["content-type"] == ["application/problem+json"]
        for line in response.text.splitlines():
            # Of what went well, addresses of pictures name the gateway.
            if response.status_code >= 400 or '"error"' in line:
                assert not INTERNALS.search(line), line
        case.validate_response(response, checks=CHECKS)

    check()


def aim(case: Any) -> None:
    """Let a request mean what is there and say one thing, or all that it gets to hear is that it may not."""
    call = CALLS_BY_LABEL[case.operation.label]
    parameters = case.path_parameters or {}
    if case.operation.label != "DELETE /v1/collections/{collection}":
        names = {"collection": COLLECTION, "name": "words", "id": "b" if call.verb == "DELETE" else "a"}
        parameters.update({name: value for name, value in names.items() if name in parameters})
    (case.query or {}).pop("page_token", None)
    if call.body_type is not None:
        body = case.body
        if case.media_type == "multipart/form-data" and isinstance(body, dict):
            body = body.get("request")
        if isinstance(body, dict):
            tidy(body, call.body_type)
            body.pop("page_token", None)
            for name in ("collection", "id", "name") if call.parameters else ():
                body.pop(name, None)


def tidy(body: dict[str, Any], message: Descriptor) -> None:
    """Of fields that exclude each other leave one; let bytes be a picture."""
    given: set[str] = set()
    for name, value in list(body.items()):
        field = message.fields_by_name.get(name)
        if field is None:
            continue
        if field.containing_oneof is not None:
            if field.containing_oneof.name in given:
                del body[name]
                continue
            given.add(field.containing_oneof.name)
        many = value if isinstance(value, list) else [value]
        if field.type == FieldDescriptor.TYPE_BYTES and isinstance(value, str | list):
            body[name] = [PICTURE for _ in many] if field.is_repeated else PICTURE
        elif is_plain(field):
            for each in many:
                if isinstance(each, dict):
                    tidy(each, message_type(field))
