"""The default source: photographs of solar cells from the PyPI package ``elpv-dataset``."""

import importlib.util
import re
from pathlib import Path

from edgeprune.data.split import SPLITS, ImageFile, Listing, split_by_hash
from edgeprune.errors import InputError, MissingExtraError

ELPV_CLASSES = ("functional", "defective")
ELPV_CREDIT = (
    "ELPV dataset: 2,624 electroluminescence images of solar cells, CC BY-NC-SA 4.0 (not for commercial use), "
    "https://github.com/zae-bayern/elpv-dataset. "
    "Buerhop-Lutz, C. et al., A Benchmark for Visual Identification of Defective Solar Cells in Electroluminescence "
    "Imagery, EU PVSEC 2018, doi:10.4229/35thEUPVSEC20182018-5CV.3.15. "
    "Deitsch, S. et al., Automatic classification of defective photovoltaic module cells in electroluminescence "
    "images, Solar Energy 185 (2019) 455-468, doi:10.1016/j.solener.2019.02.067. "
    "Deitsch, S. et al., Segmentation of photovoltaic module cells in uncalibrated electroluminescence images, "
    "Machine Vision and Applications 32(4) (2021), doi:10.1007/s00138-021-01191-9."
)
_REPAIR = "pip install --force-reinstall --no-deps elpv-dataset==1.0.0.post1"
_LINE = re.compile(r"(images/\w+\.png)\s+([01]\.\d+)\s+(mono|poly)")


def list_elpv(*, val_fraction: float, test_fraction: float, split_seed: int) -> Listing:
    """The images of ``elpv-dataset``, split by class and cell type.

    An image is ``defective`` when its defect probability is above 0.5, else ``functional``. The four strata of the
    split are class × cell type (mono- or polycrystalline), because the two types look different and defects are
    not equally frequent in them.

    Raises:
        MissingExtraError: the package is not installed.
        InputError: its labels are missing or damaged.
    """
    folder = _find_package() / "data"
    try:
        lines = (folder / "labels.csv").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The labels of elpv-dataset cannot be read: {error}.", _REPAIR) from None
    labels: dict[str, int] = {}
    strata: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise InputError(f"Line {number} of elpv-dataset's labels.csv is damaged: {line[:60]!r}.", _REPAIR)
        name, probability, cell_type = match.groups()
        labels[name] = int(float(probability) > 0.5)
        strata[name] = f"{ELPV_CLASSES[labels[name]]} ({cell_type})"
    if not labels:
        raise InputError("The labels.csv of elpv-dataset is empty.", _REPAIR)
    splits = split_by_hash(strata, val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed)
    return Listing(
        source="elpv",
        location="elpv-dataset",
        classes=ELPV_CLASSES,
        files=tuple(
            ImageFile(name=name, path=folder / name, label=labels[name], split=split)
            for split in SPLITS
            for name in sorted(labels)
            if splits[name] == split
        ),
        credit=ELPV_CREDIT,
        repair=_REPAIR,
    )


def _find_package() -> Path:
    # Importing it would run its code and load numpy and Pillow; its files are all that is needed.
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("edgeprune", "prune", "elpv_dataset")
    return Path(next(iter(spec.submodule_search_locations)))
