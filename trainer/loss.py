"""What training minimises: sums over measured pixels, so that ranks and batches add up exactly."""

from torch import Tensor


def asymmetric_squared_error(
    predicted_BHW: Tensor, height_BHW: Tensor, valid_BHW: Tensor, underestimate_factor: float
) -> tuple[Tensor, Tensor]:
    """Sum of squared errors in square metres, and the number of pixels that it is over.

    A pixel that is predicted too low counts `underestimate_factor` times (3 in the notebook: tall shrubs
    and trees are rare, and missing them is the costlier error). Pixels without a measured height (NaN) or
    without a valid image count nothing. `predicted_BHW` is unclamped: a negative prediction keeps its
    gradient.
    """
    measured_BHW = valid_BHW & height_BHW.isfinite()
    error_BHW = (predicted_BHW - height_BHW.nan_to_num()).masked_fill(~measured_BHW, 0.0)
    weight_BHW = 1.0 + (underestimate_factor - 1.0) * (error_BHW < 0)
    return (weight_BHW * error_BHW.square()).sum(), measured_BHW.sum()
