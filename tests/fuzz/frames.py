"""Hostile HTTP/2 connections and messages for a gRPC server, each from a number."""

import contextlib
import random
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Final

__all__ = ["INTERNALS", "attack", "forged_message"]

INTERNALS: Final = (
    b"Traceback",
    b'File "',
    b"site-packages",
    b".py",
    b"services/",
    b"object at 0x",
    b"/root",
    b"/home",
)
"""What tells a stranger of the server's inside; no answer may hold it."""

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _WINDOW, _CONTINUATION = 0, 1, 3, 4, 6, 8, 9
_END_STREAM, _END_HEADERS = 1, 4
_WAIT_S: Final = 0.05
_CONNECT_S: Final = 60.0
_CALL: Final = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/saccade.embedder.v1.EmbedderService/EmbedTexts"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)


def attack(port: int, seed: int) -> bytes:
    """Open a connection, misuse it, and close it; what the server answered meanwhile."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    make = _ATTACKS[seed % len(_ATTACKS)]
    got = bytearray()
    with (
        socket.create_connection(("127.0.0.1", port), timeout=_CONNECT_S) as connection,
        # A server that has had enough may close in the middle.
        contextlib.suppress(ConnectionError, TimeoutError),
    ):
        for piece in make(dice):
            connection.sendall(piece)
        connection.settimeout(_WAIT_S)
        while piece := connection.recv(65_536):
            got += piece
    return bytes(got)


def forged_message(valid: bytes, seed: int) -> bytes:
    """A serialized message with damage in it."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    data = bytearray(valid)
    for _ in range(dice.choice((1, 1, 3, 10))):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(4):
            case 0:
                del data[at:]
            case 1:
                data[at:at] = dice.randbytes(dice.choice((1, 5, 50)))
            case 2:
                data[at : at + 1] = bytes((dice.choice((0, 1, 0x7F, 0x80, 0xFF)),))
            case _:
                # A field of any number and type, with a length that may lie.
                data[at:at] = bytes((dice.randrange(256),)) + dice.choice((b"\xff" * 9 + b"\x01", b"\x7f", b"\x02ab"))
    return bytes(data)


def _frame(kind: int, flags: int, stream: int, body: bytes = b"", *, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + struct.pack(">I", stream) + body


def _block(headers: Iterable[tuple[str, str]]) -> bytes:
    """Header fields as they are: literal, not indexed, not compressed (RFC 7541, 6.2.2)."""
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in headers)


def _string(text: str) -> bytes:
    raw = text.encode("latin-1")
    size = len(raw)
    if size < 0x7F:
        return bytes((size,)) + raw
    rest, out = size - 0x7F, b"\x7f"
    while rest >= 0x80:
        out += bytes((rest & 0x7F | 0x80,))
        rest >>= 7
    return out + bytes((rest,)) + raw


def _open(*frames: bytes) -> list[bytes]:
    return [_PREFACE + _frame(_SETTINGS, 0, 0), *frames]


def _call(body: bytes, headers: Iterable[tuple[str, str]] = _CALL) -> list[bytes]:
    return _open(
        _frame(_HEADERS, _END_HEADERS, 1, _block(headers)),
        *(_frame(_DATA, 0, 1, body[at : at + 16_384]) for at in range(0, len(body), 16_384)),
        _frame(_DATA, _END_STREAM, 1),
    )


def _garbage(dice: random.Random) -> list[bytes]:
    return [dice.randbytes(dice.choice((1, 9, 500, 20_000)))]


def _garbage_behind_the_preface(dice: random.Random) -> list[bytes]:
    return [_PREFACE, dice.randbytes(dice.choice((1, 9, 500, 20_000)))]


def _random_frames(dice: random.Random) -> list[bytes]:
    def one() -> bytes:
        body = dice.randbytes(dice.choice((0, 1, 4, 5, 8, 100)))
        length = dice.choice((None, None, None, 0, 0xFFFFFF))
        return _frame(
            dice.randrange(12), dice.randrange(256), dice.choice((0, 1, 1, 3, 2, 2**31 - 1)), body, length=length
        )

    return _open(*(one() for _ in range(dice.choice((1, 20, 200)))))


def _messages(dice: random.Random) -> list[bytes]:
    """A call whose message does not keep what its head promises."""
    size = dice.choice((0, 1, 50, 81 << 20, 0xFFFFFFFF))
    body = dice.randbytes(dice.choice((0, 1, 50, 40_000)))
    return _call(struct.pack(">BI", dice.choice((0, 1, 2, 255)), size) + body)


def _compressed(dice: random.Random) -> list[bytes]:
    headers = (*_CALL, ("grpc-encoding", dice.choice(("gzip", "deflate", "snappy", "none", "x" * 500))))
    return _call(struct.pack(">BI", 1, 50) + dice.randbytes(50), headers)


def _odd_headers(dice: random.Random) -> list[bytes]:
    odd = (
        ("grpc-timeout", dice.choice(("99999999999S", "-1S", "1", "", "9" * 30 + "n"))),
        ("authorization", dice.choice(("", "Bearer", "Bearer " + "x" * 5_000, "Basic \xff\xfe"))),
        ("grpc-status-details-bin", "!!!"),
        ("x-bin", "\x00\x01"),
        (":path", "/saccade.embedder.v1.EmbedderService/../../etc/passwd"),
        ("content-type", "text/html"),
        ("content-length", "-5"),
        ("traceparent", "00-" + "f" * 4_000),
        ("Upper Case", "a\r\nb: c"),
    )
    chosen = dict(_CALL) | dict(dice.sample(odd, dice.randrange(1, 4)))
    return _call(struct.pack(">BI", 0, 0), chosen.items())


def _header_flood(dice: random.Random) -> list[bytes]:
    if dice.random() < 0.5:
        many = [(f"x-{number}", "y" * 100) for number in range(3_000)]
        return _call(b"", (*_CALL, *many)) if dice.random() < 0.5 else _call(b"", (*_CALL, ("x", "y" * 1_000_000)))
    piece = _frame(_CONTINUATION, 0, 1, _block([("x", "y" * 1_000)]))
    return _open(_frame(_HEADERS, 0, 1, _block(_CALL)), *[piece] * 3_000)


def _rapid_resets(dice: random.Random) -> list[bytes]:
    block, pieces = _block(_CALL), []
    for stream in range(1, 2_000, 2):
        pieces.append(_frame(_HEADERS, _END_HEADERS, stream, block))
        pieces.append(_frame(_RESET, 0, stream, struct.pack(">I", dice.choice((0, 8)))))
    return _open(b"".join(pieces))


def _control_flood(dice: random.Random) -> list[bytes]:
    one = dice.choice(
        (
            _frame(_PING, 0, 0, bytes(8)),
            _frame(_SETTINGS, 0, 0, struct.pack(">HI", dice.randrange(8), dice.choice((0, 1, 2**31, 2**32 - 1)))),
            _frame(_WINDOW, 0, 0, struct.pack(">I", dice.choice((0, 2**31 - 1)))),
            _frame(_SETTINGS, 0, 0),
        )
    )
    return _open(one * 5_000)


def _left_open(dice: random.Random) -> list[bytes]:
    """Calls that never get to their end."""
    streams = range(1, dice.choice((3, 101, 2_001)), 2)
    return _open(b"".join(_frame(_HEADERS, _END_HEADERS, stream, _block(_CALL)) for stream in streams))


_ATTACKS: Final[tuple[Callable[[random.Random], list[bytes]], ...]] = (
    _garbage,
    _garbage_behind_the_preface,
    _random_frames,
    _messages,
    _compressed,
    _odd_headers,
    _header_flood,
    _rapid_resets,
    _control_flood,
    _left_open,
)
