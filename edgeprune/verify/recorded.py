"""What ``verify.json`` says of gates that a receiver cannot run again, because they need the test split.

A verdict that was edited by hand is found where it disagrees with its own figures, or leaves out what must be there.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from edgeprune.errors import InputError
from edgeprune.formats import GateRecord, VerifyRecord
from edgeprune.manifest import Manifest, parse_record
from edgeprune.results import Gate
from edgeprune.verify.bundle_texts import read_listed

_LIMIT = re.compile(r"(<=|>=) (\S+)")
# Limits are written with six digits.
_ROUNDING = 1e-5
_INT8 = ("int8_accuracy_drop", "int8_agreement", "int8_sqnr_db")
_MICRO = ("tflm_images", "tflm_difference_lsb")
_FLOAT = ("argmax_agreement", "logit_difference")


def check_recorded(folder: Path, manifest: Manifest) -> list[Gate]:
    """The gate ``recorded_gates``: no passed gate is beyond its own limit, and none about a model file is left out.

    Args:
        folder, manifest: of a bundle whose bytes are right.

    Returns:
        Nothing where ``verify.json`` cannot be read: the gate ``verdict`` says so.
    """
    try:
        record = parse_record(VerifyRecord, read_listed(folder / "verify.json"), origin="verify.json")
    except InputError:
        return []
    problems = [f"{gate.name} is {gate.figure}, its limit {gate.limit}" for gate in record.gates if _is_beyond(gate)]
    names = {gate.name for gate in record.gates}
    models = [entry.path for entry in manifest.files if entry.role == "model"]
    problems += [f"{name} is missing" for path in models for name in _needed(path) if name not in names]
    return [
        Gate(
            name="recorded_gates",
            figure=len(problems),
            limit="0 gates of verify.json beyond their own limits or missing",
            passed=not problems,
            detail="; ".join(problems) or f"{len(record.gates)} gates",
        )
    ]


def _is_beyond(gate: GateRecord) -> bool:
    limit = _LIMIT.fullmatch(gate.limit)
    if limit is None or not gate.passed:
        return False
    try:
        figure, bound = float(gate.figure), float(limit[2])
    except ValueError:
        return True
    room = _ROUNDING * abs(bound)
    # Written as what must hold, so that NaN is beyond every limit.
    return not (figure <= bound + room if limit[1] == "<=" else figure >= bound - room)


def _needed(path: str) -> Iterable[str]:
    """Names of the gates that only an export can run; those of a float ONNX file do not name it, and are not asked."""
    ending, int8 = Path(path).suffix, "_int8" in Path(path).stem
    kinds: tuple[str, ...] = ()
    if int8:
        kinds = (*_INT8, *_MICRO) if ending == ".tflite" else _INT8
    elif ending in (".tflite", ".pte"):
        kinds = _FLOAT
    return [f"{kind}:{path}" for kind in kinds]
