import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from saccade.cli import main
from saccade.common.v1 import types_pb2
from saccade.embedder.v1 import embedder_service_pb2 as embedder
from saccade.ingest.v1 import ingest_service_pb2 as ingest
from saccade.query.v1 import query_service_pb2 as query
from saccade.requests import content_id
from services.common.errors import InvalidArgument, NotFound, Unavailable
from tests.unit.saccade.fakes import FakeServices, created, failed


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Outcome]


@pytest.fixture
def run(services: FakeServices, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    for name in ("EMBEDDER", "INGEST", "QUERY"):
        monkeypatch.setenv(f"SACCADE_{name}_ADDRESS", services.address)
    monkeypatch.setenv("SACCADE_COLLECTION", "demo")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["saccade", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        return Outcome(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, one of them deep down, and things that are none."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "b.PNG").write_bytes(b"b")
    (tmp_path / "deep" / "er" / "c.webp").write_bytes(b"c")
    (tmp_path / ".hidden" / "d.jpg").write_bytes(b"d")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


@pytest.fixture
def ready(services: FakeServices) -> FakeServices:
    services.will("GetCollection", ingest.GetCollectionResponse(collection=ingest.Collection(name="demo")))
    services.will("ListImages", ingest.ListImagesResponse())
    return services


def result(image_id: str, **fields: Any) -> query.SearchResult:
    image = types_pb2.Image(id=image_id, source=f"{image_id}.jpg", title="An owl", **fields)
    segment = types_pb2.Segment(
        box=types_pb2.BoundingBox(x0=0.25, y0=0.5, x1=0.75, y1=1), tags=[types_pb2.Tag(name="owl")]
    )
    return query.SearchResult(
        image=image, score=0.875, matched_segments=[query.MatchedSegment(segment=segment, similarity=0.5)]
    )


def test_search_shows_a_table(services: FakeServices, run: Run) -> None:
    answer = query.SearchResponse(results=[result("one"), result("two")], next_page_token="more")
    answer.plan.degraded.append("segments: the index is loading")
    services.will("Search", answer)
    outcome = run("search", "--text", "an owl", "--not", "dog", "--tag", "bird", "--filter", '{"width": {"min": 100}}')
    assert outcome.code == 0
    assert "one.jpg" in outcome.out
    assert "0.875" in outcome.out
    assert "owl 0.50 at 0.25,0.50,0.75,1.00" in outcome.out
    assert "--page-token more" in outcome.err
    assert "without segments: the index is loading" in outcome.err
    request = services.last
    assert request.collection == "demo"
    assert [(part.text, part.weight if part.HasField("weight") else None) for part in request.parts] == [
        ("an owl", None),
        ("dog", -0.5),
    ]
    assert request.filter.all.filters[0].tags.names == ["bird"]
    assert request.filter.all.filters[1].width.min == 100
    assert request.mode == query.SEARCH_MODE_HYBRID


def test_a_bulk_search_says_so_before_it_is_read(services: FakeServices, run: Run) -> None:
    services.will("Search", query.SearchResponse())
    assert run("search", "--text", "an owl", "--bulk").code == 0
    assert services.last.lane == query.SEARCH_LANE_BULK
    assert services.told == {"saccade-lane": "bulk"}
    assert run("search", "--text", "an owl").code == 0
    assert services.last.lane == query.SEARCH_LANE_UNSPECIFIED
    assert services.told == {}


def test_search_writes_json(services: FakeServices, run: Run) -> None:
    services.will("Search", query.SearchResponse(results=[result("one")]))
    outcome = run("search", "--text", "owl::2", "--like", "abc::-0.25", "--json", "--mode", "segment", "-k", 3)
    assert outcome.code == 0
    (answer,) = outcome.lines
    assert answer["results"][0]["image"]["id"] == "one"
    assert answer["results"][0]["matched_segments"][0]["segment"]["box"]["x1"] == 0.75
    weights = {part.WhichOneof("content"): part.weight for part in services.last.parts}
    assert weights == {"text": 2, "image_id": -0.25}
    assert services.last.top_k == 3


def test_search_by_tags_and_titles(services: FakeServices, run: Run) -> None:
    services.will("Search", query.SearchResponse())
    assert run("search", "--mode", "tags", "--tag", "owl").code == 0
    assert (services.last.mode, len(services.last.parts)) == (query.SEARCH_MODE_TAGS, 0)
    assert services.last.filter.tags.names == ["owl"]
    assert (
        run("search", "--title", "snowy owl", "--like", "abc", "--modifier", "in snow", "--tag-weight", 0.5).code == 0
    )
    assert services.last.title_text == "snowy owl"
    assert (services.last.parts[0].image_id, services.last.parts[0].modifier) == ("abc", "in snow")
    assert services.last.weights.tag == 0.5
    assert not services.last.weights.HasField("whole")
    assert run("search", "--title", "owl", "--target-recall", 0.5).code == 0
    assert (len(services.last.parts), services.last.target_recall) == (0, 0.5)
    assert not services.last.explain


def test_search_explains(services: FakeServices, run: Run) -> None:
    made = query.IndexSearch(
        what="images by text", index="IVF_FLAT", nprobe=8, rows=5_000, passing=1_234, reason="measured"
    )
    result = query.SearchResult(
        image=types_pb2.Image(id="abc"),
        score=0.75,
        score_parts=[
            query.ScorePart(part=0, kind="whole", raw=0.25, calibrated=0.5, weight=0.2),
            query.ScorePart(kind="title", raw=7, calibrated=1, weight=0.5),
        ],
    )
    plan = query.SearchPlan(reading='text "owl"', searches=[made], generation=2, fingerprint="f00d")
    services.will("Search", query.SearchResponse(results=[result], plan=plan))
    outcome = run("search", "--text", "owl", "--explain")
    assert services.last.explain
    assert "1, whole: 0.25, 0.50, 0.20; title: 7.00, 1.00, 0.50" in outcome.out
    for line in (
        'read as: text "owl"',
        "images by text: IVF_FLAT, nprobe 8, 1,234 of 5,000 rows pass; measured",
        "no figures were measured",
        "generation 2, model f00d",
    ):
        assert line in outcome.err


def test_search_by_regions(services: FakeServices, run: Run, folder: Path) -> None:
    services.will("Search", query.SearchResponse())
    picture = folder / "a.jpg"
    assert run("search", "--image", picture, "--box", "0.1,0.2,0.5,0.75").code == 0
    region = services.last.parts[0].region
    assert (region.image, region.box.y1) == (b"a", 0.75)
    assert run("search", "--like", "abc", "--point", "0.5,0.25", "--point", "0.75,0.25").code == 0
    region = services.last.parts[0].region
    assert (region.image_id, len(region.points), region.points[0].x) == ("abc", 2, 0.5)
    assert run("search", "--region", f"{picture}@0.5,0.25", "--region", "id:abc@0,0,0.5,1::0.5").code == 0
    first, second = services.last.parts
    assert first.region.points[0].y == 0.25
    assert (second.region.image_id, second.region.box.x1, second.weight) == ("abc", 0.5, 0.5)
    assert "nothing found" in run("search", "--image", "https://example.org/a.jpg").err
    assert services.last.parts[0].image_url == "https://example.org/a.jpg"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["search"], "needs --text, --image"),
        (["search", "--mode", "tags"], "--mode tags with --tag or --filter"),
        (["search", "--text", "a", "--modifier", "b"], "--modifier changes what --image"),
        (["search", "--text", "a", "--target-recall", "2"], "--target-recall"),
        (["search", "an", "owl"], 'saccade search --text "an owl"'),
        (["search", "--text", "a", "--mode", "both"], "--mode needs whole, segment, hybrid or tags"),
        (["search", "--text", "a", "--filter", "{"], "--filter is no JSON"),
        (["search", "--text", "a", "--filter", "[]"], "--filter must be a JSON object"),
        (["search", "--text", "a", "--filter", '{"size": 1}'], "filter:"),
        (["search", "--text", "a::b"], "must be a weight"),
        (["search", "--image", "nowhere.jpg"], "error: nowhere.jpg: No such file"),
        (["search", "--text", "a", "--box", "0,0,1,1"], "exactly one --image or --like"),
        (["search", "--like", "a", "--box", "0,0,1"], "--box needs"),
        (["search", "--region", "a.jpg"], "--region needs"),
        (["search", "--text", "a", "-k", "101"], "--top-k"),
        (["search", "--text", "a", "--colour", "red"], "No such option"),
        (["ingest", "nowhere"], "there is no nowhere"),
        (["ingest"], "Missing argument"),
        (["ingest", ".", "--labels", "nowhere.jsonl"], "'nowhere.jsonl' does not exist"),
        (["delete"], "--all"),
        (["update", "one"], "needs title, metadata or tags"),
        (["update", "one", "--metadata", "7"], "--metadata must be a JSON object"),
        (["update", "one", "--metadata", f'{{"n": {"9" * 400}}}'], "metadata: "),
        (["update", "one", "--metadata", f'{{"n": {"9" * 5_000}}}'], "--metadata is no JSON"),
        (["update", "one", "--metadata", '{"n": ' * 100_000], "--metadata is no JSON"),
        (["fly"], "No such command"),
    ],
)
def test_wrong_usage_is_2(services: FakeServices, run: Run, arguments: list[str], sentence: str) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2
    assert sentence in outcome.err
    assert not services.requests


def test_a_refusal_is_3_and_an_absence_4(services: FakeServices, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    services.will("Search", InvalidArgument("has at most 2,000 characters", field="parts[0].text"))
    outcome = run("search", "--text", "a", "--json")
    assert outcome.code == 3
    assert outcome.out == ""
    assert "error: INVALID_ARGUMENT: parts[0].text: has at most 2,000 characters" in outcome.err
    monkeypatch.setenv("SACCADE_QUERY_ADDRESS", "127.0.0.1:1")
    outcome = run("search", "--text", "a")
    assert outcome.code == 4
    assert "the query service at 127.0.0.1:1 does not answer" in outcome.err
    assert "is it running? `make demo` or `make run` starts it" in outcome.err


def test_what_a_service_says_to_call_is_named_as_a_command(services: FakeServices, run: Run) -> None:
    services.will("GetCollection", NotFound("there is no collection 'demo'; make it with CreateCollection"))
    outcome = run("get")
    assert outcome.code == 3
    assert "there is no collection 'demo'; make it with `saccade create`" in outcome.err


def test_search_reads_words_or_takes_them_literally(services: FakeServices, run: Run) -> None:
    services.will("Search", query.SearchResponse())
    assert run("search", "--text", "two dogs").code == 0
    assert not services.last.literal_text
    assert run("search", "--text", "two dogs", "--literal").code == 0
    assert services.last.literal_text


def test_ingest_stores_what_lies_in_a_folder(ready: FakeServices, run: Run, folder: Path) -> None:
    got: list[ingest.CreateImageRequest] = []

    def stream(requests: Iterator[ingest.StreamImagesRequest]) -> Iterator[ingest.StreamImagesResponse]:
        for request in requests:
            got.append(request.create)
            yield created(request)

    ready.stream = stream
    outcome = run("ingest", folder, "https://example.org/x.jpg", "--tags", "new, blue", "--wait", "segmented")
    assert outcome.code == 0
    assert "4 stored, 0 there already, 0 failed" in outcome.err
    assert "segments follow" not in outcome.err
    assert {create.image.source for create in got} == {"a.jpg", "b.PNG", "deep/er/c.webp", "https://example.org/x.jpg"}
    assert all(list(create.image.tags) == ["new", "blue"] for create in got)
    assert all(create.wait_for == types_pb2.IMAGE_STATE_SEGMENTED for create in got)
    assert all(create.collection == "demo" for create in got)
    assert "; segments follow" in run("ingest", folder).err


def test_ingest_says_what_failed_and_why(ready: FakeServices, run: Run, folder: Path) -> None:
    def stream(requests: Iterator[ingest.StreamImagesRequest]) -> Iterator[ingest.StreamImagesResponse]:
        for request in requests:
            bad = request.create.image.source == "b.PNG"
            yield failed(request, 3, "IMAGE_TRUNCATED") if bad else created(request, existed=True)

    ready.stream = stream
    outcome = run("ingest", folder)
    assert outcome.code == 1
    assert "0 stored, 2 there already, 1 failed" in outcome.err
    assert "IMAGE_TRUNCATED" in outcome.out

    outcome = run("ingest", folder, "--json")
    assert outcome.code == 1
    *images, summary = outcome.lines
    assert {line["source"]: line["result"] for line in images} == {
        "a.jpg": "existed",
        "b.PNG": "failed",
        "deep/er/c.webp": "existed",
    }
    assert summary["result"] == "summary"
    assert (summary["failed"], summary["existed"], summary["unfinished"]) == (1, 2, 0)


def test_ingest_skips_what_is_stored(ready: FakeServices, run: Run, folder: Path) -> None:
    stored = types_pb2.Image(
        id=content_id(b"a"), sha256=hashlib.sha256(b"a").hexdigest(), state=types_pb2.IMAGE_STATE_SEARCHABLE
    )
    ready.will("ListImages", ingest.ListImagesResponse(images=[stored]))
    outcome = run("ingest", folder, "--json")
    assert outcome.code == 0
    assert {line["source"]: line["result"] for line in outcome.lines[:-1]}["a.jpg"] == "skipped"
    asked = next(request for request in ready.requests if isinstance(request, ingest.ListImagesRequest))
    assert set(asked.filter.ids.ids) == {content_id(b"a"), content_id(b"b"), content_id(b"c")}
    # What has not come as far as is waited for is sent again.
    outcome = run("ingest", folder, "--json", "--wait", "segmented")
    assert outcome.lines[-1]["skipped"] == 0


def test_ingest_tells_files_of_one_name_in_several_folders_apart(ready: FakeServices, run: Run, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_text(name)
    there = types_pb2.Image(
        id=content_id(b"two"), sha256=hashlib.sha256(b"two").hexdigest(), state=types_pb2.IMAGE_STATE_SEARCHABLE
    )
    ready.will("ListImages", ingest.ListImagesResponse(images=[there]))
    sent: list[bytes] = []

    def stream(requests: Iterator[ingest.StreamImagesRequest]) -> Iterator[ingest.StreamImagesResponse]:
        for request in requests:
            sent.append(request.create.image.data)
            yield created(request)

    ready.stream = stream
    outcome = run("ingest", tmp_path / "one", tmp_path / "two", "--json")
    assert sorted(line["result"] for line in outcome.lines[:-1]) == ["skipped", "stored"]
    assert sent == [b"one"]


def test_ctrl_c_is_130(ready: FakeServices, folder: Path) -> None:
    sent = threading.Event()

    def stream(requests: Iterator[ingest.StreamImagesRequest]) -> Iterator[ingest.StreamImagesResponse]:
        yield created(next(requests))
        sent.set()
        for _ in requests:
            pass

    ready.stream = stream
    addresses = {f"SACCADE_{name}_ADDRESS": ready.address for name in ("EMBEDDER", "INGEST", "QUERY")}
    # Where the tests themselves run in the background, the signal is ignored, also by what they start.
    code = "import signal as s; s.signal(s.SIGINT, s.default_int_handler); from saccade.cli import main; main()"
    command = [sys.executable, "-c", code, "ingest", str(folder), "-c", "demo"]
    # Of a process of its own, as a terminal's: within the tests the signal may reach another's code.
    with subprocess.Popen(command, env=os.environ | addresses, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert sent.wait(30)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "not finished; the same command goes on from here" in errors


def test_ingest_makes_the_collection(ready: FakeServices, run: Run, folder: Path) -> None:
    ready.will("GetCollection", NotFound("there is no collection demo", field="name"))
    ready.will("CreateCollection", ingest.CreateCollectionResponse())
    assert run("ingest", folder, "--vocabulary", "general").code == 0
    made = next(request for request in ready.requests if isinstance(request, ingest.CreateCollectionRequest))
    assert (made.collection.name, made.collection.vocabulary) == ("demo", "general")


def test_ingest_takes_labels(ready: FakeServices, run: Run, folder: Path) -> None:
    labels = folder / "labels.jsonl"
    box = [0, 0, 0.5, 0.5]
    labels.write_text(
        json.dumps(
            {
                "file": "a.jpg",
                "id": "first",
                "caption": "an owl",
                "year": 2020,
                "objects": [{"name": "owl", "box": box}, {"name": "owl", "box": box}],
            }
        )
        + "\n"
    )
    got: dict[str, ingest.NewImage] = {}

    def stream(requests: Iterator[ingest.StreamImagesRequest]) -> Iterator[ingest.StreamImagesResponse]:
        for request in requests:
            got[request.create.image.source] = request.create.image
            yield created(request)

    ready.stream = stream
    assert run("ingest", folder, "--labels", labels).code == 0
    assert (got["a.jpg"].id, got["a.jpg"].title) == ("first", "an owl")
    assert dict(got["a.jpg"].metadata) == {"year": 2020, "object_count": 2, "objects": ["owl"]}
    assert got["b.PNG"].title == ""
    labels.write_text('{"file": "a.jpg"}\n{"file": "gone.jpg"}\n')
    outcome = run("ingest", folder, "--labels", labels)
    assert outcome.code == 2
    assert "line 2" in outcome.err


def test_ingest_without_images(run: Run, tmp_path: Path) -> None:
    outcome = run("ingest", tmp_path)
    assert outcome.code == 2
    assert "no images found" in outcome.err


def test_status(services: FakeServices, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = embedder.GetModelResponse(model="toy", device="cpu", precision="float32", models=["toy", "timm:resnet18"])
    services.will("GetModel", toy)
    kept = ingest.Collection(name="demo", image_count=400, segment_count=4_000)
    services.will("ListCollections", ingest.ListCollectionsResponse(collections=[kept]))
    outcome = run("status")
    assert outcome.code == 0
    assert "model toy on cpu" in outcome.err
    assert "also loaded: timm:resnet18" in outcome.err
    assert "4000" in outcome.out
    monkeypatch.setenv("SACCADE_QUERY_ADDRESS", "127.0.0.1:1")
    outcome = run("status", "--json")
    assert outcome.code == 1
    (report,) = outcome.lines
    assert report["ingest"] == "ready"
    assert "does not answer" in report["query"]
    assert report["collections"][0]["image_count"] == "400"


def test_status_says_what_could_not_be_asked(services: FakeServices, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    services.will("GetModel", embedder.GetModelResponse(model="toy"))
    monkeypatch.setenv("SACCADE_INGEST_ADDRESS", "127.0.0.1:1")
    outcome = run("status")
    assert outcome.code == 1
    assert "no collections" not in outcome.err
    assert "ingest could not be asked" in outcome.err
    assert "is it running?" in outcome.err
    assert "the ingest service at 127.0.0.1:1 does not answer" in outcome.out
    assert "last error" not in outcome.out
    assert run("status", "--json").lines[0]["collections"] is None


def test_collections_and_images(services: FakeServices, run: Run) -> None:
    services.will("ListCollections", ingest.ListCollectionsResponse(collections=[ingest.Collection(name="mine")]))
    assert "mine" in run("collections").out
    assert run("collections", "--json").lines[0][0]["name"] == "mine"

    services.will("CreateCollection", ingest.CreateCollectionResponse(collection=ingest.Collection(name="mine")))
    assert run("create", "mine", "--vocabulary", "general", "--model", "timm:resnet18").code == 0
    assert (services.last.collection.vocabulary, services.last.collection.model) == ("general", "timm:resnet18")

    image = types_pb2.Image(id="one", title="[An] owl", tags=[types_pb2.Tag(name="owl", confidence=0.5)])
    image.segments.add(index=0, area_fraction=0.25).box.x1 = 0.5
    services.will("GetImage", ingest.GetImageResponse(image=image))
    outcome = run("get", "one")
    assert "[An] owl" in outcome.out
    assert "25.0% of the image" in outcome.out
    assert run("get", "one", "--json", "--masks").lines[0]["id"] == "one"
    assert services.last.include_masks

    services.will("GetCollection", ingest.GetCollectionResponse(collection=ingest.Collection(name="demo")))
    assert "demo" in run("get").out

    services.will("ListImages", ingest.ListImagesResponse(images=[image, types_pb2.Image(id="two")]))
    assert "one" in run("list", "--tag", "owl").out
    assert services.last.filter.tags.names == ["owl"]
    assert [line["id"] for line in run("list", "--json", "--limit", "1").lines] == ["one"]

    services.will("UpdateImage", ingest.UpdateImageResponse(image=image))
    assert run("update", "one", "--metadata", '{"a": 1}', "--no-tags").code == 0
    assert list(services.last.update_mask.paths) == ["metadata", "tags"]

    services.will("DeleteImage", ingest.DeleteImageResponse())
    assert run("delete", "one", "two", "--yes", "--json").lines[0]["removed"] == ["one", "two"]
    assert "removed the image one" in run("delete", "one", "-y").err
    assert "removed 2 images" in run("delete", "one", "two", "-y").err
    services.will("DeleteCollection", ingest.DeleteCollectionResponse())
    assert run("delete", "--all", "--yes").code == 0
    assert services.last.force


def test_vocabularies(services: FakeServices, run: Run, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_bytes("owl, animals\r\n\r\nbus\u2028stop\r\n".encode())
    kept = ingest.Vocabulary(name="v", entries=[ingest.Vocabulary.Entry(name="owl", category="animals")])
    services.will("PutVocabulary", ingest.PutVocabularyResponse(vocabulary=kept))
    assert run("vocabulary", "put", "v", words, "--template", "a {}").code == 0
    sent = services.last.vocabulary
    assert [(entry.name, entry.category) for entry in sent.entries] == [("owl", "animals"), ("bus\u2028stop", "")]
    services.will("GetVocabulary", ingest.GetVocabularyResponse(vocabulary=kept))
    assert "animals" in run("vocabulary", "show", "v").out


def test_vocabularies_in_json(services: FakeServices, run: Run, tmp_path: Path) -> None:
    words = tmp_path / "words.json"
    services.will("PutVocabulary", ingest.PutVocabularyResponse())
    words.write_text('{"prompt_templates": ["a {}"], "entries": [{"name": "owl", "category": "bird"}, "bus"]}')
    assert run("vocabulary", "put", "v", words).code == 0
    sent = services.last.vocabulary
    assert [(entry.name, entry.category) for entry in sent.entries] == [("owl", "bird"), ("bus", "")]
    assert list(sent.prompt_templates) == ["a {}"]
    # What `show --json` writes can be put again.
    words.write_text(json.dumps(run("vocabulary", "put", "v", words, "--json").lines[0] | {"entries": ["owl"]}))
    assert run("vocabulary", "put", "v", words).code == 0
    for wrong in ("{", '{"words": []}', '{"entries": [{"category": "bird"}]}', '{"entries": [[]]}'):
        words.write_text(wrong)
        outcome = run("vocabulary", "put", "v", words)
        assert outcome.code == 2, wrong
        assert "a vocabulary in JSON is" in outcome.err


def job(state: str, **fields: Any) -> ingest.Job:
    return ingest.Job(id="j1", kind="reindex", collection="mine", state=ingest.Job.State.Value(state), **fields)


def test_reindex(services: FakeServices, run: Run) -> None:
    running, done = job("STATE_RUNNING", total=4, done=1), job("STATE_SUCCEEDED", total=4, done=4, detail="it is live")
    present = ingest.IndexSpec(type=ingest.INDEX_TYPE_HNSW, metric=ingest.METRIC_IP, target_recall=0.9)
    services.will("GetCollection", ingest.GetCollectionResponse(collection=ingest.Collection(index=present)))
    services.will("ReindexCollection", ingest.ReindexCollectionResponse(job=running))
    outcome = run("reindex", "mine", "--model", "demo")
    assert outcome.code == 0
    assert "j1" in outcome.err
    assert (services.last.collection, services.last.model, services.last.HasField("index")) == ("mine", "demo", False)
    # What is not named of the index stays.
    assert run("reindex", "mine", "--metric", "l2", "--target-recall", "0.99").code == 0
    index = services.last.index
    assert (index.type, index.metric) == (ingest.INDEX_TYPE_HNSW, ingest.METRIC_L2)
    assert index.target_recall == pytest.approx(0.99)
    assert run("reindex", "mine", "--index", "round").code == 2

    away = Unavailable("restarting")
    services.will("GetJob", *(ingest.GetJobResponse(job=running), away, ingest.GetJobResponse(job=done)))
    outcome = run("reindex", "mine", "--rollback", "--wait")
    assert outcome.code == 0
    assert "it is live" in outcome.out
    failed = ingest.GetJobResponse(job=job("STATE_FAILED", failure="too little agreement"))
    services.will("GetJob", failed)
    outcome = run("reindex", "mine", "--wait")
    assert outcome.code == 1
    assert "too little agreement" in outcome.out


def test_jobs(services: FakeServices, run: Run) -> None:
    running = job("STATE_RUNNING", total=4, done=1, detail="[busy]")
    running.errors.add(field="a", reason="IMAGE_TRUNCATED", message="it ends early")
    services.will("RetagCollection", ingest.RetagCollectionResponse(job=running))
    assert run("retag", "mine", "--vocabulary", "birds", "--json").lines[0]["id"] == "j1"
    assert (services.last.collection, services.last.vocabulary) == ("mine", "birds")
    services.will("ListJobs", ingest.ListJobsResponse(jobs=[running, running]))
    outcome = run("jobs", "-c", "mine")
    assert "[busy]" in outcome.out
    assert "1 of 4" in outcome.out
    assert services.last.collection == "mine"
    assert len(run("jobs", "--limit", "1", "--json").lines[0]) == 1
    services.will("GetJob", ingest.GetJobResponse(job=running))
    assert "IMAGE_TRUNCATED it ends early" in run("jobs", "show", "j1").out
    services.will("CancelJob", ingest.CancelJobResponse(job=job("STATE_CANCELLED")))
    assert "cancelled" in run("jobs", "cancel", "j1").err
    services.will("GetJob", NotFound("there is no job 'j2'; see which there are with ListJobs", field="id"))
    outcome = run("jobs", "show", "j2")
    assert outcome.code == 3
    assert "`saccade jobs`" in outcome.err


def test_tags(services: FakeServices, run: Run) -> None:
    answer = query.ListTagsResponse(tags=[query.TagCount(name="owl", category="bird", image_count=3)])
    services.will("ListTags", answer)
    outcome = run("tags", "-c", "demo")
    assert outcome.code == 0
    assert "owl" in outcome.out
    assert "3" in outcome.out
    services.will("ListTags", answer)
    assert run("tags", "-c", "demo", "--json").lines[0][0]["name"] == "owl"
