"""Maps in memory, of scenes and of arrays, with the numbers of the map files."""

import json
import os
import tempfile
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.crs import CRS

from inference.config import PredictConfig
from inference.maps.map_file import HEIGHT, as_stored
from inference.predict.array_map import map_of_array
from inference.predict.block_tasks import MapJob
from inference.predict.in_process import InProcess
from inference.predict.map_header import read_map_header
from inference.predict.predictor import Model, Predictor
from inference.predict.run import map_job, predict
from inference.predict.scene_map import nothing_valid
from inference.scenes.array_pixels import NAME, array_findings, array_pixels, said_missing
from inference.scenes.scene_list import find_scenes
from shards.errors import InputError
from shards.format.statistics import Statistics
from shards.raster.finding import FINDINGS_TAG, findings_by_code, say_findings
from shards.wording import arguments_named
from trainer.devices.choice import Kind


@dataclass(frozen=True, eq=False)
class Map:
    """A map: heights, values of tiles, or numbers of classes, each the same as in the map file."""

    values_HW: NDArray[Any]
    """Heights or values, float32, NaN where missing; numbers of classes, uint8."""
    valid_HW: NDArray[np.bool_]
    """Whether there is a value."""
    label: str
    """Quantity that the values measure: "canopy height", or the label that was learnt."""
    unit: str
    """Unit of the values: "m"; "" if there is none."""
    classes: tuple[tuple[int, str], ...] = ()
    """Numbers and names of the classes; () for heights and values."""
    spread_HW: NDArray[np.float32] | None = None
    """Standard deviation of each pixel's predictions in metres, if it was asked for."""
    crs: CRS | None = None
    """CRS of the map; None for the map of an array."""
    transform: Affine | None = None
    """Places of the pixels: x, y = transform @ (column, row); None for the map of an array."""
    findings: dict[str, str] = field(default_factory=dict)
    """Findings about an image that does not fit the training: lines by code, as in the tag of a map file."""

    @property
    def height_HW(self) -> NDArray[np.float32]:
        """Heights in metres, NaN where missing.

        They are whole decimetres, as the map file stores them: the nearest one, and the even one of two.

        Raises:
            InputError: the map shows something else.
        """
        if self.label != HEIGHT.name:
            raise InputError(f"the map shows {self.label}, no heights; take values_HW")
        return self.values_HW

    @classmethod
    def of(
        cls,
        stored_CHW: NDArray[Any],
        job: MapJob,
        findings: dict[str, str],
        crs: CRS | None = None,
        transform: Affine | None = None,
    ) -> "Map":
        """Convert the numbers that a map file of `job` stores."""
        bands = job.content.bands(job.options)
        valid_HW = stored_CHW[0] != bands[0].nodata
        values = [
            # Divided, since a decimetre times 0.1 is not always the number nearest to it.
            np.where(valid_HW, stored_HW / round(1 / band.scale), np.nan).astype(np.float32)
            for stored_HW, band in zip(stored_CHW, bands, strict=True)
        ]
        return cls(
            stored_CHW[0] if job.content.classes else values[0],
            valid_HW,
            bands[0].name,
            bands[0].unit,
            job.content.classes,
            values[1] if len(values) > 1 else None,
            crs,
            transform,
            findings,
        )


class MapMaker:
    """Maps of one model in memory. Its checkpoint must stay where it is."""

    def __init__(self, checkpoint: str, model: Model, device: Kind, fixed: dict[str, Any]) -> None:
        """Take a model that is on the device.

        Args:
            checkpoint: URL of its checkpoint.
            model: the model.
            device: the device.
            fixed: options of predict that stay, such as the precision.
        """
        self._checkpoint, self._model, self._fixed = checkpoint, model, fixed
        self._engine = InProcess(device, model)
        self._jobs: dict[PredictConfig, MapJob] = {}
        """Settings by options; kept, since making them reads the weights."""

    @arguments_named()
    def of_scene(self, scene: str, options: dict[str, Any]) -> Map:
        """Make the map file of a scene in a folder for the moment, and read it; `options` are of predict.

        Raises:
            InputError: the scene or an option cannot be used, or several scenes are named.
        """
        found = find_scenes((scene,), options.get("asset", "")).urls
        if len(found) > 1:
            raise InputError(f"{scene}: names {len(found):,} scenes; give one at a time")
        with tempfile.TemporaryDirectory(prefix="treeline-map-") as folder:
            config = self._config(options, found[0], os.path.join(folder, "maps"))
            summary = predict(config, self._engine, names_arguments=True)
            if summary.failed:
                raise InputError(summary.failed[0].reason)
            (url,) = summary.maps.values()
            with rasterio.open(url) as raster:
                findings = json.loads(raster.tags().get(FINDINGS_TAG, "{}"))
                return Map.of(raster.read(), self._job(options), findings, raster.crs, raster.transform)

    @arguments_named()
    def of_array(self, image: NDArray[Any], options: dict[str, Any]) -> Map:
        """Predict the map of an array; see `array_pixels`.

        Raises:
            InputError: the array or an option cannot be used, the array is unlike the training, or no pixel
                of it has all bands.
        """
        job = self._job(options)
        image_CHW = array_pixels(image, job.schema)
        found = array_findings(image_CHW, job.schema, self._statistics, np.asanyarray(image).dtype.name)
        say_findings(found, self._config(options, "", "").on_mismatch, names_arguments=True)
        if not options.get("batch_size"):
            job = replace(job, options=replace(job.options, batch_size=self._engine.batch_size(job)))
        stored_CHW = map_of_array(image_CHW, job, Predictor(job, self._model))
        stored_CHW = as_stored(stored_CHW, job.content.bands(job.options)[0])
        made = Map.of(stored_CHW, job, findings_by_code(found.get(NAME, ())))
        if not made.valid_HW.any():
            raise InputError(f"{NAME}: {nothing_valid(job)}; {said_missing(image_CHW, job.schema)}")
        return made

    @cached_property
    def _statistics(self) -> Statistics:
        return read_map_header(self._checkpoint, self._fixed["trust"]).statistics

    def _config(self, options: dict[str, Any], scene: str, out: str) -> PredictConfig:
        return PredictConfig((scene,), self._checkpoint, out, **self._fixed, **options)

    def _job(self, options: dict[str, Any]) -> MapJob:
        """Return the settings of maps with these options, wherever the pixels come from."""
        config = self._config(options, "", "")
        if config not in self._jobs:
            self._jobs[config] = replace(map_job(config), device=self._engine.device)
        return self._jobs[config]
