"""What the C++ source of a bundle says, parsed back and held against what it must say. Nothing is compiled here."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.cpp_literals import read_array, read_bytes, read_constants, read_rows, read_string, write_decision
from edgeprune.embedded import ArenaReport, Quantisation
from edgeprune.errors import InputError
from edgeprune.micro_operators import RESOLVER_METHODS
from edgeprune.preprocess import IntegerPreprocess
from edgeprune.results import Gate

if TYPE_CHECKING:
    import numpy as np

_ALIGNMENT = 16
_REGISTER = re.compile(r"  if \(resolver->(\w+)\(\) != kTfLiteOk\) return kTfLiteError;")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedSource:
    """What the source must say.

    Attributes:
        model: the int8 file.
        labels: in the order of the outputs.
        image_size: pixels.
        input, output: quantisation of the file's tensors.
        integer: preprocessing.
        rotate_180: the image is fed rotated.
        arena: as it was measured; None where that is not known.
        golden_images: uint8, shape (n, height, width, 3), of which the source holds the first.
        golden_inputs: int8, of the same shape, as fed.
        golden_outputs: int8, shape (n, classes); None where they are not known.
        golden_labels: indices; None where they are not known.
        tolerance_lsb: of the outputs; None where it is not known.
        decision_difference: where two classes are cut; None where argmax decides.
    """

    model: bytes
    labels: tuple[str, ...]
    image_size: int
    input: Quantisation
    output: Quantisation
    integer: IntegerPreprocess
    rotate_180: bool
    arena: ArenaReport | None
    golden_images: "np.ndarray"
    golden_inputs: "np.ndarray"
    golden_outputs: "np.ndarray | None"
    golden_labels: tuple[int, ...] | None
    tolerance_lsb: int | None
    decision_difference: int | None = None


def check_texts(sources: Mapping[str, bytes], expected: ExpectedSource, folder: str) -> list[Gate]:
    """Gates of the files that hold values: ``c_array``, ``c_settings``, ``c_labels``, ``c_operators``, ``c_golden``.

    Args:
        sources: file name to content.
        expected: what they must say.
        folder: of the files in the bundle, ending in a slash.

    Returns:
        Each gate's name ends in the file's path. Operators are not checked where ai-edge-litert is not installed.
    """
    checks = {
        "model_data.cc": ("c_array", _array_problems),
        "model_data.h": ("c_array", _length_problems),
        "model_settings.h": ("c_settings", _settings_problems),
        "model_settings.cc": ("c_labels", _label_problems),
        "op_resolver.h": ("c_operators", _operator_problems),
        "golden.cc": ("c_golden", _golden_problems),
        "golden.h": ("c_golden", _golden_count_problems),
    }
    gates = []
    for name, (kind, check) in checks.items():
        try:
            text = sources[name].decode("ascii")
            count = int(read_constants(sources["golden.h"].decode("ascii")).get("kGoldenImages", "0"))
            if name.startswith("golden") and not 1 <= count <= len(expected.golden_images):
                raise ValueError(f"kGoldenImages is {count}, the bundle has {len(expected.golden_images)}")
            problems = list(check(text, expected, count))
        except KeyError as error:
            problems = [f"{error.args[0]} is missing"]
        except ImportError:
            # The operators are in the flatbuffer, and reading it needs a package that is not installed here.
            continue
        except InputError as error:
            problems = [error.problem]
        except ValueError as error:
            problems = [str(error).splitlines()[0]]
        except (IndexError, TypeError, AttributeError, ArithmeticError):
            problems = ["the model's graph cannot be followed"]
        gates.append(text_gate(kind, f"{folder}{name}", problems))
    return gates


def text_gate(kind: str, path: str, problems: list[str]) -> Gate:
    """A gate that counts what is wrong with a text."""
    return Gate(
        name=f"{kind}:{path}",
        figure=len(problems),
        limit="0 differences from what it was made of",
        passed=not problems,
        detail="; ".join(problems)[:1000],
    )


def _array_problems(text: str, expected: ExpectedSource, count: int) -> Iterable[str]:
    found = read_bytes(read_array(text, "alignas(16) const unsigned char kModelData[kModelBytes] EDGEPRUNE_FLASH"))
    if found != expected.model:
        pairs = zip(found, expected.model, strict=False)
        first = next((index for index, pair in enumerate(pairs) if pair[0] != pair[1]), len(found))
        yield (
            f"kModelData has {len(found)} bytes and differs from the model's {len(expected.model)} from byte {first} on"
        )


def _length_problems(text: str, expected: ExpectedSource, count: int) -> Iterable[str]:
    yield from _differences(read_constants(text), {"kModelBytes": len(expected.model)})


def _settings_problems(text: str, expected: ExpectedSource, count: int) -> Iterable[str]:
    found = read_constants(text)
    integer, size = expected.integer, expected.image_size
    wanted: dict[str, object] = {
        "kSchemaVersion": 3,
        "kImageSize": size,
        "kChannels": 3,
        "kInputBytes": size * size * 3,
        "kClasses": len(expected.labels),
        "kInputZeroPoint": expected.input.zero_point,
        "kOutputZeroPoint": expected.output.zero_point,
        "kPixelMultiplier": f"{{{', '.join(map(str, integer.multiplier))}}}",
        "kPixelOffset": f"{{{', '.join(map(str, integer.offset))}}}",
        "kPixelShift": integer.shift,
        "kRotate180": "true" if expected.rotate_180 else "false",
    }
    yield from _differences(found, wanted)
    for name, scale in (("kInputScale", expected.input.scale), ("kOutputScale", expected.output.scale)):
        yield from _scale_problems(found.get(name, ""), name, scale)
    yield from _arena_problems(found, expected)
    if expected.decision_difference is None:
        if "kDecisionDifference" in found:
            yield f"kDecisionDifference is {found['kDecisionDifference']}, and the bundle has no threshold"
    elif write_decision(expected.decision_difference) not in text:
        yield (
            f"kDecisionDifference is {found.get('kDecisionDifference', 'missing')}, the threshold is "
            f"{expected.decision_difference}, or DecideLabel is not the function for it"
        )


def _scale_problems(found: str, name: str, scale: float) -> Iterable[str]:
    import numpy as np

    number = float(found.removesuffix("f")) if re.fullmatch(r"[0-9.e+-]+f", found) else float("nan")
    if np.float32(number) != np.float32(scale):
        yield f"{name} is {found or 'missing'}, not {scale!r}"


def _arena_problems(found: Mapping[str, str], expected: ExpectedSource) -> Iterable[str]:
    parts = [found.get(f"kArena{part}Bytes", "missing") for part in ("Head", "Tail", "Scratch")]
    if not all(part.isdigit() for part in parts):
        yield f"the parts of the arena are {', '.join(parts)}"
        return
    head, tail, scratch = map(int, parts)
    extra = r" \+ \w+_ARENA_EXTRA_BYTES"
    whole = re.fullmatch(rf"(\d+){extra}", found.get("kArenaBytes", ""))
    needed = -(-(head + tail + scratch) // _ALIGNMENT) * _ALIGNMENT
    if whole is None or int(whole[1]) != needed:
        yield f"kArenaBytes is {found.get('kArenaBytes')}, its parts make {needed}"
    if expected.arena is not None and (head, tail) != (expected.arena.head_bytes, expected.arena.tail_bytes):
        yield (
            f"the arena's head and tail are {head} and {tail}, measured were {expected.arena.head_bytes} and "
            f"{expected.arena.tail_bytes}"
        )
    try:
        from edgeprune.micro_scratch import cmsis_nn_scratch_bytes
        from edgeprune.verify.liveness import find_peak

        least, allowed = find_peak(expected.model).peak_bytes, cmsis_nn_scratch_bytes(expected.model)
    except ImportError:
        return
    if head < least:
        yield f"kArenaHeadBytes is {head}, the tensors that live together take {least}"
    if scratch != allowed:
        yield f"kArenaScratchBytes is {scratch}, CMSIS-NN's formulas make {allowed}"


def _label_problems(text: str, expected: ExpectedSource, count: int) -> Iterable[str]:
    lines = read_array(text, "const char* const kLabels[kClasses]").split("\n")
    found = tuple(read_string(line.removeprefix("    ").removesuffix(",")) for line in lines)
    if found != expected.labels:
        yield f"kLabels are {found}, not {expected.labels}"


def _operator_problems(text: str, expected: ExpectedSource, count: int) -> Iterable[str]:
    from edgeprune.tflite_format import operator_names, read_model

    found = _REGISTER.findall(text)
    kinds = sorted(set(operator_names(read_model(expected.model))))
    wanted = [RESOLVER_METHODS.get(kind, f"none for {kind}") for kind in kinds]
    if found != wanted or text.count("resolver->") != len(wanted):
        yield f"it registers {', '.join(found)}; the model has {', '.join(wanted)}"
    yield from _differences(read_constants(text), {"kOperatorKinds": len(wanted)})


def _golden_count_problems(text: str, expected: ExpectedSource, count: int) -> Iterable[str]:
    if expected.tolerance_lsb is not None:
        yield from _differences(read_constants(text), {"kGoldenToleranceLsb": expected.tolerance_lsb})


def _golden_problems(text: str, expected: ExpectedSource, count: int) -> Iterable[str]:
    import numpy as np

    of = "[kGoldenImages]"
    pixels = read_array(text, f"const uint8_t kGoldenPixels{of}[kInputBytes] EDGEPRUNE_FLASH")
    if not (pixels.startswith("{\n") and pixels.endswith("\n},")):
        raise ValueError("kGoldenPixels is not rows of bytes")
    images = b"".join(read_bytes(row) for row in pixels[2:-3].split("\n},\n{\n"))
    if images != expected.golden_images[:count].tobytes():
        yield "kGoldenPixels are not the golden images"
    columns = int(np.prod(expected.golden_inputs.shape[1:]))
    inputs = read_rows(read_array(text, f"const int8_t kGoldenInputs{of}[kInputBytes] EDGEPRUNE_FLASH"), columns)
    if not np.array_equal(inputs, expected.golden_inputs[:count].reshape(count, -1)):
        yield "kGoldenInputs are not what preprocessing makes of the golden images"
    outputs = read_rows(read_array(text, f"const int8_t kGoldenOutputs{of}[kClasses]"), len(expected.labels))
    if expected.golden_outputs is not None and not np.array_equal(outputs, expected.golden_outputs[:count]):
        yield f"kGoldenOutputs are {outputs.tolist()}, not {expected.golden_outputs[:count].tolist()}"
    labels = re.findall(r"^const int32_t kGoldenLabels\[kGoldenImages\] = \{([0-9, ]+)\};$", text, re.MULTILINE)
    if len(labels) != 1:
        yield "kGoldenLabels is not there once"
    elif expected.golden_labels is not None and labels[0] != ", ".join(map(str, expected.golden_labels[:count])):
        yield f"kGoldenLabels are {labels[0]}, not {', '.join(map(str, expected.golden_labels[:count]))}"


def _differences(found: Mapping[str, str], wanted: Mapping[str, object]) -> Iterable[str]:
    for name, value in wanted.items():
        if found.get(name) != str(value):
            yield f"{name} is {found.get(name, 'missing')}, not {value}"
