"""A slice with contours and level names as a PNG file, for reports and slides."""

from __future__ import annotations

import base64
import io

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from nnunetv2_cafr.quality.picture import Picture

LONGEST = 1200  # pixels of the longer side
FINER = 2  # drawn so many times larger, since Pillow's lines have hard edges
LINE, HALO = 0.18, 0.34  # of a letter's height
ANCHORS = {"middle": "mm", "end": "rm"}  # SVG's names, and Pillow's


def png_of(picture: Picture, name: str) -> bytes:
    """The file's content; pixels are square.

    Args:
        name: of the study, which the file keeps as its title.
    """
    per_mm = FINER * LONGEST / max(picture.width, picture.height)
    size = (max(round(picture.width * per_mm), FINER), max(round(picture.height * per_mm), FINER))
    with Image.open(io.BytesIO(base64.b64decode(picture.jpeg))) as slice_:
        canvas = slice_.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    pen, letter = ImageDraw.Draw(canvas), picture.letter * per_mm
    for width, is_halo in ((HALO, True), (LINE, False)):
        for one in picture.outlines:
            for line in one.lines:
                points = [(float(x), float(y)) for x, y in line * per_mm]
                pen.line(points, one.halo if is_halo else one.colour, round(width * letter), joint="curve")
    font = ImageFont.load_default(letter)
    for one in picture.outlines:
        for x, y, anchor in picture.name_places(one):
            place, stroke = (x * per_mm, y * per_mm), round(letter / 10)
            pen.text(place, one.name, "white", font, ANCHORS[anchor], stroke_width=stroke, stroke_fill="black")
    canvas = canvas.resize((size[0] // FINER, size[1] // FINER), Image.Resampling.LANCZOS)
    about = PngInfo()
    about.add_itxt("Title", name.encode("utf-8", "backslashreplace").decode())
    content = io.BytesIO()
    canvas.save(content, "PNG", pnginfo=about)
    return content.getvalue()
