"""Draws docs/report.png, the page of a report as a browser shows it: its head beside its heat maps, or beside its figures.

Run: python docs/draw_page.py [OUT] (Debian: chromium, chromium-driver; pip: selenium). Its numbers are those of results/.
The heat maps come from OUT, the output folder of `mddbench run --all` on the same kind of machine.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import sys
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mddbench.cli.entries import entries_from_folders
from mddbench.experiments.ablation import all_ablations
from mddbench.report.build import PAGE, Report, build_report
from mddbench.report.write import write_report

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "report.png"
SHOWS = "shows"
"""Under this name the picture holds the hash of what it shows."""
WINDOW, SIZE = (1000, 915), (733, 671)
"""Of the browser, and of each half of the picture, in pixels."""
GAP = 14
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking")


def report_of(folders: list[Path]) -> Report:
    """The report of the records in some folders."""
    entries = entries_from_folders(folders, ROOT / "docs")
    return build_report(entries, all_ablations(folders[0], (), print))


def shown(report: Report) -> str:
    """A hash of what the picture shows: the main table, and the files that lay a page out."""
    total = hashlib.sha256(report.main["mini"].encode())
    for name in ("page.css", "page.html.j2", "page.js"):
        total.update(files("mddbench.report.page").joinpath(name).read_bytes())
    return total.hexdigest()


def views(page: Path) -> list[Image.Image]:
    """The head of the page; and its heat maps or, where no run kept any, its figures."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in FLAGS:
        options.add_argument(flag)
    driver: Any = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        width, height = WINDOW
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(page.as_uri())
        found = []
        for script in ("document.body", "(document.querySelector('#gallery') || document.querySelector('figure'))"):
            driver.execute_script(f"{script}.scrollIntoView({{behavior: 'instant'}})")
            screen = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
            found.append(screen.resize(SIZE, Image.Resampling.LANCZOS))
        return found
    finally:
        driver.quit()


def main() -> None:
    """Draw the picture from results/ and the output folder that is given, if one is."""
    report = report_of([ROOT / "results", *map(Path, sys.argv[1:])])
    with TemporaryDirectory() as folder:
        write_report(report, Path(folder))
        left, right = views(Path(folder) / PAGE)
    whole = Image.new("RGB", (2 * SIZE[0] + GAP, SIZE[1]), "#888")
    whole.paste(left, (0, 0))
    whole.paste(right, (SIZE[0] + GAP, 0))
    note = PngInfo()
    note.add_text(SHOWS, shown(report_of([ROOT / "results"])))
    whole.quantize(256).save(PICTURE, pnginfo=note, optimize=True)
    print(PICTURE)


if __name__ == "__main__":
    main()
