import pytest
from structlog.testing import capture_logs

from services.common.access.exposure import check_exposure, is_loopback, warn_of_plain_text
from services.common.access.settings import AccessSettings
from services.common.errors import FailedPrecondition


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("localhost", True),
        ("[::1]", True),
        ("::1", True),
        ("0.0.0.0", False),  # noqa: S104 - asked about, not listened on
        ("::", False),
        ("10.0.0.1", False),
        ("embedder", False),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected


def test_anyone_from_anywhere_has_to_be_said_twice() -> None:
    listen = "0.0.0.0:50051"
    check_exposure("127.0.0.1:50051", AccessSettings())
    check_exposure(listen, AccessSettings(auth="keys"))
    for settings in (
        AccessSettings(),
        AccessSettings(allow_open=True),
        AccessSettings(allow_open_confirm=listen),
        AccessSettings(allow_open=True, allow_open_confirm="0.0.0.0:50052"),
    ):
        with pytest.raises(FailedPrecondition, match="SACCADE_AUTH=keys"):
            check_exposure(listen, settings)
    check_exposure(listen, AccessSettings(allow_open=True, allow_open_confirm=listen))


def test_credentials_in_plain_text_are_warned_of() -> None:
    keys = AccessSettings(auth="keys")
    for listen, settings, tls, lines in (
        ("0.0.0.0:1", keys, False, 1),
        ("0.0.0.0:1", keys, True, 0),
        ("127.0.0.1:1", keys, False, 0),
        ("0.0.0.0:1", AccessSettings(), False, 0),
    ):
        with capture_logs() as logs:
            warn_of_plain_text(listen, settings, tls=tls)
        assert len(logs) == lines
