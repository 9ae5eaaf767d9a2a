"""Figures inside the page: an SVG that has the page's letters and colours, so that it follows light and dark."""

from __future__ import annotations

import base64
import io
import re
from itertools import count
from xml.etree import ElementTree

from mddbench.report.figures import style

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
DROPPED = frozenset({f"{SVG}metadata", f"{SVG}style"})
THEME = {
    **{colour: f"var(--series-{number})" for number, colour in enumerate(style.COLOURS)},
    style.INK: "var(--figure)",
    style.NORMAL: "var(--figure-light)",
    style.ACCENT: "currentColor",
    "#000000": "currentColor",
    style.GRID: "var(--grid)",
    style.BAND: "var(--band)",
    style.SHADE: "var(--shade)",
    style.QUIET: "var(--muted)",
}
"""Colour of a figure -> colour of the page."""
PLACES = frozenset({"d", "transform", "x", "y", "width", "height"})
"""Attributes whose numbers need no more than two decimals."""
NUMBER = re.compile(r"-?\d+\.\d{3,}")
REFERENCE = re.compile(r"url\(#([^)]*)\)")
PNG_START = "data:image/png;base64,"
WEBP_QUALITY = 85  # of 100
SCALE = 1.5  # pixels of the page for each point of a figure: its letters of 8 points have 12 pixels


def title_of(svg: str) -> str:
    """Return the title that an SVG gives itself; empty if it has none, a ValueError if it is no SVG.

    Args:
        svg: The text of the file.

    Returns:
        The title.
    """
    found = _root(svg).find(f"{SVG}title")
    return "" if found is None else (found.text or "")


def inlined(svg: str, name: str) -> str:
    """Return an SVG as a part of an HTML page whose policy allows no style attributes.

    Its letters are those of the page, black and the colours of series are names of the page's style, and pictures in it
    are WebP. Names inside it begin with `name`, so that those of two figures differ.

    Args:
        svg: The text of the file.
        name: A word of its own on the page.

    Returns:
        The element. A ValueError is raised if the text is no SVG.
    """
    root = _root(svg)
    numbers = count()
    names = {
        own: f"{name}-{next(numbers)}"
        for own in dict.fromkeys(re.findall(r"#([\w.-]+)[\")]", svg))
        if f'id="{own}"' in svg
    }
    _clean(root, names)
    for attribute in ("height", "version"):
        root.attrib.pop(attribute, None)
    root.set("width", str(round(SCALE * float(root.get("viewBox", "0 0 0 0").split()[2]))))
    root.set("fill", "currentColor")
    root.set("role", "img")
    ElementTree.register_namespace("", SVG[1:-1])
    return ElementTree.tostring(root, encoding="unicode")


def _root(svg: str) -> ElementTree.Element:
    """Parse an SVG that a figure of ours wrote."""
    if "<!ENTITY" in svg:
        raise ValueError("an SVG with entities of its own")
    try:
        root = ElementTree.fromstring(svg)  # noqa: S314 - without entities nothing in it can grow
    except ElementTree.ParseError:
        raise ValueError("not an SVG") from None
    if root.tag != f"{SVG}svg":
        raise ValueError("not an SVG")
    return root


def _clean(element: ElementTree.Element, names: dict[str, str]) -> None:
    """Make an element and all in it fit for a page."""
    for child in list(element):
        if child.tag in DROPPED:
            element.remove(child)
        else:
            _clean(child, names)
    attributes: dict[str, str] = {}
    for key, value in element.attrib.items():
        if key == "style":
            pairs = (part.partition(":") for part in value.split(";") if part.strip())
            attributes |= {word.strip(): text.strip() for word, _, text in pairs if word.strip() != "font"}
        elif key == "id":
            attributes |= {"id": names[value]} if value in names else {}
        else:
            attributes[key.removeprefix(XLINK)] = value
    for key, value in attributes.items():
        if key in ("fill", "stroke"):
            attributes[key] = THEME.get(value, value)
        if key in PLACES:
            attributes[key] = NUMBER.sub(lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), value)
        if key == "href":
            attributes[key] = f"#{names[value[1:]]}" if value.startswith("#") else _as_webp(value)
        attributes[key] = REFERENCE.sub(lambda match: f"url(#{names[match[1]]})", attributes[key])
    element.attrib.clear()
    element.attrib.update(attributes)


def _as_webp(address: str) -> str:
    """Return the address of an embedded PNG as one of a WebP, which is much smaller."""
    from PIL import Image

    if not address.startswith(PNG_START):
        raise ValueError("an SVG that names a file")
    file = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(address.removeprefix(PNG_START)))) as picture:
        picture.save(file, "WEBP", quality=WEBP_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
