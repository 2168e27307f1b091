"""What a page of HTML holds, read by Python's own parser."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

_WITHOUT_END = {"meta", "link", "img", "br"}
_ADDRESSES = {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}


@dataclass
class Element:
    """A tag with everything in it."""

    name: str
    attributes: dict[str, str | None]
    children: list[Element] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def all(self, name: str, **attributes: str) -> list[Element]:
        """All elements of that name below this one, in the page's order."""
        found = []
        for child in self.children:
            if child.name == name and attributes.items() <= child.attributes.items():
                found.append(child)
            found += child.all(name, **attributes)
        return found

    def with_class(self, name: str) -> list[Element]:
        """All elements below this one of a class."""
        found = []
        for child in self.children:
            if name in (child.attributes.get("class") or "").split():
                found.append(child)
            found += child.with_class(name)
        return found

    @property
    def text(self) -> str:
        """Words of the element itself, not of those in it."""
        return "".join(self.texts).strip()

    @property
    def whole_text(self) -> str:
        """Words of the element and of all in it, in no special order."""
        return " ".join([self.text, *(child.whole_text for child in self.children)])

    def grid(self) -> list[list[Element]]:
        """The cells of a table, row by row, its head left out."""
        return [
            [cell for cell in row.children if cell.name in ("td", "th")]
            for part in (*self.all("tbody"), *self.all("tfoot"))
            for row in part.all("tr")
        ]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        assert len(element.attributes) == len(attrs), f"<{tag}> has an attribute twice"
        self._open[-1].children.append(element)
        if tag not in _WITHOUT_END:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].name == tag, f"</{tag}> ends <{self._open[-1].name}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].texts.append(data)

    def close(self) -> None:
        super().close()
        assert len(self._open) == 1, f"<{self._open[-1].name}> does not end"


def read_html(text: str) -> Element:
    """Parse a page.

    Raises:
        AssertionError: a tag does not end, or ends inside another one.
    """
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return reader.root


def addresses(page: Element) -> list[str]:
    """Everything that a browser could load or go to."""
    found = [value or "" for key, value in page.attributes.items() if key in _ADDRESSES]
    return found + [address for child in page.children for address in addresses(child)]


def check_self_contained(text: str) -> Element:
    """Parse a page and check that it refers to nothing outside itself."""
    page = read_html(text)
    assert all(address.startswith(("data:", "#")) for address in addresses(page))
    ids = [element.attributes["id"] for element in _all(page) if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    linked = {address[1:] for address in addresses(page) if address.startswith("#")}
    assert linked <= set(ids)
    (style,) = page.all("style")
    assert "url(" not in style.text
    assert "@import" not in style.text
    assert not any(element.attributes.keys() & {"style", "onclick"} for element in _all(page))
    return page


def _all(page: Element) -> list[Element]:
    return [page, *(element for child in page.children for element in _all(child))]
