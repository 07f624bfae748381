"""A model's card: what a person has to know before they use a network that somebody else trained.

The fields follow model cards (Mitchell et al., FAT* 2019) as far as they apply. A person fills them in a YAML file;
what the export knows itself (labels, voxel orders and spacing of the training cases) is not asked for.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FIELDS = {
    "name": "what it is called; letters, digits, _, - and .",
    "version": "of the model, such as 1.0.0",
    "data": "what it was trained on: source, number of patients, sequences",
    "data_licence": "of the training data, which may bind the model",
    "citation": "what to cite",
    "intended_use": "for what, and for what not",
    "metrics": "on held-out data: a text, numbers by name, or the CSV file of a table, beside the card",
}
NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)  # becomes that of a folder
WARNING = "For research only. Not a medical device: it must not be used for diagnosis or treatment."
EXAMPLE = "\n".join(f"  {name}: ...  # {meaning}" for name, meaning in FIELDS.items())


def read_card(file: Path) -> dict[str, Any]:
    """A card from its YAML file, with the table that `metrics` may name.

    Raises:
        ValueError: if it cannot be read, or a field is missing, empty or unknown; names them all.
    """
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{file} cannot be read as YAML ({error}). Expected is\n{EXAMPLE}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no fields. Expected is\n{EXAMPLE}")
    missing = [name for name in FIELDS if content.get(name) in (None, "", [], {})]
    unknown = [str(name) for name in content if name not in FIELDS]
    if missing or unknown:
        lacks = f"lacks {', '.join(missing)}" if missing else ""
        holds = f"holds the unknown {', '.join(unknown)}" if unknown else ""
        raise ValueError(f"{file} {' and '.join(filter(None, (lacks, holds)))}. Expected is\n{EXAMPLE}")
    card = {name: content[name] if name == "metrics" else str(content[name]) for name in FIELDS}
    if not NAME.fullmatch(card["name"]):
        raise ValueError(f"{file}: the name {card['name']!r} is none for a folder; expected {FIELDS['name']}")
    metrics = card["metrics"]
    if isinstance(metrics, str) and metrics.endswith(".csv"):
        card["metrics"] = _table(file.parent / metrics)
    json.dumps(card, default=_refuse(file))
    return {**card, "warning": WARNING}


def card_faults(card: Any) -> Iterator[str]:
    """What is wrong with the card of an exported network, which may come from anybody; a line each."""
    if not isinstance(card, Mapping):
        yield f"its card is a {type(card).__name__}; expected an object"
        return
    for name in FIELDS:
        if name != "metrics" and not isinstance(card.get(name), str):
            yield f"{name} of its card is {card.get(name)!r}; expected a text"
    if isinstance(card.get("name"), str) and not NAME.fullmatch(card["name"]):
        yield f"name of its card is {card['name']!r}, which is none for a folder; expected {FIELDS['name']}"
    metrics = card.get("metrics")
    table = isinstance(metrics, list) and metrics and all(isinstance(row, Mapping) for row in metrics)
    if not (table or isinstance(metrics, str | int | float | Mapping)):
        yield f"metrics of its card is {metrics!r}; expected a text, numbers by name, or rows of a table"


def _table(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(encoding="utf-8", newline="") as text:
            rows = list(csv.DictReader(text))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"metrics: {file} cannot be read ({error})") from error
    if not rows:
        raise ValueError(f"metrics: {file} has no rows; expected a table with a header")
    return rows


def _refuse(file: Path) -> Any:
    def refuse(value: object) -> None:
        raise ValueError(f"{file}: metrics holds {value!r}; expected text and numbers")

    return refuse


def describe_model(content: Mapping[str, Any]) -> str:
    """The card of an exported network and what its description says, for reading."""
    card = content.get("card") or {}
    lines = [
        f"{card['name']} {card['version']}" if card else "no card: nobody says what it was trained on, or how well"
    ]
    lines.append(WARNING)
    for name in ("intended_use", "data", "data_licence", "citation"):
        if name in card:
            lines.append(f"{name.replace('_', ' ')}: {card[name]}")
    labels = ", ".join(f"{name} {value}" for name, value in content["dataset_json"]["labels"].items() if value != 0)
    orders = content.get("training_voxel_orders") or {}
    lines.append(f"labels: {labels}")
    lines.append(f"channels: {', '.join(map(str, content['channel_names'].values()))}")
    lines.append(
        "voxel order: any, scans are turned"
        if content.get("voxel_order")
        else f"voxel order: as the training cases ({', '.join(orders) or 'unknown'}); others are not turned"
    )
    if spacing := content.get("training_spacing"):
        low, high = (" x ".join(f"{step:.3g}" for step in spacing[end]) for end in ("smallest", "largest"))
        lines.append(f"spacing of the training cases, in mm: {low} to {high}")
    if heights := content.get("training_heights"):
        lines.append("height of the training cases, in mm: {:.0f} to {:.0f}".format(*heights))
    training = f"{content.get('trainer')}, {content.get('dataset')} {content.get('configuration')}"
    lines.append(f"training: {training}, folds {' '.join(map(str, content.get('folds', ())))}")
    lines.append(f"SHA-256 of the network: {content.get('sha256')}")
    if card:
        lines += ["metrics on held-out data:", *_metrics(card["metrics"])]
    text = "\n".join(lines)  # of whoever packed it: codes that clear or colour a terminal could hide the warning
    return "".join(one if one.isprintable() or one == "\n" else "?" for one in text)


def _metrics(metrics: Any) -> list[str]:
    if isinstance(metrics, Mapping):
        return [f"  {name}: {value}" for name, value in metrics.items()]
    if not isinstance(metrics, list):
        return [f"  {metrics}"]
    rows = [list(metrics[0]), *(["" if cell is None else str(cell) for cell in row.values()] for row in metrics)]
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(len(rows[0]))]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in rows]
