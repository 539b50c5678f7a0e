"""The table of sensitivities as a picture: two heat maps, one row a group, one column a fraction."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.evaluation import DIVERGED
from edgeprune.pipeline.sensitivity_table import Cell, Sensitivity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

# Inches: a row holds one line of text, a column holds `0.1234 (576)`; names of groups and colour bars stand beside.
_ROW, _COLUMN, _BESIDE = 0.26, 1.0, 4.4
_TEXT_POINTS = 8
# Below, divergences all have the first colour.
_LEAST_NATS = 1e-4


def draw_sensitivity(table: Sensitivity) -> bytes:
    """A PNG file: divergence on the left, change of accuracy on the right.

    Args:
        table: any number of groups and fractions; the picture grows with them.
    """
    # Without pyplot: no window system is looked for, and nothing of this process is changed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm, TwoSlopeNorm
    from matplotlib.figure import Figure

    columns = max(len(table.fractions), 3)
    figure = Figure(
        figsize=(2 * _COLUMN * columns + _BESIDE, _ROW * len(table.rows) + 1.8), dpi=120, layout="constrained"
    )
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    cells = [cell for row in table.rows for cell in row.cells if cell is not None]
    highest = max([cell.divergence for cell in cells if cell.divergence < DIVERGED] + [10 * _LEAST_NATS])
    _draw(
        figure,
        left,
        table,
        value=lambda cell: max(cell.divergence, _LEAST_NATS),
        text=lambda cell: (
            f"{cell.divergence:.4f} ({cell.removed})" if cell.divergence < DIVERGED else f"diverged ({cell.removed})"
        ),
        title="divergence, nats (channels removed)",
        colours="viridis",
        norm=LogNorm(_LEAST_NATS, highest, clip=True),
    )
    widest = max([abs(table.change(cell)) for cell in cells] + [1.0])
    _draw(
        figure,
        right,
        table,
        value=table.change,
        text=lambda cell: f"{table.change(cell):+.1f}",
        title="change of accuracy, points",
        colours="RdBu",
        norm=TwoSlopeNorm(0.0, -widest, widest),
    )
    names = [f"{row.layer} ({row.channels})" for row in table.rows]
    left.set_yticks(range(len(names)), names, fontsize=_TEXT_POINTS)
    figure.suptitle(
        f"{table.name}: each group pruned alone; with all channels {table.whole.accuracy.value:.4f} on validation",
        fontsize=11,
    )
    figure.supxlabel(
        f"share of a group's channels, lowest {table.importance} first, whole blocks of {table.align}",
        fontsize=_TEXT_POINTS + 1,
    )
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _draw(
    figure: "Figure",
    axes: "Axes",
    table: Sensitivity,
    *,
    value: Callable[[Cell], float],
    text: Callable[[Cell], str],
    title: str,
    colours: str,
    norm: "Normalize",
) -> None:
    values = np.array([[np.nan if cell is None else value(cell) for cell in row.cells] for row in table.rows])
    image = axes.imshow(np.ma.masked_invalid(values), cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
    for y, row in enumerate(table.rows):
        for x, cell in enumerate(row.cells):
            shown, colour = (
                ("one block", "0.4")
                if cell is None
                else (text(cell), _ink(*image.to_rgba(values[y : y + 1, x])[0, :3]))
            )
            axes.text(x, y, shown, ha="center", va="center", fontsize=_TEXT_POINTS, color=colour)
    axes.set_xticks(range(len(table.fractions)), [f"{fraction:.0%}" for fraction in table.fractions])
    axes.set_title(title, fontsize=10)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, fraction=0.05, aspect=30)


def _ink(red: float, green: float, blue: float) -> str:
    """Black or white, whichever stands out more on a colour."""
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"
