"""`treeline import`: a checkpoint, for `evaluate` and `predict`, of a regressor trained elsewhere.

best_dinov3_*.pth, .safetensors                  trained in the notebook
a folder of transformers, or a name on its hub   Meta's CHMv2

Neither stores its normalisation. The dataset's statistics replace it, so choose chips like those that it was
trained on.
"""

from collections.abc import Mapping

from torch import Tensor

from shards.errors import InputError
from shards.read.dataset import Dataset, open_dataset
from shards.storage.objects import check_writable, exists
from shards.version import made_by_code
from trainer.config import WEIGHT_FILES, ImportConfig
from trainer.model.backbone import read_weights
from trainer.model.chmv2 import chmv2_regressor
from trainer.model.empty_backbone import empty_backbone
from trainer.model.height_checkpoint import Checkpoint
from trainer.model.meta_weights import refuse_mismatch
from trainer.model.notebook_weights import notebook_backbone, notebook_decoder, notebook_state_dict
from trainer.model.regressor import Regressor
from trainer.options import ObjectiveOptions
from trainer.score.baselines import baselines_of
from trainer.weights.weights_file import fill

NO_EPOCH = -1
"""The epoch of a regressor that was not trained here."""


def import_checkpoint(config: ImportConfig) -> str:
    """Write the checkpoint; returns a line that says what it is.

    Raises:
        InputError: the weights, the dataset, the bands or the output cannot be used; nothing is written then.
    """
    if exists(config.out):
        raise InputError(f"{config.out}: is there already; choose another --out or delete it first")
    dataset = open_dataset(config.data)
    dataset.schema.check_counted(config.bands)
    if dataset.statistics.height is None:
        raise InputError(f"{config.data}: has no heights; give --data of a dataset made with --heights")
    if config.weights.endswith(WEIGHT_FILES):
        regressor = _of_notebook(dataset, config)
    else:
        regressor = chmv2_regressor(
            config.weights, dataset.schema, config.bands, dataset.statistics, config.new_band_from
        )
    check_writable(config.out)
    baselines = baselines_of(dataset, dataset.chips("train"), ObjectiveOptions.baseline_chips, config.bands)
    origin = {
        "data": dataset.url,
        "fingerprint": dataset.manifest.fingerprint,
        "imported_from": config.weights,
        **made_by_code(),
    }
    Checkpoint(regressor, origin, {"epoch": NO_EPOCH}, baselines).save(config.out)
    count = sum(parameter.numel() for parameter in regressor.parameters())
    return (
        f"{config.out}: {count / 1e6:,.1f} million weights of {config.weights}, normalised as {config.data}"
    )


def _of_notebook(dataset: Dataset, config: ImportConfig) -> Regressor:
    values = read_weights(config.weights)
    try:
        return _regressor(notebook_state_dict(values), dataset, config)
    except InputError as error:
        raise InputError(f"{config.weights}: {error}") from error


def _regressor(weights: Mapping[str, Tensor], dataset: Dataset, config: ImportConfig) -> Regressor:
    shape = notebook_backbone(weights, config.heads)
    if shape["num_channels"] != len(config.bands):
        raise InputError(
            f"reads {shape['num_channels']} bands; name as many with --bands, not {' '.join(config.bands)}"
        )
    decoder = notebook_decoder(weights)
    regressor = Regressor(dataset.schema, config.bands, dataset.statistics, empty_backbone(shape), decoder)
    refuse_mismatch({name: t.shape for name, t in regressor.state_dict().items()}, weights)
    fill(regressor, weights)
    return regressor.eval()
