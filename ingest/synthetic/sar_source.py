"""A source of synthetic SAR tiles of up to four regions, for learning without labels and its measurements.

    source = SarSource(SyntheticConfig(out="tiles", chips=8_000, sar="seasonal"))

A tile depends on (seed, region, row, column) and its size alone, so any process can make it. Tiles are dealt
to the regions in turn, and each region's square grows at its lower and right edges: more tiles start with the
same ones. The seasonal and the coherence tile of one place have the same key and show the same land.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ingest.chips.check import Rejected
from ingest.chips.source import Candidates, CommandSource, Raw
from ingest.config import SyntheticConfig
from ingest.synthetic.sar_backscatter import BANDS as SEASONAL_BANDS
from ingest.synthetic.sar_backscatter import backscatter_db
from ingest.synthetic.sar_coherence import BANDS as COHERENCE_BANDS
from ingest.synthetic.sar_coherence import coherence
from ingest.synthetic.sar_landscape import MIN_PX, PIXEL_M, TilePlace, land_of
from ingest.synthetic.sar_regions import LAND_COVER, REGIONS
from ingest.synthetic.synthetic_source import MOST_CHIPS
from shards.errors import InputError
from shards.format.schema import AttributeValue, Schema

LABEL = "land_cover"
"""Label of the pixels, with --pixel-classes: numbers of LAND_COVER. Tiles have an attribute of that name."""
SENSOR = "S1"

_REGION, _ROW, _COLUMN = "_region", "_row", "_column"


@dataclass(frozen=True)
class SarSource(CommandSource):
    """Tiles of the SAR landscape of a seed."""

    config: SyntheticConfig

    @property
    def schema(self) -> Schema:
        """Schema: 8 bands of float32, decibels or coherence, in pixels of 10 m, none of them missing."""
        bands = SEASONAL_BANDS if self.config.sar == "seasonal" else COHERENCE_BANDS
        size_px = self.config.chip_size
        if not self.config.pixel_classes:
            return Schema(bands, "float32", None, size_px, PIXEL_M, "", "")
        names = tuple((number, name) for name, number in LAND_COVER.items())
        return Schema(bands, "float32", None, size_px, PIXEL_M, LABEL, "", names)

    def candidates(self) -> Candidates:
        """List the tiles: key, place, region, and their labels, which `read` finds.

        Raises:
            InputError: an option is out of range.
        """
        count, seed, regions = self.config.chips, self.config.seed, self.config.regions
        size_px = self.config.chip_size
        if not 1 <= count <= MOST_CHIPS:
            raise InputError(f"--chips {count}: give a number from 1 to {MOST_CHIPS}")
        if seed < 0:
            raise InputError(f"--seed {seed}: give 0 or more")
        if not 1 <= regions <= len(REGIONS):
            raise InputError(f"--regions {regions}: give a number from 1 to {len(REGIONS)}")
        if size_px < MIN_PX:
            raise InputError(f"--chip-size {size_px}: give {MIN_PX} pixels or more with --sar")
        turn_N, region_N = np.divmod(np.arange(count), regions)
        row_N, column_N = places_in_square(turn_N)
        places = zip(region_N.tolist(), row_N.tolist(), column_N.tolist(), strict=True)
        west_m, north_m = np.array([(region.west_m, region.north_m) for region in REGIONS]).T
        columns = {
            "key": pa.array(
                f"sar_{REGIONS[region].name}_s{seed}_r{row:04d}_c{column:04d}"
                for region, row, column in places
            ),
            "x": pa.array(west_m[region_N] + (column_N + 0.5) * size_px * PIXEL_M),
            "y": pa.array(north_m[region_N] - (row_N + 0.5) * size_px * PIXEL_M),
            "crs": pa.array([region.crs for region in REGIONS]).take(region_N),
            "sensor": pa.repeat(SENSOR, count),
            "region": pa.array([region.name for region in REGIONS]).take(region_N),
            "tree_percent": pa.nulls(count, pa.float64()),
            "land_cover": pa.nulls(count, pa.int64()),
            _REGION: pa.array(region_N),
            _ROW: pa.array(row_N),
            _COLUMN: pa.array(column_N),
        }
        return Candidates(pa.table(columns))

    def read(self, table: pa.Table) -> Iterator[Raw | Rejected]:
        """Draw each row's tile."""
        columns = (table[name].to_pylist() for name in (_REGION, _ROW, _COLUMN))
        for region, row, column in zip(*columns, strict=True):
            place = TilePlace(self.config.seed, region, row, column)
            land = land_of(place, self.config.chip_size)
            image_CHW = backscatter_db(land) if self.config.sar == "seasonal" else coherence(land, place)
            classes_HW = land.class_HW.astype(np.float32) if self.config.pixel_classes else None
            attributes: dict[str, AttributeValue] = {
                "tree_percent": land.tree_percent,
                "land_cover": land.land_cover,
            }
            yield Raw(image_CHW, classes_HW, attributes=attributes)


def places_in_square(number_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Compute row and column (N,) of tiles in a square that grows by a column and a row in turn.

    Number n^2 and those after it fill the n-th column from the top, then the n-th row from the left.
    """
    side_N = np.array([math.isqrt(number) for number in number_N.tolist()], np.int64)
    rest_N = number_N - side_N**2
    in_column_N = rest_N <= side_N
    return np.where(in_column_N, rest_N, side_N), np.where(in_column_N, side_N, rest_N - side_N - 1)
