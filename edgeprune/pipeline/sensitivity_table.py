"""What pruning each group alone does: the cells that were measured, the table of them, factors for an allocation."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from edgeprune.evaluation import DIVERGED
from edgeprune.pipeline.records import Inputs
from edgeprune.results import Accuracy

# An influence below this share of the usual one is noise of a few hundred images, not a group that costs nothing.
_LEAST_FACTOR = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One group, pruned alone.

    Attributes:
        layer: names the group.
        removed: channels that went, the least important ones; 0 is the network with all of them.
        importance: sum of their scores.
        accuracy: on validation.
        divergence: mean over validation images of the Kullback-Leibler divergence from what the network with all
            channels answers, nats.
        seconds: wall time.
    """

    layer: str
    removed: int
    importance: float
    accuracy: Accuracy
    divergence: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitivityRecord:
    """What is kept on disk while cells are measured, so that an interrupted run goes on.

    Attributes:
        inputs: what every cell depends on; the network, the images, how channels are ranked and cut into blocks.
        cells: finished ones, the network with all channels first.
    """

    inputs: Inputs
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """One group at every fraction.

    Attributes:
        layer: names the group.
        channels: how many it has.
        cells: one a fraction; two fractions share a cell where the same blocks make up both. None: not even one block
            can go.
    """

    layer: str
    channels: int
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """Every group pruned alone.

    Attributes:
        inputs: what all of it depends on.
        name: of the recipe.
        importance: criterion by which the channels that go were chosen.
        align: channels of a block; only whole ones go.
        images: train images that BatchNorm was recalibrated on, before every measurement.
        fractions: shares of a group's channels that were asked for, rising.
        unpruned: validation accuracy of the network as it was trained.
        whole: the same network recalibrated like all the others: what they are held against. Its divergence is from
            the network as it was trained.
        rows: one a group, in network order.
    """

    inputs: Inputs
    name: str
    importance: str
    align: int
    images: int
    fractions: tuple[float, ...]
    unpruned: Accuracy
    whole: Cell
    rows: tuple[GroupRow, ...]

    def change(self, cell: Cell) -> float:
        """Of validation accuracy, in points of a percent; below 0 where some was lost."""
        return 100 * (cell.accuracy.value - self.whole.accuracy.value)


def sensitivity_factors(table: Sensitivity, *, fraction: float = 0.0) -> dict[str, float]:
    """How much a score of each group counts: factors that make scores of different groups comparable.

    A group's factor is what it cost, in nats, to remove its first blocks, divided by the scores that went with them.
    Scores that are multiplied by it are nats to first order: an allocation that keeps the largest sum of them loses
    the least divergence, if groups do not influence each other. Scales of layers cancel out, so it makes no difference
    whether scores were normalised by layer.

    Args:
        table: made with the importance that the scores come from.
        fraction: of a group's channels; the column next to it decides. Divergence rises faster than in proportion, so
            a plan that takes much is better off with a column of its own target or above: small fractions promise
            that patient groups can be emptied.

    Returns:
        Group name to a positive factor. A group of a single block, which stays anyhow, has the median of the others; so
        have groups whose scores are all zero.
    """
    column = min(range(len(table.fractions)), key=lambda index: abs(table.fractions[index] - fraction))
    found: dict[str, float] = {}
    for row in table.rows:
        cell = row.cells[column]
        if cell is not None and cell.importance > 0:
            found[row.layer] = min(cell.divergence, DIVERGED) / cell.importance
    usual = median(found.values()) if found else 1.0
    least = usual * _LEAST_FACTOR or 1.0  # nothing that was tried made any difference
    return {row.layer: max(found.get(row.layer, usual), least) for row in table.rows}


def render_table(table: Sensitivity) -> str:
    """The table as Markdown."""
    return "\n".join(_lines(table)) + "\n"


def _lines(table: Sensitivity) -> Iterator[str]:
    whole, names = table.whole, [f"{fraction:.0%}" for fraction in table.fractions]
    yield f"# Sensitivity of {table.name}: each group pruned alone"
    yield ""
    yield (
        f"Whole blocks of {table.align} channels go, the lowest by {table.importance} first; the fewest that make up "
        f"the fraction, never the last one. BatchNorm is recalibrated on {table.images} train images before every "
        "measurement, nothing is trained."
    )
    yield ""
    yield (
        f"With all channels: {whole.accuracy} on validation ({table.unpruned.value:.4f} before recalibration, which "
        f"alone moves the answers by {whole.divergence:.4f} nats). Each cell: change of accuracy in points, mean "
        "Kullback-Leibler divergence from the recalibrated network's answers in nats, and the channels that went."
    )
    yield ""
    yield f"| group | channels | {' | '.join(names)} | factor |"
    yield f"|---|---:|{'---:|' * (len(names) + 1)}"
    factors = sensitivity_factors(table)
    for row in table.rows:
        cells = " | ".join(_describe(table, cell) for cell in row.cells)
        yield f"| {row.layer} | {row.channels} | {cells} | {factors[row.layer]:.3g} |"
    yield ""
    yield "Factor: nats of the first column for every unit of importance that went."


def _describe(table: Sensitivity, cell: Cell | None) -> str:
    if cell is None:
        return "one block"
    nats = f"{cell.divergence:.4f}" if cell.divergence < DIVERGED else "diverged"
    return f"{table.change(cell):+.1f}, {nats} ({cell.removed})"
