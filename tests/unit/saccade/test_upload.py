import grpc
import pytest

from saccade import ApiError, NewImage
from saccade.ingest.v1 import ingest_service_pb2 as ingest
from saccade.upload import Upload

LATE = ApiError(grpc.StatusCode.DEADLINE_EXCEEDED, "the connection's own deadline")
GONE = ApiError(grpc.StatusCode.UNAVAILABLE, "nobody is there")


def upload_of(images: int, *, max_in_flight: int = 4) -> Upload:
    upload = Upload("demo", wait_for="", replace=False, max_in_flight=max_in_flight, give_up_s=60)
    for i in range(images):
        upload.add(NewImage(b"%d" % i), 0)
    return upload


def send(upload: Upload, now: float) -> str:
    due = upload.due(now)
    assert due
    return due[0]


def stored(key: str) -> ingest.StreamImagesResponse:
    response = ingest.StreamImagesResponse(key=key)
    response.created.image.id = "a"
    return response


def test_connections_without_anything_to_send_may_end_for_ever() -> None:
    upload = upload_of(0)
    assert {upload.broken(LATE, hour * 3600) for hour in range(24)} == {0.2}
    # When the service is away then, the whole patience is left.
    upload.broken(GONE, 100_000)
    upload.broken(GONE, 100_060)
    with pytest.raises(ApiError, match="nobody is there"):
        upload.broken(GONE, 100_061)


def test_a_connection_that_answered_was_of_use() -> None:
    upload = upload_of(2)
    upload.broken(GONE, 0)
    upload.answer(stored(send(upload, 10)), 20)
    left = send(upload, 30)
    upload.broken(LATE, 300)
    assert send(upload, 300) == left


def test_what_was_sent_just_before_a_connection_ended_is_sent_again() -> None:
    upload = upload_of(1)
    key = send(upload, 299)
    upload.broken(LATE, 300)
    assert send(upload, 300) == key
    # Now it has had a whole connection's time.
    with pytest.raises(ApiError, match="own deadline"):
        upload.broken(LATE, 600)


def test_a_connection_on_which_nothing_is_answered_is_given_up() -> None:
    upload = upload_of(1)
    send(upload, 0)
    with pytest.raises(ApiError, match="own deadline"):
        upload.broken(LATE, 300)


def test_a_refusal_is_final() -> None:
    refusal = ApiError(grpc.StatusCode.NOT_FOUND, "no such collection")
    with pytest.raises(ApiError, match="no such collection"):
        upload_of(1).broken(refusal, 0)


def test_a_result_takes_room_until_it_is_taken() -> None:
    upload = upload_of(2, max_in_flight=2)
    upload.answer(stored(send(upload, 0)), 1)
    upload.unreadable(send(upload, 1), OSError("gone"))
    rooms, finished = [upload.room], []
    first = upload.take_result()
    rooms.append(upload.room)
    upload.exhausted = True
    finished.append(upload.finished)
    second = upload.take_result()
    finished.append(upload.finished)
    assert (rooms, finished) == ([False, True], [False, True])
    assert first
    assert first.image
    assert second
    assert second.error
    assert upload.take_result() is None
