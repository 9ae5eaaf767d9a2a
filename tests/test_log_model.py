"""The model of a finished cell in MLflow: it is at its run, with a signature, and scores as the suite does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mddbench.inference.finished import FinishedModel, find_cell
from mddbench.runs.store import MlflowStore, existing_store
from support import mddbench


@pytest.mark.filterwarnings("ignore")  # MLflow's own, when it loads a model
def test_a_logged_model_scores_as_predict_does(finished_cells: Path) -> None:
    out = finished_cells / "out"
    done = mddbench("log-model", "folder/padim", "--out", out, "--seed", 1)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    address = done.stdout.strip()
    store = existing_store(None, out)
    model = FinishedModel.load(find_cell("folder/padim", out, 1), torch.device("cpu"))
    (run,) = store.finished(model.record.identity)
    assert [output.model_id for output in run.outputs.model_outputs] == [address.removeprefix("models:/")]
    logged = store.client.get_logged_model(address.removeprefix("models:/"))
    assert str(logged.status) == "READY"

    from mlflow import pyfunc

    loaded = pyfunc.load_model(logged.artifact_location)
    pixels = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    found = loaded.predict(pixels)
    maps, scores = model.score(pixels)
    np.testing.assert_array_equal(found["scores"], scores.astype(np.float32))
    np.testing.assert_array_equal(found["maps"], maps.astype(np.float32))
    with pytest.raises(Exception, match="category 'gear': expected one of bolt, nut"):
        loaded.predict(pixels, params={"category": "gear"})
    with pytest.raises(Exception, match="shape"):
        loaded.predict(pixels[:, :32])


def test_a_cell_that_is_not_in_the_store_is_one_line(finished_cells: Path, migrated: Path) -> None:
    uri = f"sqlite:///{migrated}"
    done = mddbench("log-model", "folder/padim", "--out", finished_cells / "out", "--tracking-uri", uri)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "has no finished run of" in done.stderr
    assert not MlflowStore(uri, None).search("")
