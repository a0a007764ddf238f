"""Interface of what embeds parts: this process (`in_process`) or Ray (`on_ray`)."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from inference.embed.embeddings import Part
from trainer.devices.choice import Computes, Kind, Precision

if TYPE_CHECKING:
    from inference.embed.embedder import EmbedJob


class Engine(Protocol):
    """Machinery that embeds, in this process or on many machines."""

    device: Kind
    """Kind of device that embeds."""

    def computes(self, precision: Precision) -> Computes:
        """Return what the device makes of the precision that was asked for."""

    def parts(self, numbers: Sequence[int], job: "EmbedJob") -> Iterator[tuple[int, Part]]:
        """Embed the parts with these numbers, in any order."""
