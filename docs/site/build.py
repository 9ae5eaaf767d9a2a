"""Builds the site of the documentation: python docs/site/build.py FOLDER

The pages are the Markdown files of the repository, and pages of the API from its docstrings. MkDocs checks every link.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOP = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "LICENSE": "LICENSE",
}
"""File at the top of the repository -> its place on the site."""
PICTURES = ("docs/**/*.png", "docs/*.ipynb", "paper_tables/rendered/**/*.png")
REFERENCES = {
    "reference.md": ("Python API", ("mddbench.api.cells", "mddbench.api.measure", "mddbench.inference.predict")),
    "reference-plugins.md": (
        "Plug-in API",
        ("mddbench.detector", "mddbench.batch", "mddbench.data.samples", "mddbench.settings"),
    ),
}
"""Page -> its title, and the modules whose docstrings it shows."""
LINK = re.compile(r"\[([^\]]*)\]\(([^)#:]+)(#[^)]*)?\)")


def build(folder: Path) -> Path:
    """Copy the pages into a folder and build the site there.

    Args:
        folder: An empty folder, or one of an earlier build.

    Returns:
        The folder of the site. The process ends if a link leads nowhere.
    """
    pages = folder / "pages"
    shutil.rmtree(pages, ignore_errors=True)
    sources = {ROOT / source: pages / place for source, place in TOP.items()}
    sources |= {file: pages / file.relative_to(ROOT) for file in sorted((ROOT / "docs").glob("*.md"))}
    sources |= {file: pages / file.relative_to(ROOT) for pattern in PICTURES for file in sorted(ROOT.glob(pattern))}
    for source, place in sources.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            place.write_text(page(source, set(sources)), encoding="utf-8")
        else:
            shutil.copyfile(source, place)
    for name, (title, modules) in REFERENCES.items():
        parts = [f"# {title}", *(f"::: {module}" for module in modules)]
        (pages / "docs" / name).write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    config = folder / "mkdocs.yml"
    text = Path(__file__).with_name("mkdocs.yml").read_text(encoding="utf-8")
    handler = "        python:\n"
    config.write_text(text.replace(handler, f"{handler}          paths: [{str(ROOT)!r}]\n"), encoding="utf-8")
    # MkDocs counts only warnings that it also shows, so it may not be quiet.
    built = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config)], check=False)
    if built.returncode:
        sys.exit(built.returncode)
    return folder / "site"


def page(source: Path, known: set[Path]) -> str:
    """Return a page for the site.

    Links to the README lead to the start page. A link to a folder or file of the repository that is no page becomes its text.

    Args:
        source: The Markdown file.
        known: All files of the site, as they lie in the repository.
    """

    def corrected(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        file = (source.parent / target).resolve()
        if file == ROOT / "README.md":
            return f"[{text}]({target.replace('README.md', 'index.md')}{anchor})"
        if file.exists() and file not in known:
            return text
        return match[0]

    return LINK.sub(corrected, source.read_text(encoding="utf-8"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("expected one folder: python docs/site/build.py FOLDER")
    print(build(Path(sys.argv[1])))
