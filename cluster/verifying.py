"""What `treeline verify` is given: a dataset, a checkpoint, a run, maps, embeddings or a token store."""

from collections.abc import Callable
from importlib import import_module

from shards.config import VerifyConfig
from shards.format.manifest import MANIFEST
from shards.storage.objects import exists, join

KINDS = (
    ("trainer.commands.verify_run:is_run", "trainer.commands.verify_run:verify_run"),
    ("trainer.model.verify_checkpoint:is_checkpoint", "trainer.model.verify_checkpoint:verify_checkpoint"),
    ("inference.predict.verify_maps:has_maps", "inference.predict.verify_maps:verify_maps"),
    (
        "inference.embed.verify_embeddings:has_embeddings",
        "inference.embed.verify_embeddings:verify_embeddings",
    ),
    ("trainer.commands.verify_run:is_token_store", "trainer.commands.verify_run:verify_token_store"),
)
"""Functions that tell whether a folder is of a kind, and those that verify it, in the order of asking."""


def verify_any(config: VerifyConfig) -> tuple[list[str], list[str], bool]:
    """Verify what is at a URL.

    Returns:
        lines on what is wrong, lines on what cannot be compared, and whether it is a dataset.

    Raises:
        InputError: nothing of ours is there.
        DatasetError: a dataset's manifest is damaged, so that nothing can be compared.
    """
    if not exists(join(config.data, MANIFEST)):
        for is_one, verify_one in KINDS:
            if _function(is_one)(config.data):
                problems, left = _function(verify_one)(config.data)
                return problems, left, False
    from shards.commands.verify import verify

    return verify(config), [], True


def _function(place: str) -> Callable[[str], tuple[list[str], list[str]]]:
    """Import a function; torch is loaded only where a folder is no dataset."""
    module, _, name = place.partition(":")
    found: Callable[[str], tuple[list[str], list[str]]] = getattr(import_module(module), name)
    return found
