"""The model of a finished cell in MLflow: pixels in, scores and anomaly maps out, with a signature.

MLflow loads it by this module, so it runs where mddbench is installed. What it computes is what `mddbench predict` does.
"""

from __future__ import annotations

import shutil
import warnings
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mddbench.engine.inference import BATCH_SIZE
from mddbench.errors import InputError
from mddbench.execution.model_file import MODEL
from mddbench.inference.finished import FinishedModel
from mddbench.runs.records import RECORD
from mddbench.runs.store import MlflowStore
from mddbench.sizes import ImageSize, height_and_width
from mddbench.version import VERSION

WEIGHTS_DIR = "weights_dir"
"""Key of MLflow's `model_config`: folder of the encoder's weights, '' for a package or timm's hub."""


def log_model(model: FinishedModel, store: MlflowStore) -> str:
    """Log the model of a cell to the newest finished run of the cell. It is as large as the cell's model file.

    A TrackingError is raised if the store fails.

    Args:
        model: The model.
        store: The store.

    Returns:
        Its address in MLflow, as in 'models:/m-0123'.

    Raises:
        InputError: If the store has no finished run of the cell.
    """
    runs = store.finished(model.record.identity)
    if not runs:
        raise InputError(f"{store.uri}: has no finished run of {model.folder}; `mddbench collect` logs finished cells")
    run, client = runs[0].info, store.client
    logged = client.create_logged_model(run.experiment_id, name=model.record.method, source_run_id=run.run_id)
    with TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow asks for an example, which would only be scored
        data, saved = Path(name) / "cell", Path(name) / "model"
        data.mkdir()
        for file in (RECORD, MODEL):
            shutil.copy(model.folder / file, data / file)
        import_module("mlflow.pyfunc").save_model(
            saved,
            loader_module=__name__,
            data_path=data,
            mlflow_model=store.mlflow.models.Model(model_id=logged.model_id),
            signature=_signature(store.mlflow, model.image_size),
            pip_requirements=[f"mddbench=={VERSION}"],
            model_config={WEIGHTS_DIR: ""},
        )
        client.log_model_artifacts(logged.model_id, str(saved))
    client.finalize_logged_model(logged.model_id, "READY")
    output = store.mlflow.entities.LoggedModelOutput(logged.model_id, step=len(model.record.history))
    client.log_outputs(run.run_id, models=[output])
    return f"models:/{logged.model_id}"


def _signature(mlflow: Any, size: ImageSize) -> Any:
    """What the model takes and gives."""
    types, pixels = mlflow.types, (-1, *height_and_width(size), 3)
    outputs = [types.TensorSpec(np.dtype(np.float32), shape, name) for name, shape in _outputs(size).items()]
    category = types.ParamSpec("category", types.DataType.string, "")
    return mlflow.models.ModelSignature(
        inputs=types.Schema([types.TensorSpec(np.dtype(np.uint8), pixels)]),
        outputs=types.Schema(outputs),
        params=types.ParamSchema([category]),
    )


def _outputs(size: ImageSize) -> dict[str, tuple[int, ...]]:
    return {"scores": (-1,), "maps": (-1, *height_and_width(size))}


class TrackedModel:
    """What MLflow calls to predict.

    Attributes:
        model: The model.
    """

    def __init__(self, model: FinishedModel) -> None:
        self.model = model

    def predict(self, pixels: NDArray[np.uint8], params: dict[str, Any] | None = None) -> dict[str, NDArray[Any]]:
        """Score images.

        Args:
            pixels: (B, H, W, 3) uint8, RGB, of the model's image size.
            params: 'category' with the category of the images, '' if it is not known.

        Returns:
            'scores' (B,) and 'maps' (B, H, W), float32.
        """
        category = self.model.choose((params or {}).get("category") or None)
        batches = [
            self.model.score(pixels[first : first + BATCH_SIZE], category)
            for first in range(0, len(pixels), BATCH_SIZE)
        ]
        maps, scores = (np.concatenate(parts).astype(np.float32) for parts in zip(*batches, strict=True))
        return {"scores": scores, "maps": maps}


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> TrackedModel:
    """Load a logged model. MLflow finds this function by its name."""
    weights = (model_config or {}).get(WEIGHTS_DIR) or None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return TrackedModel(FinishedModel.load(Path(path), device, Path(weights) if weights else None))
