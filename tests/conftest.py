from __future__ import annotations

import io
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mddbench.nn.encoder import FrozenEncoder, load_encoder
from mddbench.seeding import use_deterministic_algorithms
from support import REAL, REAL_IMAGE_LEVEL, Done, mddbench, write_tree


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), 255).save(file, "PNG")
    return file.getvalue()


EMPTY = {
    ".png": _png(),
    ".pdf": b"%PDF-1.4",
    ".svg": b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 4"><title>x</title></svg>',
}


MAY_BE_SKIPPED = (
    "needs a GPU",
    "not beside this checkout",
    "needs the extra dinov2",
    "needs a newer torch",
    "needs the extra anomalib",
)
"""Reasons for which a test may be skipped even where all tools are installed."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """With MDDBENCH_ALL_TOOLS a skipped test is a failure."""
    outcome: Any = yield
    report = outcome.get_result()
    if os.environ.get("MDDBENCH_ALL_TOOLS") and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not any(words in reason for words in MAY_BE_SKIPPED):
            report.outcome, report.longrepr = "failed", f"skipped where nothing may be: {reason}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests of a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu") is not None:
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(autouse=True, scope="session")
def _deterministic() -> None:
    use_deterministic_algorithms()


@pytest.fixture(autouse=True)
def _no_outside_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MDDBENCH_CACHE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _idle_machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No command warns of other work, whatever the machine of the tests is doing, but in the tests of that."""
    if not request.module.__name__.endswith("test_busy"):
        monkeypatch.setattr("mddbench.machine.busy_processors", lambda _: None)


@pytest.fixture(autouse=True)
def _quick_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All figures are built, but rendered only in tests with the mark `renders`: rendering takes most of a report's time."""
    if request.node.get_closest_marker("renders") is None:
        from matplotlib.figure import Figure

        monkeypatch.setattr(
            Figure,
            "savefig",
            lambda _, file, **options: Path(file).write_bytes(EMPTY.get(Path(file).suffix, EMPTY[".png"])),
        )


@pytest.fixture(autouse=True)
def _quick_costs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell times its inference once, but in the tests of costs."""
    if not request.module.__name__.endswith("test_cost"):
        monkeypatch.setattr("mddbench.engine.cost.MOST_SECONDS", 0.0)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """SIGINT interrupts, also where the tests are a shell's background job, which ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For what depends on the number of threads, as last bits do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A sound tree of two categories, the test's own to break."""
    return write_tree(tmp_path / "tree")


@pytest.fixture(scope="session")
def encoder() -> FrozenEncoder:
    return load_encoder("tf_efficientnet_lite0", (1, 2, 3), None)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database, migrated once for all tests."""
    from mddbench.runs.store import MlflowStore

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowStore(f"sqlite:///{file}", file.parent / "mlruns")
    return file


@pytest.fixture
def fresh_store(migrated: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes an output folder with a migrated, empty store in it."""

    def make(name: str) -> Path:
        out = tmp_path / name
        out.mkdir()
        shutil.copy(migrated, out / "mlflow.db")
        return out

    return make


@pytest.fixture
def command() -> Callable[..., Done]:
    """The command, in this process."""

    def run(*arguments: object) -> Done:
        ran = mddbench(*arguments)
        return Done(ran.returncode, ran.stdout, ran.stderr)

    return run


@pytest.fixture(scope="session")
def real() -> Path:
    if not REAL.is_dir():
        pytest.skip("the five real categories are not beside this checkout")
    return REAL


@pytest.fixture(scope="session")
def real_image_level() -> Path:
    if not REAL_IMAGE_LEVEL.is_dir():
        pytest.skip("the real categories with image labels are not beside this checkout")
    return REAL_IMAGE_LEVEL


@pytest.fixture(scope="session")
def finished_cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/ and finished cells of PaDiM: out/ (one model, seeds 0 and 1, maps kept), separate/, calibrated/."""
    folder = tmp_path_factory.mktemp("finished")
    tree = write_tree(folder / "photos", train=20)
    small = ("image_size=64", "batch_size=4", "settings.channels=8")
    common = ("--data-root", tree, "--no-report", "-q", *(word for each in small for word in ("--set", each)))
    for options in (
        ("--seeds", "0,1", "--keep-maps", "--out", folder / "out"),
        ("--set", "setting=separate", "--tracking", "none", "--out", folder / "separate"),
        ("--set", "calibration=0.5", "--tracking", "none", "--out", folder / "calibrated"),
    ):
        ran = mddbench("run", "folder/padim", *common, *options)
        assert ran.returncode == 0, ran.stderr
    return folder
