"""Names, fields and limits of the two Milvus collections behind a collection of images."""

from collections.abc import Sequence
from typing import Any, Final

from pymilvus import CollectionSchema, DataType, Function, FunctionType, MilvusClient
from pymilvus.milvus_client.index import IndexParams

from services.common.records import IndexType
from services.common.vectors.index import index_nlist
from services.common.vectors.rows import Generation
from services.common.vectors.signs import sign_count

__all__ = [
    "CONFIDENCE_DECIMALS",
    "FINGERPRINT_PROPERTY",
    "FOUND_FIELDS",
    "IMAGE_FIELDS",
    "MAX_SEGMENTS",
    "MAX_TEXT_BYTES",
    "SEGMENT_FIELDS",
    "TERMS_FIELD",
    "TEXT_FIELD",
    "aliases",
    "belongs_to",
    "bits_index_params",
    "bits_name",
    "images_name",
    "images_schema",
    "index_params",
    "number_of",
    "segments_name",
    "segments_schema",
]

MAX_ID_BYTES: Final = 64
MAX_SEGMENT_ID_BYTES: Final = 80
# Confidences of tags are kept and compared with so many decimals.
CONFIDENCE_DECIMALS: Final = 6
# Segments of one image; more are refused.
MAX_SEGMENTS: Final = 64
# A tag's name has at most 64 characters, each of at most 4 bytes.
MAX_TAG_BYTES: Final = 256
# 64 that a person gives and as many that a model finds for each segment, with room; Milvus allows 4,096.
MAX_TAGS: Final = 1024

# Milvus-lite keeps no description of a collection, but it keeps properties.
FINGERPRINT_PROPERTY: Final = "saccade.fingerprint"

TEXT_FIELD: Final = "text"
TERMS_FIELD: Final = "text_terms"
# Of a title and a description; what is longer is not looked through.
MAX_TEXT_BYTES: Final = 16_384

_BITS: Final = "_bits"
# Of a graph: neighbours of each row, and the search list that it is built with; hnswlib's own.
_HNSW_BUILD: Final = {"M": 16, "efConstruction": 200}

IMAGE_FIELDS: Final = ("id", "vector", "tags", "tag_confidences", "metadata", "width", "height", "created_at")
FOUND_FIELDS: Final = ("image_id", "vector", "x0", "y0", "x1", "y1", "area", "stability", "tags", "tag_confidences")
"""A segment's own fields."""
SEGMENT_FIELDS: Final = (
    *FOUND_FIELDS,
    "image_tags",
    "image_tag_confidences",
    "metadata",
    "width",
    "height",
    "created_at",
)


def images_name(generation: Generation) -> str:
    """Physical name of the collection of image rows."""
    return f"{_stem(generation.collection, generation.number)}_images"


def segments_name(generation: Generation) -> str:
    """Physical name of the collection of segment rows."""
    return f"{_stem(generation.collection, generation.number)}_segments"


def bits_name(name: str) -> str:
    """Physical name of the collection of signs that stands beside a collection of rows, with an LSH index."""
    return f"{name}{_BITS}"


def aliases(collection: str) -> tuple[str, str]:
    """Names that the live generation's images and segments have beside their physical ones."""
    return f"{collection}_images", f"{collection}_segments"


def belongs_to(name: str, collection: str) -> bool:
    """Whether a physical name is one of any generation of the collection."""
    return number_of(name, collection) > 0


def number_of(name: str, collection: str) -> int:
    """Number of the collection's generation that a physical name belongs to; 0 if it is none of the collection's."""
    stem, _, kind = name.removesuffix(_BITS).rpartition("_")
    owner, _, number = stem.rpartition("_G")
    ours = kind in {"images", "segments"} and owner == collection and number.isdigit()
    return int(number) if ours else 0


def _stem(collection: str, number: int) -> str:
    # Collections' names have lower-case letters only, so "_G1" can be no part of one.
    return f"{collection}_G{number}"


def images_schema(dimension: int, *, with_text: bool, signs: bool = False) -> CollectionSchema:
    """Fields of an image row; see `rows.ImageRow`. `with_text`: the engine indexes words; `signs`: of the vector."""
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.VARCHAR, max_length=MAX_ID_BYTES, is_primary=True)
    _add_vector(schema, dimension, signs)
    _add_tags(schema, ("tags",))
    _add_objects(schema, ("tag_confidences", "metadata"))
    _add_numbers(schema, DataType.INT64, ("width", "height", "created_at"))
    if with_text:
        schema.add_field(TEXT_FIELD, DataType.VARCHAR, max_length=MAX_TEXT_BYTES, enable_analyzer=True)
        schema.add_field(TERMS_FIELD, DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(
            Function(
                name="bm25",
                function_type=FunctionType.BM25,
                input_field_names=[TEXT_FIELD],
                output_field_names=[TERMS_FIELD],
            )
        )
    return schema


def segments_schema(dimension: int, *, signs: bool = False) -> CollectionSchema:
    """Fields of a segment row; see `rows.SegmentRow`. `signs`: of the vector."""
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.VARCHAR, max_length=MAX_SEGMENT_ID_BYTES, is_primary=True)
    schema.add_field("image_id", DataType.VARCHAR, max_length=MAX_ID_BYTES)
    _add_vector(schema, dimension, signs)
    _add_numbers(schema, DataType.FLOAT, ("x0", "y0", "x1", "y1", "area", "stability"))
    _add_tags(schema, ("tags", "image_tags"))
    _add_objects(schema, ("tag_confidences", "image_tag_confidences", "metadata"))
    _add_numbers(schema, DataType.INT64, ("width", "height", "created_at"))
    return schema


def _add_vector(schema: CollectionSchema, dimension: int, signs: bool) -> None:
    if signs:
        schema.add_field("vector", DataType.BINARY_VECTOR, dim=sign_count(dimension))
    else:
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)


def _add_numbers(schema: CollectionSchema, kind: DataType, names: Sequence[str]) -> None:
    for name in names:
        schema.add_field(name, kind)


def _add_objects(schema: CollectionSchema, names: Sequence[str]) -> None:
    for name in names:
        schema.add_field(name, DataType.JSON)


def _add_tags(schema: CollectionSchema, names: Sequence[str]) -> None:
    for name in names:
        schema.add_field(
            name,
            DataType.ARRAY,
            element_type=DataType.VARCHAR,
            max_capacity=MAX_TAGS,
            max_length=MAX_TAG_BYTES,
        )


def index_params(generation: Generation, *, with_text: bool = False) -> IndexParams:
    """The index on the vectors and, where there is one, that on the words of titles and descriptions."""
    params = MilvusClient.prepare_index_params()
    spec = generation.index
    # Beside signs, vectors are compared only with those that the signs chose.
    kind = IndexType.FLAT if spec.type is IndexType.LSH else spec.type
    options: dict[IndexType, dict[str, Any]] = {
        IndexType.IVF_FLAT: {"nlist": index_nlist(spec)},
        IndexType.HNSW: _HNSW_BUILD,
    }
    params.add_index("vector", index_type=kind.value, metric_type=spec.metric.value, params=options.get(kind, {}))
    if with_text:
        params.add_index(TERMS_FIELD, index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
    return params


def bits_index_params() -> IndexParams:
    """The index on signs: all are compared, which costs a 32nd of comparing as many numbers."""
    params = MilvusClient.prepare_index_params()
    params.add_index("vector", index_type="BIN_FLAT", metric_type="HAMMING", params={})
    return params
