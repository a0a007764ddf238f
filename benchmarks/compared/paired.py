"""Scores of maps, and differences of RMSE with intervals: a bootstrap over blocks and over seeds."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 50
"""Pixels along each side of a block, within which errors are alike."""
DRAWS = 2000
CLASSES_M = (0.0, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, np.inf)


def scores(predicted_HW: NDArray[np.float32], measured_HW: NDArray[np.float32]) -> dict[str, Any]:
    """Score a map in metres where something is measured.

    "block_r2" is R2 of the means of blocks of 50 x 50 pixels; "edge" is the mean absolute error of the
    differences between neighbouring pixels, which a blurred map gets wrong at crowns.
    """
    there_HW = np.isfinite(measured_HW)
    predicted_N, measured_N = predicted_HW[there_HW].astype(float), measured_HW[there_HW].astype(float)
    error_N = predicted_N - measured_N
    blocks = [
        _block_means(np.where(there_HW, values_HW, np.nan)) for values_HW in (predicted_HW, measured_HW)
    ]
    edge = np.nanmean([np.nanmean(np.abs(np.diff(predicted_HW - measured_HW, axis=axis))) for axis in (0, 1)])
    of_class = {
        f"{low:g}-{high:g}": float(np.sqrt(np.mean(error_N[chosen] ** 2)))
        for low, high in pairwise(CLASSES_M)
        if (chosen := (measured_N >= low) & (measured_N < high)).any()
    }
    return {
        "rmse": float(np.sqrt(np.mean(error_N**2))),
        "mae": float(np.mean(np.abs(error_N))),
        "bias": float(np.mean(error_N)),
        "r2": _r2(predicted_N, measured_N),
        "block_r2": _r2(*blocks),
        "edge": float(edge),
        "rmse_of_class": of_class,
    }


def difference(
    ours: list[NDArray[np.float32]], theirs: list[NDArray[np.float32]], measured_HW: NDArray[np.float32]
) -> dict[str, float]:
    """Compare the RMSE of two models, of which each has a map for each seed.

    Blocks are drawn with replacement, the same for both models; seeds are drawn for each model by itself.

    Returns:
        "mean" of ours less theirs, and "low" and "high", the 95 % interval, in metres.
    """
    squares = [
        np.stack([_block_sums((one_HW - measured_HW) ** 2) for one_HW in maps]) for maps in (ours, theirs)
    ]
    counts_K = _block_sums(np.isfinite(measured_HW).astype(float))
    generator = np.random.default_rng(0)
    blocks_DK = generator.integers(len(counts_K), size=(DRAWS, len(counts_K)))
    drawn_D = np.zeros(DRAWS)
    for sign, of_SK in zip((1, -1), squares, strict=True):
        seeds_DS = generator.integers(len(of_SK), size=(DRAWS, len(of_SK)))
        for draw in range(DRAWS):
            chosen_K = blocks_DK[draw]
            mean_S = of_SK[seeds_DS[draw]][:, chosen_K].sum(1) / counts_K[chosen_K].sum()
            drawn_D[draw] += sign * np.sqrt(mean_S).mean()
    mean = sum(
        sign * np.sqrt(of_SK.sum(1) / counts_K.sum()).mean()
        for sign, of_SK in zip((1, -1), squares, strict=True)
    )
    low, high = np.quantile(drawn_D, (0.025, 0.975))
    return {"mean": float(mean), "low": float(low), "high": float(high)}


def _r2(predicted_N: NDArray[Any], measured_N: NDArray[Any]) -> float:
    there_N = np.isfinite(measured_N) & np.isfinite(predicted_N)
    residual = np.sum((predicted_N - measured_N)[there_N] ** 2)
    return float(1 - residual / np.sum((measured_N[there_N] - measured_N[there_N].mean()) ** 2))


def _blocks(values_HW: NDArray[Any]) -> list[NDArray[Any]]:
    rows, columns = (range(0, side, BLOCK) for side in values_HW.shape)
    return [values_HW[row : row + BLOCK, column : column + BLOCK] for row in rows for column in columns]


def _block_sums(values_HW: NDArray[Any]) -> NDArray[np.float64]:
    return np.array([np.nansum(block.astype(float)) for block in _blocks(values_HW)])


def _block_means(values_HW: NDArray[Any]) -> NDArray[np.float64]:
    blocks = _blocks(values_HW)
    return np.array([np.nanmean(one) if np.isfinite(one).any() else np.nan for one in blocks])
