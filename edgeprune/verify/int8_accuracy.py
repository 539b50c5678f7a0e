"""Gates on the answers of TFLite files: float against torch, int8 against float, TFLite Micro against LiteRT."""

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeprune.results import Gate, at_least, at_most
from edgeprune.verify.accuracy import PairedAccuracy
from edgeprune.verify.parity import check_parity

if TYPE_CHECKING:
    import numpy as np

# The peak of live tensors is the least that any planner needs; TFLite Micro's greedy one may leave gaps.
_MAX_HEAD_RATIO = 1.25


def check_float_file(
    file_logits: "np.ndarray", torch_logits: "np.ndarray", *, path: str, min_agreement: float, max_difference: float
) -> list[Gate]:
    """Gates ``argmax_agreement:<path>`` and ``logit_difference:<path>``; see ``check_parity``."""
    gates = check_parity(
        file_logits=file_logits,
        torch_logits=torch_logits,
        min_agreement=min_agreement,
        max_difference=max_difference,
    )
    return [replace(gate, name=f"{gate.name}:{path}") for gate in gates]


def check_int8_file(
    int8_logits: "np.ndarray",
    float_logits: "np.ndarray",
    compared: PairedAccuracy,
    *,
    path: str,
    max_drop: float,
    min_agreement: float,
    min_sqnr_db: float,
) -> list[Gate]:
    """An int8 file against its own float file on the same images.

    Args:
        int8_logits, float_logits: real numbers, shape (n, classes).
        compared: their decisions against the true classes.
        max_drop: of accuracy, as a fraction of the images.
        min_agreement: smallest share of images with the same largest logit.
        min_sqnr_db: smallest signal to quantisation noise of a class's logits, decibels.

    Returns:
        Gates ``int8_accuracy_drop``, ``int8_agreement`` and ``int8_sqnr_db``, each with the file's name.
    """
    import numpy as np

    agreement = float((int8_logits.argmax(axis=1) == float_logits.argmax(axis=1)).mean())
    signal = np.square(float_logits.astype(np.float64)).sum(axis=0)
    noise = np.square(int8_logits.astype(np.float64) - float_logits).sum(axis=0)
    with np.errstate(divide="ignore"):
        levels = np.minimum(10 * np.log10(signal / np.maximum(noise, 1e-30)), 120.0)
    alike = f"{len(int8_logits)} test images decide as in float"
    drop = (
        f"{compared.accuracy} in int8, {compared.reference} in float, lost {compared.lost}, won {compared.won}, "
        f"exact McNemar p = {compared.p_value:.3f}"
    )
    return [
        at_most(f"int8_accuracy_drop:{path}", compared.drop, max_drop, drop),
        at_least(f"int8_agreement:{path}", agreement, min_agreement, alike),
        at_least(
            f"int8_sqnr_db:{path}",
            float(levels.min()),
            min_sqnr_db,
            "of each class: " + ", ".join(f"{level:.1f}" for level in levels),
        ),
    ]


def check_micro_equals_reference(
    micro: "np.ndarray", reference: "np.ndarray", *, path: str, max_lsb: int = 1, min_images: int = 100
) -> list[Gate]:
    """TFLite Micro's stored outputs against those of LiteRT's reference kernels.

    Args:
        micro, reference: int8, shape (n, classes), of the same images.
        max_lsb: steps of the last place that they may differ.
        min_images: fewer prove nothing.

    Returns:
        Gates ``tflm_images`` and ``tflm_difference_lsb``, each with the file's name.
    """
    import numpy as np

    same = micro.shape == reference.shape and micro.size > 0
    difference = float(np.abs(micro.astype(np.int32) - reference.astype(np.int32)).max()) if same else float("nan")
    detail = f"{len(micro)} images, against BUILTIN_REF"
    return [
        at_least(f"tflm_images:{path}", len(micro), min_images, "images that TFLite Micro ran"),
        at_most(f"tflm_difference_lsb:{path}", difference, max_lsb, detail),
    ]


def check_arena(head_bytes: int, liveness_bytes: int, *, path: str) -> Gate:
    """The arena head by TFLite Micro's recording allocator against our own peak of live tensors.

    Returns:
        Gate ``arena_head:<path>``; its figure is the head over the peak.
    """
    ratio = head_bytes / liveness_bytes if liveness_bytes else float("nan")
    detail = f"head {head_bytes} bytes, live tensors {liveness_bytes}: {head_bytes - liveness_bytes:+d}"
    # Less than what lives at once cannot be.
    return at_most(f"arena_head:{path}", ratio if ratio >= 1 else float("nan"), _MAX_HEAD_RATIO, detail)
