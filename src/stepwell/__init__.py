"""stepwell: an ML compiler you can read, from ONNX to one native library."""

__version__ = "0.0.1"
