"""Section 5: images that are changed at random while training."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from outboard_worker.draws import AUGMENT, mix, stream


def apply(
    changes: list[Any], seed: int, epoch: int, rows: npt.NDArray[np.int64], images: Tensor
) -> Tensor:
    """The images of some rows, `[rows, channels, height, width]`, after all changes."""
    device = images.device
    _, _, height, width = images.shape
    row = torch.arange(len(rows), device=device)[:, None, None]

    def moved(draws: npt.NDArray[np.uint64], n: int, size: int) -> Tensor:
        """Where each place of an image comes from, by row."""
        by = (draws % np.uint64(2 * n + 1)).astype(np.int64) - n
        return torch.arange(size, device=device) - torch.from_numpy(by).to(device)[:, None]

    for j, change in enumerate(changes):
        draw = mix(
            seed, stream(AUGMENT, epoch), rows.astype(np.uint64) * np.uint64(16) + np.uint64(j)
        )
        if change == "flip":
            turned = torch.from_numpy((draw >> np.uint64(63)).astype(np.bool_)).to(device)
            images = torch.where(turned[:, None, None, None], images.flip(-1), images)
            continue
        [(kind, n)] = change.items()
        y = moved(draw >> np.uint64(32), n, height)[:, :, None]
        x = moved(draw & np.uint64(0xFFFFFFFF), n, width)[:, None, :]
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        picked = images.permute(0, 2, 3, 1)[row, y.clamp(0, height - 1), x.clamp(0, width - 1)]
        images = picked.permute(0, 3, 1, 2)
        if kind == "crop":
            images = torch.where(inside[:, None], images, 0)
    return images.contiguous()
