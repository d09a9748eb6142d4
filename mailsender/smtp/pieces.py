"""A long message in pieces that are never joined: files of megabytes, which many messages share. Pure."""

from __future__ import annotations

from collections.abc import Iterator

SHORT = 16 * 1024
"""Octets of pieces that are joined, such as the headers between two files: a packet for each would be
dear."""

_END = b"\r\n"


class Pieces:
    """The octets of a message. No piece begins or ends within a line end, as those of `mailsender.message`.

    `size` is that of the whole, `ascii` says that no octet is beyond ASCII.
    """

    __slots__ = ("ascii", "blocks", "size")

    def __init__(self, pieces: tuple[bytes, ...]) -> None:
        self.blocks = tuple(_joined(pieces))
        self.size = sum(map(len, self.blocks))
        self.ascii = all(map(bytes.isascii, self.blocks))

    @property
    def head(self) -> bytes:
        """What begins with the headers, which are one piece."""
        return self.blocks[0] if self.blocks else b""

    def blocks_on_the_wire(self, most: int) -> Iterator[bytes | memoryview]:
        """The octets, `most` at a time: leading dots doubled (RFC 5321 §4.5.2), the last line ended."""
        before = _END
        for block in self.blocks:
            for start in range(0, len(block), most):
                end = min(start + most, len(block))
                yield _stuffed(block, start, end, before)
                before = (before + block[max(start, end - 2) : end])[-2:]
        if before != _END:
            yield _END


def _joined(pieces: tuple[bytes, ...]) -> Iterator[bytes]:
    """The pieces, those short ones in one that follow each other."""
    short: list[bytes] = []
    for piece in pieces:
        if len(piece) < SHORT:
            short.append(piece)
            continue
        if short:
            yield b"".join(short)
            short = []
        yield piece
    if short:
        yield b"".join(short)


def _stuffed(block: bytes, start: int, end: int, before: bytes) -> bytes | memoryview:
    """The octets of `block` from `start` to `end`; `before` are the two that come before them."""
    edge = before + block[start : start + 2]
    if edge.find(b"\r\n.") < 0 and block.find(b"\r\n.", start, end) < 0:
        return memoryview(block)[start:end]
    return (before + block[start:end]).replace(b"\r\n.", b"\r\n..")[len(before) :]
