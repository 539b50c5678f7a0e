"""How fast this machine runs a recipe's network, layer by layer: what a bound on latency is planned with.

Latency is that of ``model.onnx`` (float32) in onnxruntime, one thread, batch 1, on this machine. The whole call is
timed with all channels and with half of every group's: the two say how much is fixed, the profiler how the rest spreads
over the layers.
"""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from torch import nn

from edgeprune import __version__
from edgeprune.dependencies import ChannelGroup
from edgeprune.export.onnx_file import write_onnx
from edgeprune.files import digest_json
from edgeprune.pipeline.baseline import Baseline, open_baseline
from edgeprune.pipeline.candidates import FAST_MULTIPLE, MODEL, PROBE_IMAGES, make_candidate
from edgeprune.pipeline.latency_fit import LayerLatency, fit_latency
from edgeprune.pipeline.records import load_record, require_ours, save_record
from edgeprune.pipeline.settings import data_digest
from edgeprune.pipeline.workspace import Reporter, Workspace
from edgeprune.plan import find_groups
from edgeprune.plan.cost_model import LatencyTable, trace_costs
from edgeprune.preprocess import normalise_pixels
from edgeprune.prune import pad_channels, remove_channels
from edgeprune.recipe import Recipe
from edgeprune.results import ChannelPlan, GroupPlan
from edgeprune.verify.latency import read_cpu_name
from edgeprune.verify.layer_times import measure_call_ms, measure_calls_ms, measure_layer_times

TABLE = "latency.json"
# Counts that onnxruntime's blocked kernels like; where they do not, a layer is slower than its channels explain.
_BLOCK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLatency:
    """A network's latency on one machine. The layers and the fixed part add up to the whole call.

    Attributes:
        edgeprune: version.
        recipe_part: digest of what the recipe says about the file.
        weights: digest of the unpruned checkpoint.
        runtime: name and version.
        cpu: processor name.
        threads: intra-operator threads.
        protocol: how it was measured, in one sentence.
        call_ms: of a whole call, not profiled.
        half_ms: of the network with half of every group's channels, where they can be halved.
        fixed_ms: part of the call that no channel count changes.
        layers: the others that take time, in network order.
    """

    edgeprune: str
    recipe_part: str
    weights: str
    runtime: str
    cpu: str
    threads: int
    protocol: str
    call_ms: float
    half_ms: float
    fixed_ms: float
    layers: tuple[LayerLatency, ...]

    def table(self) -> LatencyTable:
        """As cost models take it."""
        return LatencyTable(
            fixed_ms=self.fixed_ms, ms_per_mac={each.layer: each.ms / each.macs for each in self.layers}
        )


def latency_folder(recipe: Recipe, workspace: Workspace) -> Path:
    """Where a recipe's table lies."""
    return workspace.level_folder(recipe, "latency")


def open_latency_table(recipe: Recipe, workspace: Workspace, baseline_weights_digest: str) -> MeasuredLatency | None:
    """The table that was measured of these weights, on this machine, in this version of the runtime; or None."""
    measured = load_record(latency_folder(recipe, workspace) / TABLE, MeasuredLatency)
    if measured is None:
        return None
    is_ours = (measured.edgeprune, measured.recipe_part, measured.weights) == (
        __version__,
        _file_digest(recipe),
        baseline_weights_digest,
    )
    is_here = (measured.runtime, measured.cpu) == (_runtime(), read_cpu_name())
    return measured if is_ours and is_here else None


def measure_latency_table(
    recipe: Recipe, workspace: Workspace, reporter: Reporter, *, again: bool = False
) -> MeasuredLatency:
    """Measure the unpruned network on this machine and keep the table, unless it is up to date.

    Args:
        recipe: its baseline, and how files are exported.
        workspace: where things lie.
        reporter: is told the progress.
        again: measure even where the table is up to date, because the machine was busy then.

    Raises:
        InputError: the recipe, the data or the baseline cannot be used.
        EdgepruneError: the network cannot be exported.
    """
    folder = latency_folder(recipe, workspace)
    if not (folder / TABLE).is_file():
        require_ours(folder)
    baseline = open_baseline(recipe, workspace, reporter)
    kept = open_latency_table(recipe, workspace, baseline.weights)
    if kept is not None and not again:
        reporter.say(f"{folder}: up to date")
        return kept
    measured = _measure(recipe, workspace, reporter, baseline)
    save_record(folder / TABLE, measured)
    return measured


def measure_network_ms(recipe: Recipe, network: nn.Module, images: np.ndarray) -> float:
    """Milliseconds of one call of a network's ``model.onnx``, written for that alone; see ``measure_call_ms``.

    Args:
        recipe: how files are exported.
        network: not changed; weights do not matter.
        images: from ``probe_images``.

    Raises:
        EdgepruneError: the network cannot be exported.
    """
    with tempfile.TemporaryDirectory() as folder:
        return measure_call_ms(_write(recipe, network, Path(folder), images), images)


def probe_images(recipe: Recipe, baseline: Baseline) -> np.ndarray:
    """The test images that latencies are measured on, as ``model.onnx`` takes them."""
    images = np.asarray(baseline.dataset.test.images[:PROBE_IMAGES])
    return normalise_pixels(images, recipe.data.mean, recipe.data.std)


def _measure(recipe: Recipe, workspace: Workspace, reporter: Reporter, baseline: Baseline) -> MeasuredLatency:
    network, size = baseline.checkpoint.network, recipe.data.image_size
    images = probe_images(recipe, baseline)
    with reporter.track(f"timing {recipe.name}") as progress:
        progress(0, 3)
        dense_folder = workspace.level_folder(recipe, "dense")
        path = make_candidate(recipe, baseline, baseline.checkpoint, dense_folder, record=None).export.path
        progress(1, 3)
        # Every group, whatever the recipe lets go: so the table does not depend on that.
        groups = find_groups(network, image_size=size, scope="all", protect=())
        model = trace_costs(network, groups, image_size=size)
        counted = {product.layer for product in model.products["macs"]} - {""}
        times = measure_layer_times(path, images, layers=counted)
        progress(2, 3)
        plan = _halve(groups)
        half = remove_channels(network, groups, plan, image_size=size)
        with tempfile.TemporaryDirectory() as folder:
            call_ms, half_ms = measure_calls_ms([path, _write(recipe, half, Path(folder), images)], images)
    fixed_ms, layers = fit_latency(
        model,
        times,
        call_ms=call_ms,
        smaller_ms=half_ms,
        smaller_kept={group.layer: len(group.kept) for group in plan.groups},
    )
    return MeasuredLatency(
        edgeprune=__version__,
        recipe_part=_file_digest(recipe),
        weights=baseline.weights,
        runtime=_runtime(),
        cpu=read_cpu_name(),
        threads=1,
        protocol=(
            "model.onnx, float32, batch 1, 1 thread; the lowest of the medians of 8 sessions; shares of the layers "
            "from onnxruntime's profiler, the fixed part from a network with half of every group's channels"
        ),
        call_ms=call_ms,
        half_ms=half_ms,
        fixed_ms=fixed_ms,
        layers=layers,
    )


def _write(recipe: Recipe, network: nn.Module, folder: Path, images: np.ndarray) -> Path:
    size, prune = recipe.data.image_size, recipe.prune
    if prune.align % FAST_MULTIPLE:
        groups = find_groups(network, image_size=size, scope=prune.scope, protect=())
        network = pad_channels(network, groups, multiple=FAST_MULTIPLE)
    return write_onnx(
        network,
        folder / MODEL,
        image_size=size,
        dynamic_batch=recipe.export.dynamic_batch,
        metadata={},
        probe=images,
    ).path


def _halve(groups: Sequence[ChannelGroup]) -> ChannelPlan:
    """About half of every group's channels, in blocks that kernels like."""
    found = []
    for group in groups:
        block = math.lcm(_BLOCK, group.unit)
        kept = min(group.channels, max(1, round(group.channels / 2 / block)) * block)
        found.append(GroupPlan(layer=group.layer, channels=group.channels, kept=tuple(range(kept))))
    return ChannelPlan(
        target=0.5,
        prunable=sum(group.channels for group in groups),
        groups=tuple(found),
        importance="random",
        align=_BLOCK,
    )


def _file_digest(recipe: Recipe) -> str:
    """Digest of what the recipe says about the network and its float file."""
    return digest_json([data_digest(recipe), recipe.export.dynamic_batch, recipe.prune.align % FAST_MULTIPLE])


def _runtime() -> str:
    return f"onnxruntime {version('onnxruntime')}"
