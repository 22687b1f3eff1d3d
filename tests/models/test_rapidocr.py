"""rapidocr's own program reads the same text with `stepwell.InferenceSession` in place of onnxruntime's."""

import importlib.util

import numpy as np
import pytest

import stepwell.session

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(importlib.util.find_spec("rapidocr") is None, reason="needs the package rapidocr"),
]

LINES = (
    ["Hello, stepwell!", "compiled 42 layers", "Total: 19.95 EUR"],
    ["A wider picture", "with longer text on it, row by row"],
    ["tiny"],
    [],
)


def page(lines: list[str]) -> np.ndarray:
    """Black text in Pillow's own font on white: 8-bit BGR."""
    from PIL import Image, ImageDraw, ImageFont

    size = 28
    width = 40 + max((len(line) for line in lines), default=8) * size * 2 // 3
    image = Image.new("RGB", (width, 40 + 2 * size * max(len(lines), 1)), "white")
    for row, line in enumerate(lines):
        ImageDraw.Draw(image).text(
            (20, 20 + row * size * 2), line, fill="black", font=ImageFont.load_default(size)
        )
    return np.asarray(image)[:, :, ::-1].copy()


def upside_down(image: np.ndarray) -> np.ndarray:
    """What the classifier of directions is for."""
    return np.ascontiguousarray(image[::-1, ::-1])


@pytest.mark.parametrize("name", ["ocr"])
def test_the_same_text_from_the_same_picture(name, monkeypatch):
    from rapidocr import RapidOCR
    from rapidocr.inference_engine.onnxruntime import main, provider_config

    pictures = [*map(page, LINES), upside_down(page(LINES[0][:1]))]
    reference = RapidOCR()
    expected = [reference(picture) for picture in pictures]
    for module in (main, provider_config):
        for attribute in set(vars(module)) & set(stepwell.session.__all__):
            monkeypatch.setattr(module, attribute, getattr(stepwell.session, attribute))
    assert main.InferenceSession is stepwell.InferenceSession
    ours = RapidOCR()
    for picture, want in zip(pictures, expected, strict=True):
        got = ours(picture)
        assert got.txts == want.txts
        if want.txts:
            np.testing.assert_allclose(got.boxes, want.boxes, atol=1.0)
            # A pixel at the threshold of the detector moves an edge by one, and the recogniser sees another crop.
            np.testing.assert_allclose(got.scores, want.scores, atol=1e-3)
    assert all(line.replace(" ", "") in "".join(expected[0].txts).replace(" ", "") for line in LINES[0])
    engines = [part.session.session for part in (ours.text_det, ours.text_cls, ours.text_rec)]
    assert all(isinstance(engine, stepwell.InferenceSession) for engine in engines)
