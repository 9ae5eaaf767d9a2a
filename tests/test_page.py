"""The HTML report as text: what stands in it, and what can never."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from page_examples import HOSTILE, gallery, heads, hostile_page, page, panel, seeds, svg, table
from PIL import Image

from mddbench.report.figures.canvas import canvas, save
from mddbench.report.page.page import Block, Figure, Gallery, Page, Section, render_page
from mddbench.report.page.svg import inlined, title_of
from mddbench.report.page.tiles import WIDTH, gallery_of, merged
from mddbench.report.tables.table import LEGEND, Cell, Column, Row, Run, Table

VOID = {"br", "img", "input", "link", "meta"}


class Parsed(HTMLParser):
    """Elements in order, with their texts; fails where a tag is closed that was not opened, or left open."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"an attribute of <{tag}> stands twice"
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag in tags]


def one_table(table: Table) -> str:
    return render_page(Page("t", (Section("a", "A", blocks=(Block("b", "B", table),)),)))


def test_labels_from_outside_are_text_and_nothing_else() -> None:
    parsed = Parsed(render_page(hostile_page()))
    assert len(parsed.all("script")) == len(parsed.all("style")) == 1
    for tag, attributes in parsed.found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], f"<{tag}>"
    told = [text for text in parsed.texts if HOSTILE in text or HOSTILE.replace("_", " ") in text]
    assert len(told) > 15
    assert all(image["alt"] != "x" and str(image["src"]).startswith("data:") for image in parsed.all("img"))


@pytest.mark.parametrize(
    "href",
    ["javascript:alert(1)", " javascript:alert(1)", "data:text/html,x", "//elsewhere/x", "a b", "", "ftp://x", "x:y"],
)
def test_a_link_that_is_none_is_only_told(href: str) -> None:
    row = Row("r", seeds(1), runs=(Run("0123abcd", 0, href),))
    text = one_table(Table("t", "Method", heads(), (row,)))
    assert "<code>0123abcd</code>" in text
    assert "<a href" not in text.partition("<main")[2]


@pytest.mark.parametrize("href", ["http://localhost:5000/#/experiments/1/runs/0123", "cells/a-seed0/record.json"])
def test_a_run_is_linked(href: str) -> None:
    row = Row("r", seeds(1), runs=(Run("0123abcd", 0, href),))
    assert f'<a href="{href}" rel="noreferrer"><code>0123abcd</code></a>' in one_table(
        Table("t", "Method", heads(), (row,))
    )


def test_only_its_own_style_and_script_may_act() -> None:
    text = render_page(page())
    policy = str(next(each["content"] for each in Parsed(text).all("meta") if "http-equiv" in each))
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert content is not None
        digest = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_a_figure_fits_into_a_page() -> None:
    text = inlined(svg("x", "loss 0.00012345"), "mini")
    assert "loss 0.00012345" in text, "only places are rounded"
    assert 'd="M 1.23 2 L 3 4"' in text
    assert 'clip-path="url(#mini-' in text
    assert 'stroke="var(--series-0)"' in text
    assert 'stroke="currentColor"' in text
    assert 'width="756"' in text
    assert not re.search("style=|font:|xlink|<style|<metadata|line_1", text)
    first, second = (set(re.findall(r'id="(.*?)"', inlined(svg(), name))) for name in ("a", "b"))
    assert len(first) == 2
    assert not first & second


@pytest.mark.renders
def test_pictures_in_a_figure_are_small(tmp_path: Path) -> None:
    figure, (axis,) = canvas((3, 3))
    axis.imshow(np.hypot(*np.mgrid[-30:30, -30:30]), "inferno")
    save(figure, tmp_path / "a.png", "A title")
    text = (tmp_path / "a.svg").read_text()
    shown = inlined(text, "a")
    assert "data:image/webp;base64," in shown
    assert "data:image/png" not in shown
    assert len(shown) < 0.7 * len(text)
    assert title_of(text) == "A title"
    with pytest.raises(ValueError, match="names a file"):
        inlined(text.replace("data:image/png;base64,", "http://x/"), "a")


def test_notes_of_several_tables_are_said_once() -> None:
    one, two = (replace(table(name, published=False), notes=("Shared.", f"Of {name}.", LEGEND)) for name in "ab")
    section = Section("s", "S", blocks=(Block("a", "A", one), Block("b", "B", two)))
    text = render_page(Page("t", (section,)))
    assert [text.count(words) for words in ("Shared.", "Of a.", "Of b.", LEGEND)] == [1, 1, 1, 0]


def test_everything_is_in_the_contents_and_details_are_folded() -> None:
    text = render_page(page())
    contents, _, rest = text.partition("</nav>")
    for anchor in ("mini", "mini-all", "mini-measured", "mini-curves", "mini-detail", "gallery"):
        assert f'href="#{anchor}"' in contents
        assert f'id="{anchor}"' in rest
    assert '<details class="block" id="mini-detail">' in rest
    assert rest.index('id="mini-curves"') < rest.index('id="mini-detail"')


def test_metrics_on_the_page_are_explained() -> None:
    columns = (Column("I-AUROC", "i_auroc"), Column("A", "a", parts=("aupro",)))
    row = Row("r", (Cell("1", 0.01), Cell.of_parts((Cell("2", 0.02, mark="best"), Cell("3", 0.03)))))
    text = one_table(Table("t", "Method", columns, (row,)))
    assert set(re.findall("<dt>(.*?)</dt>", text)) == {"I-AUROC", "AUPRO"}
    assert '<span class="best">2</span> / 3</td>' in text


def test_nothing_is_asked_of_anybody() -> None:
    text = render_page(page())
    runs = {"http://localhost:5000/#/runs/1"}
    for tag, attributes in Parsed(text).found:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")) or (tag == "a" and value in runs), (
                f"<{tag}> {value}"
            )
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) == {"#"}, "figures name their own parts alone"
    assert not re.search(r"\b(fetch|XMLHttpRequest|sendBeacon|WebSocket|import)\s*\(", text)


def test_who_does_not_see_it_is_told() -> None:
    text = render_page(page())
    parsed = Parsed(text)
    assert len(parsed.all("img")) > 50
    assert all("alt" in image for image in parsed.all("img"))
    assert all(head.get("scope") in ("col", "row") for head in parsed.all("th"))
    assert len(parsed.all("caption")) == len(parsed.all("table")) == 3
    ids = [attributes["id"] for _, attributes in parsed.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = [a[name] for _, a in parsed.found for name in ("aria-labelledby", "for") if name in a]
    assert set(named) <= set(ids)
    assert [tag for tag, _ in parsed.found if tag in ("header", "nav", "main")] == ["header", "nav", "main"]
    assert next(attributes for tag, attributes in parsed.found if tag == "a")["href"] == "#content"


def test_a_page_with_nothing_on_it() -> None:
    assert "There is nothing to show yet." in Parsed(render_page(Page("t", ()))).texts
    empty = Section("a", "A", gallery=merged([Gallery(), gallery_of([], "mini", "M")]))
    parsed = Parsed(render_page(Page("t", (empty, replace(empty, anchor="b")))))
    assert not parsed.all("dialog", "table", "figure", "img", "select")
    assert "<tbody>" in one_table(Table("t", "Method", heads("x"), ()))


def test_published_rows_are_marked_and_can_be_hidden() -> None:
    text, plain = one_table(table()), one_table(table(published=False))
    assert text.count('<tr class="published">') == 1
    assert re.search(r"quoted <abbr title=\"published, not measured here\">‡</abbr>", text)
    assert text.count('class="hide-published"') == 1
    assert "Somebody, table 1" in text
    for absent in ('class="hide-published"', '<tr class="published">', "‡"):
        assert absent not in plain


def test_what_sorts_is_a_number_or_nothing() -> None:
    values = (0.1 + 0.2, None, float("nan"), float("inf"), -1e-9)
    row = Row("r", seeds(None) + tuple(Cell("x", value) for value in values))
    text = one_table(Table("t", "Method", heads(*("h",) * 5), (row,)))
    assert re.findall(r'<td data-value="(.*?)"', text) == ["0.30000000000000004", "-1e-09"]


def test_a_mean_stays_below_the_rest() -> None:
    text = one_table(table())
    assert text.index("<tfoot>") < text.index(">mean<") < text.index("</tfoot>")


def test_what_cannot_be_a_page() -> None:
    with pytest.raises(ValueError, match="row 'r' has 2 cells, not 3"):
        Table("t", "Method", heads("a", "b"), (Row("r", (*seeds(1), Cell("x"))),))
    for anchors in (("a", "a"), ("a b",), ("",)):
        with pytest.raises(ValueError, match="cannot be an anchor"):
            render_page(Page("t", tuple(Section(anchor, "A") for anchor in anchors)))
    for text in ("GIF89a", "<svg/>", '<!DOCTYPE x [<!ENTITY a "b">]><svg/>'):
        with pytest.raises(ValueError, match=r"an? SVG"):
            render_page(Page("t", (Section("a", "A", blocks=(Block("b", "B", figure=Figure("Curves", text)),)),)))


def test_a_name_that_is_no_text_can_be_written() -> None:
    shown = gallery_of([panel(name="\udcff.png")], "mini", "M")
    render_page(Page("t", (Section("a", "A", gallery=shown),))).encode("utf-8")


def test_one_page_is_one_text() -> None:
    assert render_page(page()) == render_page(page())


def test_a_page_needs_nothing_heavy() -> None:
    code = (
        "import sys; from mddbench.report.page.page import Page, Section, render_page\n"
        "render_page(Page('t', (Section('a', 'A'),)))\n"
        "print(sorted({'torch', 'mlflow', 'timm', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_worst_come_first() -> None:
    clear, vague = (
        merged([gallery_of([panel("c", "worst", hit=hit)], "mini", name)]) for hit, name in ((2, "A"), (0, "B"))
    )
    alarms = gallery_of([panel(name, "normal", score) for name, score in (("low", 1.0), ("high", 5.0))], "mini", "A")
    others = gallery_of([panel("c", role) for role in ("best", "strange", "typical")], "mini", "A")
    tiles = merged([others, alarms, clear, vague]).tiles
    assert [(tile.role, tile.method, tile.category) for tile in tiles] == [
        ("worst found defect", "B", "c"),
        ("worst found defect", "A", "c"),
        ("worst false alarm", "A", "high"),
        ("worst false alarm", "A", "low"),
        ("typical defect", "A", "c"),
        ("best found defect", "A", "c"),
        ("strange", "A", "c"),
    ]
    assert tiles[0].quality is not None
    assert tiles[1].quality == pytest.approx(1.0)
    assert tiles[2].quality is None
    assert tiles[2].truth == b""


def test_a_method_has_one_colour_scale_on_a_dataset() -> None:
    scales = merged(gallery(name, ("bolt", "gear")) for name in ("A", "B")).scales
    assert [(scale.dataset, scale.method) for scale in scales] == [("mini", "A"), ("mini", "B")]
    text = render_page(Page("t", (Section("a", "A", gallery=gallery("A", ("bolt", "gear"))),)))
    assert f'A on mini: <span class="ends">{scales[0].low:.3g} <img' in text
    assert f"> {scales[0].high:.3g}</span>" in text
    assert all(scale.low < 0.1 and 1.9 < scale.high <= 2.0 for scale in scales)


def test_an_outline_leaves_the_defect_in_sight() -> None:
    one = panel()
    with Image.open(io.BytesIO(gallery_of([one], "mini", "A").tiles[0].truth)) as file:
        clear = np.asarray(file.convert("RGBA"))[..., 3] == 0
    assert clear[one.mask].all()
    assert clear.mean() > 0.8
    assert not clear[18, 18:38].any()


def test_hundreds_of_pictures_fit_into_a_file() -> None:
    generator, one = np.random.default_rng(0), panel()
    noise = np.clip(generator.normal(128, 40, (256, 256, 3)), 0, 255).astype(np.uint8)  # hardly anything is harder
    big = replace(
        one, image=noise, mask=np.kron(one.mask, np.ones((4, 4), dtype=bool)), map=np.kron(one.map, np.ones((4, 4)))
    )
    shown = gallery_of([big], "mini", "A").tiles[0]
    with Image.open(io.BytesIO(shown.image)) as image, Image.open(io.BytesIO(shown.heat)) as heat:
        assert image.size == heat.size == (WIDTH, WIDTH)
    tile = 4 / 3 * (len(shown.image) + len(shown.heat) + 2 * len(shown.truth)) + 1500
    assert 15 * 5 * 4 * tile < 15e6
