"""Readers of other libraries to compare Treeline's with, each over its own files of the same chips.

    python benchmarks/peers.py [--chips 4000] [--repeats 3] [--batch-size 256] [--peers litdata floor]

A peer writes chips to a folder and reads one shuffled epoch of them: in this process, in batches, in the
stored types (no conversion to float). Each is configured for speed. Where the documented way to use a library
is slower than another, both are here ("-documented"). An epoch includes opening the dataset. litdata,
mosaicml-streaming and datasets are no dependencies of Treeline: a peer that is not installed is skipped with
a message. Run as a program, this first checks that every peer returns the chips that were written, each once
and shuffled; then it times all in turn, on one core, from the page cache.
"""

import argparse
import importlib.util
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

IMAGE, HEIGHT = (4, 64, 64), (64, 64)
IMAGE_BYTES = math.prod(IMAGE) * 2
SHARD, CHUNK = 1000, 16
ZARR_SHARD = 1024
"""Chips in a shard of Zarr, which needs a whole number of chunks: 64 of 16 chips."""

Chip = tuple[str, NDArray[np.int16], NDArray[np.float32]]
Batch = tuple[Any, Any]
"""Image (B, 4, 64, 64) int16 and height (B, 64, 64) float32, as NumPy arrays or CPU tensors."""


@dataclass(frozen=True)
class Peer:
    """A way to store chips and to read them back shuffled."""

    package: str
    """Distribution whose version is printed."""
    write: Callable[[Path, Iterable[Chip]], None]
    batches: Callable[[Path, int, int], Iterable[Batch]]
    """Reader of an epoch: batches(folder, batch_size, seed)."""
    note: str

    @property
    def version(self) -> str | None:
        """Version of the package; None if it is not installed."""
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return None

    def read(self, folder: Path, batch_size: int, seed: int) -> int:
        """Read an epoch, touch a value of every band of every chip, and return the number of chips."""
        count = 0
        for image, height in self.batches(folder, batch_size, seed):
            np.asarray(image)[:, :, 0, 0].sum()
            np.asarray(height)[:, 0, 0].sum()
            count += len(image)
        return count


def chip_bytes(image: NDArray[np.int16], height: NDArray[np.float32]) -> bytes:
    return image.tobytes() + height.tobytes()


def arrays_of(
    parts: list[Any], parts_of_chip: int = 1, image_at: int = 0, height_at: int = IMAGE_BYTES
) -> Batch:
    """Copy chips of equal layout from their buffers into one writable buffer; return two views of it."""
    rows = np.frombuffer(bytearray().join(parts), np.uint8).reshape(len(parts) // parts_of_chip, -1)
    image = rows[:, image_at : image_at + IMAGE_BYTES].view("<i2")
    return image.reshape(-1, *IMAGE), rows[:, height_at:].view("<f4").reshape(-1, *HEIGHT)


def stack(samples: list[Any], image: Any = 0, height: Any = 1) -> Batch:
    """Stack chips into a batch.

    torch's default_collate would warn of arrays that are views of bytes, and is no faster.
    """
    return np.stack([sample[image] for sample in samples]), np.stack([sample[height] for sample in samples])


# npy: a file per array, what people do first.


class NpyFiles(torch.utils.data.Dataset[Batch]):
    def __init__(self, folder: Path) -> None:
        self.stems = sorted(str(path).removesuffix(".image.npy") for path in folder.glob("*.image.npy"))

    def __len__(self) -> int:
        return len(self.stems)

    def __getitem__(self, index: int) -> Batch:
        return np.load(self.stems[index] + ".image.npy"), np.load(self.stems[index] + ".height.npy")


def write_npy(folder: Path, chips: Iterable[Chip]) -> None:
    for key, image, height in chips:
        np.save(folder / f"{key}.image.npy", image)
        np.save(folder / f"{key}.height.npy", height)


def read_npy(folder: Path, batch_size: int, seed: int) -> Iterable[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(NpyFiles(folder), batch_size, shuffle=True, generator=generator)


# webdataset: tars of 1000 chips, read from end to end through a shuffle buffer of 1000.


def write_webdataset(folder: Path, chips: Iterable[Chip]) -> None:
    import webdataset

    with webdataset.ShardWriter(f"{folder}/%06d.tar", maxcount=SHARD, verbose=0) as writer:
        for key, image, height in chips:
            writer.write({"__key__": key, "image.npy": image, "height.npy": height})


def webdataset_samples(folder: Path, seed: int) -> Any:
    import webdataset

    tars = sorted(str(path) for path in folder.glob("*.tar"))
    return webdataset.WebDataset(tars, shardshuffle=len(tars), seed=seed).shuffle(SHARD, seed=seed)


def read_webdataset(folder: Path, batch_size: int, seed: int) -> Iterable[Batch]:
    header = 128  # bytes of an .npy header of this size; the check of main() would find another

    def collate(samples: list[dict[str, bytes]]) -> Batch:
        parts = [sample[name] for sample in samples for name in ("image.npy", "height.npy")]
        return arrays_of(parts, 2, header, header + IMAGE_BYTES + header)

    return webdataset_samples(folder, seed).batched(batch_size, collation_fn=collate)


def read_webdataset_as_documented(folder: Path, batch_size: int, seed: int) -> Iterable[Batch]:
    samples = webdataset_samples(folder, seed).decode().to_tuple("image.npy", "height.npy")
    return samples.batched(batch_size)


# litdata: chunks of 64 MB, as its documentation has. Its default shuffles the chunks, the blocks of 256
# neighbours in a chunk, and the chips of a block: a batch of 256 comes from one to three blocks.


def write_litdata_items(folder: Path, items: Iterable[Any]) -> None:
    from litdata.streaming.cache import Cache  # what optimize() uses, without its worker processes

    cache = Cache(str(folder), chunk_bytes="64MB")
    for number, item in enumerate(items):
        cache[number] = item
    cache.done()
    cache.merge()


def write_litdata(folder: Path, chips: Iterable[Chip]) -> None:
    write_litdata_items(folder, (chip_bytes(image, height) for _, image, height in chips))


def write_litdata_tensors(folder: Path, chips: Iterable[Chip]) -> None:
    tensors = ((torch.from_numpy(image), torch.from_numpy(height)) for _, image, height in chips)
    write_litdata_items(folder, tensors)


def litdata_loader(folder: Path, batch_size: int, seed: int, collate: Any = None, **options: Any) -> Any:
    from litdata import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(str(folder), shuffle=True, seed=seed, **options)
    return StreamingDataLoader(dataset, batch_size=batch_size, num_workers=0, collate_fn=collate)


def read_litdata(folder: Path, batch_size: int, seed: int) -> Iterable[Batch]:
    return litdata_loader(folder, batch_size, seed, arrays_of)


def read_litdata_mixed(folder: Path, batch_size: int, seed: int) -> Iterable[Batch]:
    return litdata_loader(folder, batch_size, seed, arrays_of, item_shuffle_window="full", batch_decode=0)


def read_litdata_tensors(folder: Path, batch_size: int, seed: int) -> Iterable[Batch]:
    # By default tensors are decoded 32 at a time but shuffled 256 at a time, so that most are decoded many
    # times: a tenth of the speed that one at a time has.
    return litdata_loader(folder, batch_size, seed, batch_decode=0)


# mosaic: MDS shards of 64 MB, the default; a file is opened for every chip.


def mosaic() -> ModuleType:
    if importlib.util.find_spec("torchvision") is None:
        # `import streaming` loads torchvision for its CIFAR and COCO datasets, which are not needed here.
        sys.modules.setdefault("streaming.vision", ModuleType("streaming.vision"))
    import streaming

    return streaming


def write_mosaic(folder: Path, chips: Iterable[Chip]) -> None:
    with mosaic().MDSWriter(out=str(folder), columns={"chip": "bytes"}) as writer:
        for _, image, height in chips:
            writer.write({"chip": chip_bytes(image, height)})


def write_mosaic_arrays(folder: Path, chips: Iterable[Chip]) -> None:
    columns = {"image": "ndarray:int16:4,64,64", "height": "ndarray:float32:64,64"}
    with mosaic().MDSWriter(out=str(folder), columns=columns) as writer:
        for _, image, height in chips:
            writer.write({"image": image, "height": height})


def mosaic_batches(
    folder: Path, batch_size: int, seed: int, collate: Callable[..., Batch]
) -> Iterator[Batch]:
    streaming = mosaic()
    from streaming.base.util import clean_stale_shared_memory

    dataset = streaming.StreamingDataset(
        local=str(folder), shuffle=True, shuffle_seed=seed, batch_size=batch_size
    )
    try:
        yield from DataLoader(dataset, batch_size, collate_fn=collate)
    finally:
        del dataset
        clean_stale_shared_memory()


def read_mosaic(folder: Path, batch_size: int, seed: int) -> Iterable[Batch]:
    def collate(samples: list[dict[str, bytes]]) -> Batch:
        return arrays_of([sample["chip"] for sample in samples])

    return mosaic_batches(folder, batch_size, seed, collate)


def read_mosaic_arrays(folder: Path, batch_size: int, seed: int) -> Iterable[Batch]:
    return mosaic_batches(folder, batch_size, seed, lambda samples: stack(samples, "image", "height"))


# datasets: Hugging Face's, an Arrow file that is memory-mapped and gathered in an order of the whole set.


def write_datasets(folder: Path, chips: Iterable[Chip]) -> None:
    from datasets import Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    image_type = List(Value("int16"), length=math.prod(IMAGE))
    features = Features({"image": image_type, "height": List(Value("float32"), length=math.prod(HEIGHT))})
    with ArrowWriter(path=str(folder / "chips.arrow"), features=features, writer_batch_size=SHARD) as writer:
        for _, image, height in chips:
            writer.write({"image": image.ravel(), "height": height.ravel()})
        writer.finalize()


def read_datasets(folder: Path, batch_size: int, seed: int) -> Iterator[Batch]:
    import datasets

    # with_format("numpy") would make int64 of int16; Array3D would make lists of lists first.
    dataset = datasets.Dataset.from_file(str(folder / "chips.arrow")).with_format("arrow")
    for table in dataset.shuffle(seed=seed, keep_in_memory=True).iter(batch_size):
        image, height = (table[name].combine_chunks().flatten().to_numpy() for name in ("image", "height"))
        yield image.reshape(-1, *IMAGE), height.reshape(-1, *HEIGHT)


# zarr: Zarr v3, sharded, zstd, chunks of 16 whole chips.


def write_zarr(folder: Path, chips: Iterable[Chip]) -> None:
    import zarr

    group = zarr.open_group(str(folder), mode="w")
    arrays = [
        group.create_array(
            name,
            shape=(0, *shape),
            chunks=(CHUNK, *shape),
            shards=(ZARR_SHARD, *shape),
            dtype=dtype,
            compressors=zarr.codecs.ZstdCodec(),
        )
        for name, shape, dtype in (("image", IMAGE, "int16"), ("height", HEIGHT, "float32"))
    ]
    source = iter(chips)
    while some := list(islice(source, ZARR_SHARD)):
        for array, values in zip(arrays, list(zip(*some, strict=True))[1:], strict=True):
            array.append(np.stack(values))


def read_zarr(folder: Path, batch_size: int, seed: int) -> Iterator[Batch]:
    """Read whole shards in random order and shuffle the chips of each: one call of zarr per shard."""
    import zarr

    group, generator = zarr.open_group(str(folder), mode="r"), np.random.default_rng(seed)
    for shard in generator.permutation(-(-group["image"].shape[0] // ZARR_SHARD)):
        part = slice(shard * ZARR_SHARD, (shard + 1) * ZARR_SHARD)
        image, height = group["image"][part], group["height"][part]
        order = generator.permutation(len(image))
        for start in range(0, len(order), batch_size):
            some = order[start : start + batch_size]
            yield image[some], height[some]


def read_zarr_chunks(folder: Path, batch_size: int, seed: int) -> Iterator[Batch]:
    """Read chunks of the whole array in random order, straight into the batch; within a chunk, in order."""
    import zarr
    from zarr.buffer.cpu import NDBuffer

    group = zarr.open_group(str(folder), mode="r")
    arrays = group["image"], group["height"]
    starts = np.random.default_rng(seed).permutation(range(0, arrays[0].shape[0], CHUNK))
    chunks_in_batch = max(1, batch_size // CHUNK)
    for first in range(0, len(starts), chunks_in_batch):
        some = starts[first : first + chunks_in_batch]
        counts = np.minimum(CHUNK, arrays[0].shape[0] - some)
        image, height = (np.empty((counts.sum(), *array.shape[1:]), array.dtype) for array in arrays)
        end = 0
        for start, count in zip(some.tolist(), counts.tolist(), strict=True):
            begin, end = end, end + count
            for array, out in zip(arrays, (image, height), strict=True):
                into = NDBuffer.from_numpy_array(out[begin:end])
                array.get_basic_selection(slice(start, start + count), out=into)
        yield image, height


# floor: two bare arrays, memory-mapped. Nothing is checked, listed or decoded: the cost of the copy alone.


def write_floor(folder: Path, chips: Iterable[Chip]) -> None:
    _, image, height = zip(*chips, strict=True)
    np.save(folder / "image.npy", np.stack(image))
    np.save(folder / "height.npy", np.stack(height))


def read_floor(folder: Path, batch_size: int, seed: int) -> Iterator[Batch]:
    image, height = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("image", "height"))
    order = np.random.default_rng(seed).permutation(len(image))
    for start in range(0, len(order), batch_size):
        some = order[start : start + batch_size]
        yield image[some], height[some]


PEERS = {
    "npy": Peer("torch", write_npy, read_npy, "a file per array, DataLoader, default collate"),
    "webdataset": Peer(
        "webdataset", write_webdataset, read_webdataset, "tars of 1000, buffer of 1000, npy bytes joined"
    ),
    "webdataset-documented": Peer(
        "webdataset", write_webdataset, read_webdataset_as_documented, ".decode().to_tuple().batched()"
    ),
    "litdata": Peer(
        "litdata", write_litdata, read_litdata, "a chip is bytes, joined; mixed within 256 chips"
    ),
    "litdata-mixed": Peer(
        "litdata", write_litdata, read_litdata_mixed, "the same; mixed within its 64 MB chunks"
    ),
    "litdata-documented": Peer(
        "litdata", write_litdata_tensors, read_litdata_tensors, "a chip is two tensors; batch_decode=0"
    ),
    "mosaic": Peer("mosaicml-streaming", write_mosaic, read_mosaic, "a chip is bytes, joined"),
    "mosaic-documented": Peer(
        "mosaicml-streaming", write_mosaic_arrays, read_mosaic_arrays, "two ndarray columns, stacked"
    ),
    "datasets": Peer(
        "datasets", write_datasets, read_datasets, "Arrow file, lists of fixed length, arrow format"
    ),
    "zarr": Peer("zarr", write_zarr, read_zarr, "zstd; whole shards of 1024, shuffled inside"),
    "zarr-chunks": Peer("zarr", write_zarr, read_zarr_chunks, "zstd; chunks of 16, shuffled over all shards"),
    "floor": Peer("numpy", write_floor, read_floor, "two bare arrays, memory-mapped, gathered; no format"),
}


def make_chips(count: int, seed: int = 0) -> Iterator[Chip]:
    """Make chips of 8 x 8 patches with noise, heights in decimetres: more compressible than random bits."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        coarse = generator.normal(size=(5, 8, 8)).astype(np.float32)
        field = coarse.repeat(8, axis=1).repeat(8, axis=2)
        image = 1500 + 300 * field[:4] + generator.normal(0, 40, IMAGE)
        height = np.maximum(0, 6 + 8 * field[4] + generator.normal(0, 1, HEIGHT))
        yield f"chip_{number:06d}", image.astype(np.int16), height.round(1).astype(np.float32)


def fingerprints(image: Any, height: Any) -> NDArray[np.uint64]:
    """Hash each chip to a number: equal sets of numbers mean equal sets of chips."""
    image, height = np.asarray(image), np.asarray(height)
    if (image.dtype, height.dtype) != (np.int16, np.float32):
        raise TypeError(f"not the stored types: {image.dtype}, {height.dtype}")
    if (image.shape[1:], height.shape[1:]) != (IMAGE, HEIGHT):
        raise ValueError(f"not the stored shapes: {image.shape}, {height.shape}")
    image_sum = image.view(np.uint16).sum(axis=(1, 2, 3), dtype=np.uint64)
    height_sum = height.view(np.uint32).sum(axis=(1, 2), dtype=np.uint64)
    return image_sum * np.uint64(0x9E3779B97F4A7C15) + height_sum  # so that the two sums cannot trade bits


def check(peer: Peer, folder: Path, chips: Iterable[Chip], batch_size: int) -> None:
    """Raise ValueError unless an epoch returns the written chips, each once and in another order."""
    written = np.concatenate([fingerprints(image[None], height[None]) for _, image, height in chips])
    met = np.concatenate([fingerprints(*batch) for batch in peer.batches(folder, batch_size, 0)])
    if not np.array_equal(np.sort(met), np.sort(written)):
        raise ValueError(f"{peer.package} did not hand over the {len(written)} chips as written ({len(met)})")
    if len(met) > CHUNK and np.array_equal(met, written):
        raise ValueError(f"{peer.package} did not shuffle")


def write_all(root: Path, chips: list[Chip], names: Iterable[str], batch_size: int) -> dict[str, Path]:
    """Write and check the installed peers; return their folders by name."""
    folders = {}
    for name in names:
        peer = PEERS[name]
        if peer.version is None:
            print(f"{name} is skipped: {peer.package} is not installed")
            continue
        folders[name] = root / name
        folders[name].mkdir()
        peer.write(folders[name], chips)
        check(peer, folders[name], chips, batch_size)
    return folders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chips", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):  # zarr decodes in threads, litdata and mosaic look ahead in one
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as root:
        chips = list(make_chips(options.chips))
        folders = write_all(Path(root), chips, options.peers, options.batch_size)
        rates: dict[str, list[float]] = {name: [] for name in folders}
        for repeat in range(options.repeats):  # in turn, so that a slow moment of the machine meets all
            for name, folder in folders.items():
                start = time.perf_counter()
                count = PEERS[name].read(folder, options.batch_size, repeat)
                rates[name].append(count / (time.perf_counter() - start))
    print(f"{platform.machine()}, one core, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"{options.chips} chips, batches of {options.batch_size}, median of {options.repeats} epochs")
    for name, of_name in rates.items():
        peer = PEERS[name]
        spread = f"({min(of_name):,.0f} to {max(of_name):,.0f})"
        version = f"{peer.package} {peer.version}"
        print(f"{name:27}{statistics.median(of_name):10,.0f} chips/s {spread:23}{version:27}{peer.note}")


if __name__ == "__main__":
    main()
