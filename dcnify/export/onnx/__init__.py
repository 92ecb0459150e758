"""ONNX: our operators in its terms, the file, and running it."""
