"""Pages to render in tests: one with everything, one with hostile labels, one with nothing."""

from __future__ import annotations

from xml.sax.saxutils import escape

import numpy as np

from mddbench.report.page.page import Block, Figure, Gallery, Page, Section
from mddbench.report.page.tiles import gallery_of, merged
from mddbench.report.tables.table import Cell, Column, Row, Run, Table
from mddbench.runs.panels import Panel

HOSTILE = """<script>window.hostile = 1</script></script></style>"><img src=x onerror="window.hostile=1">'{{ 7 * 7 }}"""
METHODS, CATEGORIES, ROLES = ("Alpha", "Beta"), ("bolt", "metal_nut", "gear"), ("best", "worst", "normal", "typical")


def svg(title: str = "A line that rises", label: str = "epoch") -> str:
    """What matplotlib would write for a line and its label, in points."""
    return (
        '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="504pt" height="100pt" viewBox="0 0 504 100" version="1.1"><title>{escape(title)}</title>'
        "<metadata>x</metadata><defs><style>*{stroke-linejoin: round}</style>"
        '<path id="m1" d="M 0 0 L 1 1"/><clipPath id="c1"><rect width="9" height="9"/></clipPath></defs>'
        '<g id="line_1"><path d="M 1.23456 2 L 3 4" clip-path="url(#c1)" style="fill: none; stroke: #12355b"/>'
        '<use xlink:href="#m1" style="stroke: #000000"/></g>'
        f'<text style="font: 8px \'DejaVu Sans\'; text-anchor: middle" x="9" y="9">{escape(label)}</text></svg>'
    )


def panel(category: str = "bolt", role: str = "worst", score: float = 0.5, hit: float = 1.0, name: str = "") -> Panel:
    """Noise with a square defect. hit: how much higher the map is there."""
    generator = np.random.default_rng(len(category) + len(role))
    mask = np.zeros((64, 64), dtype=bool)
    mask[20:36, 20:36] = role != "normal"
    return Panel(
        category=category,
        role=role,
        defect="good" if role == "normal" else "dent",
        name=name or f"{role}.png",
        score=score,
        image=generator.integers(0, 256, (64, 64, 3), dtype=np.uint8),
        mask=mask,
        map=(generator.random((64, 64)) + hit * mask).astype(np.float16),
    )


def gallery(method: str, categories: tuple[str, ...] = CATEGORIES, roles: tuple[str, ...] = ROLES) -> Gallery:
    panels = [panel(one, role, number / 10) for number, one in enumerate(categories) for role in roles]
    return gallery_of(panels, "mini", method)


def cells(*values: float | None) -> tuple[Cell, ...]:
    return tuple(Cell("–" if value is None else f"{value:.1f} ± 0.1", value) for value in values)


def seeds(count: int | None) -> tuple[Cell, ...]:
    return (Cell("–" if count is None else str(count), count),)


def heads(*names: str) -> tuple[Column, ...]:
    return (Column("n", "n", "count"), *(Column(name, name) for name in names))


def table(title: str = "All methods", published: bool = True, columns: int = 14) -> Table:
    """Measured rows 9, 100 and 20.5, a published one of 55 and one that has only a dash in its first column."""
    rest = (0.5,) * (columns - 1)
    runs = tuple(Run(f"run{seed}", seed, "http://localhost:5000/#/runs/1" if seed else "") for seed in range(2))
    rows = [
        Row("nine", seeds(2) + cells(9.0, *rest), runs=runs),
        Row("hundred", seeds(3) + cells(100.0, *rest)),
        Row("nothing", seeds(1) + cells(None, *rest)),
        Row("twenty", (*seeds(1), Cell("20.5", 20.5, mark="best"), *cells(*rest))),
    ]
    if published:
        rows.append(Row("quoted", seeds(None) + cells(55.0, *rest), source="Somebody, table 1"))
    rows.append(Row("mean", seeds(1) + cells(46.0, *rest), is_mean=True))
    return Table(title, "Method", heads(*(f"Metric {n}" for n in range(columns))), tuple(rows), ("Percent.",))


def page() -> Page:
    return Page(
        "A report",
        (
            Section(
                "mini",
                "mini",
                "Numbers first.",
                (
                    Block("mini-all", "All methods", table()),
                    Block("mini-measured", "Measured", table("Measured", published=False)),
                    Block("mini-curves", "Curves", figure=Figure("Curves", svg(), svg())),
                    Block("mini-detail", "A detail", table("A detail", published=False, columns=2), folded=True),
                ),
                (("Alpha", (("epochs", "3"), ("encoder sha256", "0123456789abcdef" * 4))),),
            ),
            Section("gallery", "Gallery", gallery=merged(gallery(method) for method in METHODS)),
        ),
        ("Two methods.",),
    )


def hostile_page() -> Page:
    """Every text that comes from outside is hostile."""
    row = Row(
        HOSTILE,
        (*seeds(1), Cell(HOSTILE, 1.0)),
        source=HOSTILE,
        runs=(Run(HOSTILE, 0, HOSTILE), Run("x", 1, "javascript:window.hostile=1")),
    )
    section = Section(
        "all",
        HOSTILE,
        HOSTILE,
        (
            Block(
                "block",
                HOSTILE,
                Table(HOSTILE, HOSTILE, heads(HOSTILE), (row,), (HOSTILE,)),
                Figure(HOSTILE, svg(HOSTILE, HOSTILE)),
            ),
        ),
        ((HOSTILE, ((HOSTILE, HOSTILE),)),),
        gallery_of([panel(HOSTILE, role, name=HOSTILE) for role in ("worst", HOSTILE)], HOSTILE, HOSTILE),
    )
    return Page(HOSTILE, (section,), (HOSTILE,))
