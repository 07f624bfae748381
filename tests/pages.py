"""Pages as their elements."""

import re
from html.parser import HTMLParser
from pathlib import Path


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.all.append((tag, dict(attrs)))


def on_a_phone(page: Path, folder: Path) -> Path:
    """`page` in a frame of 420 pixels, less than a window has; `data-excess` is how far it is wider than that."""
    measured = """<style>.card { content-visibility: visible !important; }</style>
      <script>
        const page = document.documentElement;
        parent.postMessage(page.scrollWidth - page.clientWidth, "*");
      </script></body>"""
    (folder / "measured.html").write_text(
        page.read_text(encoding="utf-8").replace("</body>", measured), encoding="utf-8"
    )
    frame = folder / "frame.html"
    frame.write_text("""<!DOCTYPE html><body>
      <script>onmessage = event => { document.body.dataset.excess = event.data; };</script>
      <iframe src="measured.html" width="420" height="900" style="border: 0"></iframe></body>""")
    return frame


def visible_rows(elements: str) -> list[str]:
    """Names of the rows of a page's table that are shown, from above."""
    body = elements[elements.index("<tbody>") : elements.index("</tbody>")]
    rows = re.findall(r'<tr ([^>]*)><td class="name"><a [^>]*>([^<]*)</a>', body)
    return [name for attributes, name in rows if "hidden" not in attributes]
