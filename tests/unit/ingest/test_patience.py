import asyncio

import pytest

from services.common.errors import Internal, Overloaded, SaccadeError, Unavailable
from services.ingest.patience import Patience

PATIENCE = Patience(overload_s=5, outage_s=5)


class Flaky:
    """Fails with each error in turn, then answers."""

    def __init__(self, *errors: SaccadeError) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return 7


async def test_what_passes_is_waited_for() -> None:
    flaky = Flaky(Overloaded("full", retry_after_s=0.01), Unavailable("away"))
    assert await PATIENCE.ask(flaky) == 7
    assert flaky.calls == 3


async def test_what_does_not_pass_is_told_at_once() -> None:
    flaky = Flaky(Internal("no"))
    with pytest.raises(Internal):
        await PATIENCE.ask(flaky)
    assert flaky.calls == 1


@pytest.mark.parametrize("error", [Overloaded("full"), Unavailable("away")])
async def test_patience_ends(error: SaccadeError) -> None:
    flaky = Flaky(*[error] * 10_000)
    started = asyncio.get_running_loop().time()
    with pytest.raises(type(error)):
        await Patience(overload_s=0.3, outage_s=0.3).ask(flaky)
    assert asyncio.get_running_loop().time() - started < 3
    assert flaky.calls < 1_000


async def test_an_outage_may_have_another_limit_than_overload() -> None:
    flaky = Flaky(*[Unavailable("away")] * 3)
    with pytest.raises(Unavailable):
        await Patience(overload_s=60, outage_s=0).ask(flaky)
    assert flaky.calls == 1


async def test_the_advice_of_the_overloaded_is_followed() -> None:
    started = asyncio.get_running_loop().time()
    await PATIENCE.ask(Flaky(Overloaded("full", retry_after_s=0.2)))
    assert asyncio.get_running_loop().time() - started >= 0.2
