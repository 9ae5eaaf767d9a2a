"""The HTML report: one file with its pictures, style and script, which loads nothing from any server.

A page is data first (the classes below), then text. Other modules decide what a page shows.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from dataclasses import dataclass, field
from importlib.resources import files

from mddbench.report.rows.groups import PUBLISHED
from mddbench.report.tables.table import Table

SAFE_LINK = re.compile(r"https?://[^\s/@]+(/\S*)?|(?!//)[\w./#?=&%~+-]+")
"""A web address, or a path beside the page; nothing that names another scheme."""


@dataclass(frozen=True)
class Figure:
    """A plot.

    Attributes:
        title: Its title.
        alt: Description for a reader who cannot see it.
        png: The file.
    """

    title: str
    alt: str
    png: bytes

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels; a ValueError if the file is not a PNG."""
        if self.png[:8] != b"\x89PNG\r\n\x1a\n" or len(self.png) < 24:
            raise ValueError(f"{self.title}: not a PNG")
        width, height = struct.unpack(">II", self.png[16:24])
        return int(width), int(height)


@dataclass(frozen=True)
class Tile:
    """A tile of the gallery.

    Attributes:
        dataset: Name of the dataset.
        method: Label of the method.
        category: Name of the category.
        role: Name of the panel's role.
        defect: Kind of the defect.
        name: Name of the image.
        score: Image score.
        image: The image as WebP.
        truth: Outline of the ground truth on a clear ground as PNG; empty if there is none.
        heat: The map in colour as WebP.
        rank: Order among the tiles of a role, lowest first.
        quality: Pixel AP within the image; None if it is not defined.
    """

    dataset: str
    method: str
    category: str
    role: str
    defect: str
    name: str
    score: float
    image: bytes
    truth: bytes
    heat: bytes
    rank: float
    quality: float | None = None


@dataclass(frozen=True)
class Scale:
    """The colour scale of a method's maps on a dataset.

    Attributes:
        dataset: Name of the dataset.
        method: Label of the method.
        low: Score of the first colour.
        high: Score of the last colour.
    """

    dataset: str
    method: str
    low: float
    high: float


@dataclass(frozen=True)
class Gallery:
    """Tiles with their colour scales.

    Attributes:
        tiles: The tiles in the order in which they are shown.
        scales: A scale for each method and dataset.
        bar: The colours from low to high as PNG.
    """

    tiles: tuple[Tile, ...] = ()
    scales: tuple[Scale, ...] = ()
    bar: bytes = b""

    def choices(self) -> list[tuple[str, list[str]]]:
        """Find the fields by which a reader can filter tiles.

        Returns:
            Name and values of each field that has several values.
        """
        names = ("dataset", "method", "category", "role")
        values = {name: list(dict.fromkeys(getattr(tile, name) for tile in self.tiles)) for name in names}
        ordered = {name: options if name == "role" else sorted(options) for name, options in values.items()}
        return [(name, options) for name, options in ordered.items() if len(options) > 1]


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        anchor: Its id, unique on the page.
        title: Its title.
        lead: Text at its beginning.
        tables: Its tables.
        figures: Its plots.
        cards: Label and protocol card of each row. A card is names and values in the order in which they are shown.
        gallery: Its heat maps.
    """

    anchor: str
    title: str
    lead: str = ""
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    cards: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()
    gallery: Gallery = field(default_factory=Gallery)


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        title: Its title.
        sections: Its sections.
        subtitle: Lines below the title, such as what was run and when.
    """

    title: str
    sections: tuple[Section, ...]
    subtitle: tuple[str, ...] = ()


def render_page(page: Page) -> str:
    """Render a page as one HTML file.

    All text is escaped, and a policy in the file allows only its own style and script. A label can never run.

    Args:
        page: The page.

    Returns:
        The text of the file.

    Raises:
        ValueError: If two sections share an anchor, or if an anchor is not a plain word.
    """
    from jinja2 import DictLoader, Environment, StrictUndefined

    anchors = [section.anchor for section in page.sections]
    bad = [anchor for anchor in anchors if not re.fullmatch(r"[A-Za-z][\w-]*", anchor) or anchors.count(anchor) > 1]
    if bad:
        raise ValueError(f"'{bad[0]}' cannot be the anchor of a section: expected a word of its own")
    style, script, loader = _asset("page.css"), _asset("page.js"), DictLoader({"page": _asset("page.html.j2")})
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data_uri"] = _data_uri
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash_source(style)}; script-src {_hash_source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    text = environment.get_template("page").render(
        page=page, policy=policy, style=style, script=script, published_mark=PUBLISHED, safe_link=_safe_link
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # names of files can hold lone surrogates


def _safe_link(address: str) -> str:
    """Return an address if it leads to a web server or to a file beside the page; else an empty text."""
    return address if SAFE_LINK.fullmatch(address) else ""


def _data_uri(content: bytes) -> str:
    """Return a PNG or WebP picture as an address that holds it.

    >>> _data_uri(b"RIFF")
    'data:image/webp;base64,UklGRg=='
    """
    kind = "png" if content.startswith(b"\x89PNG") else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _hash_source(text: str) -> str:
    """A style or script as a Content-Security-Policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def _asset(name: str) -> str:
    return (files("mddbench.report.page") / name).read_text(encoding="utf-8")
