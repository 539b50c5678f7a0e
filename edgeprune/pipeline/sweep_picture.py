"""The levels of a sweep as a picture: validation accuracy over cost, a line through the Pareto front."""

import io

from edgeprune.pipeline.sweep_table import SweepTable

# More names would cover the points.
_MOST_NAMES = 12
_TEXT_POINTS = 8


def draw_sweep(name: str, table: SweepTable) -> bytes:
    """A PNG file.

    Args:
        name: of the sweep.
        table: at least one level.
    """
    # Without pyplot: no window system is looked for, and nothing of this process is changed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    costs = [point.level.cost(table.cost) for point in table.points]
    axes.scatter(costs, [point.level.val.value for point in table.points], s=18, color="0.65", label="levels")
    front = [(point.level.cost(table.cost), point.level.val.value) for point in table.front]
    axes.step(*zip(*front, strict=True), where="post", marker="o", color="C0", label="Pareto front")
    for point, place in list(zip(table.front, front, strict=True))[:_MOST_NAMES]:
        axes.annotate(
            f"{point.trial} {point.level.level}",
            place,
            xytext=(4, -10),
            textcoords="offset points",
            fontsize=_TEXT_POINTS,
        )
    axes.set_xlabel(table.cost_title)
    axes.set_ylabel(f"validation accuracy (n={table.points[0].level.val.n})")
    axes.set_title(f"{name}: {len(table.points)} levels", fontsize=10)
    axes.ticklabel_format(axis="x", style="plain")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=_TEXT_POINTS)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
