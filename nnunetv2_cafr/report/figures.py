"""The figures of a study as SVG for a page: text stays text, nothing rests on colour alone, each is described in words.

Shapes, line styles, hatching and words carry the meaning, so a grey print says the same. All numbers are in the tables.
"""

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

from nnunetv2_cafr.evaluation.level_shifts import SHIFTS, draw_shares
from nnunetv2_cafr.report.analysis import SIGNIFICANCE, FamilyResults
from nnunetv2_cafr.report.patients import DICE, Measure
from nnunetv2_cafr.report.statistics import CONFIDENCE, Estimate
from nnunetv2_cafr.report.study import Cost, Curve
from nnunetv2_cafr.report.table import Table
from nnunetv2_cafr.spine import is_spine_table

INK, SOFT, LINE, ACCENT = "#1b1f24", "#6b7580", "#d5dae0", "#0b4f9e"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "nnunetv2_cafr",
    "font.family": "sans-serif",
    "font.sans-serif": ["Liberation Sans", "Arial", "Helvetica", "DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.7,
    "text.parse_math": False,  # a name may hold $
}
WIDTH = 12.4  # inches
MOST_POINTS = 100  # of a curve
LINES = ("-", "--", ":", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
TERMS = {"train_dice": "Dice term", "train_ce": "Cross-entropy term", "train_clr": "Contrastive term (unweighted)"}


@dataclass(frozen=True)
class Figure:
    """An SVG element, what it shows (beside it), and a description for those who cannot see it."""

    key: str
    svg: str
    caption: str
    description: str


def _figure(key: str, canvas: Canvas, caption: str, description: str) -> Figure:
    target = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    canvas.savefig(target, format="svg", transparent=True, metadata=nothing)
    svg = target.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    # Names of elements are unique on the page; groups need none.
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda match: f' id="{key}-{match[1]}"' if match[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{key}-", svg)
    svg = re.sub(r"<!--.*?-->\s*| xmlns(:xlink)?=\"[^\"]*\"", "", svg)  # HTML knows the name spaces
    # Positions are exact enough at a hundredth of a point; numbers in the text stay.
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), svg)
    return Figure(key, svg.strip(), caption, description)


def _canvas(height: float, rows: int, columns: int, **options: Any) -> tuple[Canvas, np.ndarray]:
    canvas = Canvas(figsize=(WIDTH, height), layout="constrained")
    return canvas, canvas.subplots(rows, columns, squeeze=False, **options)


def _rows_of_arms(axis: Axes, names: Sequence[str], reference: str | None) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color=LINE, linewidth=0.7)
    axis.set_axisbelow(True)
    for label in axis.get_yticklabels():
        if label.get_text() == reference:
            label.set_fontweight("bold")


@matplotlib.rc_context(STYLE)
def overview(key: str, family: FamilyResults, costs: Mapping[str, Cost]) -> Figure | None:
    """Means, differences and cost of a family, a row per arm, best first."""
    if DICE.key not in family.measures:
        return None
    found = family.measures[DICE.key]
    names = [arm.name for arm in family.arms]
    reference = family.reference.name if family.reference else None
    measured = [name for name in names if name in costs]
    widths = [1.25, 1.25] if reference else [1]
    widths += [0.75, 0.75] if measured else []
    canvas, axes = _canvas(0.95 + 0.3 * len(names), 1, len(widths), width_ratios=widths)
    panels = list(axes[0])
    for panel in panels:
        _rows_of_arms(panel, names, reference)
    for panel in panels[1:]:
        panel.set_yticklabels([])
    axis = panels.pop(0)
    for row, name in enumerate(names):
        estimate = found.means[name]
        filled = name not in found.comparisons or found.comparisons[name][1] < SIGNIFICANCE
        _interval(axis, row, estimate, name == reference, filled)
    if reference:
        axis.axvline(found.means[reference].mean, color=ACCENT, linewidth=1, linestyle=":")
    axis.set_title(f"{found.measure.heading}, mean over patients")
    if reference:
        axis = panels.pop(0)
        axis.axvline(0, color=ACCENT, linewidth=1, linestyle=":")
        for row, name in enumerate(names):
            if name in found.comparisons:
                one, p = found.comparisons[name]
                _interval(axis, row, one.difference, False, p < SIGNIFICANCE)
        axis.set_title(f"difference to {reference}, points")
    for axis, title, quantity in zip(
        panels,
        ("GMACs of a patch", "seconds a volume"),
        (lambda cost: cost.gmacs, lambda cost: cost.volume_ms / 1e3),
        strict=False,
    ):
        rows = [row for row, name in enumerate(names) if name in costs]
        values = [quantity(costs[name]) for name in measured]
        axis.barh(rows, values, 0.5, color=[ACCENT if name == reference else "#aab4bf" for name in measured])
        for row, value in zip(rows, values, strict=True):
            axis.text(value, row, f" {value:.3g}", va="center", fontsize=9)
        axis.set_xlim(0, 1.2 * max(values))
        axis.set_title(title)
    caption = (
        f"{family.name}: mean and {CONFIDENCE} % interval of every arm, its paired difference to {reference}, and its "
        f"cost. Filled: p < {SIGNIFICANCE} after Holm's correction; hollow: not. Diamond and dotted line: {reference}."
        if reference
        else f"{family.name}: mean and {CONFIDENCE} % interval."
    )
    description = f"{found.measure.heading}, best first: " + "; ".join(
        f"{name} {found.means[name].mean:.2f}" for name in names
    )
    return _figure(key, canvas, caption, f"{description}. The numbers are in the table of results.")


def _interval(axis: Axes, row: float, estimate: Estimate, is_reference: bool, filled: bool) -> None:
    colour = ACCENT if is_reference else INK
    if np.isfinite(estimate.low):
        axis.plot([estimate.low, estimate.high], [row, row], color=colour, linewidth=1.6, solid_capstyle="butt")
    face = colour if filled else "white"
    shape = "D" if is_reference else "o"
    axis.plot([estimate.mean], [row], shape, color=colour, markerfacecolor=face, markersize=6.5, zorder=3)


@matplotlib.rc_context(STYLE)
def differences(key: str, family: FamilyResults) -> Figure | None:
    """Every patient's difference to the reference, for each tested measure."""
    if family.reference is None or not family.measures:
        return None
    names = [arm.name for arm in family.arms if arm is not family.reference]
    per_row = min(4, len(family.measures))
    rows = -(-len(family.measures) // per_row)
    canvas, axes = _canvas(rows * (1.1 + 0.42 * len(names)), rows, per_row)
    for axis, found in itertools.zip_longest(axes.flat, family.measures.values()):
        if found is None:
            axis.set_visible(False)
            continue
        _rows_of_arms(axis, names, None)
        if axis not in axes[:, 0]:
            axis.set_yticklabels([])
        axis.axvline(0, color=ACCENT, linewidth=1, linestyle=":")
        for row, name in enumerate(names):
            points = (found.values[name] - found.values[family.reference.name]).to_numpy()
            spread = 0.26 * np.sin(np.arange(len(points)) * 2.4)  # apart, in the same way each time
            axis.plot(points, row + spread, "o", color=SOFT, markersize=2.6, alpha=0.55, markeredgewidth=0)
            one, p = found.comparisons[name]
            _interval(axis, row, one.difference, False, p < SIGNIFICANCE)
        largest = max(abs(limit) for limit in axis.get_xlim())
        axis.set_xlim(-largest, largest)
        worse, better = ("worse", "better") if found.measure.higher_is_better else ("better", "worse")
        axis.set_title(found.measure.heading)
        axis.set_xlabel(f"\u2190 {worse}\u2003\u2003\u2003{better} \u2192", fontsize=9)
    caption = (
        f"{family.name}: each small dot is a patient, arm minus {family.reference.name}. Circles: mean with its "
        f"{CONFIDENCE} % interval, filled where p < {SIGNIFICANCE} after Holm's correction. Each scale has its own "
        "range, with 0 in the middle."
    )
    text = f"Differences to {family.reference.name}. Means, intervals and tests are in the table of comparisons."
    return _figure(key, canvas, caption, text)


@matplotlib.rc_context(STYLE)
def rank_shares(key: str, family: FamilyResults) -> Figure | None:
    """How often each arm takes each rank when patients are drawn again."""
    if family.reference is None or DICE.key not in family.measures:
        return None
    found = family.measures[DICE.key].ranking
    names = [arm.name for arm in family.arms]
    canvas, axes = _canvas(1 + 0.3 * len(names), 1, 1)
    axis = axes[0, 0]
    _rows_of_arms(axis, names, family.reference.name)
    for row, name in enumerate(names):
        for rank, share in found.shares.loc[name].items():
            if share >= 0.01:
                axis.barh(row, 0.92 * share, 0.62, left=rank - 0.46, color="#aab4bf")
                axis.text(rank - 0.44, row, f"{100 * share:.0f}", va="center", fontsize=9, color=INK)
        axis.plot([found.rank[name] - 0.48] * 2, [row - 0.38, row + 0.38], color=ACCENT, linewidth=2.4)
    axis.set_xticks(range(1, len(names) + 1))
    axis.set_xlim(0.4, len(names) + 0.6)
    axis.set_xlabel("rank")
    caption = (
        f"{family.name}, {DICE.heading}: share of draws in percent in which an arm takes a rank. The thick line "
        "marks its rank by all patients."
    )
    return _figure(key, canvas, caption, "Shares of ranks. Ranks and their ranges are in the table of rankings.")


@matplotlib.rc_context(STYLE)
def class_dice(key: str, family: FamilyResults, table: Table) -> Figure:
    """Dice of every class, a panel per arm with the reference's line in each."""
    names = [column.title for column in table.columns[2:]]
    values = {
        name: np.array([row.values[index] for row in table.rows], dtype=float) for index, name in enumerate(names, 2)
    }
    labels = [str(row.values[0]) for row in table.rows]
    per_row = min(3, len(names))
    rows = -(-len(names) // per_row)
    canvas, axes = _canvas(0.4 + 2.0 * rows, rows, per_row, sharex=True, sharey=True)
    reference = family.reference.name if family.reference else None
    places = np.arange(len(labels))
    for axis, name in itertools.zip_longest(axes.flat, names):
        if name is None:
            axis.set_visible(False)
            continue
        if reference and name != reference:
            axis.plot(places, values[reference], color=SOFT, linewidth=1, linestyle="--", label=reference)
        axis.plot(places, values[name], "D-" if name == reference else "o-", color=INK, linewidth=1, markersize=3.6)
        axis.set_title(name)
        axis.grid(axis="y", color=LINE, linewidth=0.7)
        axis.set_xticks(places, labels, rotation=90, fontsize=8)
        axis.tick_params(labelbottom=True)
    axes[0, 0].set_ylabel("Dice, %")
    order = "from the sacrum upwards" if is_spine_table(labels) else "in the order of the label table"
    caption = f"{family.name}: mean Dice of each class, {order}."
    if reference:
        caption += f" Dashed: {reference}."
    return _figure(key, canvas, caption, f"Dice by class. The numbers are in the table {table.title}.")


@matplotlib.rc_context(STYLE)
def level_errors(key: str, table: Table) -> Figure:
    """Bars of right, shifted, other and missed vertebrae."""
    names = [str(row.values[0]) for row in table.rows]
    canvas, axes = _canvas(1.2 + 0.3 * len(names), 1, 1)
    axis = axes[0, 0]
    left = np.zeros(len(names))
    looks = (("#e4e8ec", ""), ("#ffffff", "////"), ("#ffffff", "\\\\\\\\"), ("#ffffff", "...."), ("#3c444d", ""))
    for column, (colour, hatch) in enumerate(looks, 2):
        widths = np.array([row.values[column] for row in table.rows], dtype=float)
        label = table.columns[column].title.removesuffix(", %")
        axis.barh(range(len(names)), widths, 0.62, left=left, color=colour, hatch=hatch, edgecolor=INK, label=label)
        left += widths
    for row, values in enumerate(table.rows):
        look = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axis.text(0.8, row, f"{values.values[2]:.1f} %", va="center", fontsize=9, bbox=look)
    _rows_of_arms(axis, names, None)
    axis.set_xlim(0, 100)
    axis.set_xlabel("percent of the reference's vertebrae")
    canvas.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    caption = "Every vertebra of the reference by what became of it; the number is the share at the right level."
    return _figure(key, canvas, caption, f"Level errors. The numbers are in the table {table.title}.")


@matplotlib.rc_context(STYLE)
def level_shifts(key: str, table: Table) -> Figure:
    """Confusion by level shift, for each arm as predicted and after level decoding."""
    counts = pd.DataFrame(
        [row.values[3 : 3 + len(SHIFTS)] for row in table.rows],
        index=[f"{row.values[0]}, {row.values[1]}" for row in table.rows],
        columns=list(SHIFTS),
    )
    canvas, axes = _canvas(0.9 + 0.3 * len(counts), 1, 1)
    draw_shares(axes[0, 0], counts)
    caption = (
        "What the vertebrae of the reference are called, in levels too low (\u2212) or too high (+), as predicted and "
        "after level decoding from the labels alone. The darker, the more; the right ones are not coloured. Missed: "
        "not found; extra: found where the reference has none."
    )
    return _figure(key, canvas, caption, f"Level shifts. The numbers are in the table {table.title}.")


@matplotlib.rc_context(STYLE)
def fractions(key: str, family: FamilyResults, by_share: Mapping[float, FamilyResults]) -> Figure:
    """Dice against the share of patients that was trained on."""
    shares = sorted(by_share)
    canvas, axes = _canvas(3.6, 1, 1)
    axis = axes[0, 0]
    measure: Measure = DICE
    for index, arm in enumerate(family.arms):
        points = [
            (100 * share, by_share[share].measures[measure.key].means[arm.name])
            for share in shares
            if measure.key in by_share[share].measures and arm.name in by_share[share].measures[measure.key].means
        ]
        if not points:
            continue
        x, estimates = zip(*points, strict=True)
        means = [estimate.mean for estimate in estimates]
        is_reference = arm is family.reference
        axis.plot(
            x,
            means,
            linestyle=LINES[index % len(LINES)],
            marker=MARKERS[index % len(MARKERS)],
            color=ACCENT if is_reference else INK,
            linewidth=2 if is_reference else 1,
            markersize=5,
            label=arm.name,
        )
    axis.set_xscale("log")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("patients trained on, percent; logarithmic")
    axis.set_ylabel(measure.heading)
    axis.set_xticks([100 * share for share in shares], [f"{100 * share:g}" for share in shares])
    axis.grid(color=LINE, linewidth=0.7)
    canvas.legend(*axis.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    caption = f"{family.name}: mean {measure.title} by the share of patients trained on, on the same validation cases."
    return _figure(key, canvas, caption, "Dice by share of the data. The numbers are in the tables of these sections.")


@matplotlib.rc_context(STYLE)
def learning(key: str, arms: Sequence[str], curves: Mapping[str, Sequence[Curve]]) -> Figure | None:
    """Losses and nnU-Net's online Dice of every arm: mean of its trainings, and their range."""
    names = [arm for arm in arms if any("train_losses" in curve.values for curve in curves.get(arm, ()))]
    if not names:
        return None
    per_row = min(4, len(names))
    rows = -(-len(names) // per_row)
    canvas, axes = _canvas(0.5 + 2.1 * rows, rows, per_row)
    handles: list = []
    for axis, name in itertools.zip_longest(axes.flat, names):
        if name is None:
            axis.set_visible(False)
            continue
        right = axis.twinx()
        right.spines["right"].set_visible(True)
        right.set_ylim(0, 1)
        handles = [
            *_curve(axis, curves[name], "train_losses", INK, "-", "training loss"),
            *_curve(axis, curves[name], "val_losses", INK, "--", "validation loss"),
            *_curve(right, curves[name], "ema_fg_dice", ACCENT, ":", "online Dice, smoothed (right)"),
        ] or handles
        axis.set_title(f"{name} ({len(curves[name])} trainings)" if len(curves[name]) > 1 else name)
        axis.set_xlabel("epoch", fontsize=9)
    canvas.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    caption = (
        "Mean over folds and seeds; bands: smallest to largest. Losses of different networks are different sums (deep "
        "supervision, the contrastive term), so only their course compares. The online Dice is nnU-Net's estimate from "
        "patches, not the result."
    )
    return _figure(key, canvas, caption, "Training curves of " + ", ".join(names))


@matplotlib.rc_context(STYLE)
def loss_terms(key: str, arms: Sequence[str], curves: Mapping[str, Sequence[Curve]]) -> Figure | None:
    """The three terms of the loss, for the arms that log them."""
    names = [arm for arm in arms if any("train_dice" in curve.values for curve in curves.get(arm, ()))]
    if not names:
        return None
    canvas, axes = _canvas(3.6, 1, len(TERMS))
    handles = {}
    for axis, (term, title) in zip(axes[0], TERMS.items(), strict=True):
        for index, name in enumerate(names):
            style = LINES[index % len(LINES)]
            marker = MARKERS[index % len(MARKERS)]
            for line in _curve(axis, curves[name], term, ACCENT if index == 0 else INK, style, name, marker):
                handles[name] = line
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.grid(axis="y", color=LINE, linewidth=0.7)
    canvas.legend(handles=list(handles.values()), loc="outside lower center", ncols=5, frameon=False)
    caption = (
        "The three loss terms in training, mean over folds and seeds, before their weights. Where the contrastive "
        "weight is 0, its term is not trained."
    )
    return _figure(key, canvas, caption, "Loss terms of " + ", ".join(names))


def _curve(
    axis: Axes, curves: Sequence[Curve], key: str, colour: str, style: Any, label: str, marker: str = ""
) -> list:
    """Draws mean and range over trainings; early ends leave the others."""
    series = [np.array(curve.values[key], dtype=float) for curve in curves if len(curve.values.get(key, ()))]
    if not series:
        return []
    together = np.full((len(series), max(map(len, series))), np.nan)
    for row, values in zip(together, series, strict=True):
        row[: len(values)] = values
    epochs = np.unique(np.linspace(0, together.shape[1] - 1, MOST_POINTS).astype(int))
    together = together[:, epochs]
    shown = np.isfinite(together).any(0)
    if not shown.any():
        return []
    epochs, together = epochs[shown], together[:, shown]
    if len(series) > 1:
        low, high = np.nanmin(together, 0), np.nanmax(together, 0)
        axis.fill_between(epochs, low, high, color=colour, alpha=0.13, linewidth=0)
    every = max(1, len(epochs) // 8)
    marker = marker or ("." if len(epochs) == 1 else "")  # a line of one point is none
    mean = np.nanmean(together, 0)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    return axis.plot(
        epochs, mean, color=colour, linestyle=style, label=label, linewidth=1.3, marker=marker, markevery=every,
        markersize=4.5,
    )  # fmt: skip
