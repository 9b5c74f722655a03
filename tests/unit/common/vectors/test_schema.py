from services.common.records import CollectionRecord, IndexSpec
from services.common.vectors import Generation
from services.common.vectors.schema import aliases, belongs_to, bits_name, images_name, segments_name


def test_names_of_a_generation() -> None:
    generation = Generation("cats", 3, 4, "model-a")
    assert images_name(generation) == "cats_G3_images"
    assert segments_name(generation) == "cats_G3_segments"
    assert aliases("cats") == ("cats_images", "cats_segments")


def test_no_two_collections_share_a_name() -> None:
    collections = ["a", "a_1", "a_g1", "a_images", "a_g1_images", "a_1_images"]
    taken = [*(name for each in collections for name in aliases(each))]
    for each in collections:
        for number in (1, 11):
            generation = Generation(each, number, 4, "model-a")
            names = (images_name(generation), segments_name(generation))
            taken += [*names, *map(bits_name, names)]
    assert len(set(taken)) == len(taken)


def test_a_name_belongs_to_one_collection() -> None:
    assert belongs_to("a_G1_images", "a")
    assert belongs_to("a_1_G12_segments", "a_1")
    assert belongs_to("a_G1_images_bits", "a")
    for name in (
        "a_images",
        "a_1_G1_images",
        "a_G_images",
        "a_Gx_images",
        "a_G1_other",
        "a_bits",
        "a_G1_bits",
        "G1_images",
        "b_G1_images",
    ):
        assert not belongs_to(name, "a")


def test_a_generation_is_the_records_live_one() -> None:
    record = CollectionRecord(
        name="a", model="m", fingerprint="f", dimension=7, generation=2, created_at_ms=0, index=IndexSpec(nlist=5)
    )
    assert Generation.of(record) == Generation("a", 2, 7, "f", IndexSpec(nlist=5))
    built = record.model_copy(update={"index": IndexSpec(), "built_nlist": 256})
    assert Generation.of(built).index.nlist == 256
