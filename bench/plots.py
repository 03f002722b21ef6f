"""A run as bar charts. Owns colours and layout; knows no figure by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.measurement import Figures, Results
from bench.report import number
from bench.scenarios.scenario import Unit

mpl.use("Agg")

_COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#999999")
"""Okabe and Ito's palette: told apart by all kinds of eyes."""

_BAR_INCHES: Final = 0.17
_WIDTH_INCHES: Final = 9.0


def draw(results: Results, folder: Path) -> list[Path]:
    """Write the charts that the run has figures for, and return their paths."""

    def cold(unit: Unit) -> list[str]:
        return [row for row in results.rows if "@" not in row and _unit(results, row) is unit]

    warm = [row for row in results.rows if "@" in row]
    warm_bytes = [row for row in warm if _unit(results, row) is Unit.MIB]
    warm_counts = [row for row in warm if row not in warm_bytes]
    server = [row for row in results.rows if "@" not in row]
    charts: list[tuple[str, str, str, list[str], Callable[[Figures], float]]] = [
        ("streams", "Cold streams", "MiB/s", cold(Unit.MIB), lambda one: one.rate),
        ("files", "Cold files", "files/s", cold(Unit.FILES), lambda one: one.rate),
        ("reads", "Cold reads at random places", "reads/s", cold(Unit.READS), lambda one: one.rate),
        ("warm-streams", "Warm streams", "MiB/s", warm_bytes, lambda one: one.rate),
        ("warm-files", "Warm files and reads", "files/s, reads/s", warm_counts, lambda one: one.rate),
        ("amplification", "Bytes fetched per byte read", "fetched / read", server, lambda one: one.amplification),
        ("memory", "Peak memory of the daemon", "MiB", server, lambda one: one.peak_rss_mib),
    ]
    drawn = []
    for name, title, label, rows, figure in charts:
        path = folder / f"{name}.png"
        if _bars(results, rows, figure, title, label, path):
            drawn.append(path)
    return drawn


def _unit(results: Results, row: str) -> Unit:
    return next(one.unit for one in results.measurements if one.row == row)


def _bars(
    results: Results, rows: Sequence[str], figure: Callable[[Figures], float], title: str, label: str, path: Path
) -> bool:
    """Grouped bars, a group for each row, on a logarithmic scale. False, and no file, where nothing is to be drawn."""
    shown = [
        name
        for name in results.contestants
        if any((one := results.get(row, name)) is not None and figure(one) > 0 for row in rows)
    ]
    if not rows or not shown:
        return False
    height = 1.5 + len(rows) * (len(shown) + 1) * _BAR_INCHES
    chart = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
    axes = chart.subplots()
    thickness = 1 / (len(shown) + 1)
    drawn: list[float] = []
    for order, name in enumerate(shown):
        for place, row in enumerate(rows):
            one = results.get(row, name)
            value = figure(one) if one is not None else 0.0
            at = place + (order + 1) * thickness - 0.5
            colour = _COLOURS[results.contestants.index(name) % len(_COLOURS)]
            if value > 0:
                axes.barh(at, value, thickness * 0.9, color=colour, label=name)
                axes.text(value, at, f" {number(value)}", va="center", fontsize=7)
                drawn.append(value)
    axes.set_xscale("log")
    # The shortest bar is seen, and there is room for the figure behind the longest.
    axes.set_xlim(min(drawn) / 1.5, max(drawn) * 2)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(f"{label} (logarithmic)")
    axes.set_title(title, loc="left")
    axes.grid(axis="x", which="major", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    chart.legend([unique[name] for name in shown], shown, loc="outside lower center", ncols=len(shown), frameon=False)
    chart.savefig(path, dpi=120)
    return True
