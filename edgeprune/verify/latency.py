"""Gate on speed: a pruned file that is slower than the dense one is not worth shipping.

Channels that do not fill a kernel's lanes have made a file with 0.62 times the MACs take 1.71 times the time, so the
file is timed, not believed.
"""

import math
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.results import Gate, LatencyComparison
from edgeprune.verify.litert import litert_version, open_litert
from edgeprune.verify.onnx_runtime import open_session

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

_WARM_UP_SECONDS = 0.15
# Long against the clock's resolution and the scheduler's slices, short enough for many rounds.
_TURN_SECONDS = 0.004
_RESAMPLES = 2000


def compare_latency(
    path: Path,
    reference_path: Path,
    inputs: "np.ndarray",
    *,
    threads: int = 1,
    sessions: int = 6,
    rounds: int = 12,
    budget_seconds: float = 4.0,
) -> LatencyComparison:
    """Time a file against another one in turns, on this machine.

    Each session loads both files anew, because where a file's weights land in memory moves its speed by a percent or
    two. In every round each file runs a few calls, and the two take turns in going first. The interval resamples
    sessions, and rounds within them, always both files of a round together.

    Args:
        path: the file; ``.onnx`` runs in onnxruntime, ``.tflite`` in LiteRT.
        reference_path: the file it is held against, in the same runtime.
        inputs: images as the files take them, shape (n, ...); one image a call, all in turn.
        threads: intra-operator threads.
        sessions: loads of both files, >= 2.
        rounds: rounds in each session; fewer, but at least 3, when the budget would not allow them.
        budget_seconds: about what the timed calls may take.

    Raises:
        InputError: a file cannot be loaded.
    """
    import numpy as np

    times = []
    for session in range(sessions):
        # Alternating, because the first one to load gets the fresher memory.
        if session % 2:
            one, other = prepare_calls(path, inputs, threads), prepare_calls(reference_path, inputs, threads)
        else:
            other, one = prepare_calls(reference_path, inputs, threads), prepare_calls(path, inputs, threads)
        slowest = max(warm_up(one), warm_up(other))
        per_turn = max(1, round(_TURN_SECONDS / slowest))
        affordable = int(budget_seconds / sessions / (2 * (per_turn + 1) * slowest))
        times.append(_time_in_turns(one, other, per_turn=per_turn, rounds=max(3, min(rounds, affordable))))

    fewest = min(len(block) for block in times)
    seconds = np.stack([block[:fewest] for block in times])
    low, high = _interval(seconds)
    median, reference_median = (float(value) for value in np.median(seconds, axis=(0, 1)))
    return LatencyComparison(
        runtime=_runtime(path),
        threads=threads,
        cpu=read_cpu_name(),
        protocol=(
            f"batch 1, {threads} thread{'s' * (threads > 1)}, {sessions} sessions of both files with {fewest} rounds "
            f"each, in turns, after {_WARM_UP_SECONDS:g} s of warm-up; ratio of medians with a 95 % bootstrap over "
            "sessions and rounds"
        ),
        median_ms=median * 1e3,
        reference_median_ms=reference_median * 1e3,
        ratio_low=low,
        ratio=median / reference_median,
        ratio_high=high,
    )


def check_latency(comparison: LatencyComparison) -> Gate:
    """Check that the file is not slower than its reference: the interval of the ratio must not lie above 1."""
    low, high = comparison.ratio_low, comparison.ratio_high
    return Gate(
        name="latency_ratio",
        figure=comparison.ratio if math.isfinite(comparison.ratio) else str(comparison.ratio),
        limit="95 % interval not above 1",
        # NaN compares false, so it fails.
        passed=bool(low <= 1),
        detail=(
            f"{comparison.median_ms:.3f} ms against {comparison.reference_median_ms:.3f} ms, 95 % {low:.3f} to "
            f"{high:.3f}; {comparison.runtime}, {comparison.cpu}; {comparison.protocol}"
        ),
    )


def read_cpu_name() -> str:
    """The processor's name as the system gives it, or its architecture where it gives none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _runtime(path: Path) -> str:
    if path.suffix == ".tflite":
        return litert_version()
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"


def prepare_calls(path: Path, inputs: "np.ndarray", threads: int) -> "Callable[[int], None]":
    """A function that runs a file so many times, one image a call, all images in turn."""
    return (_prepare_litert if path.suffix == ".tflite" else _prepare_onnx)(path, inputs, threads)


def _prepare_litert(path: Path, inputs: "np.ndarray", threads: int) -> "Callable[[int], None]":
    interpreter = open_litert(path.read_bytes(), reference=False, threads=threads)
    interpreter.allocate_tensors()
    source, result = (
        details()[0]["index"] for details in (interpreter.get_input_details, interpreter.get_output_details)
    )

    def call(times: int) -> None:
        for index in range(times):
            interpreter.set_tensor(source, inputs[index % len(inputs)][None])
            interpreter.invoke()
            interpreter.get_tensor(result)

    return call


def _prepare_onnx(path: Path, inputs: "np.ndarray", threads: int) -> "Callable[[int], None]":
    session = open_session(path, threads=threads)
    feeds = [{session.get_inputs()[0].name: inputs[index : index + 1]} for index in range(len(inputs))]
    run = session.run

    def call(times: int) -> None:
        for index in range(times):
            run(None, feeds[index % len(feeds)])

    return call


def warm_up(call: "Callable[[int], None]") -> float:
    """Run until caches, arenas and the clock have settled; returns seconds of one call."""
    call(1)
    done, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < _WARM_UP_SECONDS or done == 0:
        call(1)
        done += 1
    return elapsed / done


def _time_in_turns(
    one: "Callable[[int], None]", other: "Callable[[int], None]", *, per_turn: int, rounds: int
) -> "np.ndarray":
    """Seconds of one call, shape (rounds, 2)."""
    import numpy as np

    seconds = np.empty((rounds, 2))
    for index in range(rounds):
        for column in (0, 1) if index % 2 else (1, 0):
            call = (one, other)[column]
            # Untimed: the other file has just filled the caches, which makes the first call a tenth slower.
            call(1)
            start = time.perf_counter()
            call(per_turn)
            seconds[index, column] = (time.perf_counter() - start) / per_turn
    return seconds


def _interval(seconds: "np.ndarray") -> tuple[float, float]:
    """Percentile bootstrap of the ratio of medians; ``seconds`` has shape (sessions, rounds, 2)."""
    import numpy as np

    sessions, rounds, _ = seconds.shape
    generator = np.random.default_rng(0)
    chosen = generator.integers(sessions, size=(_RESAMPLES, sessions, 1))
    within = generator.integers(rounds, size=(_RESAMPLES, sessions, rounds))
    medians = np.median(seconds[chosen, within], axis=(1, 2))
    low, high = np.quantile(medians[:, 0] / medians[:, 1], (0.025, 0.975))
    return float(low), float(high)
