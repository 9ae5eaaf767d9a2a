"""The size of the code and the imports between its folders.

Run: python benchmarks/structure.py [TREE]; TREE: a checkout, this one if none is given.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path


def folder_of(file: Path) -> str:
    """The folder of a file below mddbench/, or the file's own name if it lies in none."""
    inner = file.parts[1:] if file.parts[0] == "mddbench" else file.parts
    return "/".join(inner[:-1]) or file.stem


def main() -> None:
    """Print modules, lines, the longest file and function, and the number of imports between folders."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1])
    lines: Counter[str] = Counter()
    functions: list[tuple[int, str]] = []
    arrows: set[tuple[str, str]] = set()
    files = sorted([*root.glob("mddbench/**/*.py"), *root.glob("baselines/*.py")])
    for path in files:
        file, text = path.relative_to(root), path.read_text(encoding="utf-8")
        lines[file.as_posix()] = len(text.splitlines())
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                functions.append((node.end_lineno - node.lineno + 1, f"{file}:{node.name}"))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mddbench."):
                module = Path(str(node.module).replace(".", "/"))
                target = module.with_suffix(".py") if (root / module.with_suffix(".py")).exists() else module / "x.py"
                arrows.add((folder_of(file), folder_of(target)))
    by_folder: Counter[str] = Counter()
    for name, count in lines.items():
        by_folder[folder_of(Path(name))] += count
    between = sum(one != other for one, other in arrows)
    print(f"{len(files)} modules, {lines.total()} lines, {len(by_folder)} rooms, {between} arrows between rooms")
    print("longest file:", *lines.most_common(1)[0], "longest function:", *max(functions))
    print(", ".join(f"{name} {count}" for name, count in by_folder.most_common()))


if __name__ == "__main__":
    main()
