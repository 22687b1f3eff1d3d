"""Decoding images on numpy, the reference of the C runtime: PNG, BMP and PNM of 8 bits a sample; nothing else."""

import zlib

import numpy as np

UNKNOWN, UNSUPPORTED, DAMAGED = 1, 2, 3
"""What is wrong with a stream, as the runtime numbers it."""


class ImageError(Exception):
    """A stream that cannot be decoded; `status` says why."""

    def __init__(self, status: int):
        super().__init__({1: "no image", 2: "a format that is not supported", 3: "damaged"}[status])
        self.status = status


def decode(stream: bytes) -> np.ndarray:
    """The pixels `[height, width, 3]`, red first. Errors: `ImageError`."""
    try:
        if stream[:8] == b"\x89PNG\r\n\x1a\n":
            return _png(stream)
        if stream[:2] == b"BM":
            return _bmp(stream)
        if stream[:2] in (b"P5", b"P6"):
            return _pnm(stream)
    except (ValueError, IndexError, zlib.error):
        raise ImageError(DAMAGED) from None
    known = (b"\xff\xd8", b"II*\0", b"MM\0*", b"RIFF", b"GIF8", b"\0\0\0\x0cjP", b"P1", b"P2", b"P3", b"P4")
    raise ImageError(UNSUPPORTED if stream.startswith(known) else UNKNOWN)


def _coloured(values: np.ndarray, palette: np.ndarray | None) -> np.ndarray:
    """Samples `[h, w, channels]` as red, green and blue; transparency is left out."""
    if palette is not None:
        return palette[values[..., 0]]
    return np.repeat(values[..., :1], 3, axis=2) if values.shape[2] < 3 else values[..., :3]


def _png(stream: bytes) -> np.ndarray:
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at + 12 <= len(stream):
        size = int.from_bytes(stream[at : at + 4], "big")
        kind = stream[at + 4 : at + 8]
        chunks[kind] = chunks.get(kind, b"") + stream[at + 8 : at + 8 + size]
        at += size + 12
    header = chunks[b"IHDR"] if b"IHDR" in chunks else b""
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    depth, colour, interlaced = header[8], header[9], header[12]
    if depth != 8 or interlaced:
        raise ImageError(UNSUPPORTED)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    raw = np.frombuffer(zlib.decompress(chunks.get(b"IDAT", b"")), np.uint8)
    lines = raw[: height * (width * channels + 1)].reshape(height, -1)
    rows = np.zeros((height + 1, (width + 1) * channels), np.int64)  # with zeros above and to the left
    for y in range(height):
        kind = int(lines[y, 0])
        for x in range(width * channels):
            a, b, c = (int(v) for v in (rows[y + 1, x], rows[y, x + channels], rows[y, x]))
            p = a + b - c
            paeth = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            guess = (0, a, b, (a + b) // 2, paeth)[kind]
            rows[y + 1, x + channels] = (int(lines[y, 1 + x]) + guess) & 255
    palette = np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3) if colour == 3 else None
    return _coloured(rows[1:, channels:].reshape(height, width, channels).astype(np.uint8), palette)


def _bmp(stream: bytes) -> np.ndarray:
    start, width, height = (int.from_bytes(stream[k : k + 4], "little", signed=True) for k in (10, 18, 22))
    depth, compression = int.from_bytes(stream[28:30], "little"), int.from_bytes(stream[30:34], "little")
    if depth not in (24, 32) or compression:
        raise ImageError(UNSUPPORTED)
    row = (width * depth + 31) // 32 * 4
    data = np.frombuffer(stream, np.uint8, row * abs(height), start).reshape(abs(height), row)
    pixels = data[:, : width * depth // 8].reshape(abs(height), width, depth // 8)[..., 2::-1]
    return pixels[::-1] if height > 0 else pixels


def _pnm(stream: bytes) -> np.ndarray:
    words, at = [], 2
    while len(words) < 3:
        while stream[at : at + 1].isspace() or stream[at : at + 1] == b"#":
            at = stream.index(b"\n", at) if stream[at : at + 1] == b"#" else at + 1
        end = at
        while stream[end : end + 1].isdigit():
            end += 1
        words.append(int(stream[at:end]))
        at = end
    width, height, most = words
    if most != 255:
        raise ImageError(UNSUPPORTED)
    channels = 3 if stream[:2] == b"P6" else 1
    values = np.frombuffer(stream, np.uint8, width * height * channels, at + 1)
    return _coloured(values.reshape(height, width, channels), None)


def luminance(pixels: np.ndarray) -> np.ndarray:
    """Grey values `[height, width, 1]` of pixels, by ITU-R BT.601 in 16 bits."""
    return ((pixels @ np.array([19595, 38470, 7471]) + 32768) >> 16)[..., None].astype(np.uint8)
