import threading

import pytest

from services.common.errors import Overloaded
from services.common.pixel_room import PixelRoom


def test_what_fits_goes_on_side_by_side() -> None:
    room = PixelRoom(100, wait_s=0)
    with room.hold(60), room.hold(40):
        pass


def test_what_does_not_fit_is_refused_in_time_and_fits_later() -> None:
    room = PixelRoom(100, wait_s=0)
    with room.hold(60), pytest.raises(Overloaded) as caught, room.hold(41):
        pass
    assert caught.value.retry_after_s > 0
    with room.hold(41):
        pass


def test_a_picture_larger_than_the_room_is_decoded_alone() -> None:
    room = PixelRoom(100, wait_s=0)
    with room.hold(1_000), pytest.raises(Overloaded), room.hold(1):
        pass


def test_a_thread_waits_for_room() -> None:
    room = PixelRoom(100, wait_s=60)
    inside, done = threading.Event(), threading.Event()

    def decode() -> None:
        inside.set()
        with room.hold(100):
            done.set()

    with room.hold(1):
        thread = threading.Thread(target=decode)
        thread.start()
        assert inside.wait(30)
        assert not done.is_set()
    assert done.wait(30)
    thread.join(30)


def test_an_error_gives_the_room_back() -> None:
    room = PixelRoom(100, wait_s=0)
    with pytest.raises(KeyError), room.hold(100):
        raise KeyError
    with room.hold(100):
        pass
