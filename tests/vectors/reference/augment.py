"""Section 5: images that are changed at random while training."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from reference.draws import AUGMENT, mix, stream

Image = npt.NDArray[np.float32]


def apply(changes: list[Any], seed: int, epoch: int, row: int, image: Image) -> Image:
    """The image of a row, `[channels, height, width]`, after all changes."""
    for j, change in enumerate(changes):
        draw = int(mix(seed, stream(AUGMENT, epoch), row * 16 + j)[0])
        if change == "flip":
            image = image[:, :, ::-1] if draw >> 63 else image
            continue
        [(kind, n)] = change.items()
        down = (draw >> 32) % (2 * n + 1) - n
        right = (draw & 0xFFFFFFFF) % (2 * n + 1) - n
        padded = np.pad(
            image, ((0, 0), (n, n), (n, n)), mode="constant" if kind == "crop" else "edge"
        )
        _, height, width = image.shape
        image = padded[:, n - down : n - down + height, n - right : n - right + width]
    return image
