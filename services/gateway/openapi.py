"""The OpenAPI document of the REST API, made from the table of calls and the contracts' own words."""

from importlib.metadata import version
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor

from services.common.access.policy import rule_of
from services.gateway.bodies import JSON, MULTIPART, NDJSON
from services.gateway.calls import CALLS, EVERYTHING, Call
from services.gateway.descriptions import describe_field, describe_method
from services.gateway.descriptors import is_message, message_type, type_name
from services.gateway.problems import MEDIA_TYPE
from services.gateway.schemas import Schema, Schemas

__all__ = ["OPENAPI_VERSION", "openapi_document"]

# The shipped API page reads documents up to this version.
OPENAPI_VERSION: Final = "3.0.3"

_ABOUT: Final = """\
Finds images by what is in them: by words, by a picture, by a region of a picture, by tags, and by any mix.

Every address stands for one call of the gRPC contracts. Bodies are protobuf's JSON mapping: snake_case names, bytes as
base64, 64-bit integers as strings. Where a body holds a picture, `multipart/form-data` is taken too: `file` is the
picture, `request` the JSON, and any other part sets the field that it is named after, such as `parts.1.image`.

Where the gateway asks who calls, every address takes an API key or a token as `Authorization: Bearer ...`, and
`x-access` says what it must allow: read, write or admin.

Errors are `application/problem+json` with a constant `reason`, and the `field` at fault where there is one.
The header `X-Request-Timeout` sets a deadline in seconds.
"""

_TAGS: Final = {
    "QueryService": ("Search", "Finds images."),
    "IngestService": ("Images and collections", "Keeps images and everything known about them."),
    "EmbedderService": ("Model", "Turns pictures and words into vectors, and pictures into segments."),
}

_PROBLEM: Final[Schema] = {
    "type": "object",
    "description": "Why a request has no answer (RFC 9457).",
    "required": ["type", "title", "status", "detail", "reason"],
    "properties": {
        "type": {"type": "string", "description": "Always about:blank; `reason` tells problems apart."},
        "title": {"type": "string", "description": "The status in words."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "detail": {"type": "string", "description": "Sentence for people: what is wrong and what would be right."},
        "reason": {"type": "string", "description": "Constant for programs.", "example": "IMAGE_TRUNCATED"},
        "field": {"type": "string", "description": "Path of the first field at fault.", "example": "parts[0].image"},
        "errors": {
            "type": "array",
            "description": "Every field at fault.",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
        "trace_id": {"type": "string", "description": "The trace that the request belongs to, in hexadecimal."},
        "request_id": {"type": "string", "description": "The request's id, as in the header X-Request-Id."},
        "retry_after": {"type": "integer", "description": "Seconds after which a retry makes sense."},
    },
}

_BEARER: Final[Schema] = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key (`sk_...`), or a token of the OpenID provider that the gateway trusts.",
}

_TIMEOUT: Final[Schema] = {
    "name": "X-Request-Timeout",
    "in": "header",
    "description": "Deadline in seconds.",
    "schema": {"type": "number", "minimum": 0, "exclusiveMinimum": True},
}

_SHORTCUTS: Final = {
    "text": "Words to look for.",
    "image_id": "A stored image to look for more like.",
    "image_url": "Address of a picture to look for, fetched by the service.",
}


def openapi_document() -> dict[str, Any]:
    """The whole document."""
    schemas = Schemas()
    schemas.components["Problem"] = _PROBLEM
    paths: dict[str, Any] = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.verb.lower()] = _operation(call, schemas)
    return {
        "openapi": OPENAPI_VERSION,
        "info": {
            "title": "Saccade",
            "version": version("saccade"),
            "description": _ABOUT,
            "license": {"name": "Apache-2.0"},
        },
        "tags": [{"name": name, "description": about} for name, about in _TAGS.values()],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": _BEARER},
            "schemas": dict(sorted(schemas.components.items())),
            "responses": {
                "Problem": {
                    "description": "What went wrong.",
                    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
                }
            },
        },
    }


def _operation(call: Call, schemas: Schemas) -> dict[str, Any]:
    summary = call.summary or describe_method(call.method)
    answer = schemas.message(call.method.output_type)
    operation: dict[str, Any] = {
        "operationId": f"{call.rpc}ByGet" if call.rpc == "Search" and call.verb == "GET" else call.rpc,
        "tags": [_TAGS[call.service.name][0]],
        "summary": summary,
        "security": [{"bearer": []}],
        "x-access": rule_of(call.method).scope.name.lower(),
        "parameters": _parameters(call, schemas),
        "responses": {
            "200": {
                "description": "One line for each result." if call.method.server_streaming else "The answer.",
                "content": {NDJSON if call.method.server_streaming else JSON: {"schema": answer}},
            },
            "default": {"$ref": "#/components/responses/Problem"},
        },
    }
    if content := _content(call, schemas):
        operation["requestBody"] = {"required": call.body != EVERYTHING, "content": content}
    return operation


def _parameters(call: Call, schemas: Schemas) -> list[Schema]:
    found: list[Schema] = []
    for name, path in call.parameters.items():
        descriptor = call.method.input_type
        *outer, last = path.split(".")
        for step in outer:
            descriptor = message_type(descriptor.fields_by_name[step])
        comment = describe_field(descriptor.fields_by_name[last]) or name
        found.append(
            {"name": name, "in": "path", "required": True, "description": comment, "schema": {"type": "string"}}
        )
    if call.rpc == "Search" and call.verb == "GET":
        found += [
            {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
            for name, text in _SHORTCUTS.items()
        ]
    if call.method.client_streaming:
        create = message_type(call.method.input_type.fields_by_name["create"])
        found += [_query_parameter(create.fields_by_name[name], schemas) for name in ("wait_for", "replace")]
    else:
        found += [_query_parameter(field, schemas) for field in call.query_fields]
    return [*found, _TIMEOUT]


def _query_parameter(field: FieldDescriptor, schemas: Schemas) -> Schema:
    parameter: Schema = {"name": field.name, "in": "query", "description": describe_field(field)}
    schema = schemas.field(field)
    schema.pop("description", None)
    if is_message(field) and type_name(field) != "google.protobuf.FieldMask":
        return parameter | {"content": {JSON: {"schema": schema}}}
    return parameter | {"schema": schema}


def _content(call: Call, schemas: Schemas) -> dict[str, Schema]:
    if call.method.client_streaming:
        files = {"type": "object", "additionalProperties": {"type": "string", "format": "binary"}}
        return {NDJSON: {"schema": schemas.message(call.method.input_type)}, MULTIPART: {"schema": files}}
    if call.body_type is None:
        return {}
    body = schemas.message(call.body_type)
    content = {JSON: {"schema": body}}
    if call.has_bytes:
        form: Schema = {
            "type": "object",
            "properties": {
                "file": {"type": "string", "format": "binary", "description": f"Fills `{call.file}`."},
                "request": {"allOf": [body], "description": "The rest, as JSON."},
            },
            "additionalProperties": {"type": "string", "format": "binary"},
        }
        content[MULTIPART] = {"schema": form}
    return content
