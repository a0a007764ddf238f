"""Shared small real data: chips with realistic names, folders of .npy pairs, one written dataset."""

from __future__ import annotations

import itertools
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from ray_machines import cluster_environment, first_machine, second_machine
from servers import S3Server, environment_of, moto_server, rclone_server
from xdist.scheduler import LoadScopeScheduling

from shards.format.key import facts, split_of
from shards.format.manifest import Manifest, ShardFormat
from shards.format.schema import Chip, Schema
from shards.read.dataset import Dataset, open_dataset
from shards.read.read_options import ReadOptions
from shards.storage.objects import remove_folder
from shards.write.writer import DatasetWriter

SHARED = Path(__file__).resolve().parents[2] / "shared"
SCHEMA = Schema(("blue", "green", "red", "nir"))
ON_RAY = "on_ray"
"""In the names of tests, or of their files, that start a Ray cluster."""
RAY_TIMEOUT_SECONDS = 900
"""Above what the tests' own patience adds up to, which names what did not come to pass."""
SCENES = (
    "WV02_20150802_M1BS_1030010047ADDD00",
    "WV02_20160715_M1BS_10300100599B3A00",
    "WV03_20170828_M1BS_104001003234CE00",
    "WV02_20200722_M1BS_10300100AB1FD100",
    "WV03_20180619_P1BS_1040010040AA3B00",
)
SOURCES = ("AK_IFSAR_CHM", "fairbanks_ql1_2017", "infrastructure_2011_26906")


def pytest_configure() -> None:
    """Let tests stop what they start: a job in a shell's background ignores SIGINT, as do its children."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The Ray tests first: they take longest and mostly wait, so that another process can do the rest."""
    for item in items:
        if (item.get_closest_marker("ray") is not None) != (ON_RAY in item.nodeid):
            raise pytest.UsageError(f"{item.nodeid}: the marker ray and {ON_RAY} in the name go together")
        if ON_RAY in item.nodeid and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(RAY_TIMEOUT_SECONDS))
    items.sort(key=lambda item: ON_RAY not in item.nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Of several processes one runs all Ray tests, on one cluster; any other file is run by one of them."""
    config.option.loadscopereorder = False
    return ByFile(config, log)


class ByFile(LoadScopeScheduling):
    """Gives whole files to processes, and all that is on Ray to one of them."""

    def _split_scope(self, nodeid: str) -> str:
        return ON_RAY if ON_RAY in nodeid else nodeid.split("::", 1)[0]


def make_key(number: int) -> str:
    """The name of chip `number`, e.g. chip_WV02_..._CHM_AK_IFSAR_CHM_02574_v20231006."""
    scene, source = SCENES[number % len(SCENES)], SOURCES[number % len(SOURCES)]
    return f"chip_{scene}_CHM_{source}_{number:05d}_v20231006"


def make_chip(number: int, schema: Schema = SCHEMA) -> Chip:
    """A valid chip, mostly bare ground with some plants; the same number gives the same chip."""
    rng = np.random.default_rng((20_231_006, number))
    level_C11 = np.linspace(500, 2500, len(schema.bands))[:, None, None]
    image_CHW = rng.normal(level_C11, 0.2 * level_C11, schema.image_shape)
    height_HW = np.where(
        rng.random(schema.label_shape) < 0.4, rng.gamma(2.0, 2.0, schema.label_shape), 0.0
    ).astype(np.float32)
    key = make_key(number)
    known = facts(key)
    image_CHW = np.clip(image_CHW, 0, 10_000).astype(schema.dtype)
    return Chip(key, image_CHW, height_HW, known.source, known.sensor, known.acquired, known.scene)


@dataclass(frozen=True)
class Folders:
    """Two folders of .npy chips with the same names."""

    images: Path
    heights: Path
    chips: dict[str, Chip]
    """By key, as they were written."""


@dataclass(frozen=True)
class Written:
    """A dataset, and the chips that went into it."""

    url: str
    manifest: Manifest
    chips: dict[str, Chip]
    """By key."""

    def open(self, options: ReadOptions = ReadOptions()) -> Dataset:
        """A reader that has read nothing yet."""
        return open_dataset(self.url, options)


@pytest.fixture
def chip_folders(tmp_path: Path) -> Callable[..., Folders]:
    """Writes `count` valid pairs below tmp_path / name: chip_folders(12)."""

    def make(count: int = 12, name: str = "chips") -> Folders:
        folders = Folders(tmp_path / name / "images", tmp_path / name / "heights", {})
        folders.images.mkdir(parents=True)
        folders.heights.mkdir()
        for chip in map(make_chip, range(count)):
            np.save(folders.images / f"{chip.key}.npy", chip.image_CHW)
            np.save(folders.heights / f"{chip.key}.npy", chip.height_HW)
            folders.chips[chip.key] = chip
        return folders

    return make


@pytest.fixture(scope="session")
def new_chip() -> Callable[..., Chip]:
    """new_chip(number, schema): a valid chip, the same for the same number."""
    return make_chip


@pytest.fixture(scope="session")
def schema() -> Schema:
    """Four bands of 64 x 64 int16."""
    return SCHEMA


@pytest.fixture(scope="session")
def write_dataset() -> Callable[..., Written]:
    """write_dataset(url, chips, shard_chips): a dataset of these chips, a quarter of them in "val"."""

    def write(
        url: Path | str,
        chips: list[Chip],
        shard_chips: int = 7,
        val_share: float = 0.25,
        shard_format: ShardFormat = "tar",
    ) -> Written:
        with DatasetWriter(str(url), SCHEMA, {"treeline": "test"}, shard_chips, shard_format) as writer:
            for chip in chips:
                writer.add(chip, split_of(chip.key, val_share))
            manifest = writer.finish()
        return Written(str(url), manifest, {chip.key: chip for chip in chips})

    return write


@pytest.fixture(scope="session")
def pairs_dataset(tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Written]) -> Written:
    """60 chips in shards of 7, train and val; not to be changed by a test."""
    return write_dataset(tmp_path_factory.mktemp("pairs") / "dataset", [make_chip(n) for n in range(60)])


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small backbone with random weights; only read."""
    from regressors import local_backbone  # with torch, which most tests of shards and ingest do without

    return local_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """An S3 server that answers ranges with status 206."""
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Another, which checks signatures and answers ranges with status 200."""
    with rclone_server(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def ray_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of everybody who belongs to the cluster."""
    return cluster_environment(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def ray_head(ray_env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The first machine of a Ray cluster, with one core; tests kill what they like but it."""
    with first_machine(ray_env) as process:
        yield process


@pytest.fixture
def ray_second(ray_env: dict[str, str], ray_head: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    """The second machine of that cluster, with one core; a test may kill it, and the next has another."""
    return second_machine(ray_env)


STORAGES = ("local", "memory", "rclone", pytest.param("moto", marks=pytest.mark.slow))
"""moto is the slower of two S3 servers: `make check` makes do with the other."""
_numbers = itertools.count()


@pytest.fixture(params=STORAGES)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty place in each kind of storage, two S3 servers among them."""
    if request.param == "local":
        yield str(tmp_path / "storage")
    elif request.param == "memory":
        url = f"memory://bucket/{next(_numbers)}"
        yield url
        fsspec.filesystem("memory").rm(url, recursive=True)
    else:
        with environment_of(request.getfixturevalue(request.param)):
            url = f"s3://bucket/test-{next(_numbers)}"
            yield url
            remove_folder(url)


def _shared_folder(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"../shared/{name} is absent")
    return folder


@pytest.fixture(scope="session")
def tahoe() -> Path:
    """Folder with a real aerial image, and lidar elevations of the surface and of the ground."""
    return _shared_folder("data/tahoe")


@pytest.fixture(scope="session")
def terramind() -> Path:
    """Folder with five real Sentinel-1 tiles, and vegetation and land cover on the same pixels."""
    return _shared_folder("data/sar/terramind")


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder with golden outputs of other people's code."""
    return _shared_folder("reference")
