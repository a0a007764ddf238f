"""Filling of a token store with the files that a run needs and that are not there yet, each published whole.

    plan = plan_tokens(regressor, dataset, options, chips, precision="float32")
    files = begin(plan)                                                     # says how large the store is
    stored = [compute(plan, file, regressor, dataset) for file in files]    # anywhere, in any order
    finish(plan, stored)

Files that are there stay, after a kill as well; a run on more chips adds what it needs.
"""

import sys
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from shards.format.manifest import StoredObject, write_json
from shards.progress import progress
from shards.read.dataset import Dataset
from shards.storage.objects import exists, join, publish, read_bytes, sizes_of
from trainer.data.token_store import MANIFEST, TokenFile, TokenPlan, TokenReader, stored_objects
from trainer.devices.precision import autocast, computing
from trainer.devices.ranks import Ranks
from trainer.model.regressor import Regressor
from trainer.model.symmetries import apply_symmetries

TOKENS_AT_A_TIME = 8192
"""Number of patches, roughly, in a batch for the backbone: 512 chips of 16 patches, or 32 chips of 256."""


def open_tokens(plan: TokenPlan, regressor: Regressor, dataset: Dataset, ranks: Ranks) -> TokenReader:
    """Open the store that is planned; the first rank fills it while the others wait.

    Raises:
        InputError: the store holds other tokens.
        DatasetError: a shard is damaged.
    """
    if ranks.is_first and (files := begin(plan)):
        with progress("tokens", sum(file.chips for file in files), "chips") as advance:
            stored = []
            for file in files:
                stored.append(compute(plan, file, regressor, dataset))
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
        print(
            f"token store: {chips:,} chips x {stride:,} bytes = {_size(chips * stride)} at {plan.url}"
            + (f", of which {share:.0%} is there already" if there else ""),
            file=sys.stderr,
            flush=True,
        )
        if not listed:  # from now on this place is for these tokens only, even if the work stops here
            write_json(join(plan.url, MANIFEST), plan.manifest({}))
    return missing


def compute(plan: TokenPlan, file: TokenFile, regressor: Regressor, dataset: Dataset) -> StoredObject | None:
    """Write `file` unless it is there.

    Returns:
        None if its shard is damaged and the dataset leaves such shards out.

    Raises:
        DatasetError: its shard is damaged.
        InputError: the store's type cannot hold a token.
    """
    name, layout = plan.name_of(file), plan.layout
    url = join(plan.url, name)
    if exists(url) and len(data := read_bytes(url)) == plan.nbytes_of(file):
        return StoredObject.of(name, data)
    rows_BS, done = np.empty((file.chips, layout.stride), np.uint8), 0
    batch_size = max(1, TOKENS_AT_A_TIME // (layout.rows * layout.columns))
    for batch in dataset.batches(dataset.chips_of_shard(file.shard), batch_size):
        end = done + len(batch.chips)
        image_BCHW = torch.from_numpy(batch.image_BCHW)
        rows_BS[done:end] = _rows(plan, file.variant, image_BCHW, regressor).numpy()
        done = end
    if done < file.chips:
        return None
    flat_rows = rows_BS.reshape(-1)
    publish(url, flat_rows.data)
    return StoredObject.of(name, flat_rows)


def finish(plan: TokenPlan, stored: Iterable[StoredObject | None]) -> None:
    """Add what `compute` returned to the store's manifest."""
    new = {one.name: one for one in stored if one}
    write_json(join(plan.url, MANIFEST), plan.manifest(stored_objects(plan) | new))


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:,.1f} GB" if nbytes >= 10**8 else f"{nbytes / 1e6:,.1f} MB"


@torch.inference_mode()
def _rows(plan: TokenPlan, variant: int, image_BCHW: Tensor, regressor: Regressor) -> Tensor:
    """Compute rows_BS of tokens from stored images, turned by the symmetry `variant`."""
    if not len(image_BCHW):
        return torch.zeros(0, plan.layout.stride, dtype=torch.uint8)
    device = regressor.normalise.mean_C.device
    image_BCHW = image_BCHW.to(device)
    if variant:
        (image_BCHW,) = apply_symmetries(np.full(len(image_BCHW), variant), image_BCHW)
    with computing(plan.precision), autocast(plan.precision, device):
        pixels_BCHW, _ = regressor.normalise(image_BCHW)
        features = regressor.features(pixels_BCHW)
    return plan.layout.pack(features).cpu()
