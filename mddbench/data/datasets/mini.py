"""mini: eight categories cut from photographs that come with scikit-image, with synthetic defects. No download.

Training and test windows come from disjoint parts of each photograph. The defects are drawn by `mddbench.data.drawing`.
It is for smoke tests, speed and regressions. Nothing may be concluded from it about methods: some train on drawn defects.

The files are BMP files that are written here. Their bytes, and with them the fingerprint, therefore depend neither on a
compressor nor on the version of a library.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mddbench.data.drawing import DEFECTS
from mddbench.data.samples import DatasetSource, Published
from mddbench.data.tree import MVTEC_LAYOUT, Layout, read_tree

SIZE = 128
SEED = 20250421
TRAIN_IMAGES = 24
GOOD_IMAGES = 12
IMAGES_PER_DEFECT = 4

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels. The right column and the bottom row are not included."""


@dataclass(frozen=True)
class Photograph:
    """A photograph and the windows that are cut from it.

    Attributes:
        function: The function of `skimage.data` that returns the photograph.
        train: The part for training.
        test: The part for testing.
        window: The side of a window in pixels.
        mirrored: True if half of the windows are mirrored.
    """

    function: str
    train: Box
    test: Box
    window: int
    mirrored: bool = False


PHOTOGRAPHS: dict[str, Photograph] = {
    "brick": Photograph("brick", (0, 0, 300, 512), (308, 0, 512, 512), 144, mirrored=True),
    "coins": Photograph("coins", (0, 0, 232, 303), (236, 0, 384, 303), 104),
    "deep_field": Photograph("hubble_deep_field", (0, 0, 600, 872), (610, 0, 1000, 872), 192, mirrored=True),
    "grass": Photograph("grass", (0, 0, 300, 512), (308, 0, 512, 512), 128, mirrored=True),
    "gravel": Photograph("gravel", (0, 0, 300, 512), (308, 0, 512, 512), 128, mirrored=True),
    "immunohistochemistry": Photograph("immunohistochemistry", (0, 0, 300, 512), (308, 0, 512, 512), 144, True),
    "page": Photograph("page", (0, 0, 226, 191), (232, 0, 384, 191), 88),
    "retina": Photograph("retina", (260, 260, 740, 1150), (750, 260, 1180, 1150), 224),
}


def build(root: Path) -> None:
    """Write the dataset in MVTec-AD's layout. The pixels are the same every time.

    Args:
        root: The empty folder of the dataset.
    """
    import skimage.data

    for index, (category, photograph) in enumerate(PHOTOGRAPHS.items()):
        pixels = np.asarray(Image.fromarray(getattr(skimage.data, photograph.function)()).convert("RGB"))
        for number in range(TRAIN_IMAGES):
            window = _window(pixels, photograph, photograph.train, _generator(index, 0, number))
            _save(window, root / category / "train" / "good" / f"{number:03d}.bmp")
        for number in range(GOOD_IMAGES):
            window = _window(pixels, photograph, photograph.test, _generator(index, 1, number))
            _save(window, root / category / "test" / "good" / f"{number:03d}.bmp")
        for kind, (defect, draw) in enumerate(DEFECTS.items()):
            for number in range(IMAGES_PER_DEFECT):
                generator = _generator(index, 2 + kind, number)
                window = _window(pixels, photograph, photograph.test, generator)
                defective, mask = draw(window, generator)
                _save(defective, root / category / "test" / defect / f"{number:03d}.bmp")
                mask_file = root / category / "ground_truth" / defect / f"{number:03d}_mask.bmp"
                _save(mask.astype(np.uint8) * 255, mask_file)


def _generator(category: int, kind: int, number: int) -> np.random.Generator:
    """The random numbers of one image. Each image has its own, so a change of one kind of image affects no other."""
    return np.random.default_rng([SEED, category, kind, number])


def _window(
    pixels: NDArray[np.uint8], photograph: Photograph, box: Box, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """A window (SIZE, SIZE, 3) from a random position in the box, with a slight random change of exposure."""
    left, top, right, bottom = box
    x = int(generator.integers(left, right - photograph.window + 1))
    y = int(generator.integers(top, bottom - photograph.window + 1))
    crop = Image.fromarray(pixels[y : y + photograph.window, x : x + photograph.window])
    window = np.asarray(crop.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    if photograph.mirrored and generator.random() < 0.5:
        window = window[:, ::-1]
    gain, shift = generator.uniform(0.94, 1.06), generator.uniform(-6.0, 6.0)
    return np.clip(np.rint(window * gain + shift), 0, 255).astype(np.uint8)


def _save(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write (SIZE, SIZE) or (SIZE, SIZE, 3) pixels as a BMP file.

    Pillow is not used, because versions of it fill the unused byte of a colour differently. A row has SIZE or 3 * SIZE
    bytes, so none is padded.
    """
    grey = pixels.ndim == 2
    palette = b"".join(bytes([level, level, level, 0]) for level in range(256)) if grey else b""
    rows = np.ascontiguousarray(pixels[::-1] if grey else pixels[::-1, :, ::-1]).tobytes()  # from the bottom; BGR
    start, colours = 14 + 40 + len(palette), len(palette) // 4
    file_header = struct.pack("<2sIII", b"BM", start + len(rows), 0, start)
    header = struct.pack(
        "<IiiHHIIiiII", 40, SIZE, SIZE, 1, 8 if grey else 24, 0, len(rows), 3780, 3780, colours, colours
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file_header + header + palette + rows)


DATASET = DatasetSource(
    description="8 categories cut from scikit-image's photographs, synthetic defects, no download",
    read=lambda root, _: read_tree(root, Layout()),
    layout=MVTEC_LAYOUT,
    build=build,
    caution="The defects are drawn, and some methods train on drawn defects. Nothing may be concluded from it about methods.",
    published=Published(
        "mini", {name: (TRAIN_IMAGES, GOOD_IMAGES, IMAGES_PER_DEFECT * len(DEFECTS)) for name in PHOTOGRAPHS}
    ),
)
