"""Pages to render in tests: one with everything, one with hostile labels, one with nothing."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from mddbench.report.page.page import Figure, Gallery, Page, Section
from mddbench.report.page.tiles import gallery_of, merged
from mddbench.report.tables.table import Cell, Column, Row, Run, Table
from mddbench.runs.panels import Panel

HOSTILE = """<script>window.hostile = 1</script></script></style>"><img src=x onerror="window.hostile=1">'{{ 7 * 7 }}"""
METHODS, CATEGORIES, ROLES = ("Alpha", "Beta"), ("bolt", "metal_nut", "gear"), ("best", "worst", "normal", "typical")


def picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((300, 1200, 3), 200, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


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
                (table(), table("Measured", published=False)),
                (Figure("Curves", "A line that rises", picture()),),
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
        (Table(HOSTILE, HOSTILE, heads(HOSTILE), (row,), (HOSTILE,)),),
        (Figure(HOSTILE, HOSTILE, picture()),),
        ((HOSTILE, ((HOSTILE, HOSTILE),)),),
        gallery_of([panel(HOSTILE, role, name=HOSTILE) for role in ("worst", HOSTILE)], HOSTILE, HOSTILE),
    )
    return Page(HOSTILE, (section,), (HOSTILE,))
