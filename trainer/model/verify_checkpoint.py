"""Comparing a checkpoint with what its own files say of it, for `treeline verify`.

problems, left = verify_checkpoint("run/epoch-0007")     lines on what is wrong, and on what is not compared
"""

from shards.errors import InputError
from shards.format.verified import ERRORS, Found
from shards.storage.checksum import hexadecimal_of_pieces
from shards.storage.objects import exists, find_files, join, sizes_of
from trainer.model.checkpoint import CLASSES, PRETRAINED, TILES, check_files, fingerprint_of, read_statistics
from trainer.model.class_checkpoint import load_class_checkpoint
from trainer.model.height_checkpoint import load_checkpoint
from trainer.model.load_encoder import load_encoder
from trainer.model.tile_checkpoint import load_tile_checkpoint
from trainer.weights.checkpoint_sums import CONFIG, METRICS, STATISTICS, WEIGHTS, read_config
from trainer.weights.weights_apart import REST, weight_pieces

LOADERS = {CLASSES: load_class_checkpoint, TILES: load_tile_checkpoint}


def verify_checkpoint(url: str) -> Found:
    """Read every file of the checkpoint in folder `url`, and build its model without memory.

    Returns:
        what is wrong, and what cannot be compared.
    """
    try:
        config, sums = read_config(url)
        if config.get("format") != PRETRAINED:
            check_files(url)
    except ERRORS as error:
        return [str(error)], []
    problems, left = list[str](), list[str]()
    if not sums:
        left.append(
            f"{url}: an earlier version wrote it without checksums, so only what its files say is compared"
        )
    for name in (STATISTICS, METRICS):
        try:
            sums.read_json(name)
        except InputError as error:
            problems.append(str(error))
    kind = str(config.get("decoder", {}).get("kind", "")) if isinstance(config.get("decoder"), dict) else ""
    if not problems:
        try:
            if config.get("format") == PRETRAINED:
                load_encoder(url, with_weights=False)
            elif "." in kind:
                left.append(f"{url}: its decoder, {kind}, is no part of Treeline, so it is not built")
                _weights_alone(url)
            else:
                LOADERS.get(str(config.get("format")), load_checkpoint)(url, with_weights=False)
        except ERRORS as error:
            problems.append(str(error))
    known = {*sums.files, CONFIG} if sums else {CONFIG, WEIGHTS, STATISTICS, METRICS}
    for name in find_files(url):
        if name not in known and not name.rsplit("/", 1)[-1].startswith("."):
            left.append(f"{join(url, name)}: is none of the checkpoint's files")
    return problems, left


def _weights_alone(url: str) -> None:
    """Read weights whose model is not built."""
    _, sums = read_config(url)
    for _ in weight_pieces(join(url, WEIGHTS), sums):
        pass


def fingerprint_at(url: str) -> str:
    """Compute the fingerprint of the checkpoint in folder `url`, of which every byte is read.

    Raises:
        InputError: it is damaged.
    """
    config, sums = read_config(url)
    digest, _ = hexadecimal_of_pieces(weight_pieces(join(url, WEIGHTS), sums))
    return fingerprint_of(config, read_statistics(sums), digest)


def is_checkpoint(url: str) -> bool:
    """Tell whether a folder holds a checkpoint, perhaps one that lacks a file."""
    if not exists(join(url, CONFIG)):
        return False
    return bool({WEIGHTS, REST, STATISTICS} & sizes_of(url).keys())
