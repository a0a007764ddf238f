"""The schema of the dataset that an ingest makes, or adds to."""

import math
from dataclasses import replace

from ingest.config import IngestConfig
from shards.errors import InputError
from shards.format.manifest import Manifest
from shards.format.schema import Schema, with_values
from shards.raster.pixel_size import PixelSize


def schema_to_make(stored: Schema, config: IngestConfig, base: Manifest | None) -> Schema:
    """Return the schema of the dataset to make: as asked for, or that of the dataset at --out.

    What was not asked for follows the dataset there, to which `treeline split` may have added bands.

    Raises:
        InputError: a band or a number cannot be used, or the dataset at --out has chips of another kind.
    """
    if base is not None and base.schema.bands == stored.bands:
        here = base.schema
        stored = replace(stored, scale=here.scale, offset=here.offset, derived=here.derived)
        if _have_like_pixels(stored, here):
            pixels = ("pixel_size", "pixel_height", "pixel_unit", "pixel_metres")
            stored = replace(stored, **{name: getattr(here, name) for name in pixels})
    asked = with_values(stored, config.derive, config.scale, config.offset)
    if base is not None and base.schema != asked:
        raise InputError(f"{config.out}: its chips are {base.schema}, not {asked}; choose another --out")
    return asked


def _have_like_pixels(stored: Schema, here: Schema) -> bool:
    """Tell whether pixels are as large as those of the dataset there; older ones record the width alone."""
    if not here.pixel_metres and math.isclose(stored.pixel_size, here.pixel_size):
        return True
    return PixelSize.of_schema(stored).is_like(PixelSize.of_schema(here))
