"""A frozen backbone's weights in a file of their own, to which a run's checkpoints refer until the run ends.

    RUN/backbone-0123456789abcdef.safetensors    the backbone's weights, named after the checksum of the file
    RUN/epoch-0003/backbone.json                 name of that file
    RUN/epoch-0003/rest.safetensors              all other weights

Together the two .safetensors files hold the bytes of RUN/epoch-0003/model.safetensors, which `make_whole`
writes, so a checkpoint has the same fingerprint before and after. Functions that read weights take the URL of
model.safetensors, whether that file exists or not. Given the checksums of the checkpoint's config.json, they
compare what they read.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, TypeVar

import xxhash
from transformers import DINOv3ViTModel

from shards.errors import InputError
from shards.format.manifest import StoredObject, read_json
from shards.format.sealed import json_bytes
from shards.storage.checksum import hexadecimal_of_pieces
from shards.storage.objects import (
    exists,
    find_files,
    is_local,
    join,
    local_path,
    name_of,
    publish,
    read_pieces,
    remove_file,
    staged,
    whole_url,
)
from trainer.devices.learner import Learner, WeightsApart
from trainer.weights.checkpoint_sums import CONFIG, WEIGHTS, FileSums, config_bytes, read_config
from trainer.weights.run_checkpoints import CHECKPOINTS
from trainer.weights.weights_bytes import merged_pieces, pieces_of
from trainer.weights.weights_file import Entry, Found, check_size, entries_of, read_entries, read_tensors

REFERENCE = "backbone.json"
REST = "rest.safetensors"
OPTIONS = "config.yaml"
"""File with a run's options; see trainer.run_folder.run_writer."""
FORMAT = "treeline-backbone-reference"
VERSION = 1
CHANGED = (
    "its checksum is not the one in its name; resume the run (treeline train --resume auto), which writes it "
    "again"
)
OVERWRITTEN = (
    "--backbone: the file of its weights was overwritten while the run had it open; begin again with another "
    "--out"
)
COPY_AGAIN = "copy the checkpoint again, or take another of the run"
"""Advice about weights that are not whole."""
Piece = TypeVar("Piece", bytes, bytes | memoryview)
_NAME = re.compile(r"backbone-[0-9a-f]{16}\.safetensors")
"""Name of a backbone's file, with the checksum of its bytes."""


def set_apart(model: Learner, backbone: DINOv3ViTModel, writes: bool) -> None:
    """Let checkpoints of `model` leave out its backbone, unless a part of it learns or it has no weights.

    Args:
        model: a model on the CPU, neither wrapped nor sharded, whose weights are exact.
        backbone: its backbone.
        writes: whether this rank calls `write_apart`, as the first one does. On the others no weight is read
            or kept: they only leave out the names.
    """
    if not backbone.state_dict() or any(weight.requires_grad for weight in backbone.parameters()):
        return
    above = next(name for name, part in model.named_modules() if part is backbone)
    weights = {f"{above}.{name}": value for name, value in backbone.state_dict().items()}
    file = _file_of(hexadecimal_of_pieces(pieces_of(weights))[0]) if writes else ""
    model.apart = WeightsApart(file, frozenset(weights), weights if writes else {})


def write_apart(run: str, apart: WeightsApart) -> None:
    """Write the weights' file in the run's folder unless it is there and intact, and free the weights."""
    url = join(run, apart.file)
    if not apart.weights:
        if not exists(url):
            raise FileNotFoundError(f"{url}: was removed while the run lasts; resume the run (--resume auto)")
    elif not (exists(url) and apart.file == _file_of(hexadecimal_of_pieces(read_pieces(url))[0])):
        with staged(url) as path, open(path, "wb") as file:
            for piece in _checked(apart.file, pieces_of(apart.weights), OVERWRITTEN):
                file.write(piece)
    apart.weights = {}


def reference_to(apart: WeightsApart, checkpoint: str) -> bytes:
    """Return the content of a checkpoint's backbone.json.

    Args:
        apart: the weights that the checkpoint leaves out.
        checkpoint: folder of the checkpoint in the run; a copy names it in its error.
    """
    names = {"file": apart.file, "checkpoint": whole_url(checkpoint)}
    return json_bytes({"format": FORMAT, "version": VERSION, **names})


def has_weights(url: str) -> bool:
    """Tell whether the weights at `url` exist, whole or with the backbone in its own file.

    Raises:
        InputError: only the backbone's file is missing.
    """
    if exists(url):
        return True
    folder, backbone = _above(url), _backbone_of(url)
    if backbone is None or not exists(_rest_of(url)):
        return False
    if not exists(backbone):
        raise InputError(f"{folder}: lacks its backbone ({backbone} is missing); {_cure(folder, backbone)}")
    return True


def _cure(folder: str, backbone: str) -> str:
    """Say how the checkpoint in `folder` gets its backbone, whose file is missing.

    A run writes it again where it is now, also if it was moved. A copy without its run needs that run.
    """
    run, written = _above(backbone), str(_reference_in(folder).get("checkpoint"))
    options, is_moved = join(run, OPTIONS), written != whole_url(folder)
    if exists(options) and exists(join(run, CHECKPOINTS)):
        resume = f"treeline train --config {options} --out {run} --resume auto"
        moved = f" where it is now, since it was moved from {_above(written)}" if is_moved else ""
        return f"resume the run{moved} ({resume}), which writes it"
    if _is_reachable(written):
        return f"treeline export {written} --out DIR makes a whole copy where it was written"
    return (
        f"it was written as {written}, where it is no more: find that run, and treeline export "
        f"RUN/{name_of(written)} --out DIR makes a whole copy"
    )


def _is_reachable(url: str) -> bool:
    try:
        return exists(url)
    except InputError:  # no access from here
        return False


def read_any(url: str, sums: FileSums | None = None) -> Found:
    """Read the weights at `url`, whole or with the backbone in its own file; compute the whole's checksum.

    Raises:
        InputError: they do not exist, or are not those that were written.
        ValueError: they are damaged.
    """
    backbone = None if _is_whole(url, sums) else _backbone_of(url)
    if backbone is None:
        if sums:
            sums.check_size(WEIGHTS)
        found = read_tensors(url, with_checksum=True)
        if sums:
            sums.check_sum(WEIGHTS, found.checksum)
        return found
    checksum, _ = hexadecimal_of_pieces(weight_pieces(url, sums))
    return Found(read_tensors(backbone).tensors | read_tensors(_rest_of(url)).tensors, checksum)


def weight_pieces(url: str, sums: FileSums | None = None) -> Iterator[bytes]:
    """Yield the bytes of the weights at `url` as one file, piece by piece.

    Raises:
        InputError: they do not exist, or are not those that were written.
    """
    backbone = None if _is_whole(url, sums) else _backbone_of(url)
    if backbone is None:  # whole, perhaps because the run has ended meanwhile
        if not sums:
            return read_pieces(url)
        sums.check_size(WEIGHTS)
        return sums.checked(WEIGHTS, read_pieces(url))
    pieces = read_pieces(_rest_of(url))
    if sums:
        sums.read(REFERENCE)
        sums.check_size(REST)
        pieces = sums.checked(REST, pieces)
    checked = _checked(name_of(backbone), read_pieces(backbone), f"{backbone}: {CHANGED}")
    return _merged({backbone: checked, _rest_of(url): pieces})


def _is_whole(url: str, sums: FileSums | None) -> bool:
    """Tell whether the weights at `url` are one file, which config.json lists if it lists any."""
    return exists(url) and not (sums and sums.has(REST))


def any_entries(url: str, sums: FileSums | None = None) -> list[Entry]:
    """List the tensors of the weights at `url`, whole or with the backbone in its own file.

    Raises:
        InputError: they do not exist.
        ValueError: they are damaged.
    """
    backbone = None if _is_whole(url, sums) else _backbone_of(url)
    if backbone is None:
        return read_entries(url)
    return [*read_entries(backbone), *read_entries(_rest_of(url))]


def refuse_cut_off(url: str) -> None:
    """Refuse weights at `url` that are missing, or have not the length that their list of tensors says.

    Raises:
        InputError: says what is wrong, and what to do.
    """
    if not has_weights(url):
        raise InputError(f"{url}: is missing; {COPY_AGAIN}")
    for file in (url,) if exists(url) else (_rest_of(url), str(_backbone_of(url))):
        try:
            read_entries(file)
        except ValueError as error:
            raise InputError(f"{file}: damaged weights ({error}); {COPY_AGAIN}") from error


def copy_weights(url: str, to: str, sums: FileSums | None = None) -> StoredObject:
    """Write the weights at `url` as one file at `to`, and describe it.

    Raises:
        InputError: see `weight_pieces`, or they are damaged; nothing is written then.
    """
    digest, nbytes = xxhash.xxh3_64(), 0
    pieces = weight_pieces(url, sums)
    first = next(pieces, b"")
    try:
        with staged(to) as path, open(path, "wb") as file:
            entries = entries_of(first)
            for piece in chain([first], pieces):
                digest.update(piece)
                nbytes += file.write(piece)
            check_size(entries, first, nbytes)
    except ValueError as error:
        raise InputError(f"{url}: damaged weights ({error}); copy them again, or take others") from error
    return StoredObject(name_of(to), nbytes, digest.hexdigest())


def make_whole(url: str) -> None:
    """Write the weights at `url` as one file unless that is done; remove the files that stood for it.

    config.json, which then lists that file, is written between the two.
    """
    folder = _above(url)
    config, sums = read_config(folder)
    if sums.has(REST):
        others = [one for name, one in sums.files.items() if name not in (REST, REFERENCE)]
        weights = copy_weights(url, url, sums)
        publish(join(folder, CONFIG), config_bytes(config, [weights, *others]))
    elif not exists(url):
        copy_weights(url, url)
    for name in (REST, REFERENCE):  # the reference last: while it exists, there is something left to do
        remove_file(join(folder, name))


def remove_unused(run: str) -> None:
    """Remove the backbone files to which no checkpoint of the run refers."""
    files = find_files(run)
    folders = [name.removesuffix(f"/{REFERENCE}") for name in files if name.endswith(f"/{REFERENCE}")]
    used = {_file_beside(join(run, folder)) for folder in folders}
    for name in files:
        if _NAME.fullmatch(name) and name not in used:
            remove_file(join(run, name))


def _file_of(digest: str) -> str:
    return f"backbone-{digest}.safetensors"


def _above(url: str) -> str:
    """Return the folder of a file."""
    return url.rpartition("/")[0] or "."


def _rest_of(url: str) -> str:
    return join(_above(url), REST)


def _backbone_of(url: str) -> str | None:
    """Return the backbone's file to which the checkpoint with the weights `url` refers, if it does."""
    folder = _above(url)
    name = _file_beside(folder)
    if name is None:
        return None
    run = str(local_path(folder).resolve().parent) if is_local(folder) else _above(folder)
    return join(run, name)


def _file_beside(folder: str) -> str | None:
    """Return the name of the file to which the checkpoint `folder` refers, if it does."""
    return str(_reference_in(folder)["file"]) if exists(join(folder, REFERENCE)) else None


def _reference_in(folder: str) -> dict[str, Any]:
    url = join(folder, REFERENCE)
    values = read_json(url)
    is_ours = (values.get("format"), values.get("version")) == (FORMAT, VERSION)
    if not is_ours or not _NAME.fullmatch(str(values.get("file"))):
        raise InputError(
            f"{url}: holds {values.get('format')} {values.get('version')}, not {FORMAT} {VERSION}; use the "
            "version of Treeline that wrote it"
        )
    return values


def _checked(name: str, pieces: Iterable[Piece], refusal: str) -> Iterator[Piece]:
    """Yield the bytes of a backbone's file; at their end, refuse them unless its name has their checksum."""
    digest = xxhash.xxh3_64()
    for piece in pieces:
        digest.update(piece)
        yield piece
    if name != _file_of(digest.hexdigest()):
        raise InputError(refusal)


def _merged(files: dict[str, Iterable[bytes]]) -> Iterator[bytes]:
    try:
        yield from merged_pieces(files)
    except ValueError as error:
        raise InputError(f"{error}; take another checkpoint of the run, and delete this one") from error
