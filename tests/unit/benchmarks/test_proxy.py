import socket
import threading
from collections.abc import Iterator

import pytest

from benchmarks.proxy import Fault, Proxy
from services.stack.processes import HOST


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that answers what it gets."""
    with socket.create_server((HOST, 0)) as server:

        def answer(connection: socket.socket) -> None:
            with connection:
                try:
                    while data := connection.recv(4096):
                        connection.sendall(data)
                except OSError:
                    return

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with Proxy(echo) as running:
        yield running


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection((HOST, proxy.port), timeout=30)


def said(connection: socket.socket, data: bytes, timeout_s: float = 30) -> bytes:
    connection.settimeout(timeout_s)
    connection.sendall(data)
    return connection.recv(4096)


def test_bytes_pass_both_ways_and_the_end_too(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        assert said(connection, b"hello") == b"hello"
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(10) == b""


def test_what_is_stalled_passes_afterwards(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        assert said(connection, b"before") == b"before"
        proxy.hurt(Fault.STALL)
        with connect(proxy) as late:
            late.sendall(b"late")
            with pytest.raises(TimeoutError):
                said(connection, b"during", timeout_s=0.2)
            proxy.heal()
            connection.settimeout(30)
            assert connection.recv(4096) == b"during"
            assert late.recv(4096) == b"late"


def test_a_reset_ends_connections_and_refuses_new_ones(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        assert said(connection, b"before") == b"before"
        proxy.hurt(Fault.RESET)
        with pytest.raises(ConnectionError):
            said(connection, b"x")
            said(connection, b"x")
        with pytest.raises(ConnectionError), connect(proxy) as late:
            said(late, b"x")
            said(late, b"x")
    proxy.heal()
    with connect(proxy) as connection:
        assert said(connection, b"after") == b"after"


def test_half_open_connections_are_dead_for_good_and_new_ones_work(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        assert said(connection, b"before") == b"before"
        proxy.hurt(Fault.HALF_OPEN)
        with pytest.raises(TimeoutError):
            said(connection, b"lost", timeout_s=0.2)
        with connect(proxy) as late:
            assert said(late, b"new") == b"new"
            proxy.heal()
            with pytest.raises(TimeoutError):
                said(connection, b"lost", timeout_s=0.2)
            assert said(late, b"still") == b"still"


@pytest.mark.parametrize("fault", [Fault.LATENCY, Fault.SLOW])
def test_what_is_late_or_slow_arrives(proxy: Proxy, fault: Fault) -> None:
    proxy.hurt(fault)
    with connect(proxy) as connection:
        assert said(connection, b"x" * 1_000) == b"x" * 1_000


def test_a_server_that_is_away_refuses(proxy: Proxy) -> None:
    with socket.create_server((HOST, 0)) as unused:
        away = unused.getsockname()[1]
    with Proxy(away) as relay, pytest.raises(ConnectionError), connect(relay) as connection:
        said(connection, b"x")
        said(connection, b"x")
