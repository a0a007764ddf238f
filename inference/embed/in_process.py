"""Parts embedded in this process, without Ray."""

from collections.abc import Iterator, Sequence

from inference.embed.embedder import Embedder, EmbedJob
from inference.embed.embeddings import Part
from trainer.devices.cards import computes
from trainer.devices.choice import Computes, Kind, Precision
from trainer.model.encoder import Encoder


class InProcess:
    """Engine that embeds in this process; see `inference.embed.engine.Engine`."""

    def __init__(self, device: Kind = "cpu", encoder: Encoder | None = None) -> None:
        """Embed on `device`, with `encoder` if it is in memory there already."""
        self.device, self._encoder = device, encoder

    def computes(self, precision: Precision) -> Computes:
        """Return what this machine's device makes of a precision."""
        return computes(precision, self.device)

    def parts(self, numbers: Sequence[int], job: EmbedJob) -> Iterator[tuple[int, Part]]:
        """Embed part after part."""
        embedder = Embedder(job, self._encoder) if numbers else None
        for number in numbers:
            assert embedder is not None
            yield number, embedder(number)
