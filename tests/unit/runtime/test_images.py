"""ImageDecoder: images written here, JPEG streams with the pixels that libjpeg-turbo gives, and damaged streams."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import stepwell
from stepwell.compat import new_context
from stepwell.frontends.onnx import import_onnx
from stepwell.interpreter.graph import interpret
from stepwell.registry import DIALECTS

_RANDOM = np.random.default_rng(4)


def model_of(order: str) -> Any:
    node = helper.make_node("ImageDecoder", ["x"], ["y"], pixel_format=order)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, ["h", "w", "c"])],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module")
def decoder():
    return stepwell.compile(model_of("RGB"))


def decoded(decoder: Any, stream: bytes) -> np.ndarray:
    return decoder(np.frombuffer(stream, np.uint8))


def png(rows: list[np.ndarray], header: tuple[int, ...], palette: bytes = b"", level: int = 6) -> bytes:
    """A PNG of rows of bytes; each gets the next of the five filters, which are applied here."""
    width, height, depth, colour, interlace = header
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    step = max(1, depth * channels // 8)
    data, above = b"", None
    for number, row in enumerate(rows):
        above = np.zeros(len(row), int) if above is None or len(above) != len(row) else above
        left = np.concatenate([np.zeros(step, int), row[:-step]])[: len(row)]
        corner = np.concatenate([np.zeros(step, int), above[:-step]])[: len(row)]
        p = left + above - corner
        distances = np.abs(np.stack([p - left, p - above, p - corner]))
        paeth = np.stack([left, above, corner])[distances.argmin(0), np.arange(len(row))]
        kind = number % 5 if not interlace else 0
        guess = [0 * left, left, above, (left + above) // 2, paeth][kind]
        data += bytes([kind]) + ((row - guess) % 256).astype(np.uint8).tobytes()
        above = row.astype(int)
    packed = zlib.compress(data, level)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))]
    chunks += [(b"PLTE", palette)] if palette else []
    chunks += [(b"IDAT", packed[:10]), (b"IDAT", packed[10:]), (b"IEND", b"")]
    parts = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("colour", [0, 2, 3, 4, 6])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_png_of_eight_bits(decoder: Any, colour: int, level: int):
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    values = _RANDOM.integers(0, 256 if colour != 3 else 40, (13, 11, channels))
    values[4:9] = values[4]  # something to compress
    palette = _RANDOM.integers(0, 256, (40, 3), np.uint8)
    stream = png(
        list(values.reshape(13, -1)), (11, 13, 8, colour, 0), palette.tobytes() if colour == 3 else b"", level
    )
    want = (
        palette[values[..., 0]]
        if colour == 3
        else values[..., :3]
        if channels > 2
        else values[..., [0, 0, 0]]
    )
    np.testing.assert_array_equal(decoded(decoder, stream), want)
    (reference,) = interpret(
        import_onnx(model_of("RGB"), new_context(DIALECTS)), [np.frombuffer(stream, np.uint8)]
    )
    np.testing.assert_array_equal(reference, want)


@pytest.mark.parametrize("depth", [1, 2, 4, 16])
def test_png_of_other_depths(decoder: Any, depth: int):
    values = _RANDOM.integers(0, 2**depth, (6, 9))
    if depth == 16:
        rows = [row.astype(">u2").view(np.uint8).astype(int) for row in values]
        want = values >> 8
    else:
        bits = [
            np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - depth :].ravel() for row in values
        ]
        rows = [np.packbits(b).astype(int) for b in bits]
        want = values * 255 // (2**depth - 1)
    got = decoded(decoder, png(rows, (9, 6, depth, 0, 0)))
    np.testing.assert_array_equal(got, np.repeat(want[..., None], 3, 2))


def test_png_that_is_interlaced(decoder: Any):
    image = _RANDOM.integers(0, 256, (10, 13, 3))
    passes = (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    )
    rows = [row.ravel() for x, y, dx, dy in passes for row in image[y::dy, x::dx] if row.size]
    np.testing.assert_array_equal(decoded(decoder, png(rows, (13, 10, 8, 2, 1))), image)


@pytest.mark.parametrize("downwards", [False, True])
def test_bmp(decoder: Any, downwards: bool):
    image = _RANDOM.integers(0, 256, (5, 7, 3), np.uint8)
    rows = image[:, :, ::-1] if downwards else image[::-1, :, ::-1]
    data = np.pad(rows.reshape(5, 21), ((0, 0), (0, 3))).tobytes()
    head = b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54)
    info = struct.pack("<IiiHHIIiiII", 40, 7, -5 if downwards else 5, 1, 24, 0, len(data), 0, 0, 0, 0)
    np.testing.assert_array_equal(decoded(decoder, head + info + data), image)


@pytest.mark.parametrize("kind", ["P1", "P2", "P3", "P4", "P5", "P6"])
def test_pnm(decoder: Any, kind: str):
    most, channels = (1 if kind in "P1 P4" else 255), 3 if kind in ("P3", "P6") else 1
    values = _RANDOM.integers(0, most + 1, (4, 10, channels))
    head = f"{kind} # a comment\n10 4\n" + ("" if most == 1 else "255\n")
    if kind == "P4":
        body = np.packbits(values[..., 0].astype(np.uint8), axis=1).tobytes()
    elif kind in ("P5", "P6"):
        body = values.astype(np.uint8).tobytes()
    else:
        body = " ".join(map(str, values.ravel())).encode()
    want = np.repeat(255 - 255 * values if most == 1 else values, 3 // channels, 2)
    np.testing.assert_array_equal(decoded(decoder, head.encode() + body), want)


# Streams and pixels of Pillow 13 (libjpeg-turbo), by subsampling.
JPEGS = np.load(Path(__file__).parent / "jpeg.npz")


@pytest.mark.parametrize("name", sorted({key.partition(".")[0] for key in JPEGS.files}))
def test_jpeg_gives_the_bytes_of_libjpeg(decoder: Any, name: str):
    np.testing.assert_array_equal(decoder(JPEGS[f"{name}.stream"]), JPEGS[f"{name}.pixels"])


def test_orders_of_colours(decoder: Any):
    stream, pixels = JPEGS["j13x20_444.stream"], JPEGS["j13x20_444.pixels"]
    np.testing.assert_array_equal(stepwell.compile(model_of("BGR"))(stream), pixels[..., ::-1])
    grey = (pixels @ np.array([19595, 38470, 7471]) + 32768) >> 16
    np.testing.assert_array_equal(stepwell.compile(model_of("Grayscale"))(stream)[..., 0], grey)


def test_streams_that_are_no_image_end_the_run(decoder: Any):
    good = JPEGS["j13x20_444.stream"].tobytes()
    with pytest.raises(stepwell.Error, match="no image"):
        decoded(decoder, b"nothing like an image")
    with pytest.raises(stepwell.Error, match="not supported"):
        decoded(decoder, b"RIFF\x10\0\0\0WEBPVP8 ")
    with pytest.raises(stepwell.Error, match="damaged"):
        decoded(decoder, good[: len(good) // 2])
    with pytest.raises(stepwell.Error, match="damaged"):
        decoded(decoder, b"\x89PNG\r\n\x1a\n" + bytes(40))
    assert decoded(decoder, good).shape == (13, 20, 3)


def test_damaged_streams_never_crash(decoder: Any):
    streams = [JPEGS[key].tobytes() for key in JPEGS.files if key.endswith("stream")]
    streams.append(png(list(_RANDOM.integers(0, 256, (8, 24))), (8, 8, 8, 2, 0)))
    for stream in streams:
        for _ in range(60):
            broken = bytearray(stream)
            for place in _RANDOM.integers(0, len(stream), 3):
                broken[place] = _RANDOM.integers(0, 256)
            try:
                decoded(decoder, bytes(broken))
            except stepwell.Error:
                continue
