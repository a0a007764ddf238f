"""Scene open for prediction: its bands in the order used in training, its nodata value as in training."""

from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.scenes.scene_list import MAP_ENDINGS
from inference.tiling.halo import Halo, halo_block
from inference.tiling.windows import Block, WindowGrid
from shards.errors import InputError
from shards.format.band_values import said_scaling
from shards.format.schema import Schema
from shards.raster.opening import band_names, is_as_wide, is_scaled, open_raster, read_window

SAME_SCALE = 1e-6
"""Largest difference (as a share) between scales or offsets that are the same but for rounding to text."""


class Scene:
    """Raster that a regressor trained on chips of `schema` can read."""

    def __init__(self, url: str, schema: Schema, bands: tuple[str, ...], needs_crs: bool = True) -> None:
        """Open the raster at `url`; `bands` names its bands where the file does not.

        Without a CRS (`needs_crs` is false) the size of its pixels is unknown, and taken for granted.

        Raises:
            InputError: it is not a raster, lacks a band, or has pixels unlike the chips'.
        """
        self.url, self.schema = url, schema
        self.raster: Any = open_raster(url, needs_crs)
        try:
            names = band_names(self.raster, bands, schema.bands)
            missing = [band for band in schema.bands if band not in names]
            if missing and url.endswith(MAP_ENDINGS):
                raise InputError(f"{url}: is a map made by treeline predict; name its scene instead")
            if missing:
                raise InputError(f"{url}: lacks band {' and '.join(missing)}; it has {' '.join(names)}")
            self._band_numbers = [names.index(band) + 1 for band in schema.bands]
            dtypes = sorted({self.raster.dtypes[number - 1] for number in self._band_numbers})
            if dtypes != [schema.dtype]:
                raise InputError(
                    f"{url}: pixels are {' and '.join(dtypes)}, not {schema.dtype} as in training"
                )
            self._refuse_other_scaling()
            if self.raster.crs is not None and not is_as_wide(self.raster, schema.pixel_size):
                raise InputError(
                    f"{url}: pixels are {abs(self.raster.transform.a):g} wide, not {schema.pixel_size:g} as "
                    "in training; resample it (gdalwarp -tr)"
                )
        except InputError:
            self.raster.close()
            raise
        self.shape: tuple[int, int] = self.raster.shape

    def _refuse_other_scaling(self) -> None:
        """Refuse a raster that states another scale or offset than the chips had; most state none."""
        if not is_scaled(self.raster):
            return
        for band, number in zip(self.schema.bands, self._band_numbers, strict=True):
            stated = self.raster.scales[number - 1], self.raster.offsets[number - 1]
            if not self.schema.is_scaled(band):
                raise InputError(
                    f"{self.url}: states a scale or offset; apply it first (gdal_translate -unscale)"
                )
            if not np.allclose(stated, self.schema.scaling(band), rtol=SAME_SCALE, atol=0):
                raise InputError(
                    f"{self.url}: band {band} has scale {stated[0]:.7g} and offset {stated[1]:.7g}, not "
                    f"{said_scaling(self.schema, band)} as in training"
                )

    def __enter__(self) -> "Scene":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.raster.close()

    def halo(self, block: Block, grid: WindowGrid) -> Halo:
        """Read the pixels that `block` is computed from."""
        read = halo_block(block, grid, self.shape)
        return Halo(self.pixels(read), read.rows.start, read.columns.start, self.shape)

    def pixels(self, block: Block) -> NDArray[Any]:
        """Read image_CHW of a block, as stored in training: missing pixels have the nodata value of then."""
        image_CHW = read_window(self.raster, indexes=self._band_numbers, window=block.window)
        own, trained = self.raster.nodata, self.schema.nodata
        if own is not None and own != trained:
            image_CHW = with_missing(image_CHW, image_CHW == own, trained)
        return np.asarray(image_CHW)


def with_missing(
    image_CHW: NDArray[Any], missing_CHW: NDArray[np.bool_], nodata: float | None
) -> NDArray[Any]:
    """Mark pixels as missing: with the nodata value of training, or as NaN where pixels cannot have that."""
    mark = nodata if nodata is not None and _holds(image_CHW.dtype, nodata) else np.nan
    if np.isnan(mark):
        image_CHW = image_CHW.astype(np.float32)
    image_CHW[missing_CHW] = mark
    return image_CHW


def _holds(dtype: np.dtype[Any], number: float) -> bool:
    """Tell whether pixels of this type can have this value: bytes cannot be -9999, the default nodata."""
    if dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return number == int(number) and limits.min <= number <= limits.max
