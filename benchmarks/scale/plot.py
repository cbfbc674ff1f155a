# SPDX-License-Identifier: Apache-2.0
"""Draws the growth of requests with the number of other people's transactions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

#: Text stays text, and the same numbers make the same file.
_STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "scale", "font.size": 8}


def draw(growth: Mapping[str, Sequence[tuple[int, Mapping[str, float]]]], path: Path) -> None:
    """Draw a panel for each thing that was measured, with a line for each tenant.

    Args:
        growth: By tenant: numbers of transactions, each with the requests by panel.
        path: SVG file.
    """
    panels = list(next(iter(growth.values()))[0][1])
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 6.5), layout="constrained")
        for axes, panel in zip(figure.subplots(2, 2).flat, panels, strict=True):
            for size, (tenant, points) in zip((13, 10, 7, 4, 1), growth.items(), strict=True):
                counts = [f"{count:,}" for count, _ in points]
                values = [found[panel] for _, found in points]
                # Where lines are one, the rings show how many there are.
                ring = {"marker": "o", "markersize": size, "markerfacecolor": "none"}
                axes.plot(counts, values, linewidth=1, label=tenant, **ring)
            axes.set(title=panel, xlabel="N ended and N running of others", ylabel="requests")
            axes.set_ylim(bottom=0)
            axes.grid(visible=True, linewidth=0.3)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        figure.savefig(path, metadata={"Date": None, "Creator": None})
