"""Elements of an SVG drawing; everything that is put into them is escaped."""

from __future__ import annotations

from markupsafe import Markup, escape


def element(name: str, *children: object, **attributes: object) -> Markup:
    """``<name attributes>children</name>``.

    Attributes that are None are left out; ``class_`` stands for ``class`` and ``text_anchor`` for
    ``text-anchor``. Numbers are rounded to hundredths of a unit.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(_attribute_name(key), _compact(value))
        for key, value in attributes.items()
        if value is not None
    )
    content = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, content)


def text(x: float, y: float, content: str, **attributes: object) -> Markup:
    """A line of text at a place; ``text_anchor`` says which end of it lies there."""
    return element("text", content, x=x, y=y, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


def drawing(width: float, height: float, title: str, *content: object) -> Markup:
    """A whole chart that fits the width it is given; ``title`` says in words what it shows."""
    return element(
        "svg",
        element("title", title),
        *content,
        class_="chart",
        viewBox=f"0 0 {_compact(width)} {_compact(height)}",
        role="img",
        aria_label=title,
    )


def shortened(label: str, characters: int) -> str:
    """The label, cut with an ellipsis where it is longer than there is room for."""
    return (
        label if len(label) <= characters else label[: characters - 1] + "\N{HORIZONTAL ELLIPSIS}"
    )


def _attribute_name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _compact(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)
