"""Where the time of one call of an ONNX file goes, by onnxruntime's own profiler, and how long one call takes.

The profiler writes a line for every operator of every call, which makes a small network three times as slow; what it
gives are shares. The whole call is timed without it.
"""

import json
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.verify.latency import prepare_calls, warm_up
from edgeprune.verify.onnx_runtime import open_session

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto, NodeProto

# Each call of a network of 100 operators leaves about 50 KB in the profile.
_PROFILED_CALLS = 60
_PROFILED_SESSIONS = 3
# Short against the slices in which the scheduler shares a core out, so that most turns have none of a neighbour's.
_TURN_SECONDS = 0.0005
_KERNEL = "_kernel_time"
# What onnxruntime's optimiser adds to the name of a node or value that it replaces.
_ADDED = re.compile(r"^fused |_nchwc$|_token_\d+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTimes:
    """Milliseconds of one profiled call, each operator above what the quickest one takes.

    Attributes:
        own_ms: by layer, of the operators that read its weights, with what onnxruntime fused into them.
        after_ms: by layer, of operators without weights that work on what it made: activations, gates, pools, changes
            of memory layout.
        rest_ms: of what comes before any layer.
        operators: that run in one call.
        quickest_ms: of the operators; none costs less, however little it computes.
    """

    own_ms: Mapping[str, float]
    after_ms: Mapping[str, float]
    rest_ms: float
    operators: int
    quickest_ms: float


def measure_call_ms(file: Path | bytes, inputs: "np.ndarray") -> float:
    """Milliseconds of one call of one file; see ``measure_calls_ms``.

    Args:
        file: an ONNX file, or its content.
        inputs: images as the file takes them, shape (n, ...).

    Raises:
        InputError: the file is missing, or onnxruntime cannot load it.
    """
    if isinstance(file, Path):
        return measure_calls_ms([file], inputs)[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(file)
        return measure_calls_ms([path], inputs)[0]


def measure_calls_ms(
    paths: Sequence[Path],
    inputs: "np.ndarray",
    *,
    sessions: int = 8,
    rounds: int = 100,
    budget_seconds: float = 6.0,
) -> tuple[float, ...]:
    """Milliseconds of one call of each file with one thread: the lowest of the medians of several sessions.

    A busy neighbour, an interrupt or a hot processor only ever add time, and often to a whole session; so the lowest
    median is nearer to what the file itself takes than their mean, and it moves least from one measurement to the next.
    Each session loads a file anew, because where its weights land in memory moves its speed too. Files take turns
    session by session, so that a busy minute meets all of them.

    Args:
        paths: ONNX files.
        inputs: images as the files take them, shape (n, ...); one image a call, all in turn.
        sessions: loads of each file, >= 1.
        rounds: timed turns of a session, each of one call, or a few where that is very quick; at least 3, fewer when
            the budget would not allow them.
        budget_seconds: about what the timed calls of one file may take.

    Raises:
        InputError: as ``measure_call_ms``.
    """
    import numpy as np

    medians = np.empty((sessions, len(paths)))
    for session in range(sessions):
        for place, path in enumerate(paths):
            call = prepare_calls(path, inputs, 1)
            seconds = warm_up(call)
            per_turn = max(1, round(_TURN_SECONDS / seconds))
            affordable = int(budget_seconds / sessions / (per_turn * seconds))
            turns = np.empty(max(3, min(rounds, affordable)))
            for index in range(len(turns)):
                start = time.perf_counter()
                call(per_turn)
                turns[index] = (time.perf_counter() - start) / per_turn
            medians[session, place] = np.median(turns)
    return tuple(float(lowest) * 1e3 for lowest in medians.min(axis=0))


def measure_layer_times(path: Path, inputs: "np.ndarray", *, layers: Collection[str]) -> LayerTimes:
    """Profile a file, and give every operator's time to a layer.

    An operator without weights belongs to the layer that made the largest of its inputs. What onnxruntime inserted
    and named by itself belongs to the layer that ran before it.

    Args:
        path: an ONNX file whose weights carry the names of the checkpoint's tensors.
        inputs: as ``measure_call_ms``.
        layers: names of the layers that times are wanted of.

    Raises:
        InputError: as ``measure_call_ms``.
    """
    import onnx

    sessions = [_profile(path, inputs) for _ in range(_PROFILED_SESSIONS)]
    milliseconds = {event: min(each[event] for each in sessions if event in each) for event in sessions[0]}
    owners, weighted = _find_owners(onnx.shape_inference.infer_shapes(onnx.load(path)), set(layers))
    quickest = min(milliseconds.values())
    own: defaultdict[str, float] = defaultdict(float)
    after: defaultdict[str, float] = defaultdict(float)
    last = ""
    for (_, name, operator), taken in milliseconds.items():
        last = owners.get(_original_name(name), last)
        (own if operator.removeprefix("Fused") in weighted else after)[last] += taken - quickest
    rest = own.pop("", 0.0) + after.pop("", 0.0)
    return LayerTimes(
        own_ms=dict(own), after_ms=dict(after), rest_ms=rest, operators=len(milliseconds), quickest_ms=quickest
    )


# Index in the optimised graph, name, kind of operator.
_Event = tuple[int, str, str]


def _profile(path: Path, inputs: "np.ndarray") -> dict[_Event, float]:
    """Milliseconds of every operator in the order in which they run."""
    import onnxruntime

    # The same session that every gate runs, but for the profile.
    options = open_session(path).get_session_options()
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for index in range(_PROFILED_CALLS):
            start = index % len(inputs)
            session.run(None, {name: inputs[start : start + 1]})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return _gather(events)


def _gather(events: Iterable[dict[str, Any]]) -> dict[_Event, float]:
    import numpy as np

    found: dict[_Event, list[int]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL):
            facts = event["args"]
            key = (int(facts["node_index"]), event["name"].removesuffix(_KERNEL), facts["op_name"])
            found.setdefault(key, []).append(event["dur"])
    # The profile counts whole microseconds: the mean of the quicker half resolves less, and no interruption is in it.
    return {key: float(np.mean(np.sort(taken)[: (len(taken) + 1) // 2])) / 1e3 for key, taken in found.items()}


def _original_name(name: str) -> str:
    """Of the node or value that an optimised node stands for.

    >>> _original_name("Relu_3_output_nchwc"), _original_name("ReorderOutput_token_156")
    ('Relu_3_output', 'ReorderOutput')
    """
    return _ADDED.sub("", name)


def _find_owners(model: "ModelProto", layers: set[str]) -> tuple[dict[str, str], set[str]]:
    """The layer of every node and value by its name, or an empty string; and which operators read layers' weights."""
    graph = model.graph
    sizes = {value.name: _elements(value) for value in (*graph.value_info, *graph.output)}
    owners: dict[str, str] = {}
    weighted: set[str] = set()
    order: dict[str, int] = {}
    tensors = {tensor.name for tensor in graph.initializer}
    for index, node in enumerate(graph.node):
        layer = next((name for name in _weight_layers(node, tensors) if name in layers), None)
        if layer is not None:
            weighted.add(node.op_type)
        else:
            made = [name for name in node.input if name in order]
            # Of equal ones the last: that is the convolution that onnxruntime fuses a residual sum into.
            largest = max(made, key=lambda name: (sizes.get(name, 0), order[name]), default=None)
            layer = owners[largest] if largest is not None else ""
        for name in (node.name, *node.output):
            owners[name] = layer
        order |= dict.fromkeys(node.output, index)
    return owners, weighted


def _weight_layers(node: "NodeProto", tensors: set[str]) -> list[str]:
    return [name.rpartition(".")[0] for name in node.input if name in tensors and "." in name]


def _elements(value: Any) -> int:
    count = 1
    for size in value.type.tensor_type.shape.dim:
        count *= size.dim_value or 1
    return count
