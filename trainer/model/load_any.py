"""The model of a checkpoint of any task, or the encoder of a pre-training."""

from trainer.model.checkpoint import CLASSES, TILES, format_of
from trainer.model.class_checkpoint import load_class_checkpoint
from trainer.model.class_model import ClassModel
from trainer.model.encoder import Encoder
from trainer.model.height_checkpoint import load_checkpoint
from trainer.model.load_encoder import load_encoder
from trainer.model.pretrained import is_pretrained
from trainer.model.regressor import Regressor
from trainer.model.tile_checkpoint import load_tile_checkpoint
from trainer.model.tile_model import TileModel

AnyModel = Regressor | ClassModel | TileModel | Encoder


def load_any(url: str, weights: str | None = None, trust: str = "") -> AnyModel:
    """Load what is at `url`, on the CPU; `weights` are "teacher" or "student" of a pre-training.

    For `trust` see trainer.model.trust.

    Raises:
        InputError: there is no checkpoint, it is damaged, or it has no such weights.
    """
    if weights or is_pretrained(url):
        return load_encoder(url, weights, trust=trust).encoder
    return load_model(url, trust)[0]


def load_model(url: str, trust: str = "") -> tuple[Regressor | ClassModel | TileModel, str]:
    """Load a model that predicts, on the CPU; return it and its checkpoint's fingerprint.

    Raises:
        InputError: there is no checkpoint of such a model, or it is damaged.
    """
    kind = format_of(url)
    if kind == TILES:
        of_tiles = load_tile_checkpoint(url, trust=trust)
        return of_tiles.model, of_tiles.fingerprint
    if kind == CLASSES:
        of_classes = load_class_checkpoint(url, trust=trust)
        return of_classes.model, of_classes.fingerprint
    of_heights = load_checkpoint(url, trust=trust)
    return of_heights.regressor, of_heights.fingerprint
