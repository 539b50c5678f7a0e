"""Gates on logits: does the file answer as torch does, and the simplified graph as the plain one?"""

from typing import TYPE_CHECKING

from edgeprune.logits import scaled_difference
from edgeprune.results import Gate, at_least, at_most

if TYPE_CHECKING:
    import numpy as np

# Both graphs run on the same kernels, so what is left is rounding in fused operators.
_MAX_SIMPLIFICATION_DIFFERENCE = 1e-5


def check_parity(
    *, file_logits: "np.ndarray", torch_logits: "np.ndarray", min_agreement: float, max_difference: float
) -> tuple[Gate, ...]:
    """Compare the file's logits with torch's on the same images.

    Args:
        file_logits, torch_logits: shape (n, classes).
        min_agreement: smallest share of images with the same largest logit.
        max_difference: largest scaled difference, see ``scaled_difference``.

    Returns:
        Gates ``argmax_agreement`` and ``logit_difference``. NaN and infinity on either side fail both; so do logits
        that cannot be compared.
    """
    import numpy as np

    if file_logits.shape != torch_logits.shape or file_logits.size == 0:
        detail = f"the file gives logits of shape {file_logits.shape}, torch {torch_logits.shape}"
        return (
            at_least("argmax_agreement", float("nan"), min_agreement, detail),
            at_most("logit_difference", float("nan"), max_difference, detail),
        )
    finite = np.isfinite(file_logits).all(axis=1) & np.isfinite(torch_logits).all(axis=1)
    # argmax of a row with NaN is the NaN's place on both sides: that is no agreement.
    agrees = finite & (file_logits.argmax(axis=1) == torch_logits.argmax(axis=1))
    images = f"{len(agrees)} test images"
    if not finite.all():
        images += f", {np.count_nonzero(~finite)} of them with NaN or infinity"
    difference = scaled_difference(file_logits, torch_logits) if finite.all() else float("nan")
    share = float(np.mean(agrees)) if finite.all() else float("nan")
    return (
        at_least("argmax_agreement", share, min_agreement, f"{np.count_nonzero(agrees)} of {images} agree with torch"),
        at_most("logit_difference", difference, max_difference, f"max |file - torch| / max |torch|, {images}"),
    )


def check_simplification(difference: float) -> Gate:
    """Check that onnxsim's graph equals the plain one; ``difference`` is the scaled logit difference between them."""
    detail = "onnxsim's graph against the exporter's in onnxruntime, real and random images"
    return at_most("simplify_difference", difference, _MAX_SIMPLIFICATION_DIFFERENCE, detail)
