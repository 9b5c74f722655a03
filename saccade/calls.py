"""The unary calls of the three services, once: their arguments, their requests, and what their answers mean.

Those of jobs are in saccade.job_calls; those that no service offers yet are not here.
Client and AsyncClient are two faces of this list. A function here builds a `Call` or a `Pages` and touches no network.
"""

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from saccade import requests as build
from saccade.common.v1 import types_pb2
from saccade.embedder.v1 import embedder_service_pb2 as embedder
from saccade.errors import ApiError, item_error
from saccade.ingest.v1 import ingest_service_pb2 as ingest
from saccade.query.v1 import query_service_pb2 as query

__all__ = [
    "Call",
    "Pages",
    "Service",
    "analyze_images",
    "create_collection",
    "create_image",
    "delete_collection",
    "delete_image",
    "embed_images",
    "embed_texts",
    "get_collection",
    "get_image",
    "get_model",
    "get_vocabulary",
    "list_collections",
    "list_images",
    "list_tags",
    "project_images",
    "put_vocabulary",
    "search",
    "segment_at",
    "segment_image",
    "update_image",
]

Service = Literal["embedder", "ingest", "query"]
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True)
class Call(Generic[R_co]):
    """One unary call, and how its answer is read."""

    service: Service
    method: str
    request: Message
    unpack: Callable[[Any], R_co]


@dataclass(frozen=True)
class Pages(Generic[R_co]):
    """A list that comes in pages; the request and the answer have page tokens."""

    service: Service
    method: str
    request: Any
    items: Callable[[Any], Iterable[R_co]]

    def page(self, token: str) -> Call[tuple[list[R_co], str]]:
        """The page that a token leads to ("" the first): its items, and the next page's token, "" at the end."""
        request = type(self.request)()
        request.CopyFrom(self.request)
        request.page_token = token
        return Call(
            self.service, self.method, request, lambda answer: (list(self.items(answer)), answer.next_page_token)
        )


def search(
    collection: str,
    *,
    text: str | None = None,
    image: build.Picture | None = None,
    like: str = "",
    region: query.Region | None = None,
    parts: Iterable[query.Part] = (),
    relations: Iterable[query.Relation] = (),
    literal_text: bool = False,
    mode: build.Mode = "",
    filter: build.Filter | None = None,
    top_k: int = 10,
    page_token: str = "",
    min_score: float = 0.0,
    fold_duplicates: bool = False,
    diversity: float = 0.0,
    weights: Mapping[str, float] | None = None,
    exact: bool = False,
    nprobe: int = 0,
    consistency: build.Consistency = "",
    explain: bool = False,
    include_masks: bool = False,
    title_text: str = "",
    target_recall: float = 0.0,
    modifier: str = "",
    bulk: bool = False,
) -> Call[query.SearchResponse]:
    """Images that fit the query, best first.

    Args:
        collection: Its name.
        text: Words to look for.
        image: A picture to look for: bytes, a path, or an http(s) address.
        like: Id of a stored image to look for; it is left out of the results.
        region: Region of a picture to look for, from `make_region`.
        parts: More to look for, from `make_part`, each with a weight of its own.
        relations: How parts should stand to each other, from `make_relation`; `text`, `image` and so on come first.
        literal_text: Take texts as written, and read no place, relation or count from them.
        mode: whole, segment, hybrid or tags ("": hybrid); tags may go with a filter and nothing to look for.
        filter: Which images count, from saccade.filters or as the JSON mapping of the contract's Filter.
        top_k: Most results, 1 to 100; 0 for 10.
        page_token: `next_page_token` of the page before.
        min_score: Lowest calibrated score, in [0, 1]; 0.5 is as likely a match as not.
        fold_duplicates: Fold near-duplicates into their best one; `duplicate_ids` of a result names them.
        diversity: Variety among results, in [0, 1]; 0: none. They do not come by score then.
        weights: What counts how much in hybrid mode, such as {"whole": 0.2, "segment": 0.8, "tag": 0.1}.
        exact: Compare with every vector.
        nprobe: Lists to search; 0: chosen for the target recall.
        consistency: eventual, bounded or strong ("": bounded).
        explain: Say of each result how its score came about.
        include_masks: Send the matched segments' masks.
        title_text: Words to find in titles and descriptions, alone or beside parts; not every engine can.
        target_recall: Recall@10 to aim for, in (0, 1]; 0: the collection's.
        modifier: Words that change what `image`, `like` and `region` look for, such as "in the snow".
        bulk: One of many that no person waits for: answered after those of persons, and refused before them.
    """
    pictures: list[dict[str, Any]] = [{"image": image}, {"like": like or None}, {"region": region}]
    own = [] if text is None else [build.make_part(text=text)]
    own += [build.make_part(**content, modifier=modifier) for content in pictures if None not in content.values()]
    request = query.SearchRequest(
        collection=collection,
        parts=[*own, *parts],
        relations=relations,
        literal_text=literal_text,
        mode=build.named_value(query.SearchMode, "SEARCH_MODE_", mode),
        filter=build.make_filter(filter),
        top_k=top_k,
        page_token=page_token,
        min_score=min_score,
        fold_duplicates=fold_duplicates,
        diversity=diversity,
        weights=build.make_weights(weights or {}),
        exact=exact,
        nprobe=nprobe,
        consistency=build.named_value(query.Consistency, "CONSISTENCY_", consistency),
        explain=explain,
        include_masks=include_masks,
        lane=query.SEARCH_LANE_BULK if bulk else query.SEARCH_LANE_UNSPECIFIED,
        title_text=title_text,
        target_recall=target_recall,
    )
    return Call("query", "Search", request, _same)


def segment_image(collection: str, image: build.Picture, *, max_segments: int = 0) -> Call[Sequence[types_pb2.Segment]]:
    """The segments of a picture that is not stored, best first, with masks: what a person may click on."""
    request = query.SegmentImageRequest(
        collection=collection, image=build.read_picture(image), max_segments=max_segments
    )
    return Call("query", "SegmentImage", request, lambda answer: list(answer.segments))


def create_image(
    collection: str, image: build.NewImage | build.Picture, *, wait_for: build.Wait = "", replace: bool = False
) -> Call[ingest.CreateImageResponse]:
    """Store one image; `existed` in the answer says that the same content stood under this id already.

    Args:
        collection: Its name.
        image: A NewImage, or just a picture: bytes, a path, or an http(s) address.
        wait_for: durable, searchable or segmented ("": searchable).
        replace: Replace what stands under this id with other content, instead of ALREADY_EXISTS.
    """
    request = create_request(collection, image, wait_for=wait_for, replace=replace)
    return Call("ingest", "CreateImage", request, _same)


def create_request(
    collection: str, image: build.NewImage | build.Picture, *, wait_for: build.Wait, replace: bool
) -> ingest.CreateImageRequest:
    """The request of create_image, which streams send too; OSError where a file can not be read."""
    new = image if isinstance(image, build.NewImage) else build.NewImage(image)
    return ingest.CreateImageRequest(
        collection=collection,
        image=build.new_image(new),
        wait_for=build.named_value(types_pb2.ImageState, "IMAGE_STATE_", wait_for),
        replace=replace,
    )


def get_image(
    collection: str,
    id: str,
    *,
    include_masks: bool = False,
    include_vectors: bool = False,
) -> Call[types_pb2.Image]:
    """One stored image with its segments and presigned addresses."""
    request = ingest.GetImageRequest(
        collection=collection, id=id, include_masks=include_masks, include_vectors=include_vectors
    )
    return Call("ingest", "GetImage", request, _image)


def list_images(
    collection: str,
    *,
    filter: build.Filter | None = None,
    page_size: int = 0,
) -> Pages[types_pb2.Image]:
    """The collection's images by id, without segments; pages are asked for as they are needed."""
    request = ingest.ListImagesRequest(collection=collection, filter=build.make_filter(filter), page_size=page_size)
    return Pages("ingest", "ListImages", request, lambda answer: answer.images)


def list_tags(collection: str, *, filter: build.Filter | None = None, page_size: int = 0) -> Pages[query.TagCount]:
    """The collection's tags with how many images carry them, most frequent first."""
    request = query.ListTagsRequest(collection=collection, filter=build.make_filter(filter), page_size=page_size)
    return Pages("query", "ListTags", request, lambda answer: answer.tags)


def project_images(
    collection: str,
    *,
    filter: build.Filter | None = None,
    max_images: int = 0,
    method: build.Method = "",
    parts: Iterable[query.Part] = (),
) -> Call[query.ProjectImagesResponse]:
    """The collection on a plane, near images near each other, with places of a query's parts.

    Args:
        collection: Its name.
        filter: Which images count.
        max_images: Most images, sampled if there are more; 0 for 2,000, at most 20,000.
        method: pca or umap, which needs its library beside the query service ("": pca).
        parts: From `make_part`; what to place on the map too.
    """
    request = query.ProjectImagesRequest(
        collection=collection,
        filter=build.make_filter(filter),
        max_images=max_images,
        method=build.named_value(query.ProjectImagesRequest.Method, "METHOD_", method),
        parts=parts,
    )
    return Call("query", "ProjectImages", request, _same)


def update_image(
    collection: str,
    id: str,
    *,
    title: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    tags: Sequence[str] | None = None,
    etag: str = "",
) -> Call[types_pb2.Image]:
    """Change what is given; with an `etag`, ABORTED if somebody else changed the image meanwhile."""
    given = {"title": title, "metadata": metadata, "tags": tags}
    image = types_pb2.Image(
        collection=collection,
        id=id,
        title=title or "",
        metadata=build.make_struct(metadata or {}, "metadata"),
        tags=[types_pb2.Tag(name=tag) for tag in tags or ()],
        etag=etag,
    )
    paths = [name for name, value in given.items() if value is not None]
    if not paths:
        raise ValueError("update_image needs title, metadata or tags")
    request = ingest.UpdateImageRequest(image=image, update_mask=FieldMask(paths=paths))
    return Call("ingest", "UpdateImage", request, _image)


def delete_image(collection: str, id: str, *, allow_missing: bool = False) -> Call[None]:
    """Remove an image, its objects and its vectors."""
    request = ingest.DeleteImageRequest(collection=collection, id=id, allow_missing=allow_missing)
    return Call("ingest", "DeleteImage", request, _nothing)


def create_collection(
    name: str,
    *,
    description: str = "",
    model: str = "",
    vocabulary: str = "",
    index: ingest.IndexSpec | None = None,
) -> Call[ingest.Collection]:
    """Make a collection under a model that the embedder has ("": its default one).

    Its tags are chosen from `vocabulary`.
    """
    collection = ingest.Collection(name=name, description=description, model=model, vocabulary=vocabulary, index=index)
    request = ingest.CreateCollectionRequest(collection=collection)
    return Call("ingest", "CreateCollection", request, _collection)


def get_collection(name: str) -> Call[ingest.Collection]:
    """One collection with its counts."""
    return Call("ingest", "GetCollection", ingest.GetCollectionRequest(name=name), _collection)


def list_collections(*, page_size: int = 0) -> Pages[ingest.Collection]:
    """All collections, by name."""
    request = ingest.ListCollectionsRequest(page_size=page_size)
    return Pages("ingest", "ListCollections", request, lambda answer: answer.collections)


def delete_collection(name: str, *, force: bool = False) -> Call[None]:
    """Remove a collection; without `force` only an empty one."""
    request = ingest.DeleteCollectionRequest(name=name, force=force)
    return Call("ingest", "DeleteCollection", request, _nothing)


def put_vocabulary(
    name: str, entries: Mapping[str, str] | Iterable[str], *, prompt_templates: Sequence[str] = ()
) -> Call[ingest.Vocabulary]:
    """Make or replace a vocabulary: words, or word -> category; each template has one {} for the word."""
    words = entries.items() if isinstance(entries, Mapping) else ((word, "") for word in entries)
    vocabulary = ingest.Vocabulary(
        name=name,
        prompt_templates=prompt_templates,
        entries=[ingest.Vocabulary.Entry(name=word, category=category) for word, category in words],
    )
    request = ingest.PutVocabularyRequest(vocabulary=vocabulary)
    return Call("ingest", "PutVocabulary", request, lambda answer: answer.vocabulary)


def get_vocabulary(name: str) -> Call[ingest.Vocabulary]:
    """One vocabulary."""
    return Call("ingest", "GetVocabulary", ingest.GetVocabularyRequest(name=name), lambda answer: answer.vocabulary)


def get_model(model: str = "") -> Call[embedder.GetModelResponse]:
    """What the embedder has loaded, and its limits: of one model, or of the default one; `models` names all."""
    return Call("embedder", "GetModel", embedder.GetModelRequest(model=model), _same)


def embed_texts(texts: Sequence[str], *, model: str = "") -> Call[list["array[float]"]]:
    """A unit-length vector for each text; `numpy.asarray` takes each without a copy."""
    request = embedder.EmbedTextsRequest(model=model, texts=texts, lane=embedder.LANE_INTERACTIVE)
    return Call("embedder", "EmbedTexts", request, lambda answer: build.vectors_of(answer.vectors))


def embed_images(images: Sequence[build.Picture], *, model: str = "") -> Call[list["array[float] | ApiError"]]:
    """For each picture (bytes or path) a unit-length vector, or why there is none."""
    request = embedder.EmbedImagesRequest(
        model=model, images=[build.read_picture(image) for image in images], lane=embedder.LANE_INTERACTIVE
    )
    return Call(
        "embedder",
        "EmbedImages",
        request,
        lambda answer: [
            item_error(result.error) if result.HasField("error") else build.vectors_of(result.vector)[0]
            for result in answer.results
        ],
    )


def analyze_images(
    images: Sequence[build.Picture],
    *,
    model: str = "",
    max_segments: int = 0,
    min_area_fraction: float = 0.0,
    vocabulary: Mapping[str, str] | None = None,
    prompt_templates: Sequence[str] = (),
    include_masks: bool = False,
) -> Call[list[embedder.ImageAnalysis | ApiError]]:
    """For each picture (bytes or path) its vector, segments and tags, or why there are none.

    Args:
        images: The pictures.
        model: Whose vectors; "": the default one's.
        max_segments: Most segments for each; 0 for 10, at most 64.
        min_area_fraction: Smallest segment as a share of the image; 0 for 0.01.
        vocabulary: Word -> category, to choose tags from.
        prompt_templates: Sentences that each word is put into, each with one {}.
        include_masks: Send masks.
    """
    request = embedder.AnalyzeImagesRequest(
        model=model,
        images=[build.read_picture(image) for image in images],
        lane=embedder.LANE_INTERACTIVE,
        max_segments=max_segments,
        min_area_fraction=min_area_fraction,
        vocabulary=[embedder.VocabularyEntry(name=n, category=c) for n, c in (vocabulary or {}).items()],
        prompt_templates=prompt_templates,
        include_masks=include_masks,
    )
    return Call(
        "embedder",
        "AnalyzeImages",
        request,
        lambda answer: [
            item_error(result.error) if result.HasField("error") else result.analysis for result in answer.results
        ],
    )


def segment_at(
    image: build.Picture, *, points: Iterable[build.Point] = (), box: build.Box | None = None, model: str = ""
) -> Call[types_pb2.Segment]:
    """The one segment of a picture (bytes or path) that points or a box mean, with mask and vector."""
    request = embedder.SegmentAtRequest(
        model=model,
        image=build.read_picture(image),
        points=build.to_points(points),
        box=build.to_box(box) if box else None,
        lane=embedder.LANE_INTERACTIVE,
    )
    return Call("embedder", "SegmentAt", request, lambda answer: answer.segment)


def _same(answer: Any) -> Any:
    return answer


def _nothing(_answer: Any) -> None:
    return None


def _image(answer: Any) -> types_pb2.Image:
    image: types_pb2.Image = answer.image
    return image


def _collection(answer: Any) -> ingest.Collection:
    collection: ingest.Collection = answer.collection
    return collection
