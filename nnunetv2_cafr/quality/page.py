"""The page: one HTML file that needs nothing else, from the reports of the cases and the findings.

Text stands beside every colour, names are escaped, and a content security policy forbids the page to load anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template

import numpy as np

from nnunetv2_cafr import spine as levels
from nnunetv2_cafr.quality import checks, comparison
from nnunetv2_cafr.quality.dataset import RawDataset
from nnunetv2_cafr.quality.findings import Finding, Severity, count_severities
from nnunetv2_cafr.quality.inspection import CaseReport
from nnunetv2_cafr.quality.measures import SLICE_RATIO
from nnunetv2_cafr.quality.picture import Picture
from nnunetv2_cafr.spine import colour_of

GENERATOR = "nnUNetv2_cafr check"  # by this mark a folder is known as one of ours
MOST_BINS = 24
HISTOGRAM = (336, 44)  # pixels


def render(dataset: RawDataset, cases: Sequence[CaseReport], findings: Sequence[Finding], when: str) -> str:
    """The page as text. `findings` are all findings, sorted; `when` says when and by which version it was made."""
    by_case: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_case[finding.case].append(finding)
    listed = {case.identifier for case in cases}
    homeless = [finding for finding in findings if finding.case not in listed]
    order = sorted(cases, key=lambda case: (*_gravity(by_case[case.identifier]), case.identifier))
    anchors = {case.identifier: f"case-{number}" for number, case in enumerate(order, 1)}
    style, script, template = (
        files(__package__).joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js", "page.html")
    )
    titles = (
        "Case",
        "Set",
        "Errors",
        "Warnings",
        "Notes",
        "Checks",
        "Size",
        "Spacing, mm",
        "Orientation",
        "Structures",
    )
    return Template(template).substitute(
        generator=GENERATOR,
        title=escape(dataset.folder.name),
        css=style,
        script=script,
        origin=f"{escape(str(dataset.folder))}<br>{escape(when)}",
        totals=_totals(cases, findings),
        dataset_findings=_dataset_findings(homeless),
        headings="".join(
            f'<th scope="col"{_class(title)}><button type="button">{title}</button></th>' for title in titles
        ),
        rows="".join(_row(case, by_case[case.identifier], anchors[case.identifier]) for case in order),
        volumes=_volumes(cases, anchors),
        cards="".join(_card(case, by_case[case.identifier], anchors) for case in order),
        checks=_checks(dataset),
        footer=f"Made by {GENERATOR}. The same findings are in findings.csv beside this page.",
    )


def _gravity(findings: Iterable[Finding]) -> tuple[int, ...]:
    """Sort key: most errors first, then most warnings, then most notes."""
    return tuple(-count for count in count_severities(findings).values())


def _class(title: str) -> str:
    return ' class="number"' if title in ("Errors", "Warnings", "Notes", "Structures") else ""


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _totals(cases: Sequence[CaseReport], findings: Sequence[Finding]) -> str:
    training = sum(case.training for case in cases)
    counts = count_severities(findings)
    boxes = [("", training, "training cases"), ("", len(cases) - training, "test cases")]
    boxes += [(severity.word if count else "", count, f"{severity.word}s") for severity, count in counts.items()]
    if counts[Severity.ERROR]:
        verdict = "Correct the errors before you train: the cases concerned come first below."
    elif counts[Severity.WARNING]:
        verdict = "No errors. Look at the warnings before you train: the cases concerned come first below."
    elif counts[Severity.NOTE]:
        verdict = "No errors and no warnings. Notes are unusual, and often right."
    else:
        verdict = "Nothing was found."
    return "".join(f'<li class="{kind}"><b>{count}</b> {word}</li>' for kind, count, word in boxes) + (
        f'<li class="verdict">{verdict}</li>'
    )


def _dataset_findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    return (
        f'<section aria-labelledby="whole"><h2 id="whole">Data set as a whole</h2>{_finding_list(findings)}</section>'
    )


def _finding_list(findings: Sequence[Finding]) -> str:
    items = []
    for finding in findings:
        what = escape(finding.check) + (f": {escape(finding.structure)}" if finding.structure else "")
        items.append(
            f'<li class="{finding.severity.word}">{_tag(finding.severity)} <span class="what">{what}</span> '
            f"<code>{escape(finding.file)}</code>"
            f"<p>Found: {escape(finding.found)}. Expected: {escape(finding.expected)}.</p>"
            f"<p>To do: {escape(finding.remedy)}.</p></li>"
        )
    return f'<ul class="findings">{"".join(items)}</ul>'


def _tag(severity: Severity, text: str = "") -> str:
    return f'<span class="tag {severity.word}">{text or severity.word}</span>'


def _row(case: CaseReport, findings: Sequence[Finding], anchor: str) -> str:
    counts = count_severities(findings)
    worst = max((finding.severity for finding in findings), default=-1)
    names = dict.fromkeys(f"{finding.check}: {finding.structure}".removesuffix(": ") for finding in findings)
    geometry = case.geometry
    numbers = "".join(f'<td class="number{"" if count else " zero"}">{count}</td>' for count in counts.values())
    return (
        f'<tr data-worst="{int(worst)}" data-card="{anchor}"><td class="name">'
        f'<a href="#{anchor}">{escape(case.identifier)}</a></td><td>{_set(case)}</td>{numbers}'
        f'<td class="checks">{escape("; ".join(names)) or "none"}</td>'
        f'<td class="grid">{" x ".join(map(str, geometry.size)) if geometry else "unreadable"}</td>'
        f'<td class="grid">{_spacing(geometry.spacing) if geometry else ""}</td>'
        f"<td>{geometry.orientation if geometry else ''}</td>"
        f'<td class="number">{len(case.structures) if case.mask_file else "no mask"}</td></tr>'
    )


def _set(case: CaseReport) -> str:
    return "training" if case.training else "test"


def _spacing(spacing: Sequence[float]) -> str:
    return " x ".join(f"{step:.3g}" for step in spacing)


def _colour(name: str, label: int) -> str:
    return "#{:02X}{:02X}{:02X}".format(*colour_of(name, label))


def _card(case: CaseReport, findings: Sequence[Finding], anchors: dict[str, str]) -> str:
    tags = "".join(
        _tag(severity, _plural(count, severity.word)) for severity, count in count_severities(findings).items() if count
    )
    body = _finding_list(findings) if findings else '<p class="quiet">No findings.</p>'
    return (
        f'<article class="card" id="{anchors[case.identifier]}" aria-labelledby="{anchors[case.identifier]}-name">'
        f'<header><h3 id="{anchors[case.identifier]}-name">{escape(case.identifier)}</h3>'
        f'<span class="quiet">{_set(case)}</span>{tags}<a class="top" href="#overview">to the table</a></header>'
        f'<div class="columns">{_figure(case, findings)}<div>{body}{_facts(case)}{_structures(case)}</div></div>'
        "</article>"
    )


def _figure(case: CaseReport, findings: Sequence[Finding]) -> str:
    picture = case.picture
    if picture is None:
        return '<p class="quiet">No picture: the image cannot be read.</p>'
    shown = ", ".join(outline.name for outline in picture.outlines) or "no structure"
    text = escape(f"{case.identifier}, {picture.what}, with the contours of {shown}")
    marked = {name for f in findings if f.severity > Severity.NOTE for name in f.structure.split(", ")}
    note = "; dashed and marked by !: errors and warnings" if marked & set(case.names) else ""
    # At most 440 pixels wide and 480 high, in the proportions of the patient.
    width = min(440, 480 * picture.width / picture.height)
    return (
        f'<figure><div class="picture" style="max-width:{width:.0f}px;aspect-ratio:{picture.width:.1f}/'
        f'{picture.height:.1f}"><img loading="lazy" decoding="async" src="data:image/jpeg;base64,{picture.jpeg}" '
        f'alt="{text}">{_overlay(picture, marked)}</div>'
        f"<figcaption>{escape(picture.what)}, {picture.width:.0f} x {picture.height:.0f} mm{note}</figcaption></figure>"
    )


def _overlay(picture: Picture, marked: Collection[str]) -> str:
    """Contours and names over the picture; `marked` ones, of errors and warnings, are dashed and have a "!".

    Names of discs, which are flat, stand in front of them (at the left).
    """
    letter = max(picture.width, picture.height) / 44
    drawn, texts = [], []
    for outline in picture.outlines:
        mark = ' class="marked"' if outline.name in marked else ""
        drawn.append(
            f'<path class="dark" d="{outline.path}"/>'
            f'<path{mark} stroke="{_colour(outline.name, outline.label)}" d="{outline.path}"/>'
        )
        x, y = outline.centre
        anchor = "middle"
        if levels.neighbours_of_disc(outline.name):
            x, anchor = outline.box[0] - letter / 3, "end"
        texts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(outline.name)}{" !" if mark else ""}</text>'
        )
    return (
        f'<svg viewBox="0 0 {picture.width:.1f} {picture.height:.1f}" preserveAspectRatio="none" aria-hidden="true" '
        f'font-size="{letter:.1f}" stroke-width="{letter / 5:.2f}">{"".join(drawn)}{"".join(texts)}</svg>'
    )


def _facts(case: CaseReport) -> str:
    facts = []
    if case.geometry is not None:
        geometry = case.geometry
        plane = {"none": "voxels nearly cubic", "2-D": "two-dimensional"}.get(
            geometry.plane, f"{geometry.plane} slices"
        )
        facts += [
            ("Size", " x ".join(map(str, geometry.size)) + " voxels (x, y, z)"),
            ("Spacing", f"{_spacing(geometry.spacing)} mm"),
            ("Orientation", f"{geometry.orientation}, {plane}" if geometry.orientation != "2-D" else plane),
        ]
    for number, grey in enumerate(case.intensities):
        name = "Grey values" if len(case.intensities) == 1 else f"Channel {number}"
        facts.append(
            (
                name,
                f"{grey.minimum:.4g} to {grey.maximum:.4g}; 1 % {grey.percentile_1:.4g}, median {grey.median:.4g}, "
                f"99 % {grey.percentile_99:.4g} ({grey.data_type})",
            )
        )
    if case.patient is not None:
        facts.append(("Patient", case.patient))
    facts.append(("Files", ", ".join([*case.image_files, case.mask_file or "no mask"])))
    return '<dl class="facts">' + "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in facts) + "</dl>"


def _structures(case: CaseReport) -> str:
    if not case.structures:
        return ""
    rows = "".join(
        f'<tr><td><span class="swatch" style="background:{_colour(s.name, s.label)}"></span>{escape(s.name)}</td>'
        f'<td class="number">{s.label}</td><td class="number">{s.voxels:,}</td><td class="number">{s.volume:.2f}</td>'
        f'<td class="number">{len(s.pieces)}</td><td>{"cut by the border" if s.cut else ""}</td></tr>'
        for s in case.structures
    )
    return (
        '<div class="tables"><table><thead><tr><th scope="col">Structure</th><th scope="col" class="number">Label</th>'
        '<th scope="col" class="number">Voxels</th><th scope="col" class="number">ml</th>'
        f'<th scope="col" class="number">Pieces</th><th scope="col"></th></tr></thead><tbody>{rows}</tbody></table>'
        "</div>"
    )


def _volumes(cases: Sequence[CaseReport], anchors: dict[str, str]) -> str:
    odd: dict[str, dict[str, float]] = defaultdict(dict)
    for finding, identifier, volume in comparison.unusual_volumes(cases):
        odd[finding.structure][identifier] = volume
    rows = []
    for name, found in comparison.volumes(cases).items():
        ml = np.array([volume for _, volume, _ in found])
        links = ", ".join(
            f'<a href="#{anchors[identifier]}">{escape(identifier)}</a> ({volume:.3g} ml)'
            for identifier, volume in sorted(odd[name].items(), key=lambda pair: pair[1])
        )
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th><td class="number">{len(ml)}</td>'
            f'<td class="number">{sum(cut for _, _, cut in found)}</td>'
            f'<td class="number">{ml.min():.3g}</td><td class="number">{np.median(ml):.3g}</td>'
            f'<td class="number">{ml.max():.3g}</td>'
            f"<td>{_histogram(name, ml, list(odd[name].values()))}</td><td>{links or 'none'}</td></tr>"
        )
    if not rows:
        return '<p class="quiet">No structures: there are no masks, or they are empty.</p>'
    return (
        '<div class="scroll"><table><caption>Millilitres of each structure in all cases. Each histogram runs from the '
        "least to the most; the thin line is the median, and white bars with a black border hold unusual volumes."
        '</caption><thead><tr><th scope="col">Structure</th><th scope="col" class="number">Cases</th>'
        '<th scope="col" class="number">Cut by<br>the border</th><th scope="col" class="number">Least</th>'
        '<th scope="col" class="number">Median</th><th scope="col" class="number">Most</th>'
        '<th scope="col">Histogram</th><th scope="col">Unusual</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _histogram(name: str, ml: np.ndarray, odd: Sequence[float]) -> str:
    width, height = HISTOGRAM
    low, high = float(ml.min()), float(ml.max())
    if high <= low:
        return '<span class="quiet">all equal</span>' if len(ml) > 1 else '<span class="quiet">one case</span>'
    bins = int(np.clip(2 * len(ml) ** 0.5, 4, MOST_BINS))
    counts, edges = np.histogram(ml, bins, (low, high))
    unusual, _ = np.histogram(odd, bins, (low, high))
    step = width / bins
    bars = "".join(
        f'<rect class="{"odd" if strange else "usual"}" x="{k * step + 1:.1f}" y="{height - bar:.1f}" '
        f'width="{step - 2:.1f}" height="{bar:.1f}">'
        f"<title>{edges[k]:.3g} to {edges[k + 1]:.3g} ml: {_plural(int(count), 'case')}</title>"
        "</rect>"
        for k, (count, strange) in enumerate(zip(counts, unusual, strict=True))
        if (bar := 0.9 * height * count / counts.max())
    )
    median = (float(np.median(ml)) - low) / (high - low) * width
    return (
        f'<svg class="histogram" width="{width}" height="{height}" role="img" aria-label="Histogram of the volume of '
        f'{escape(name)}, {low:.3g} to {high:.3g} ml">{bars}<line x1="{median:.1f}" x2="{median:.1f}" y1="0" '
        f'y2="{height}"/><line x1="0" x2="{width}" y1="{height - 0.5}" y2="{height - 0.5}"/></svg>'
    )


def _checks(dataset: RawDataset) -> str:
    spine = levels.is_spine_table(dataset.labels.names.values())
    done = [
        "Files: all are readable; every case has all channels and, in training, a mask; numTraining is right.",
        "dataset.json: nnU-Net's own classes take its labels, regions and channels and have a reader for its files; "
        "each training case passes nnU-Net's own check, and each label occurs in one of them.",
        "Mask and image lie on the same grid; labels are whole numbers of dataset.json; no mask is empty.",
        f"Grids: orientation, spacing and size as most cases have; spacing within "
        f"{comparison.SPACING_FACTOR:g} times the median. "
        f"Slices count as thick where they lie {SLICE_RATIO:g} times farther apart than the next largest spacing.",
        f"Grey values: no constant image or slice; clipped where at least {checks.CLIPPED_SHARE:.1%} of the voxels "
        f"hold the largest value, {checks.CLIPPED_RATIO:g} times more than the 1/256 of the range below it; at least "
        f"{checks.FEWEST_GREY_VALUES} grey values.",
        f"Islands: pieces (26 neighbours) beside a structure's largest one; a note where all have fewer than "
        f"{checks.TINY_VOXELS} voxels or less than {checks.TINY_SHARE:.0%} of the structure, a warning otherwise.",
        f"Volumes: unusual where {comparison.VOLUME_DEVIATIONS:g} robust standard deviations of the logarithm from "
        f"the median, with at least {comparison.FEWEST_VOLUMES} cases; structures cut by the upper or lower border are "
        f"left out. A structure that {comparison.USUAL_SHARE:.0%} of the cases have is noted where it is absent.",
        "Duplicates: the same image under another name, header, data type or compression, with grey values rescaled, "
        "mirrored, or with other axes. Copies that were resampled, cropped or lossily compressed are not recognised.",
    ]
    left_out = []
    if spine:
        done += [
            f"Levels: upwards in the order of their names, to within {checks.ORDER_TOLERANCE:g} mm, by the header's "
            "direction; none missing between two others; thick slices are sagittal.",
            f"Discs: less than {checks.TOUCH:g} mm from one of their two vertebrae, from surface to surface. Sacrum: "
            f"several bones, so only pieces more than {checks.SACRAL_GAP:g} mm from the others are islands.",
        ]
    else:
        left_out.append(
            "Order and gaps of spine levels, neighbours of discs, sagittal slices: label names are not spine levels."
        )
    if not dataset.patients:
        left_out.append("Patients with several cases: there is no provenance.json that tells patients.")
    if dataset.labels.ignore is not None:
        done.append(f"The ignore label {dataset.labels.ignore} counts as background.")
    text = "".join(f"<li>{escape(line)}</li>" for line in done)
    omitted = "".join(f"<li>{escape(line)}</li>" for line in left_out)
    return (
        '<div class="plainbox"><p><b>Errors</b> make training wrong or fail. <b>Warnings</b> are to be looked at '
        "before training. <b>Notes</b> are unusual, and often right. Voxels and slices are counted from 0; the "
        f"thresholds are our own.</p><ul>{text}</ul>"
        + (f"<p>Left out:</p><ul>{omitted}</ul>" if omitted else "")
        + "</div>"
    )
