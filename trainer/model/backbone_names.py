"""Names of backbones that are none of ours: which of them are places, where nothing on the hub is meant."""

from shards.errors import InputError
from shards.storage.objects import exists, join
from trainer.model.checkpoint import format_of
from trainer.model.foreign_folder import check_folder
from trainer.model.hub import is_on_hub
from trainer.weights.checkpoint_sums import OURS
from trainer.weights.run_checkpoints import CHECKPOINTS

CHOICES = (
    "give a run of treeline pretrain, a folder of transformers, a .pth file of Meta's, or a name on the hub"
)
"""Kinds of backbones, for messages."""


def is_place(name: str) -> bool:
    """Tell whether a name can only mean a folder: the hub's names are OWNER/MODEL or MODEL."""
    above = name.rstrip("/").rpartition("/")[0]
    return (
        "://" in name
        or name.startswith(("/", "./", "../", "~"))
        or name.rstrip("/").count("/") > 1
        or exists(name)
        or bool(above and exists(join(above, CHECKPOINTS)))
    )


def check_backbone(name: str) -> bool:
    """Refuse a name under which no foreign backbone can be.

    Returns:
        whether to take it from the hub.

    Raises:
        InputError: nothing is there, also on the hub, or a checkpoint of `treeline train`, or weights that
            hold code.
    """
    if format_of(name).startswith(OURS):
        raise InputError(
            f"--backbone {name}: holds a model of treeline train, not a backbone alone; {CHOICES}"
        )
    if is_place(name):
        if not exists(name):
            raise InputError(f"--backbone {name}: no such folder; {CHOICES}")
        check_folder(name, f"--backbone {name}")
        return False
    return is_on_hub(name, f"--backbone {name}")
