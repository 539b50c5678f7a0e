"""Networks of one level converted to TFLite: one of each shape in full, the others by writing their weights into it."""

from torch import nn

from edgeprune.errors import EdgepruneError
from edgeprune.export.rotate import rotate_network
from edgeprune.export.tflite_file import FloatModel, convert_network
from edgeprune.export.tflite_weights import replace_weights
from edgeprune.quantise.fold import fold_batchnorm


class Conversions:
    """Converts a level's network and its int8 versions, many of which differ in their weights only.

    Args:
        image_size: height and width of the input, pixels.
        rotate: for images rotated by 180 degrees, without PAD operators; see ``export.rotate``.
    """

    def __init__(self, *, image_size: int, rotate: bool) -> None:
        self._image_size = image_size
        self._rotate = rotate
        self._made: list[tuple[nn.Module, FloatModel]] = []

    def convert(self, network: nn.Module) -> FloatModel:
        """A network as a float TFLite model that still has its tensors' names.

        Raises:
            InputError: the rotation is not exact for it.
            MissingExtraError: litert-torch is not installed.
            EdgepruneError: litert-torch cannot convert it.
        """
        try:
            folded = fold_batchnorm(network)
        except EdgepruneError:
            # It cannot be traced by torch.fx; litert-torch folds what it finds.
            folded = network
        turned = rotate_network(folded, image_size=self._image_size) if self._rotate else folded
        for network_before, model_before in self._made:
            written = replace_weights(model_before, network_before, turned)
            if written is not None:
                return written
        model = convert_network(turned, image_size=self._image_size)
        self._made.append((turned, model))
        return model
