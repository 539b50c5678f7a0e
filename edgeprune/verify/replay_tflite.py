"""Ask a bundle's TFLite files again: in LiteRT's reference kernels, and int8 ones in TFLite Micro.

Both must give the golden outputs, because TFLite Micro runs some files that LiteRT runs well with garbage for weights,
and says nothing. Needs the packages ai-edge-litert and tflite-micro (extra ``mcu``), no torch.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.cpp_literals import read_constants
from edgeprune.errors import InputError
from edgeprune.formats import TensorRecord
from edgeprune.manifest import Manifest
from edgeprune.results import Gate, at_most
from edgeprune.tflite_format import operator_names, read_model
from edgeprune.tflite_metadata import STANDARD_ENTRY, read_metadata, read_standard, standard_part
from edgeprune.verify.bundle_texts import read_listed, read_recipe_key
from edgeprune.verify.question import Question, compare_golden, compare_metadata, metadata_gate, refused
from edgeprune.verify.tflite_graph import check_tflite

if TYPE_CHECKING:
    from ai_edge_litert import schema_py_generated as schema

# The schema's numbers for element types.
_DTYPES = {0: "float32", 9: "int8"}
# Scales are float32 in the file and were written down with all their digits.
_SCALE_TOLERANCE = 1e-6
_NPU_OPERATOR = "CUSTOM(ethos-u)"
# What a graph whose numbers point nowhere makes its readers raise.
_LOST = (IndexError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError)
_SETTINGS = "c/model_settings.h"
# Another version of the runtime may take a little more, and a 32-bit device takes far less.
_MAX_TAIL_RATIO = 1.25


def ask_tflite(question: Question) -> list[Gate]:
    """Gates of ``check_tflite``, ``metadata:<path>``, ``golden:<path>`` in LiteRT, for int8 ``golden_tflm:<path>``.

    Beside firmware also ``arena_tail:<path>``, for the int8 file.
    Where one of the two runtimes is not installed, the other still answers.
    """
    int8, no_pad = question.file.input.dtype == "int8", _promises_no_pad(question)
    try:
        content = read_listed(question.path)
        problems = list(_metadata_problems(question, content))
        gates = check_tflite(content, path=question.name, int8=int8, promise_no_pad=no_pad)
    except ImportError:
        return []
    except InputError as error:
        return [refused(question.name, error)]
    except _LOST:
        # No runtime is given such a file: this process would end with it.
        return [refused(question.name, _lost(question.name))]
    return [
        *gates,
        metadata_gate(question.name, problems),
        *_ask_litert(question, content),
        *_ask_micro(question, content),
    ]


def _promises_no_pad(question: Question) -> bool:
    """Whether the recipe's padding, or the turn by 180 degrees, leaves no PAD operator."""
    if question.file.rotate_180:
        return True
    # Older or stranger recipes promise nothing.
    return read_recipe_key(question.folder, "model", "pad") == "same"


def check_npu_files(folder: Path, manifest: Manifest) -> list[Gate]:
    """A gate ``npu:<path>`` for each file that Vela compiled: everything on the NPU, and in and out as before.

    Args:
        folder, manifest: of a bundle whose bytes are right.
    """
    originals = {entry.path: Path(entry.path).stem for entry in manifest.files if entry.role == "model"}
    gates = []
    for entry in manifest.files:
        if entry.role != "npu" or not entry.path.endswith(".tflite"):
            continue
        stem = Path(entry.path).stem
        source = next(
            (path for path, name in originals.items() if path.endswith(".tflite") and stem == f"{name}_vela"), ""
        )
        try:
            problems = list(_npu_problems(folder, entry.path, source))
        except ImportError:
            return []
        except InputError as error:
            problems = [error.problem]
        except _LOST:
            problems = [_lost(entry.path).problem]
        gates.append(
            Gate(
                name=f"npu:{entry.path}",
                figure=len(problems),
                limit="0 operators left to the CPU, tensors as in the file it was compiled from",
                passed=not problems,
                detail="; ".join(problems),
            )
        )
    return gates


def _metadata_problems(question: Question, content: bytes) -> Iterable[str]:
    model = read_model(content, origin=question.name)
    yield from _tensor_problems(model, question.file.input, question.file.output, "preprocess.json")
    metadata = read_metadata(content, origin=question.name)
    yield from compare_metadata(metadata, question)
    standard, own = read_standard(content, origin=question.name), standard_part(metadata)
    for field in dataclasses.fields(standard):
        ours, theirs = getattr(standard, field.name), getattr(own, field.name)
        if ours != theirs:
            yield f"in {STANDARD_ENTRY}, {field.name} is {ours!r}, the file's own entry makes it {theirs!r}"


def _tensor_problems(model: "schema.ModelT", source: TensorRecord, result: TensorRecord, where: str) -> Iterable[str]:
    graph = model.subgraphs[0]
    for kind, places, record in (("input", graph.inputs, source), ("output", graph.outputs, result)):
        if len(places) != 1:
            yield f"it has {len(places)} {kind}s, not one"
            continue
        found = _describe(graph.tensors[places[0]])
        wanted = _values(record)
        if found[:2] != wanted[:2] or not _close(found[2:], wanted[2:]):
            yield f"{kind} is {found}, {where} says {wanted}"


def _describe(tensor: Any) -> tuple[tuple[int, ...], str, float, int]:
    rule = tensor.quantization
    scaled = rule is not None and rule.scale is not None and len(rule.scale) == 1
    scale, zero = (float(rule.scale[0]), int(rule.zeroPoint[0])) if scaled else (0.0, 0)
    return tuple(int(size) for size in tensor.shape), _DTYPES.get(tensor.type, f"type {tensor.type}"), scale, zero


def _values(record: TensorRecord) -> tuple[tuple[int, ...], str, float, int]:
    rule = record.quantisation
    return record.shape, record.dtype, rule.scale if rule else 0.0, rule.zero_point if rule else 0


def _close(found: tuple[float, int], wanted: tuple[float, int]) -> bool:
    return abs(found[0] - wanted[0]) <= _SCALE_TOLERANCE * wanted[0] and found[1] == wanted[1]


def _ask_litert(question: Question, content: bytes) -> list[Gate]:
    try:
        from edgeprune.verify.litert import run_litert

        outputs = run_litert(content, question.inputs, reference=True)
    except ImportError:
        return []
    except InputError as error:
        return [_failed(f"golden:{question.name}", error)]
    return [compare_golden(f"golden:{question.name}", outputs, question.golden)]


def _ask_micro(question: Question, content: bytes) -> list[Gate]:
    if question.file.input.dtype != "int8":
        return []
    try:
        from edgeprune.verify.micro import run_micro

        run = run_micro(content, question.inputs)
    except ImportError:
        return []
    except InputError as error:
        return [_failed(f"golden_tflm:{question.name}", error)]
    golden = compare_golden(f"golden_tflm:{question.name}", run.outputs, question.golden)
    return [golden, *_check_tail(question, run.tail_bytes)]


def _check_tail(question: Question, tail_bytes: int) -> list[Gate]:
    """The gate ``arena_tail:<path>``: what the firmware sets aside for the runtime's structures; none without ``c/``.

    Its head and scratch follow from the file alone, see ``c_text``.
    """
    if all(entry.path != _SETTINGS for entry in question.manifest.files):
        return []
    try:
        stated = int(read_constants(read_listed(question.folder / _SETTINGS).decode("ascii"))["kArenaTailBytes"])
        ratio = tail_bytes / stated if stated > 0 else float("inf")
    except (KeyError, ValueError):
        stated, ratio = 0, float("nan")
    detail = f"tflite-micro took {tail_bytes} bytes beside the activations, {_SETTINGS} has {stated}"
    return [at_most(f"arena_tail:{question.name}", ratio, _MAX_TAIL_RATIO, detail)]


def _lost(path: str) -> InputError:
    return InputError(f"{path} has a graph that cannot be followed.", "pull the bundle again")


def _failed(name: str, error: InputError) -> Gate:
    return Gate(name=name, figure="refused", limit="runs", passed=False, detail=error.problem)


def _npu_problems(folder: Path, path: str, source: str) -> Iterable[str]:
    compiled = read_model(read_listed(folder / path), origin=path)
    left = [name for name in operator_names(compiled) if name != _NPU_OPERATOR]
    if left:
        yield f"{', '.join(sorted(set(left)))} left to the CPU"
    if not source:
        yield "the bundle has no file that it was compiled from"
        return
    original = read_model(read_listed(folder / source), origin=source)
    for kind in ("inputs", "outputs"):
        ours, theirs = (
            [_describe(m.subgraphs[0].tensors[i]) for i in getattr(m.subgraphs[0], kind)] for m in (compiled, original)
        )
        if ours != theirs:
            yield f"{kind} are {ours}, in {source} they are {theirs}"
