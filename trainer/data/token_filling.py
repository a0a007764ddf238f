"""Fills a token store: the objects that a run needs and that are not there yet, each published whole.

    plan = plan_tokens(regressor, dataset, config)
    pieces = begin(plan)                                                # says how large the store is
    objects = [compute(plan, piece, regressor, dataset) for piece in pieces]    # anywhere, in any order
    finish(plan, objects)

Killed and run again, it keeps the objects that are there; a run on more chips adds what it needs.
"""

import sys
from collections.abc import Iterable
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from shards.format.manifest import StoredObject, write_json
from shards.progress import progress
from shards.read.dataset import Dataset
from shards.storage.objects import exists, join, publish, read_bytes, sizes_of
from trainer.config import TrainConfig
from trainer.data.token_store import MANIFEST, Piece, TokenPlan, TokenReader, plan_tokens, stored_objects
from trainer.devices.ranks import Ranks
from trainer.model.regressor import Regressor
from trainer.model.symmetries import apply_symmetries

TOKENS_AT_A_TIME = 8192
"""Chips go through the backbone in batches of about so many patches: 512 chips of 16, 32 chips of 256."""


def open_tokens(regressor: Regressor, dataset: Dataset, config: TrainConfig, ranks: Ranks) -> TokenReader:
    """A reader of the store that `config` asks for; the first rank fills the store, the others wait.

    Raises:
        InputError: there is a store of other tokens.
        DatasetError: a damaged shard.
    """
    plan = plan_tokens(regressor, dataset, config)
    if ranks.is_first and (pieces := begin(plan)):
        with progress("tokens", sum(piece.chips for piece in pieces), "chips") as advance:
            objects = []
            for piece in pieces:
                objects.append(compute(plan, piece, regressor, dataset))
                advance(piece.chips)
        finish(plan, objects)
    ranks.sum(torch.zeros(1))  # nobody passes before the first rank is here
    return TokenReader(plan, stored_objects(plan), dataset, ranks.device)


def begin(plan: TokenPlan) -> list[Piece]:
    """The pieces that are to be computed; says how large the store is if there are any.

    Raises:
        InputError: there is a store of other tokens.
    """
    listed, sizes = stored_objects(plan), sizes_of(join(plan.url, plan.fingerprint))
    found = {f"{plan.fingerprint}/{name}": nbytes for name, nbytes in sizes.items()}
    there = {piece for piece in plan.pieces if found.get(plan.name_of(piece)) == plan.nbytes_of(piece)}
    missing = [piece for piece in plan.pieces if piece not in there or plan.name_of(piece) not in listed]
    if missing:
        chips, stride = sum(piece.chips for piece in plan.pieces), plan.layout.stride
        share = sum(piece.chips for piece in there) / chips
        print(
            f"token store: {chips:,} chips x {stride:,} bytes = {_size(chips * stride)} at {plan.url}"
            + (f", of which {share:.0%} are there" if there else ""),
            file=sys.stderr,
            flush=True,
        )
        if not listed:  # from now on this place is of these tokens, also if the work is stopped
            write_json(join(plan.url, MANIFEST), plan.manifest({}))
    return missing


def compute(plan: TokenPlan, piece: Piece, regressor: Regressor, dataset: Dataset) -> StoredObject | None:
    """Write `piece`, if it is not there; None if its shard is damaged and the dataset leaves such shards out.

    Raises:
        DatasetError: a damaged shard.
        InputError: a token that the store's type cannot hold.
    """
    name, layout = plan.name_of(piece), plan.layout
    url = join(plan.url, name)
    if exists(url) and len(data := read_bytes(url)) == plan.nbytes_of(piece):
        return StoredObject.of(name, data)
    rows_BS, done = np.empty((piece.chips, layout.stride), np.uint8), 0
    batch_size = max(1, TOKENS_AT_A_TIME // (layout.rows * layout.columns))
    for batch in dataset.batches(dataset.chips_of_shard(piece.shard), batch_size):
        met = done + len(batch.chips)
        image_BCHW = torch.from_numpy(batch.image_BCHW)
        rows_BS[done:met] = _rows(plan, piece.variant, image_BCHW, regressor).numpy()
        done = met
    if done < piece.chips:
        return None
    flat_rows = rows_BS.reshape(-1)
    publish(url, flat_rows.data)
    return StoredObject.of(name, flat_rows)


def finish(plan: TokenPlan, objects: Iterable[StoredObject | None]) -> None:
    """List the objects in the store's manifest, beside those that it lists."""
    new = {stored.name: stored for stored in objects if stored}
    write_json(join(plan.url, MANIFEST), plan.manifest(stored_objects(plan) | new))


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:,.1f} GB" if nbytes >= 10**8 else f"{nbytes / 1e6:,.1f} MB"


@torch.inference_mode()
def _rows(plan: TokenPlan, variant: int, image_BCHW: Tensor, regressor: Regressor) -> Tensor:
    """rows_BS of these stored images, turned."""
    if not len(image_BCHW):
        return torch.zeros(0, plan.layout.stride, dtype=torch.uint8)
    device = regressor.normalise.mean_C.device
    bf16 = plan.identity["computed in"] == "bfloat16"
    image_BCHW = image_BCHW.to(device)
    if variant:  # nor does every image have the sides of its quarter turn
        no_height_BHW = torch.zeros(len(image_BCHW), 1, 1)
        image_BCHW, _ = apply_symmetries(image_BCHW, no_height_BHW, np.full(len(image_BCHW), variant))
    with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
        pixels_BCHW, _ = regressor.normalise(image_BCHW)
        features = regressor.features(pixels_BCHW)
    return plan.layout.pack(features).cpu()
