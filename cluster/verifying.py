"""What `treeline verify` is given: a dataset, a checkpoint, a run, maps, embeddings or a token store."""

from shards.config import VerifyConfig
from shards.format.manifest import MANIFEST
from shards.said import say
from shards.storage.objects import exists, join


def verify_any(config: VerifyConfig) -> tuple[list[str], list[str], bool]:
    """Verify what is at a URL; with --repair, make again what can be made again before, and say what was.

    Returns:
        lines on what is wrong, lines on what cannot be compared, and whether it is a dataset.

    Raises:
        InputError: nothing of ours is there.
        DatasetError: a dataset's manifest is damaged, so that nothing can be compared.
    """
    if not exists(join(config.data, MANIFEST)):
        # Only here: torch, which most of them load, takes seconds.
        from inference.embed.verify_embeddings import has_embeddings, verify_embeddings
        from inference.predict.verify_maps import has_maps, repair_maps, verify_maps
        from trainer.commands.verify_run import is_run, is_token_store, verify_run, verify_token_store
        from trainer.model.verify_checkpoint import is_checkpoint, verify_checkpoint

        for is_one, verify_one in (
            (is_run, verify_run),
            (is_checkpoint, verify_checkpoint),
            (has_maps, verify_maps),
            (has_embeddings, verify_embeddings),
            (is_token_store, verify_token_store),
        ):
            if is_one(config.data):
                if config.repair:
                    _say_repaired(repair_maps(config.data) if verify_one is verify_maps else [], config.data)
                return (*verify_one(config.data), False)
    from shards.commands.repair import repair
    from shards.commands.verify import verify

    if config.repair:
        _say_repaired(repair(config.data), config.data)
    return verify(config), [], True


def summary(url: str, problems: list[str], left: list[str]) -> str:
    """Sum up what is wrong and what was not compared, or say that all is well."""
    whole = f"{url}: everything {'that can be compared ' if left else ''}is as it was written"
    return "\n".join([*problems, *(f"not compared: {line}" for line in left), *([] if problems else [whole])])


def _say_repaired(repaired: list[str], url: str) -> None:
    """Say what was made again."""
    for line in repaired or [f"{url}: nothing is there to be repaired"]:
        say(line)
