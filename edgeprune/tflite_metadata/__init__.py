"""What a TFLite file says about itself: by the public metadata schema for any reader, and all of it for our own gates.

The standard part is a flatbuffer inside the flatbuffer, and a zip behind the file with the labels, as Android's and
MediaPipe's readers want it. The schema knows neither how far a network was pruned nor what was measured, so all that
goes into an entry of our own, as JSON. Runtimes ignore both, and the zip. Needs the package ai-edge-litert (extra
``mcu``), no torch.

- ``entries``: writes both into a model, reads ours back.
- ``standard``: the public schema.
- ``tables``: flatbuffer tables by field number.
"""

from edgeprune.tflite_metadata.entries import OWN_ENTRY, STANDARD_ENTRY, add_metadata, read_metadata, read_standard
from edgeprune.tflite_metadata.standard import LABELS_FILE, StandardMetadata, standard_part

__all__ = [
    "LABELS_FILE",
    "OWN_ENTRY",
    "STANDARD_ENTRY",
    "StandardMetadata",
    "add_metadata",
    "read_metadata",
    "read_standard",
    "standard_part",
]
