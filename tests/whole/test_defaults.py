"""Defaults of options, which stand in one place."""

from dataclasses import MISSING, fields
from typing import Any

from inference.config import PredictConfig
from inference.predict.map_options import MapOptions
from inference.tiling.windows import WindowGrid
from ingest.chips.check import Rules
from ingest.config import ChipsConfig, IngestConfig
from shards.config import SplitOptions
from shards.format.schema import Schema
from shards.read.read_options import ReadOptions
from shards.write.split_rule import SplitRule
from trainer.run_config import ReadingOptions


def test_a_default_stands_in_one_place() -> None:
    """A part that is made without a command has the defaults of the command."""
    parts: tuple[tuple[Any, type, dict[str, str]], ...] = (
        (ReadOptions(), ReadingOptions, {}),
        (MapOptions(WindowGrid(64, 32)), PredictConfig, {"weighting": "weights"}),
        (
            SplitRule(),
            SplitOptions,
            {"by": "split_by", "axis": "split_axis", "crs": "split_crs"}
            | {"band_count": "split_bands", "angle": "split_angle"},
        ),
        (Rules(), IngestConfig, {}),
        (Schema(("red",)), ChipsConfig, {}),
    )
    for part, command, other_names in parts:
        defaults = {field.name: field.default for field in fields(command)}
        for field in fields(part):
            name = other_names.get(field.name, field.name)
            if name in defaults and defaults[name] is not MISSING and name not in ("bands", "batch_size"):
                assert getattr(part, field.name) == defaults[name], name
