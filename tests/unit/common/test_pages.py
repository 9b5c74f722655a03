import base64

import pytest

from services.common.errors import InvalidArgument
from services.common.pages import page_size, read_token, write_token


def test_a_token_says_where_to_go_on() -> None:
    token = write_token(b"question", "some-id")
    assert read_token(b"question", token) == "some-id"
    assert "=" not in token
    assert (write_token(b"question", ""), read_token(b"question", "")) == ("", "")


@pytest.mark.parametrize(
    "token",
    [
        write_token(b"another question", "some-id"),
        write_token(b"question", "some-id")[:-3],
        "?",
        "ä",
        "a" * 10_000,
        base64.urlsafe_b64encode(b"[" * 100_000).decode(),
        base64.urlsafe_b64encode(b"[" * 700).decode(),
        *(base64.urlsafe_b64encode(text).decode() for text in (b"1", b"[1]", b'["a", 1]', b"[[], []]", b"\xff", b"{}")),
    ],
)
def test_other_tokens_are_refused(token: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_token(b"question", token)
    assert caught.value.field == "page_token"


def test_page_sizes() -> None:
    assert [page_size(size) for size in (0, 1, 1_000)] == [100, 1, 1_000]
    for size in (-1, 1_001, 2**31 - 1):
        with pytest.raises(InvalidArgument) as caught:
            page_size(size)
        assert caught.value.field == "page_size"


def test_the_longest_tag_comes_back() -> None:
    after = f"{10**12 - 1} {'😀' * 64}"
    assert read_token(b"tags", write_token(b"tags", after)) == after
