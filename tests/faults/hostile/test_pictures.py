"""Twenty thousand damaged and forged pictures through the check and the decoders, in processes of their own."""

import pytest

from tests.fuzz.picture_runs import read_forged

PICTURES = 20_000


@pytest.mark.thorough
@pytest.mark.timeout(1_800)
def test_no_forged_picture_ends_or_holds_up_its_reader() -> None:
    pictures = read_forged(0, PICTURES, processes=2)
    # Damage that never leaves a picture, or always does, would show little.
    assert PICTURES // 10 < pictures < PICTURES * 9 // 10
