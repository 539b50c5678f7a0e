"""Ask a bundle's models again: do they describe themselves as the texts do, and answer as they did when published?

Each file is asked in its own runtime, where that is installed; no torch. The bytes have been checked before anything
here opens a file.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgeprune.errors import InputError
from edgeprune.formats import feed_images, parse_metadata
from edgeprune.manifest import FileEntry, Manifest
from edgeprune.results import Gate
from edgeprune.verify.bundle_texts import BundleTexts, check_texts, check_vectors, read_listed, read_texts
from edgeprune.verify.c_source import check_c_files
from edgeprune.verify.onnx_graph import check_graph
from edgeprune.verify.onnx_int8 import check_onnx_int8
from edgeprune.verify.question import Question, compare_golden, compare_metadata, metadata_gate, refused
from edgeprune.verify.recorded import check_recorded
from edgeprune.verify.replay_executorch import ask_executorch
from edgeprune.verify.replay_tflite import ask_tflite, check_npu_files
from edgeprune.verify.threshold import check_threshold

# Model files by their ending: the extra that brings their runtimes, and what that must import.
_RUNTIMES = {
    ".onnx": ("verify", ("numpy", "onnxruntime")),
    ".tflite": ("demo", ("numpy", "flatbuffers", "ai_edge_litert.interpreter", "tflite_micro")),
    ".pte": ("executorch", ("numpy", "executorch")),
}
# Of the gates on a float ONNX file: those that hold on any machine, and for files of other versions.
_GRAPH_GATES = ("onnx_checker", "single_file", "finite_weights")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What asking the models again gave.

    Attributes:
        gates: every check that ran.
        missing: path of a model file to why it was not, or not wholly, asked.
    """

    gates: tuple[Gate, ...]
    missing: Mapping[str, str]


def replay_models(folder: Path, manifest: Manifest) -> Replay:
    """Gates of every model file of a bundle whose bytes are right.

    Args:
        folder, manifest: every listed file is there, with the size and digest it should have.

    Returns:
        ``recorded_gates`` and ``bundle_texts``; where answers are cut ``threshold:<path>``; then ``vectors:<path>``
        for each model file, and where its runtime is installed ``metadata:<path>``, ``golden:<path>`` and the gates on
        the file itself; then those of ``vela/`` and ``c/``.
    """
    models = [entry for entry in manifest.files if entry.role == "model"]
    missing = {entry.path: reason for entry in models if (reason := why_not(entry.path))}
    # What is made from a TFLite file is held against it, so it needs what reads one.
    made = {entry.path: why_not("model.tflite") for entry in manifest.files if entry.role in ("c_source", "npu")}
    missing |= {path: reason for path, reason in made.items() if reason}
    gates = check_recorded(folder, manifest)
    if not _can_import("numpy"):
        return Replay(gates=tuple(gates), missing=missing)
    try:
        texts = read_texts(folder)
    except InputError as error:
        gate = Gate(
            name="bundle_texts", figure="refused", limit="readable, consistent", passed=False, detail=error.problem
        )
        return Replay(gates=(*gates, gate), missing=missing)
    gates.append(check_texts(texts, manifest))
    gates += check_threshold(folder, manifest, texts)
    for entry in models:
        gates.append(check_vectors(folder, entry.path, texts))
        question = _question(folder, entry, manifest, texts)
        if question is not None:
            gates += _ask(question)
    if not any(made.values()):
        gates += [*check_npu_files(folder, manifest), *check_c_files(folder, manifest, texts)]
    return Replay(gates=tuple(gates), missing=missing)


def why_not(path: str) -> str:
    """Why a model file cannot be asked here, or not wholly; empty when it can."""
    extra, modules = _RUNTIMES.get(Path(path).suffix, ("", ()))
    if not modules:
        return "this version has no runtime for it"
    return "" if all(map(_can_import, modules)) else f"needs extra {extra}"


def _question(folder: Path, entry: FileEntry, manifest: Manifest, texts: BundleTexts) -> Question | None:
    import numpy as np

    file, golden = texts.input_of(entry.path), texts.golden_of(entry.path)
    if file is None or golden is None:
        # The gates above say so.
        return None
    try:
        with np.errstate(all="ignore"):
            inputs = feed_images(texts.images, file, mean=texts.rule.mean, std=texts.rule.std)
    except (ValueError, ArithmeticError):
        return None
    return Question(
        folder=folder,
        name=entry.path,
        manifest=manifest,
        texts=texts,
        file=file,
        golden=golden,
        inputs=inputs,
    )


def _ask(question: Question) -> list[Gate]:
    asks: dict[str, Callable[[Question], list[Gate]]] = {
        ".onnx": _ask_onnx,
        ".tflite": ask_tflite,
        ".pte": ask_executorch,
    }
    ask = asks.get(Path(question.name).suffix)
    return ask(question) if ask else []


def _ask_onnx(question: Question) -> list[Gate]:
    if why_not(question.name):
        return []
    from edgeprune.verify.onnx_runtime import open_session, run_onnx

    name, file = question.name, question.file
    try:
        session = open_session(question.path)
        metadata = parse_metadata(dict(session.get_modelmeta().custom_metadata_map), origin=name)
        logits = run_onnx(question.path, question.inputs, session=session)
        tensors = (session.get_inputs()[0].name, session.get_outputs()[0].name)
    except InputError as error:
        return [refused(name, error)]
    problems = list(compare_metadata(metadata, question))
    if tensors != (file.input.name, file.output.name):
        problems.append(f"tensors {tensors} are not preprocess.json's")
    return [
        *_check_onnx(question.path, name),
        metadata_gate(name, problems),
        compare_golden(f"golden:{name}", logits, question.golden),
    ]


def _check_onnx(path: Path, name: str) -> list[Gate]:
    """Gates on the file itself: a NaN that no golden image reaches changes no answer."""
    if not _can_import("onnx"):
        # The extra `verify` has onnxruntime alone.
        return []
    if name.endswith("_int8.onnx"):
        return check_onnx_int8(read_listed(path), path=name)
    return [replace(gate, name=f"{gate.name}:{name}") for gate in check_graph(path) if gate.name in _GRAPH_GATES]


def _can_import(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True
