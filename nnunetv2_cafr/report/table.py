"""One table, and how it is written: CSV in full precision, Markdown, LaTeX (booktabs), text for a page."""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from nnunetv2_cafr.report.analysis import SIGNIFICANCE
from nnunetv2_cafr.report.statistics import CONFIDENCE, Estimate

Value = str | int | float | Estimate | None
TEXT, P_VALUE = -1, -2  # instead of digits
MISSING = "\u2013"


@dataclass(frozen=True)
class Column:
    """A heading, and how its values are written: digits behind the point, TEXT or P_VALUE."""

    title: str
    digits: int = TEXT
    interval: bool = False  # values are Estimates
    signed: bool = False


@dataclass(frozen=True)
class Row:
    """`group` is the heading that it stands under; rows are sorted within it only. `printed` marks the paper's own."""

    values: Sequence[Value]
    group: str = ""
    printed: bool = False


@dataclass(frozen=True)
class Table:
    """`key` is the file's name, `group` says what the rows' groups are, for example "family"."""

    key: str
    title: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row] = field(default_factory=list)
    group: str = ""

    def csv(self) -> str:
        """Every number in full; an interval takes three columns."""
        headings = [self.group] if self.group else []
        for column in self.columns:
            headings += [column.title]
            if column.interval:
                headings += [f"{column.title}, {CONFIDENCE} % low", f"{column.title}, {CONFIDENCE} % high"]
        target = io.StringIO()
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(headings)
        for row in self.rows:
            cells: list[str | int | float] = [row.group] if self.group else []
            for column, value in zip(self.columns, row.values, strict=True):
                parts: list[Value] = [value]
                if column.interval:
                    parts = [value.mean, value.low, value.high] if isinstance(value, Estimate) else [None] * 3
                cells += ["" if is_missing(part) else part for part in parts]  # type: ignore[misc]
            writer.writerow(cells)
        return target.getvalue()

    def markdown(self) -> str:
        headings = [*([self.group] if self.group else []), *(column.title for column in self.columns)]
        marks = [*([":--"] if self.group else []), *(":--" if c.digits == TEXT else "--:" for c in self.columns)]
        lines = [headings, marks, *([*([row.group] if self.group else []), *self.texts(row)] for row in self.rows)]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"**{self.title}.** {self.caption}\n\n{body}\n"

    def latex(self) -> str:
        """A table float that needs the package booktabs."""
        kinds = "".join("l" if column.digits == TEXT else "r" for column in self.columns)
        lines = [
            "\\begin{table}",
            "\\centering",
            f"\\caption{{\\textbf{{{_latex(self.title)}.}} {_latex(self.caption)}}}",
            f"\\label{{tab:{self.key}}}",
            f"\\begin{{tabular}}{{{kinds}}}",
            "\\toprule",
            " & ".join(_latex(column.title) for column in self.columns) + " \\\\",
        ]
        group = None
        for row in self.rows:
            if row.group != group or group is None:
                group = row.group
                lines.append("\\midrule")
                if group:
                    lines.append(f"\\multicolumn{{{len(self.columns)}}}{{l}}{{\\textit{{{_latex(group)}}}}} \\\\")
            lines.append(" & ".join(map(_latex, self.texts(row))) + " \\\\")
        return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}", ""])

    def texts(self, row: Row) -> list[str]:
        """The row as people read it."""
        return [text_of(value, column) for value, column in zip(row.values, self.columns, strict=True)]


def is_missing(value: Value) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def number(value: float, column: Column) -> str:
    """A number with the column's digits and a real minus sign."""
    text = f"{value:{'+' if column.signed else ''},.{max(column.digits, 0)}f}"
    text = re.sub(r"^[+-](?=[0.,]*$)", "", text)  # no sign before a zero
    return text.replace("-", "\u2212")


def text_of(value: Value, column: Column) -> str:
    """A value as people read it; a dash where there is none."""
    if value is None or is_missing(value):
        return MISSING
    if isinstance(value, str):
        return value
    if isinstance(value, Estimate):
        if math.isnan(value.mean):
            return MISSING
        interval = "" if math.isnan(value.low) else f" {interval_text(value, column)}"
        return f"{number(value.mean, column)}{interval}"
    if column.digits == P_VALUE:
        return p_text(value)
    return number(value, column)


def interval_text(value: Estimate, column: Column) -> str:
    return f"[{number(value.low, column)}, {number(value.high, column)}]"


def p_text(p: float) -> str:
    """Three digits; a fourth one where rounding would reach the limit of significance."""
    if p < 0.001:
        return "< 0.001"
    if round(p, 3) >= SIGNIFICANCE > p:
        return f"{math.floor(p * 1e4) / 1e4:.4f}"
    return f"{p:.3f}"


_LATEX = {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "\u2212": "$-$",
    "\u2013": "--",
    "\u00d7": "$\\times$",
    "<": "$<$",
    ">": "$>$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
