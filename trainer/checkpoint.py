"""A checkpoint: a folder from which the regressor can be built again, anywhere. Nothing is unpickled.

config.json          what it is made of, what its images are like, what it was trained on; written last
model.safetensors    weights
statistics.json      of the training chips; the normalisation
metrics.json         scores so far, and the baselines
"""

from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from shards.checksum import hexadecimal
from shards.errors import InputError
from shards.manifest import json_bytes, read_json
from shards.schema import Schema
from shards.statistics import Statistics
from shards.storage import exists, join, publish, read_bytes
from trainer.backbone import build_backbone
from trainer.baselines import Baselines
from trainer.decoder import DecoderConfig
from trainer.model import Regressor
from trainer.sharding import whole
from trainer.tuning import merged

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
STATISTICS = "statistics.json"
METRICS = "metrics.json"
CHECKPOINTS = "checkpoints.json"
"""In a run's folder: which checkpoints it has."""
FORMAT = "treeline-checkpoint"
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A regressor and what is known of it."""

    regressor: Regressor
    trained_on: dict[str, Any]
    """The dataset's URL and fingerprint, which of its chips, and the code's version and commit."""
    metrics: dict[str, Any]
    """Of the epoch that it was written after."""
    baselines: Baselines
    fingerprint: str = ""
    """Of its configuration, statistics and weights, once it is on storage."""

    def save(self, url: str) -> None:
        """Write the folder at `url`."""
        for name, data in self.files().items():
            publish(join(url, name), data)

    def files(self) -> dict[str, bytes]:
        """What the folder holds, by name, as of now; config.json is the last."""
        model = self.regressor
        weights = save(weights_of(model))
        config = {
            "format": FORMAT,
            "version": VERSION,
            "schema": model.schema.to_json(),
            "bands": list(model.bands),
            "backbone": model.backbone.config.to_diff_dict(),
            "decoder": model.decoder_config.to_json(),
            "trained_on": self.trained_on,
        }
        return {
            WEIGHTS: weights,
            STATISTICS: json_bytes(model.statistics.to_json()),
            METRICS: json_bytes({**self.metrics, "baselines": self.baselines.to_json()}),
            CONFIG: json_bytes(config),
        }


def weights_of(regressor: Regressor, keep: bool = True) -> dict[str, Tensor]:
    """All weights, adapters folded in. Where they are sharded every rank calls it, and one keeps them."""
    weights = dict[str, Tensor]()
    with merged(regressor.backbone):
        for name, value in regressor.state_dict().items():
            # To the CPU one by one: there is no room for all of a sharded model's on a GPU.
            gathered = whole(value)
            if keep:
                weights[name] = gathered.cpu().contiguous()
    return weights


def checkpoint_url(url: str) -> str:
    """`url` itself if it is a checkpoint, or the best checkpoint of the training run at `url`.

    RUN/best and RUN/last are the run's best and last ones.
    """
    above, _, name = url.rstrip("/").rpartition("/")
    for run, which in ((url, "best"), (above, name)):
        if which in ("best", "last") and exists(join(run, CHECKPOINTS)):
            names = read_json(join(run, CHECKPOINTS))
            return join(run, names["best"][0] if which == "best" else names["last"])
    return url


def load_checkpoint(url: str) -> Checkpoint:
    """The checkpoint at `url` (or the best of the run there), on the CPU, in eval mode.

    Raises:
        InputError: there is none, or it is incomplete.
    """
    url = checkpoint_url(url)
    for name in (CONFIG, WEIGHTS, STATISTICS, METRICS):
        if not exists(join(url, name)):
            raise InputError(
                f"{url}: not a checkpoint ({name} is missing); give a folder that treeline train wrote"
            )
    config = read_json(join(url, CONFIG))
    if (config.get("format"), config.get("version")) != (FORMAT, VERSION):
        raise InputError(f"{url}: checkpoint format {config.get('format')} is not {FORMAT} {VERSION}")
    metrics = read_json(join(url, METRICS))
    regressor = Regressor(
        Schema.from_json(config["schema"]),
        tuple(config["bands"]),
        Statistics.from_json(read_json(join(url, STATISTICS))),
        build_backbone(config["backbone"]),
        DecoderConfig.from_json(config["decoder"]),
    )
    weights = read_bytes(join(url, WEIGHTS))
    try:
        regressor.load_state_dict(load(weights))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{join(url, WEIGHTS)}: not this regressor's weights ({reason})") from error
    parts = (json_bytes(config), json_bytes(regressor.statistics.to_json()), weights)
    fingerprint = hexadecimal("".join(map(hexadecimal, parts)).encode())
    baselines = Baselines.from_json(metrics.pop("baselines"))
    return Checkpoint(regressor.eval(), config["trained_on"], metrics, baselines, fingerprint)
