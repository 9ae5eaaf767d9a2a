"""The HTML report: one file that holds its pictures, style and script, and asks no server for anything.

A page is data first (the classes below), then text. What a page shows is decided elsewhere.
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
class Card:
    """A protocol card: names and values in the order in which they are told."""

    title: str
    fields: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Figure:
    """A plot. alt: what it shows, for somebody who does not see it; png: the file."""

    title: str
    alt: str
    png: bytes

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels. Raises ValueError if it is no PNG."""
        if self.png[:8] != b"\x89PNG\r\n\x1a\n" or len(self.png) < 24:
            raise ValueError(f"{self.title}: not a PNG")
        width, height = struct.unpack(">II", self.png[16:24])
        return int(width), int(height)


@dataclass(frozen=True)
class Tile:
    """A tile of the gallery. role: as words; image, heat: WebP; truth: an outline on a clear ground as PNG, empty if there is
    nothing to outline; rank: its place among those of its role, lowest first; quality: pixel AP within the image, None
    where that has no meaning.
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
    """The scores at the two ends of the colours of a method's maps on a dataset."""

    dataset: str
    method: str
    low: float
    high: float


@dataclass(frozen=True)
class Gallery:
    """Tiles in the order in which they are shown; bar: the colours from low to high as PNG."""

    tiles: tuple[Tile, ...] = ()
    scales: tuple[Scale, ...] = ()
    bar: bytes = b""

    def choices(self) -> list[tuple[str, list[str]]]:
        """What can be filtered by, with its values; only where there are several."""
        values = {
            name: list(dict.fromkeys(getattr(tile, name) for tile in self.tiles))
            for name in ("dataset", "method", "category", "role")
        }
        ordered = {name: found if name == "role" else sorted(found) for name, found in values.items()}
        return [(name, found) for name, found in ordered.items() if len(found) > 1]


@dataclass(frozen=True)
class Section:
    """A part of the page. anchor: its id, unique on the page; lead: what to know before reading on."""

    anchor: str
    title: str
    lead: str = ""
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    cards: tuple[Card, ...] = ()
    gallery: Gallery = field(default_factory=Gallery)


@dataclass(frozen=True)
class Page:
    """A report. subtitle: lines below the title, such as what was run and when."""

    title: str
    sections: tuple[Section, ...]
    subtitle: tuple[str, ...] = ()


def render_page(page: Page) -> str:
    """The page as the text of one HTML file. All text of the page is escaped, and a policy within the file lets only its own
    style and script act, so that a label can never run.

    Raises ValueError if two sections share an anchor, or an anchor is not a plain word.
    """
    from jinja2 import DictLoader, Environment, StrictUndefined

    anchors = [section.anchor for section in page.sections]
    odd = [anchor for anchor in anchors if not re.fullmatch(r"[A-Za-z][\w-]*", anchor) or anchors.count(anchor) > 1]
    if odd:
        raise ValueError(f"'{odd[0]}' cannot be the anchor of a section: expected a word of its own")
    style, script = _asset("page.css"), _asset("page.js")
    environment = Environment(
        loader=DictLoader({"page": _asset("page.html.j2")}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    text = environment.get_template("page").render(
        page=page,
        policy=_policy(style, script),
        style=style,
        script=script,
        published_mark=PUBLISHED,
        safe_link=safe_link,
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # names of files can hold what is no character


def safe_link(address: str) -> str:
    """The address if a page may lead there: to a web server or a file beside the page; else an empty text."""
    return address if SAFE_LINK.fullmatch(address) else ""


def data_uri(content: bytes) -> str:
    """A picture as an address that holds it.

    >>> data_uri(b"RIFF")
    'data:image/webp;base64,UklGRg=='
    """
    kind = "png" if content.startswith(b"\x89PNG") else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _policy(style: str, script: str) -> str:
    """A Content-Security-Policy: pictures from within the page, this style, this script, and nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def _asset(name: str) -> str:
    return (files("mddbench.report.page") / name).read_text(encoding="utf-8")
