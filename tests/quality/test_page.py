"""The page in a real browser: it opens without a network, its scripts run, and no name can break it."""

import re
import shutil
from pathlib import Path

import pytest
import SimpleITK as sitk
from markupsafe import escape

from nnunetv2_cafr.quality.checking import check_dataset
from nnunetv2_cafr.quality.page import render
from nnunetv2_cafr.quality.picture import draw

from ..pages import Elements, on_a_phone, visible_rows
from .conftest import VALUES, Copy

NASTY = '<b onmouseover="alert(1)">L9\'</b>'


@pytest.fixture(scope="module")
def page(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The page of a data set with one spoiled mask, an empty image and a nasty label name; and the cases' names."""
    root = tmp_path_factory.mktemp("page")
    copy = Copy(Path(shutil.copytree(converted, root / "raw" / converted.name)))
    masks = sorted(copy.folder.glob("labelsTr/*"))
    copy.change(masks[2], lambda labels: labels * (labels != VALUES["L3"]))
    image = sorted(copy.folder.glob("imagesTr/*"))[1]
    copy.change(image, lambda values: values.clip(0, int(values.max()) // 4))
    names = {name: value for name, value in VALUES.items() if name != "S"}
    copy.describe(labels={"background": 0, NASTY: VALUES["S"], **names})
    dataset, cases, findings = check_dataset(copy.folder, 1)
    target = root / "report.html"
    target.write_text(render(dataset, cases, findings, "today"), encoding="utf-8")
    return target, [case.identifier for case in cases]


def test_opens_and_runs(page, browse):
    target, names = page
    elements = browse(target)
    assert 'data-ready="yes"' in elements
    assert f"{len(names)} of {len(names)} cases shown" in elements
    # The error first, then the warning.
    assert visible_rows(elements)[:2] == [names[2], names[1]]


def test_filters_and_sorts(page, browse):
    target, names = page
    assert visible_rows(browse(target, "?show=error&sort=0")) == [names[2]]
    assert visible_rows(browse(target, "?show=warning&sort=0&down=1")) == [names[2], names[1]]


def test_a_person_clicks(page, browse, tmp_path):
    """Headings, radio buttons, search and the contours' switch, driven as a person would."""
    target, names = page
    clicks = """<script>
      document.querySelector("th button").click();
      const first = document.querySelector("tbody a").textContent;
      document.querySelector("th button").click();
      const text = document.querySelector("input[type=search]");
      text.value = "clipped";
      text.dispatchEvent(new Event("input", { bubbles: true }));
      document.querySelector("input[name=contours]").click();
      document.body.dataset.first = first;
    </script></body>"""
    clicked = tmp_path / "clicked.html"
    clicked.write_text(target.read_text(encoding="utf-8").replace("</body>", clicks), encoding="utf-8")
    elements = browse(clicked)
    assert f'data-first="{min(names)}"' in elements
    assert 'aria-sort="descending"' in elements and 'class="plain"' in elements
    assert visible_rows(elements) == [names[1]]
    assert f"1 of {len(names)} cases shown" in elements


def test_fits_a_phone(page, browse, tmp_path):
    assert 'data-excess="0"' in browse(on_a_phone(page[0], tmp_path))


def test_holds_everything_and_escapes_names(page):
    """Needs no other file; a label name with a tag and quotes stays text; pictures have a text beside them."""
    target, names = page
    text = target.read_text(encoding="utf-8")
    elements = Elements(text).all
    assert not any("onmouseover" in attributes or (tag == "b" and attributes) for tag, attributes in elements)
    assert str(escape(NASTY)) in text
    links = [attributes.get(key) or "" for _, attributes in elements for key in ("src", "href")]
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in links if link)
    assert "http:" not in text and "https:" not in text
    assert dict(elements)["html"] == {"lang": "en"}
    pictures = [attributes for tag, attributes in elements if tag == "img"]
    assert len(pictures) == len(names)
    assert all(picture["alt"] and picture["loading"] == "lazy" for picture in pictures)
    identifiers = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert {link[1:] for link in links if link.startswith("#")} <= set(identifiers)


def test_a_hostile_case_name_is_shown_as_text(copy):
    name = "<img src=x onerror=alert(1)>"
    for path in (copy.image(1), copy.mask(1)):
        path.rename(path.with_name(path.name.replace("SpineMRI_001", name)))
    page = Elements(render(*check_dataset(copy.folder, 1), "today"))
    # The row of the table, the heading of the card, its files.
    assert page.text.count(name) >= 4
    assert not any(attribute.startswith("on") for _, attributes in page.all for attribute in attributes)
    pictures = [attributes for tag, attributes in page.all if tag == "img"]
    assert all(picture["src"].startswith("data:image/jpeg") for picture in pictures)
    assert sum(name in picture["alt"] for picture in pictures) == 1


def test_numbers_and_contours_are_those_of_the_files(page):
    """Voxels and millilitres stand in the card; each contour surrounds its structure."""
    target, names = page
    folder = next((target.parent / "raw").iterdir())
    text = target.read_text(encoding="utf-8")
    card = text[text.index(f">{names[0]}</h3>") :]
    mask = sitk.ReadImage(str(folder / "labelsTr" / f"{names[0]}.nii.gz"))
    labels = sitk.GetArrayFromImage(mask)
    voxels = int((labels == VALUES["L4"]).sum())
    volume = voxels * mask.GetSpacing()[0] * mask.GetSpacing()[1] * mask.GetSpacing()[2] / 1000
    assert re.search(rf"L4</td><td[^>]*>3</td><td[^>]*>{voxels:,}</td><td[^>]*>{volume:.2f}</td>", card)
    _, cases, _ = check_dataset(folder, 1)
    picture = cases[0].picture
    assert picture.width == pytest.approx(mask.GetSize()[0] * mask.GetSpacing()[0])
    shown = int(re.search(r"slice (\d+) of", picture.what)[1]) - 1
    for outline in picture.outlines:
        inside = labels[shown] == outline.label
        points = [tuple(map(float, point.split())) for point in re.findall(r"[\d.]+ [\d.]+", outline.path)]
        xs, ys = zip(*points, strict=True)
        places = inside.nonzero()
        for low, high, index, step in (
            (min(ys), max(ys), places[0], mask.GetSpacing()[1]),
            (min(xs), max(xs), places[1], mask.GetSpacing()[0]),
        ):
            assert low == pytest.approx((index.min()) * step, abs=0.6 * step)
            assert high == pytest.approx((index.max() + 1) * step, abs=0.6 * step)


def test_pictures_lie_as_the_file_says(copy):
    """A single sagittal slice in any voxel order; where nothing says how a volume lies, its thick slices as stored."""
    volume = sitk.ReadImage(str(min(copy.folder.glob("imagesTr/*"))))
    upright = draw(volume[:, :, 3:4], None, {}, 480)
    for order in ("PIR", "ASR", "SPL", "RAS"):
        turned = draw(sitk.DICOMOrient(volume[:, :, 3:4], order), None, {}, 480)
        assert (turned.jpeg, turned.what) == (upright.jpeg, "sagittal slice 1 of 1 from the left"), order
    for stored in (volume, sitk.PermuteAxes(volume, [2, 0, 1])):
        picture = draw(stored, None, {}, 480, oriented=False)
        assert picture.jpeg == upright.jpeg and picture.what.startswith("slice 4 of 6 as stored")
