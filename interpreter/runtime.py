"""What the kernels of the C runtime do, on numpy: each takes its buffers and writes the last ones."""

import secrets

import numpy as np

from stepwell.interpreter import images
from stepwell.interpreter.machine import RUNTIME


def _random_key(key: np.ndarray) -> None:
    key[...] = np.frombuffer(secrets.token_bytes(8), np.int32)


RUNTIME["stepwell_rt_random_key"] = _random_key


def _image_size(stream: np.ndarray, found: np.ndarray) -> None:
    try:
        found[...] = (0, *images.decode(stream.tobytes()).shape[:2])
    except images.ImageError as error:
        found[...] = (error.status, 0, 0)


def _image_decode(stream: np.ndarray, pixels: np.ndarray, status: np.ndarray) -> None:
    try:
        pixels[...] = images.decode(stream.tobytes()).view(pixels.dtype)
        status[...] = 0
    except images.ImageError as error:
        status[...] = error.status


RUNTIME["stepwell_rt_image_size"] = _image_size
RUNTIME["stepwell_rt_image_decode"] = _image_decode
