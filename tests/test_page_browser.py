"""The HTML report in a real browser, opened as a file (Debian: chromium, chromium-driver)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_examples import hostile_page, page

from mddbench.report.page.page import Page, render_page
from support import needed

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
FIRST_TABLE = "#mini-all .table"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, chromedriver = needed("chromium", "chromedriver", package="chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()


class Opened:
    """A page in the browser."""

    def __init__(self, driver: Any, file: Path, shown: Page, width: int = 1200) -> None:
        self.driver = driver
        file.write_text(render_page(shown), encoding="utf-8")
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        still = {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", still)
        driver.get_log("browser")
        driver.get(file.as_uri())

    def run(self, script: str, *values: object) -> Any:
        return self.driver.execute_script(script, *values)

    def texts(self, selector: str) -> list[str]:
        """Of the elements that are to be seen."""
        shown = "[...document.querySelectorAll(arguments[0])].filter(each => each.checkVisibility())"
        return list(self.run(f"return {shown}.map(each => each.textContent.trim())", selector))

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.keys import Keys

        for key in keys:
            ActionChains(self.driver).send_keys(getattr(Keys, key)).perform()

    def click(self, selector: str) -> None:
        self.driver.find_element("css selector", selector).click()

    def choose(self, name: str, value: str) -> None:
        from selenium.webdriver.support.select import Select

        Select(self.driver.find_element("css selector", f"select[name={name}]")).select_by_value(value)

    def focused(self, what: str = "textContent") -> str:
        return str(self.run("return document.activeElement[arguments[0]]", what)).strip()

    def tab_to(self, text: str) -> None:
        """Press Tab until something with this text has the focus."""
        for _ in range(60):
            self.press("TAB")
            if self.focused() == text:
                return
        raise AssertionError(f"Tab does not reach '{text}'")


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Opened]:
    yield Opened(browser, tmp_path / "page.html", page())
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_a_head_sorts_by_number_and_dashes_come_last(opened: Opened) -> None:
    column, rows = f"{FIRST_TABLE} thead th:nth-child(3)", f"{FIRST_TABLE} tr > th:first-child"
    sort = "return document.querySelector(arguments[0]).getAttribute('aria-sort')"
    before = opened.texts(rows)
    assert before == ["Method", "nine", "hundred", "nothing", "twenty", "quoted ‡", "mean"]
    opened.click(f"{column} button")
    assert opened.texts(rows) == ["Method", "hundred", "quoted ‡", "twenty", "nine", "nothing", "mean"]
    assert opened.run(sort, column) == "descending"
    opened.click(f"{column} button")
    assert opened.texts(rows) == ["Method", "nine", "twenty", "quoted ‡", "hundred", "nothing", "mean"]
    assert opened.run(sort, column) == "ascending"
    opened.click(f"{column} button")
    assert opened.texts(rows) == before
    assert opened.run(sort, column) is None
    opened.click(f"{FIRST_TABLE} thead th:first-child button")
    assert opened.texts(rows) == ["Method", "hundred", "nine", "nothing", "quoted ‡", "twenty", "mean"]
    assert opened.run("return document.querySelectorAll('[aria-sort]').length") == 1


def test_a_table_is_sorted_by_keyboard(opened: Opened) -> None:
    opened.tab_to("Metric 0")
    assert opened.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    opened.press("ENTER")
    assert opened.texts(f"{FIRST_TABLE} tbody th")[0] == "hundred"
    opened.press("SPACE")
    assert opened.texts(f"{FIRST_TABLE} tbody th")[0] == "nine"
    assert opened.focused() == "Metric 0"


def test_the_first_tab_leads_to_the_content(opened: Opened) -> None:
    assert opened.run("return getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    opened.press("TAB")
    assert opened.focused() == "Skip to the content"
    opened.press("ENTER", "TAB")
    assert opened.run("return document.querySelector('main').contains(document.activeElement)")


def test_published_rows_can_be_hidden_by_keyboard(opened: Opened) -> None:
    assert "quoted ‡" in opened.texts("#mini th")
    opened.run("document.querySelector('.hide-published').focus()")
    opened.press("SPACE")
    assert "quoted ‡" not in opened.texts("#mini th")
    opened.press("SPACE")
    assert "quoted ‡" in opened.texts("#mini th")


def test_runs_stand_behind_their_row(opened: Opened) -> None:
    assert opened.texts("#mini td code") == []
    opened.run("document.querySelector('#mini td summary').focus()")
    opened.press("ENTER")
    assert opened.texts("#mini td code") == ["run0", "run1"]


def test_the_gallery_is_filtered(opened: Opened) -> None:
    count = "#gallery [role=status].count"
    assert opened.texts(count) == ["24 of 24 pictures, worst cases first"]
    opened.choose("category", "metal_nut")
    opened.choose("method", "Beta")
    assert opened.texts(count) == ["4 of 24 pictures, worst cases first"]
    assert {text.split(",")[0] for text in opened.texts("#gallery .what")} == {"metal nut"}
    assert len(opened.texts("#gallery .tile")) == 4
    assert [text.split()[0] for text in opened.texts("#gallery .scales li")] == ["Beta"]
    opened.choose("role", "worst false alarm")
    assert opened.texts(count) == ["1 of 24 pictures, worst cases first"]
    for name in ("category", "method", "role"):
        opened.choose(name, "")
    assert len(opened.texts("#gallery .tile")) == 24
    assert opened.texts("#gallery select[name=dataset]") == []


def test_outlines_can_be_taken_away(opened: Opened) -> None:
    style = "return getComputedStyle(document.querySelector('#gallery .truth')).visibility"
    opened.run("document.querySelector('.tiles').scrollIntoView()")
    assert opened.run(style) == "visible"
    opened.click(".show-truth")
    assert opened.run(style) == "hidden"


def test_a_tile_opens_large_and_the_keyboard_leads_on_and_back(opened: Opened) -> None:
    title, place = ".viewer h2", ".viewer .place"
    opened.choose("role", "worst found defect")
    opened.run("document.querySelector('#gallery .tile:not([hidden]) button').focus()")
    opened.press("ENTER")
    assert opened.run("return document.querySelector('.viewer').matches(':modal')")
    assert opened.texts(place) == ["1 of 6"]
    assert opened.texts(".viewer figcaption") == ["image", "ground truth", "anomaly map"]
    first = opened.texts(title)
    assert first[0].endswith("worst.png")
    opened.press("ARROW_RIGHT")
    assert opened.texts(place) == ["2 of 6"]
    opened.press("ARROW_LEFT", "ARROW_LEFT")
    assert opened.texts(place) == ["6 of 6"]
    opened.press("ARROW_RIGHT")
    assert opened.texts(title) == first
    opened.press("ESCAPE")
    assert opened.texts(".viewer") == []
    assert opened.focused("ariaLabel").startswith("Enlarge ")
    assert (
        opened.run("return document.activeElement.closest('.tile').querySelector('.what').textContent.trim()")
        == first[0]
    )


def test_what_a_normal_image_has_no_truth_for(opened: Opened) -> None:
    opened.choose("role", "worst false alarm")
    opened.run("document.querySelector('#gallery .tile:not([hidden]) button').click()")
    assert opened.texts(".viewer figcaption") == ["image", "anomaly map"]
    opened.click(".viewer .close")


@pytest.mark.parametrize("width", [700, 1600])
def test_the_window_never_scrolls_sideways(browser: Any, tmp_path: Path, width: int) -> None:
    opened = Opened(browser, tmp_path / "page.html", page(), width)
    assert opened.run("return innerWidth") == width
    opened.run("for (const each of document.querySelectorAll('details')) each.open = true")
    assert opened.run("return document.documentElement.scrollWidth <= innerWidth")
    table = f"document.querySelector('{FIRST_TABLE} .scroll')"
    assert opened.run(f"return {table}.scrollWidth > {table}.clientWidth")
    opened.run(f"{table}.scrollLeft = 200")
    left = f"document.querySelector('{FIRST_TABLE} tbody th').getBoundingClientRect().left"
    assert opened.run(f"return {left} >= {table}.getBoundingClientRect().left")
    opened.run("document.querySelector('#gallery .tile button').click()")
    assert opened.run("return document.querySelector('.viewer').getBoundingClientRect().right <= innerWidth")


@pytest.mark.parametrize("width", [360, 400])
def test_nothing_is_cut_on_a_small_screen(browser: Any, tmp_path: Path, width: int) -> None:
    opened = Opened(browser, tmp_path / "page.html", page(), width)
    opened.run("for (const each of document.querySelectorAll('details')) each.open = true")
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    wide = "[...document.querySelectorAll('.scroll')].filter(each => each.scrollWidth > each.clientWidth + 1)"
    assert opened.run(f"return {wide}.map(each => each.textContent.trim())") == []
    assert opened.run("return document.documentElement.scrollWidth <= innerWidth")
    assert opened.texts("#mini-all thead th") == [], "each row is a block with the heads in it"
    head = "getComputedStyle(document.querySelector('#mini-all td:nth-child(3)'), '::before').content"
    assert opened.run(f"return {head}") == '"Metric 0"'
    assert "n" in opened.texts("#mini-detail thead th"), "a table that fits stays one"
    shown = (
        "return [...document.querySelectorAll('.plot .scroll')].filter(e => e.checkVisibility()).map(e => e.className)"
    )
    assert opened.run(shown) == ["narrow scroll"]


def test_a_figure_has_the_colours_and_the_letters_of_the_page(opened: Opened) -> None:
    def colours(scheme: str) -> list[str]:
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        opened.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        line, use, text = "path[clip-path]", "use", "text"
        of = "getComputedStyle(document.querySelector(`#mini-curves .wide ${arguments[0]}`))"
        found = [opened.run(f"return {of}.stroke", line), opened.run(f"return {of}.stroke", use)]
        return [*map(str, found), str(opened.run(f"return {of}.fill", text))]

    light, dark = colours("light"), colours("dark")
    assert light == ["rgb(18, 53, 91)", "rgb(31, 30, 27)", "rgb(31, 30, 27)"]
    assert dark == ["rgb(138, 184, 234)", "rgb(232, 229, 222)", "rgb(232, 229, 222)"]
    size = "return document.querySelector('#mini-curves .wide text').getBoundingClientRect().height"
    assert 10 < opened.run(size) < 18
    assert opened.run("return document.querySelector('#mini-curves .wide svg').getBoundingClientRect().width") == 756


def test_a_link_to_a_detail_unfolds_it(opened: Opened) -> None:
    assert opened.texts("#mini-detail table") == []
    opened.run("document.querySelector('nav a[href=\"#mini-detail\"]').closest('details').open = true")
    opened.click("nav a[href='#mini-detail']")
    assert len(opened.texts("#mini-detail table")) == 1


def test_no_network_is_touched(opened: Opened) -> None:
    opened.run("for (const each of document.querySelectorAll('img')) each.loading = 'eager'")
    loaded = "return Promise.all([...document.images].map(e => e.decode())).then(() => document.images.length)"
    assert opened.run(loaded) > 50
    names = opened.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in names if not name.startswith("data:")] == []


def test_hostile_labels_do_nothing(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, tmp_path / "page.html", hostile_page())
    opened.run("for (const each of document.querySelectorAll('.sort, .tile button')) each.click()")
    assert opened.run("return window.hostile === undefined")
    assert opened.run("return document.scripts.length") == 1
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_a_script_that_is_not_its_own_is_refused(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, tmp_path / "page.html", page())
    opened.run("document.body.append(Object.assign(document.createElement('script'), {text: 'window.hostile = 1'}))")
    assert opened.run("return window.hostile === undefined")
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def test_all_is_there_without_script(browser: Any, tmp_path: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened = Opened(browser, tmp_path / "page.html", page())
        assert len(opened.texts(".tile")) == 24
        assert opened.texts(f"{FIRST_TABLE} tbody th")[0] == "nine"
        assert opened.texts("button, select") == []
        opened.click(".hide-published")
        assert "quoted ‡" not in opened.texts("#mini th")
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_it_is_dark_where_that_is_preferred(opened: Opened) -> None:
    def lightness(scheme: str) -> int:
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        opened.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        return int(opened.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]"))

    assert lightness("dark") < 60 < 200 < lightness("light")


def test_on_paper_everything_is_open(opened: Opened) -> None:
    state = "return document.querySelectorAll('details:not([open])').length"
    closed = opened.run(state)
    assert closed > 0
    opened.run("window.dispatchEvent(new Event('beforeprint'))")
    assert opened.run(state) == 0
    opened.run("window.dispatchEvent(new Event('afterprint'))")
    assert opened.run(state) == closed
