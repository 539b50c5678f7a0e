"""Export: from a network to candidate files.

- ``write_onnx`` writes one ONNX file that two machines write byte for byte alike.
- ``OnnxExport`` says what it wrote and how the simplified graph was proven equal.
"""

from edgeprune.export.onnx_file import INPUT_NAME, OPSET, OUTPUT_NAME, OnnxExport, write_onnx

__all__ = ["INPUT_NAME", "OPSET", "OUTPUT_NAME", "OnnxExport", "write_onnx"]
