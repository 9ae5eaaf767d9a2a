"""The HTML report: one file with its pictures, style and script, which loads nothing from any server.

A page is data first (the classes below), then text. Other modules decide what a page shows.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from importlib.resources import files

from mddbench.metrics.names import LABELS, MEANINGS
from mddbench.report.page.svg import inlined, title_of
from mddbench.report.rows.groups import OTHER_PROTOCOL, PUBLISHED
from mddbench.report.tables.table import LEGEND, Table

SAFE_LINK = re.compile(r"https?://[^\s/@]+(/\S*)?|(?!//)[\w./#?=&%~+-]+")
"""A web address, or a path beside the page; nothing that names another scheme."""


@dataclass(frozen=True)
class Figure:
    """A plot, as SVG for a wide and for a small screen. What it shows is said by the title inside the SVG.

    Attributes:
        title: Its title.
        wide: The text of the SVG.
        narrow: The same for a small screen; as `wide` if empty.
    """

    title: str
    wide: str
    narrow: str = ""

    @property
    def words(self) -> str:
        """What it shows; its title if the SVG does not say it."""
        return title_of(self.wide) or self.title

    def forms(self, anchor: str) -> list[tuple[str, str]]:
        """Return class and element of each form; names inside it begin with the anchor."""
        texts = [("wide", self.wide), ("narrow", self.narrow or self.wide)]
        return [(kind, inlined(text, f"{anchor}-{kind}")) for kind, text in texts]


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
class Block:
    """A table, a figure, or both.

    Attributes:
        anchor: Its id, unique on the page.
        title: Its title.
        table: The table; None if there is none.
        figure: The figure below it; None if there is none.
        folded: True if it is a detail, which a reader unfolds.
    """

    anchor: str
    title: str
    table: Table | None = None
    figure: Figure | None = None
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        anchor: Its id, unique on the page.
        title: Its title.
        lead: Text at its beginning.
        blocks: Its tables and plots, details last.
        cards: Label and protocol card of each row. A card is names and values in the order in which they are shown.
        gallery: Its heat maps.
        remark: Text below its tables.
    """

    anchor: str
    title: str
    lead: str = ""
    blocks: tuple[Block, ...] = ()
    cards: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()
    gallery: Gallery = field(default_factory=Gallery)
    remark: str = ""

    @property
    def tables(self) -> list[Table]:
        """The tables of all blocks."""
        return [block.table for block in self.blocks if block.table is not None]

    @property
    def shared_notes(self) -> tuple[str, ...]:
        """The notes of several tables, which the section says once, without what the page's legend says."""
        found = Counter(note for table in self.tables for note in dict.fromkeys(table.notes))
        return tuple(note for note, tables in found.items() if tables > 1 and note != LEGEND)

    def own_notes(self, table: Table) -> list[str]:
        """Return the notes of a table that neither the section nor the legend of the page says."""
        return [note for note in table.notes if note not in self.shared_notes and note != LEGEND]


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

    @property
    def meanings(self) -> dict[str, str]:
        """Head -> meaning of the columns on the page that are metrics, in the order of the metrics."""
        columns = [column for section in self.sections for table in section.tables for column in table.columns]
        keys = {key for column in columns for key in (column.key, *column.parts)}
        heads = {**{column.key: column.head for column in columns}, **LABELS}
        return {heads[key]: words for key, words in MEANINGS.items() if key in keys}

    @property
    def has_published(self) -> bool:
        """True if a table has a published row."""
        return any(table.has_published for section in self.sections for table in section.tables)


def render_page(page: Page) -> str:
    """Render a page as one HTML file.

    All text is escaped, and a policy in the file allows only its own style and script. A label can never run.

    Args:
        page: The page.

    Returns:
        The text of the file.

    Raises:
        ValueError: If an anchor stands twice or is not a plain word, or if a figure is no SVG.
    """
    from jinja2 import DictLoader, Environment, StrictUndefined

    anchors = [anchor for section in page.sections for anchor in (section.anchor, *(b.anchor for b in section.blocks))]
    bad = [anchor for anchor in anchors if not re.fullmatch(r"[A-Za-z][\w-]*", anchor) or anchors.count(anchor) > 1]
    if bad:
        raise ValueError(f"'{bad[0]}' cannot be an anchor: expected a word of its own")
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
        page=page,
        policy=policy,
        style=style,
        script=script,
        published_mark=PUBLISHED,
        other_mark=OTHER_PROTOCOL,
        safe_link=_safe_link,
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
