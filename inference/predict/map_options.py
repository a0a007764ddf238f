"""Options that change a map: together with scene and regressor, everything that its pixels depend on."""

from dataclasses import dataclass

from inference.config import PredictConfig, Weighting
from inference.maps.map_file import HEIGHT, SPREAD, MapBand
from inference.tiling.windows import WindowGrid
from shards.errors import InputError
from trainer.devices.choice import Precision

SYMMETRY_COUNTS = (1, 8)


@dataclass(frozen=True)
class MapOptions:
    """Options that a map's pixels depend on."""

    grid: WindowGrid
    weighting: Weighting = PredictConfig.weights
    batch_size: int = PredictConfig.batch_size
    symmetries: int = PredictConfig.symmetries
    """Number of flips and turns (1 or 8) of each window whose predictions are averaged."""
    spread: bool = PredictConfig.spread
    """Whether a second band has the standard deviation of each pixel's predictions."""
    precision: Precision = PredictConfig.precision

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InputError: one is out of range.
        """
        if self.batch_size < 1 or self.batch_size & (self.batch_size - 1):
            # In a batch of 6, equal windows can get heights with different bits: other instructions compute
            # what does not fill a vector of the processor.
            raise InputError(f"--batch-size {self.batch_size}: give a power of 2: 1, 2, 4, 8, 16, 32, ...")
        if self.symmetries not in SYMMETRY_COUNTS:
            raise InputError(f"--symmetries {self.symmetries}: give 1 or 8")

    def check_spread(self, decoder_has_spread: bool) -> None:
        """Refuse spreads that would be 0 everywhere: a mosaic would take them for the surest.

        Args:
            decoder_has_spread: whether the decoder gives each height a spread of its own.

        Raises:
            InputError: each pixel is predicted only once, by a decoder without a spread of its own.
        """
        predicted_once = self.grid.step == self.grid.size and self.symmetries == 1
        if self.spread and predicted_once and not decoder_has_spread:
            raise InputError(
                "--spread: windows neither overlap nor are turned, so each pixel has one prediction and no "
                "spread (only the decoder dpt has its own); give a larger --overlap or --symmetries 8"
            )

    @property
    def bands(self) -> tuple[MapBand, ...]:
        """Bands of the map."""
        return (HEIGHT, SPREAD) if self.spread else (HEIGHT,)
