"""What of the site is read off the code: the reference pages, and the table of ONNX operators."""
