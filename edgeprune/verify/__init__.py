"""Verification: every gate reads the file that ships and gives a figure, a limit and a verdict.

- ``check_graph`` and ``check_metadata``: the file itself.
- ``run_onnx``, ``open_session``, ``read_metadata``: the file in onnxruntime, as every gate runs it.
- ``check_parity``, ``check_simplification``: its logits against torch's and against the plain graph's.
- ``compare_accuracy``, ``check_accuracy``: its decisions on the test split, against the unpruned baseline's file.
- ``compare_latency``, ``check_latency``: its speed against the dense file.

Nothing here imports torch, and nothing heavy is imported before a function needs it.
"""

from edgeprune.verify.accuracy import PairedAccuracy, check_accuracy, compare_accuracy
from edgeprune.verify.latency import check_latency, compare_latency
from edgeprune.verify.onnx_graph import check_graph, check_metadata
from edgeprune.verify.onnx_runtime import open_session, read_metadata, run_onnx
from edgeprune.verify.parity import check_parity, check_simplification

__all__ = [
    "PairedAccuracy",
    "check_accuracy",
    "check_graph",
    "check_latency",
    "check_metadata",
    "check_parity",
    "check_simplification",
    "compare_accuracy",
    "compare_latency",
    "open_session",
    "read_metadata",
    "run_onnx",
]
