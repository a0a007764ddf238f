"""Scene open for prediction: its bands in the order used in training, its nodata value as in training."""

from collections.abc import Sequence
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
from shards.raster.band_names import ALPHA, NamedBands, canonical, named_bands, numbers_of_bands
from shards.raster.finding import Finding
from shards.raster.gdal_advice import convert_to, loses_names
from shards.raster.grid import Grid
from shards.raster.missing import Missing, mark
from shards.raster.opening import is_scaled, open_raster
from shards.raster.pixel_size import PixelSize, angle_of, warp_command
from shards.wording import Option, Words

SAME_SCALE = 1e-6
"""Largest difference (as a share) between scales or offsets that are the same but for rounding to text."""
BYTES = "uint8"
"""Type of pixels that hold counts or pictures, and no unit."""


class Scene:
    """Raster that a regressor trained on chips of `schema` can read."""

    findings: tuple[Finding, ...]
    """What is unlike the chips of training, and can be told from the header."""
    assumed: tuple[Finding, ...]
    """What is taken for granted about the names of bands."""
    named: NamedBands
    """Names of all bands of the file, and what is taken for granted about them."""
    missing: Missing
    """The bands that are read, and marks of their missing pixels."""

    def __init__(
        self,
        url: str,
        schema: Schema,
        bands: tuple[str, ...],
        needs_crs: bool = True,
        nodata: float | None = None,
    ) -> None:
        """Open the raster at `url`.

        Args:
            url: path or s3://...
            schema: schema of the chips of training.
            bands: names of the raster's bands where the file does not name them, or (): as in `schema`.
            needs_crs: whether its place matters. Without a CRS the size of its pixels is unknown, and taken
                for granted.
            nodata: value that means a missing pixel, beside what the file declares.

        Raises:
            InputError: it is not a raster, or lacks a band.
        """
        self.url, self.schema = url, schema
        self.raster: Any = open_raster(url, needs_crs)
        try:
            self.named = named_bands(self.raster, bands, schema.bands)
            self.names, self.assumed = self.named.names, self.named.findings()
            try:
                self.band_numbers = numbers_of_bands(url, self.names, schema.bands)
            except InputError:
                if url.endswith(MAP_ENDINGS):
                    raise InputError(
                        f"{url}: is a map made by treeline predict; name its scene instead"
                    ) from None
                self._refuse_too_few()
                raise
            self.missing = Missing.of(self.raster, self.band_numbers, nodata)
            self._refuse_other_scaling()
            named_by_file = self.names if not bands and any(self.raster.descriptions) else ()
            self.findings = tuple(self._of_type() + self._of_grid(named_by_file))
        except InputError:
            self.raster.close()
            raise
        self.shape: tuple[int, int] = self.raster.shape

    @property
    def are_bytes(self) -> bool:
        """Whether pixels are stored as bytes, and those of training were not."""
        stored = {self.raster.dtypes[number - 1] for number in self.band_numbers}
        return stored == {BYTES} != {self.schema.dtype}

    def _refuse_too_few(self) -> None:
        """Refuse a raster with fewer bands than training had: no other names would help."""
        stated = [name for name in self.names if name != ALPHA]
        if len(stated) < len(self.schema.bands):
            known = set(map(canonical, stated))
            lacks = [band for band in self.schema.bands if canonical(band) not in known]
            raise InputError(
                f"{self.url}: lacks band {' and '.join(lacks)}; it has {' '.join(stated)}, and cannot be "
                "used with this model"
            )

    def _of_type(self) -> list[Finding]:
        """Find that pixels are stored as another type than the chips'."""
        trained, stored = self.schema.dtype, {self.raster.dtypes[n - 1] for n in self.band_numbers}
        if stored == {trained}:
            return []
        said = " and ".join(sorted(stored))
        # Numbers with a scale may be stored in any unit, and of another type they most likely are.
        if any(map(self.schema.is_scaled, self.schema.bands)) and not is_scaled(self.raster):
            raise InputError(
                f"{self.url}: pixels are {said}, not {trained} as in training, where numbers have a scale "
                "and an offset; store them likewise, or state the same scale and offset (gdal_edit.py -scale "
                "-offset)"
            )
        return [Finding("type", f"pixels are {said}, read as the {trained} of training")]

    def _of_grid(self, named_by_file: tuple[str, ...]) -> list[Finding]:
        """Find what is unlike in the size and direction of pixels; the cure may lose the file's names."""
        if self.raster.crs is None:
            return []
        found, grid = list[Finding](), Grid.of(self.raster)
        trained, own = PixelSize.of_schema(self.schema), PixelSize.of(grid)
        if not own.is_like(trained):
            line, command = f"pixels are {own}, not {trained} as in training", warp_command(grid, trained)
            cure = Words(f"resample it: {command}")
            if named_by_file and loses_names(command):
                cure = Words(
                    cure, ", which keeps no names of bands: name them with ", Option("bands", named_by_file)
                )
            found.append(Finding("pixel size", line, cure, is_gross=True))
        if turn := angle_of(grid):
            found.append(Finding("turned", f"the grid is turned by {turn:.3g} degrees; its map is, too"))
        return found

    def _refuse_other_scaling(self) -> None:
        """Refuse a raster that states another scale or offset than the chips had; most state none."""
        if not is_scaled(self.raster):
            return
        for band, number in zip(self.schema.bands, self.band_numbers, strict=True):
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

    def pixels(self, block: Block, shape: tuple[int, int] | None = None) -> NDArray[Any]:
        """Read image_CHW of a block, as stored in training: missing pixels have the nodata value of then.

        With the `shape` of an overview (rows, columns) that overview is read.

        Raises:
            InputError: the file is damaged, or a value is beyond the type of training.
        """
        image_CHW, missing_CHW = self.missing.read(block.window, shape)
        image_CHW = self._as_trained(image_CHW, missing_CHW, block)
        return mark(image_CHW, missing_CHW, self.schema.nodata, self.missing.is_marked_apart)

    def pixels_of(self, blocks: Sequence[Block]) -> NDArray[Any]:
        """Read (bands, pixels) of several blocks one after the other, as `pixels` does of each.

        Raises:
            InputError: the file is damaged, or a value is beyond the type of training.
        """
        image_BN, missing_BN = self.missing.read_all([block.window for block in blocks])
        if self._beyond(image_BN, missing_BN).any():
            for block in blocks:  # one of them raises, and names the place
                self.pixels(block)
        image_BN = self._in_type_of_training(image_BN, missing_BN)
        return mark(image_BN, missing_BN, self.schema.nodata, self.missing.is_marked_apart)

    def _as_trained(
        self, image_CHW: NDArray[Any], missing_CHW: NDArray[np.bool_], block: Block
    ) -> NDArray[Any]:
        """Return pixels in the type of training, or refuse the first that it cannot hold."""
        beyond_CHW = self._beyond(image_CHW, missing_CHW)
        if beyond_CHW.any():
            trained = np.dtype(self.schema.dtype)
            band, row, column = np.argwhere(beyond_CHW)[0].tolist()
            value = image_CHW[band, row, column]
            beyond = (
                f"{self.url}: band {self.schema.bands[band]} has {value:g} at row {block.rows.start + row}, "
                f"column {block.columns.start + column}, beyond the {trained} of training; if that means a "
                "missing pixel, give "
            )
            raise InputError(Words(beyond, Option("nodata"), f", else clip ({convert_to(trained.name)})"))
        return self._in_type_of_training(image_CHW, missing_CHW)

    def _beyond(self, image_CHW: NDArray[Any], missing_CHW: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Tell which pixels the type of training cannot hold: (0,) where it holds all."""
        trained = np.dtype(self.schema.dtype)
        if image_CHW.dtype == trained or trained.kind == "f":
            return np.zeros(0, np.bool_)
        limits = np.iinfo(trained)
        return ~missing_CHW & ((image_CHW < limits.min) | (image_CHW > limits.max))

    def _in_type_of_training(self, image_CHW: NDArray[Any], missing_CHW: NDArray[np.bool_]) -> NDArray[Any]:
        """Return pixels in the type of training; whole numbers of training may also come as floats."""
        trained = np.dtype(self.schema.dtype)
        if image_CHW.dtype == trained:
            return image_CHW
        if trained.kind == "f":
            return image_CHW.astype(trained)
        if image_CHW.dtype.kind == "f":
            return image_CHW.astype(np.float32)
        return np.where(missing_CHW, 0, image_CHW).astype(trained)
