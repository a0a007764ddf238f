"""Filling of a token store with the files that a run needs and that are not there yet, each published whole.

    plan = plan_tokens(regressor, dataset, options, chips, precision="float32")
    for files in by_shard(begin(plan)):                                     # says how large the store is
        stored += compute(plan, files, regressor, dataset)                  # anywhere, in any order
    finish(plan, stored)

Files that are there stay, after a kill as well; a run on more chips adds what it needs.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.format.manifest import StoredObject, write_json
from shards.progress import progress
from shards.read.dataset import Dataset
from shards.said import say
from shards.storage.checksum import hexadecimal
from shards.storage.objects import exists, join, publish, read_bytes, remove_file, sizes_of
from trainer.data.token_store import MANIFEST, TokenFile, TokenPlan, TokenReader, stored_objects
from trainer.devices.precision import autocast, computing
from trainer.devices.ranks import Ranks
from trainer.model.frozen_backbone import placed_on
from trainer.model.regressor import Regressor
from trainer.model.symmetries import apply_symmetries

CHECKSUM = ".xxh3"
"""Ending of a file with the checksum of one that the manifest does not list yet."""
TOKENS_AT_A_TIME = 8192
"""Number of patches, roughly, in a batch for the backbone: 512 chips of 16 patches, or 32 chips of 256."""


def open_tokens(plan: TokenPlan, regressor: Regressor, dataset: Dataset, ranks: Ranks) -> TokenReader:
    """Open the store that is planned; the first rank fills it while the others wait.

    Only to fill it is the regressor placed on the device (`placed_on`); its backbone cannot be saved then.

    Raises:
        InputError: the store holds other tokens.
        DatasetError: a shard is damaged.
    """
    if ranks.is_first and (files := begin(plan)):
        placed_on(regressor, plan.precision, ranks.device)
        with progress("tokens", sum(file.chips for file in files), "chips") as advance:
            stored = []
            for of_shard in by_shard(files):
                for file, one in zip(of_shard, compute(plan, of_shard, regressor, dataset), strict=True):
                    stored.append(one)
                    advance(file.chips)
        finish(plan, stored)
    ranks.sum(torch.zeros(1))  # a barrier: nobody passes before the first rank is here
    return TokenReader(plan, stored_objects(plan), dataset, ranks.device)


def begin(plan: TokenPlan) -> list[TokenFile]:
    """Return the files that must be computed; if there are any, print how large the store is.

    Raises:
        InputError: the store holds other tokens.
    """
    listed, sizes = stored_objects(plan), sizes_of(join(plan.url, plan.fingerprint))
    found = {f"{plan.fingerprint}/{name}": nbytes for name, nbytes in sizes.items()}
    there = {file for file in plan.files if found.get(plan.name_of(file)) == plan.nbytes_of(file)}
    missing = [file for file in plan.files if file not in there or plan.name_of(file) not in listed]
    if missing:
        chips, stride = sum(file.chips for file in plan.files), plan.layout.stride
        share = sum(file.chips for file in there) / chips
        say(
            f"token store: {chips:,} chips x {stride:,} bytes = {_size(chips * stride)} at {plan.url}"
            + (f", of which {share:.0%} is there already" if there else ""),
            of="",
        )
        if not listed:  # from now on this place is for these tokens only, even if the work stops here
            write_json(join(plan.url, MANIFEST), plan.manifest({}))
    return missing


def by_shard(files: Iterable[TokenFile]) -> list[list[TokenFile]]:
    """Put the files of a shard together, for `compute`."""
    return [list(of_shard) for _, of_shard in groupby(files, key=lambda file: file.shard)]


def compute(
    plan: TokenPlan, files: Iterable[TokenFile], regressor: Regressor, dataset: Dataset
) -> Iterator[StoredObject | None]:
    """Write those of `files`, all of one shard, that are not there; yield what each has become, in order.

    The shard is read once for all its variants. A file is published while the next one is computed.

    Yields:
        None if the shard is damaged and the dataset leaves such shards out.

    Raises:
        DatasetError: the shard is damaged.
        InputError: the store's type cannot hold a token.
    """
    images: list[Tensor] | None = None
    published: Future[StoredObject | None] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="treeline-publish") as thread:
        for file in files:
            name = plan.name_of(file)
            if (data := _there(plan, file)) is not None:
                work: Callable[[], StoredObject | None] = partial(StoredObject.of, name, data)
            else:
                images = images if images is not None else _images(plan, file, regressor, dataset)
                rows_BS = _rows_of_file(plan, file, images, regressor)
                work = partial(_published, join(plan.url, name), name, rows_BS)
            before, published = published, thread.submit(work)
            if before is not None:
                yield before.result()
        if published is not None:
            yield published.result()


def _there(plan: TokenPlan, file: TokenFile) -> bytes | None:
    """Return the bytes of a file that is there and whole."""
    url = join(plan.url, plan.name_of(file))
    if not (exists(url) and exists(url + CHECKSUM)):
        return None
    data = read_bytes(url)
    is_whole = len(data) == plan.nbytes_of(file) and hexadecimal(data).encode() == read_bytes(url + CHECKSUM)
    return data if is_whole else None


def _images(plan: TokenPlan, file: TokenFile, regressor: Regressor, dataset: Dataset) -> list[Tensor]:
    """Read a shard's images, in batches on the backbone's device."""
    layout, device = plan.layout, regressor.normalise.mean_C.device
    batch_size = max(1, TOKENS_AT_A_TIME // (layout.rows * layout.columns))
    batches = dataset.batches(dataset.chips_of_shard(file.shard), batch_size)
    return [torch.from_numpy(batch.image_BCHW).to(device) for batch in batches]


def _rows_of_file(
    plan: TokenPlan, file: TokenFile, images: list[Tensor], regressor: Regressor
) -> NDArray[np.uint8] | None:
    """Compute a file's rows_BS; None if its shard was left out."""
    if sum(map(len, images)) < file.chips:
        return None
    rows_BS, done = np.empty((file.chips, plan.layout.stride), np.uint8), 0
    for image_BCHW in images:
        end = done + len(image_BCHW)
        rows_BS[done:end] = _rows(plan, file.variant, image_BCHW, regressor).numpy()
        done = end
    return rows_BS


def _published(url: str, name: str, rows_BS: NDArray[np.uint8] | None) -> StoredObject | None:
    if rows_BS is None:
        return None
    flat_rows = rows_BS.reshape(-1)
    publish(url, flat_rows.data)
    stored = StoredObject.of(name, flat_rows)
    publish(url + CHECKSUM, stored.xxh3.encode())
    return stored


def finish(plan: TokenPlan, stored: Iterable[StoredObject | None]) -> None:
    """Add what `compute` returned to the store's manifest, which then has the checksums."""
    new = {one.name: one for one in stored if one}
    write_json(join(plan.url, MANIFEST), plan.manifest(stored_objects(plan) | new))
    for name in new:
        remove_file(join(plan.url, name + CHECKSUM))


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:,.1f} GB" if nbytes >= 10**8 else f"{nbytes / 1e6:,.1f} MB"


@torch.inference_mode()
def _rows(plan: TokenPlan, variant: int, image_BCHW: Tensor, regressor: Regressor) -> Tensor:
    """Compute rows_BS of tokens from stored images, turned by the symmetry `variant`."""
    if not len(image_BCHW):
        return torch.zeros(0, plan.layout.stride, dtype=torch.uint8)
    device = image_BCHW.device
    if variant:
        (image_BCHW,) = apply_symmetries(np.full(len(image_BCHW), variant), image_BCHW)
    with computing(plan.precision), autocast(plan.precision, device):
        pixels_BCHW, _ = regressor.normalise(image_BCHW)
        features = regressor.features(pixels_BCHW)
    return plan.layout.pack(features).cpu()
