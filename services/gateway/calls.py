"""Which address stands for which call of the contracts: the one table of the REST API."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from services.gateway.backends import EMBEDDER, INGEST, QUERY
from services.gateway.descriptors import is_plain, message_type, type_name

__all__ = ["CALLS", "EVERYTHING", "Call"]

EVERYTHING: Final = "*"


@dataclass(frozen=True)
class Call:
    """One method and path for one call.

    Attributes:
        verb: HTTP method.
        path: Path template; its parameters name fields of the request.
        service: The contract.
        rpc: The call's name in it.
        body: Field of the request that the JSON body is, EVERYTHING, or "" for no body.
        bind: Path parameter -> field path in the request, where their names differ.
        file: Field of the body's message that a form's part `file` fills; "": none.
        summary: For the API page, where the contract's own words do not fit; empty: those.
    """

    verb: str
    path: str
    service: ServiceDescriptor
    rpc: str
    body: str = ""
    bind: Mapping[str, str] = field(default_factory=dict)
    file: str = ""
    summary: str = ""

    @property
    def method(self) -> MethodDescriptor:
        """Its descriptor."""
        return self.service.methods_by_name[self.rpc]

    @property
    def parameters(self) -> dict[str, str]:
        """Path parameter -> field path in the request."""
        names = [piece.partition("}")[0] for piece in self.path.split("{")[1:]]
        return {name: self.bind.get(name, name) for name in names}

    @property
    def body_type(self) -> Descriptor | None:
        """Type of the message that the JSON body is."""
        if self.body == EVERYTHING:
            return self.method.input_type
        return self.method.input_type.fields_by_name[self.body].message_type if self.body else None

    @property
    def query_fields(self) -> list[FieldDescriptor]:
        """Fields of the request that the query string sets: those that neither path nor body does."""
        if self.body == EVERYTHING:
            return []
        taken = {path.partition(".")[0] for path in self.parameters.values()} | {self.body}
        fields = [each for each in self.method.input_type.fields if each.name not in taken]
        return [each for each in fields if not (each.is_repeated and is_plain(each))]

    @property
    def has_bytes(self) -> bool:
        """Whether the body may hold files, and a form is therefore taken too."""
        return self.body_type is not None and _holds_bytes(self.body_type, set())

    def new_request(self) -> Message:
        """An empty request."""
        return message_factory.GetMessageClass(self.method.input_type)()


def _holds_bytes(descriptor: Descriptor, seen: set[str]) -> bool:
    seen.add(descriptor.full_name)
    for each in descriptor.fields:
        if each.type == FieldDescriptor.TYPE_BYTES:
            return True
        if is_plain(each) and type_name(each) not in seen and _holds_bytes(message_type(each), seen):
            return True
    return False


_COLLECTION: Final = "/v1/collections/{collection}"
_IMAGES: Final = f"{_COLLECTION}/images"
_IMAGE: Final = f"{_IMAGES}/{{id}}"
_NAME: Final = {"collection": "name"}

CALLS: Final[tuple[Call, ...]] = (
    Call("POST", f"{_COLLECTION}/search", QUERY, "Search", body=EVERYTHING, file="parts.0.image"),
    Call("GET", f"{_COLLECTION}/search", QUERY, "Search", summary="A search that fits into an address."),
    Call("POST", f"{_COLLECTION}/segment", QUERY, "SegmentImage", body=EVERYTHING, file="image"),
    Call("GET", f"{_COLLECTION}/tags", QUERY, "ListTags"),
    Call("POST", f"{_COLLECTION}/project", QUERY, "ProjectImages", body=EVERYTHING),
    Call("POST", _IMAGES, INGEST, "CreateImage", body="image", file="data"),
    Call("GET", _IMAGES, INGEST, "ListImages"),
    Call("GET", _IMAGE, INGEST, "GetImage"),
    Call(
        "PATCH",
        _IMAGE,
        INGEST,
        "UpdateImage",
        body="image",
        bind={"collection": "image.collection", "id": "image.id"},
    ),
    Call("DELETE", _IMAGE, INGEST, "DeleteImage"),
    Call("POST", f"{_IMAGES}:stream", INGEST, "StreamImages", bind={"collection": "create.collection"}),
    Call("POST", f"{_IMAGES}:import", INGEST, "ImportImages", body=EVERYTHING),
    Call("POST", "/v1/collections", INGEST, "CreateCollection", body="collection"),
    Call("GET", "/v1/collections", INGEST, "ListCollections"),
    Call("GET", _COLLECTION, INGEST, "GetCollection", bind=_NAME),
    Call("DELETE", _COLLECTION, INGEST, "DeleteCollection", bind=_NAME),
    Call("POST", f"{_COLLECTION}:reindex", INGEST, "ReindexCollection", body=EVERYTHING),
    Call("POST", f"{_COLLECTION}:retag", INGEST, "RetagCollection", body=EVERYTHING),
    Call("POST", f"{_COLLECTION}:repair", INGEST, "RepairCollection", body=EVERYTHING),
    Call("GET", "/v1/jobs", INGEST, "ListJobs"),
    Call("GET", "/v1/jobs/{id}", INGEST, "GetJob"),
    Call("POST", "/v1/jobs/{id}:cancel", INGEST, "CancelJob", body=EVERYTHING),
    Call(
        "PUT", "/v1/vocabularies/{name}", INGEST, "PutVocabulary", body="vocabulary", bind={"name": "vocabulary.name"}
    ),
    Call("GET", "/v1/vocabularies/{name}", INGEST, "GetVocabulary"),
    Call("GET", "/v1/model", EMBEDDER, "GetModel"),
    Call("POST", "/v1/model:embedTexts", EMBEDDER, "EmbedTexts", body=EVERYTHING),
    Call("POST", "/v1/model:embedImages", EMBEDDER, "EmbedImages", body=EVERYTHING, file="images"),
    Call("POST", "/v1/model:analyzeImages", EMBEDDER, "AnalyzeImages", body=EVERYTHING, file="images"),
    Call("POST", "/v1/model:segmentAt", EMBEDDER, "SegmentAt", body=EVERYTHING, file="image"),
    Call("POST", "/v1/model:embedRegions", EMBEDDER, "EmbedRegions", body=EVERYTHING, file="image"),
    Call("POST", "/v1/model:chooseTags", EMBEDDER, "ChooseTags", body=EVERYTHING),
)
