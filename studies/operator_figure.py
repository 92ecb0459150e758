"""Draws docs/figures/operator.svg: a query's points, the corners they read, a tile's window."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

plt.rcParams.update({"svg.fonttype": "none", "font.size": 9, "svg.hashsalt": "dcnify"})

PLAIN = {"fc": "#eef4fb", "ec": "none", "pad": 1}
BLUE, ORANGE, GREY = "#1f5fa8", "#d9730d", "#b8b8b8"


def grid(axes, width, height):
    x, y = np.meshgrid(range(width), range(height))
    axes.scatter(x, y, s=9, color=GREY, zorder=1)
    axes.set_xlim(-1.2, width + 0.6)
    axes.set_ylim(height + 0.1, -1.1)
    axes.set_aspect("equal")
    axes.axis("off")


def sampling(axes):
    grid(axes, 9, 8)
    query = np.array([3.0, 3.0])
    offsets = np.random.default_rng(5).uniform(0.2, 0.45, (9, 2))
    offsets *= np.where(np.random.default_rng(1).random((9, 2)) < 0.5, -1, 1)
    offsets[8] = (2.45, 1.6)
    cells = np.array([(i - 1, j - 1) for i in range(3) for j in range(3)])
    for k, (cell, offset) in enumerate(zip(cells, offsets, strict=True)):
        start, end = query + cell, query + cell + offset
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": BLUE, "lw": 0.9})
        axes.scatter(*start, s=16, facecolors="none", edgecolors=BLUE, zorder=3)
        axes.scatter(*end, s=16, color=BLUE, zorder=4)
        axes.annotate(str(k), end + (0.1, -0.14), color=BLUE, fontsize=7)
    point = query + cells[8] + offsets[8]
    corner = np.floor(point)
    axes.add_patch(Rectangle(corner, 1, 1, fill=True, fc="#fbe5cf", ec=ORANGE, lw=1, zorder=0))
    names = ("hy·hx", "hy·lx", "ly·hx", "ly·lx")
    for name, (dx, dy) in zip(names, ((0, 0), (1, 0), (0, 1), (1, 1)), strict=True):
        axes.scatter(*(corner + (dx, dy)), s=30, color=ORANGE, zorder=3)
        side = "right" if dx == 0 else "left"
        place = corner + (dx + (0.12 if dx else -0.12), dy + (0.36 if dy else -0.2))
        axes.annotate(name, place, color=ORANGE, fontsize=7, ha=side)
    axes.scatter(*query, marker="s", s=34, color="black", zorder=5)
    axes.annotate(
        "query",
        query,
        (0.2, 6.0),
        fontsize=8,
        ha="center",
        arrowprops={"arrowstyle": "-", "lw": 0.6, "color": "black"},
    )
    axes.set_title("K = 9 points of one group of one query", fontsize=9)


def window(axes):
    grid(axes, 18, 16)
    axes.add_patch(Rectangle((0.5, 0.5), 16, 15, fill=True, fc="#eef4fb", ec=BLUE, lw=1, zorder=0))
    axes.add_patch(Rectangle((4.5, 5.5), 8, 4, fill=True, fc="#cfe0f3", ec=BLUE, lw=1.2, zorder=0))
    axes.annotate("4x8 queries", (8.5, 7.75), ha="center", fontsize=8)
    axes.annotate("window of 16x16 pixels:", (8.5, 2.0), ha="center", fontsize=8, bbox=PLAIN)
    axes.annotate(
        "summed before they are added to memory", (8.5, 3.0), ha="center", fontsize=7, bbox=PLAIN
    )
    for near in ((3.3, 4.4), (6.2, 11.7), (14.2, 8.6)):
        axes.scatter(*near, s=16, color=BLUE, zorder=4)
    axes.scatter(17.5, 12.4, s=16, color=ORANGE, zorder=4)
    axes.annotate("added one by one", (17.9, 12.4), color=ORANGE, fontsize=7, va="center")
    axes.set_title("the value's gradient", fontsize=9)


def main() -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3.3), width_ratios=(1, 1.15))
    sampling(left)
    window(right)
    figure.tight_layout()
    to = Path(__file__).parents[1] / "docs" / "figures" / "operator.svg"
    figure.savefig(to, metadata={"Date": None})


if __name__ == "__main__":
    main()
