"""Pages as their elements."""

from html.parser import HTMLParser


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
