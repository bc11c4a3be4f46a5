"""Figures of a run: SVG with the plotted numbers saved beside it, one message each."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# Okabe and Ito's palette: distinguishable with every common color vision deficiency.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


@dataclass(frozen=True, slots=True)
class Figure:
    """A saved figure: path below the run directory and the caption that says what to see."""

    path: str
    caption: str


Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One labelled curve; ``style`` is ``line``, ``points``, ``dashed`` (use dashed for predictions) or ``joined``.

    ``joined`` is points with a line through them. ``names`` are written beside the points; ``x_intervals`` and
    ``y_intervals`` (lower, upper) are drawn as bars. Each has one entry per point, or none at all.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    style: Literal["line", "points", "dashed", "joined"] = "line"
    names: Sequence[str] = ()
    x_intervals: Sequence[Interval] = ()
    y_intervals: Sequence[Interval] = ()

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"series {self.label!r} has {len(self.x)} abscissae and {len(self.y)} ordinates")
        for part in ("names", "x_intervals", "y_intervals"):
            if len(getattr(self, part)) not in (0, len(self.x)):
                raise ValueError(
                    f"series {self.label!r} has {len(self.x)} points and {len(getattr(self, part))} {part}"
                )


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes: at most seven curves (the palette's size), and labels with units."""

    series: Sequence[Series]
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False


def plot_series(
    directory: Path,
    name: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    caption: str,
    log_x: bool = False,
    log_y: bool = False,
) -> Figure:
    """Draw curves into ``figures/<name>.svg`` and write their numbers to ``figures/<name>.csv``.

    Args:
        directory: The run directory.
        name: File stem.
        series: The curves, at most seven (the palette's size).
        x_label: Horizontal label with unit.
        y_label: Vertical label with unit.
        caption: What the reader should see.
        log_x: Logarithmic horizontal axis.
        log_y: Logarithmic vertical axis.

    Returns:
        The figure record for the report.

    Raises:
        ValueError: More curves than colors.
    """
    return plot_panels(directory, name, [Panel(series, x_label, y_label, log_x, log_y)], caption=caption)


def plot_panels(directory: Path, name: str, panels: Sequence[Panel], *, caption: str, columns: int = 2) -> Figure:
    """Draw panels, row by row, into ``figures/<name>.svg`` and write their numbers to ``figures/<name>.csv``.

    Args:
        directory: The run directory.
        name: File stem.
        panels: The panels, at least one.
        caption: What the reader should see.
        columns: Panels in a row.

    Returns:
        The figure record for the report.

    Raises:
        ValueError: There is no panel, or one has more curves than colors.
    """
    most = max((len(panel.series) for panel in panels), default=0)
    if not panels or most > len(PALETTE):
        raise ValueError(f"a figure shows at most {len(PALETTE)} curves, got {most} in {len(panels)} panels")
    # Imported here: drawing is needed at the end of a run, not for `list` or `show`.
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    folder = directory / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = [row for panel in panels for row in _numbers(panel, len(panels) > 1)]
        writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)) or ["label", "x", "y"])
        writer.writeheader()
        writer.writerows(rows)

    columns = min(columns, len(panels))
    lines = -(-len(panels) // columns)
    # A fixed salt and no date: the same data give the same bytes.
    with rc_context(
        {"svg.hashsalt": "doppel", "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False}
    ):
        canvas = Canvas(figsize=(6.0 * columns, 3.8 * lines), layout="constrained")
        FigureCanvasSVG(canvas)
        grid = canvas.subplots(lines, columns, squeeze=False).flatten()
        for axes, panel in zip(grid, panels, strict=False):
            _draw(axes, panel)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        canvas.savefig(folder / f"{name}.svg", format="svg", metadata={"Date": None})
    return Figure(path=f"figures/{name}.svg", caption=caption)


def _draw(axes: Any, panel: Panel) -> None:
    for color, curve in zip(PALETTE, panel.series, strict=False):
        look = {"line": "-", "joined": "-", "dashed": "--", "points": "none"}[curve.style]
        marker = "o" if curve.style in ("points", "joined") else None
        axes.plot(curve.x, curve.y, linestyle=look, marker=marker, markersize=4, color=color, label=curve.label)
        if curve.x_intervals:
            axes.hlines(curve.y, *zip(*curve.x_intervals, strict=True), color=color, linewidth=0.8, alpha=0.6)
        if curve.y_intervals:
            axes.vlines(curve.x, *zip(*curve.y_intervals, strict=True), color=color, linewidth=0.8, alpha=0.6)
        for name, x, y in zip(curve.names, curve.x, curve.y, strict=False):
            axes.annotate(name, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    if panel.log_x:
        axes.set_xscale("log")
    if panel.log_y:
        axes.set_yscale("log")
    axes.legend(frameon=False)


def _numbers(panel: Panel, names_panel: bool) -> list[dict[str, object]]:
    """One row for each point of a panel; its label only where there are several panels."""
    rows: list[dict[str, object]] = []
    for curve in panel.series:
        for place, (x, y) in enumerate(zip(curve.x, curve.y, strict=True)):
            row: dict[str, object] = {"panel": panel.x_label} if names_panel else {}
            row |= {"label": curve.label, "x": x, "y": y}
            row |= {"name": curve.names[place]} if curve.names else {}
            for axis, intervals in (("x", curve.x_intervals), ("y", curve.y_intervals)):
                if intervals:
                    row |= {f"{axis}_lower": intervals[place][0], f"{axis}_upper": intervals[place][1]}
            rows.append(row)
    return rows
