"""The house: sizes and habits. Its layers are checked by import-linter (`tox -e lint`)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mddbench.cli.entries import entries_from_folder
from mddbench.experiments.ablation import all_ablations
from mddbench.report.build import build_report, differences
from mddbench.report.fill import fill_differences
from support import ROOT

FILES = [*sorted((ROOT / "mddbench").rglob("*.py")), *sorted((ROOT / "baselines").rglob("*.py"))]
MAX_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 380, 60, 7


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "mddbench" else ("mddbench", *parts)).removesuffix(".__init__")


MODULES = {module_name(file): file for file in FILES}


def top(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_sizes(file: Path) -> None:
    text = file.read_text()
    assert text.count("\n") <= MAX_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, f"{node.name} is long"
            parameters = [a.arg for a in (*node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")]
            # The parameters of a command, and of a function of the Python API, are its options.
            assert len(parameters) <= MAX_PARAMETERS or {"cli", "api"} & set(file.parts), (
                f"{node.name} takes {len(parameters)}"
            )


def test_packages_re_export_nothing_and_hold_no_odds_and_ends() -> None:
    for file in FILES:
        if file.name == "__init__.py" and file.parent != ROOT / "mddbench":
            assert file.read_text() == "", f"{file} is not empty"
        assert file.stem not in ("utils", "common", "helpers", "misc", "base")


def test_no_method_or_dataset_is_named_in_code_that_serves_all() -> None:
    plugins = {file.stem for folder in ("mddbench/methods", "baselines") for file in (ROOT / folder).glob("*.py")}
    plugins |= {file.stem for file in (ROOT / "mddbench/data/datasets").glob("*.py")}
    plugins |= {file.parent.name for file in (ROOT / "mddbench/methods").glob("*/detector.py")}
    plugins -= {"__init__", "folder"}  # an ordinary word
    for module, file in MODULES.items():
        if "." not in module or top(module) in ("methods", "baselines") or ".datasets." in module:
            continue
        if module == "mddbench.metrics.conventions":  # the name of what somebody's code computes, not a method's
            continue
        strings = {
            node.value
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not strings & plugins, f"{module} names {strings & plugins}"


def test_every_dependency_is_used_and_has_a_reason() -> None:
    block = re.search(r"^dependencies = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE)
    assert block is not None
    names = re.findall(r"\"([a-z0-9-]+)[<>=]", block[1])
    assert len(names) > 10
    imports_as = {"pillow": "PIL", "pyyaml": "yaml", "scikit-image": "skimage"}
    text = "\n".join(file.read_text() for file in FILES)
    reasons = (ROOT / "docs" / "architecture.md").read_text()
    for name in names:
        module = imports_as.get(name, name.replace("-", "_"))
        used = re.search(rf"(import|from) {module}\b|\"{module}\"", text) or module.startswith("efficientnet_lite0")
        assert used, f"{name} is not used"
        assert f"`{name}`" in reasons, f"docs/architecture.md gives no reason for {name}"


def test_the_oldest_versions_are_those_that_are_promised() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    promised = dict(re.findall(r"\"([a-z0-9-]+)[>=]=([\d.]+)\"", project.partition("dev = [")[0]))
    tested = dict(
        re.findall(r"^([a-z0-9-]+)==([\d.]+?)(?:\.\*)?$", (ROOT / "constraints-oldest.txt").read_text(), re.M)
    )
    del promised["setuptools"], tested["torchvision"], tested["pyparsing"]  # not direct dependencies
    assert tested == promised


@pytest.mark.parametrize(
    ("statement", "banned"),
    [
        ("import mddbench.cli.main", ("torch", "mlflow", "timm", "pandas", "matplotlib", "numpy")),
        ("import mddbench.report.build", ("torch", "mlflow", "timm")),
        (
            "import mddbench.report.write, mddbench.verdicts.verify, mddbench.verdicts.regress",
            ("torch", "mlflow", "timm"),
        ),
        ("import mddbench.runs.tracking", ("torch", "mlflow")),
    ],
)
def test_light_imports(statement: str, banned: tuple[str, ...]) -> None:
    code = f"import sys; {statement}; print(sorted(set(sys.modules) & {set(banned)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_imports_neither_torch_nor_mlflow() -> None:
    code = (
        "import sys; sys.argv = ['mddbench', '--help']\n"
        "from mddbench.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'torch', 'mlflow', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout


def test_doctests() -> None:
    import doctest
    from importlib import import_module

    tried = 0
    for module in MODULES:
        result = doctest.testmod(import_module(module))
        assert result.failed == 0, module
        tried += result.attempted
    assert tried > 0


def test_readme_and_ci_run_one_test_command() -> None:
    commands = re.findall(r"```sh\n(.+)\n```", (ROOT / "README.md").read_text())
    assert len(commands) == 2, "README shows two commands, each one line"
    assert commands[1] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_committed_tables_follow_from_the_committed_records() -> None:
    report = build_report(entries_from_folder(ROOT / "results"), all_ablations(ROOT / "results", [], print))
    assert differences(report, ROOT / "paper_tables" / "rendered") == []
    assert fill_differences(ROOT / "README.md", report.marked) == []
    assert "<!-- table: mini, folded -->" in (ROOT / "README.md").read_text()
