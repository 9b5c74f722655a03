import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import InvalidArgument
from services.query.paging import MAX_DEPTH, image_digest, read_token, write_token

QUERY = b"q" * 32
few_examples = settings(max_examples=40, deadline=None)


@few_examples
@given(st.sets(st.text(max_size=8), max_size=12))
def test_a_token_comes_back_as_it_was(names: set[str]) -> None:
    shown = {image_digest(name) for name in names}
    assert read_token(QUERY, write_token(QUERY, shown)) == shown


def test_no_token_is_the_first_page() -> None:
    assert read_token(QUERY, "") == frozenset()


@pytest.mark.parametrize("token", ["x", "page 2", "AAAA", "é", "=", base64.urlsafe_b64encode(b"1" * 13).decode()])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgument, match="no token of this query") as caught:
        read_token(QUERY, token)
    assert caught.value.field == "page_token"


@few_examples
@given(st.data())
def test_a_changed_token_is_refused(data: st.DataObject) -> None:
    token = write_token(QUERY, {image_digest("a"), image_digest("b")})
    raw = bytearray(base64.urlsafe_b64decode(token))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InvalidArgument):
        read_token(QUERY, base64.urlsafe_b64encode(raw).decode())


def test_a_token_of_another_query_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        read_token(b"r" * 32, write_token(QUERY, {image_digest("a")}))


def test_the_deepest_token_stays_small() -> None:
    shown = {image_digest(str(number)) for number in range(MAX_DEPTH)}
    assert len(write_token(QUERY, shown)) < 8_192
