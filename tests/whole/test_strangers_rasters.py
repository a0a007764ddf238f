"""Rasters, chips, tables and areas that a stranger prepared: nothing but what they are is read.

Each prepared file would make GDAL open a private raster, or ask a server, if it chose drivers by content. A
listener counts requests: there is none, in any command that opens rasters.
"""

import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from damages import resealed
from in_process import treeline
from numpy.typing import NDArray
from rasterio import Affine
from regressors import small_regressor, write_checkpoint
from report_runs import write_chips

from inference.scenes.area import read_area
from shards.errors import InputError
from shards.raster.formats import FURTHER_DRIVERS
from shards.raster.opening import open_raster

SIDE = 64
SECRET = 4321
PLACE = Affine(2, 0, 500_000, 0, -2, 7_200_000)
ROOT = Path(__file__).parents[2]
MOST_MEGABYTES = 300


def write(path: Path, image_CHW: NDArray[Any], **more: Any) -> Path:
    shape = dict(zip(("count", "height", "width"), image_CHW.shape, strict=True))
    given = {"crs": "EPSG:32606", "transform": PLACE, "driver": "GTiff", **more}
    with rasterio.open(path, "w", dtype=image_CHW.dtype.name, **shape, **given) as raster:
        raster.write(image_CHW)
    return path


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A raster that nobody named: all its pixels are SECRET."""
    folder = tmp_path / "private"
    folder.mkdir()
    return write(folder / "raster.tif", np.full((4, SIDE, SIDE), SECRET, np.int16))


@pytest.fixture
def listener() -> Iterator[tuple[str, list[bytes]]]:
    """A server on this machine: its address, and what it was asked."""
    asked = list[bytes]()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    asked.append(client.recv(1000))

        threading.Thread(target=answer, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
        server.shutdown(socket.SHUT_RDWR)


def virtual(source: str, count: int = 4, kind: str = "", inner: str = "", **attributes: str) -> str:
    said = "".join(f' {name}="{value}"' for name, value in attributes.items())
    bands = "".join(
        f'<VRTRasterBand dataType="Int16" band="{number}"{kind}>{inner}<SimpleSource>'
        f"<SourceFilename{said}>{source}</SourceFilename><SourceBand>{number}</SourceBand></SimpleSource></VRTRasterBand>"
        for number in range(1, count + 1)
    )
    place = f"<SRS>EPSG:32606</SRS><GeoTransform>{', '.join(map(str, PLACE.to_gdal()))}</GeoTransform>"
    return f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}">{place}{bands}</VRTDataset>'


def web_map(address: str) -> str:
    return (
        f'<GDAL_WMS><Service name="TMS"><ServerUrl>{address}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service>'
        f"<DataWindow><UpperLeftX>500000</UpperLeftX><UpperLeftY>7200000</UpperLeftY><LowerRightX>500128"
        f"</LowerRightX><LowerRightY>7199872</LowerRightY><SizeX>{SIDE}</SizeX><SizeY>{SIDE}</SizeY></DataWindow>"
        "<Projection>EPSG:32606</Projection><BandsCount>4</BandsCount></GDAL_WMS>"
    )


def coverage(address: str) -> str:
    return (
        f"<WCS_GDAL><ServiceURL>{address}/?</ServiceURL><Version>1.0.0</Version><CoverageName>x</CoverageName>"
        "</WCS_GDAL>"
    )


def tiles(address: str) -> str:
    return (
        f"<GDAL_WMTS><GetCapabilitiesUrl>{address}/caps.xml</GetCapabilitiesUrl><Layer>x</Layer></GDAL_WMTS>"
    )


PREPARED: dict[str, Callable[[Path, str], str]] = {
    "virtual raster": lambda private, _: virtual(str(private)),
    "virtual raster of a server": lambda _, address: virtual(f"/vsicurl/{address}/x.tif"),
    "web map": lambda _, address: web_map(address),
    "web coverage": lambda _, address: coverage(address),
    "web map tiles": lambda _, address: tiles(address),
}
"""Texts in files called .tif, by what GDAL would take them for."""


@pytest.mark.parametrize("kind", PREPARED)
def test_a_text_called_tif_is_no_raster(
    kind: str, private: Path, listener: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    address, asked = listener
    path = tmp_path / "scene.tif"
    path.write_text(PREPARED[kind](private, address))
    with pytest.raises(
        InputError, match=r"scene\.tif: cannot be read as a raster .*GeoTIFF, JPEG 2000"
    ) as refused:
        open_raster(str(path))
    assert "\n" not in str(refused.value)
    assert asked == []


@pytest.mark.parametrize("kind", PREPARED)
def test_no_command_follows_it(
    kind: str, private: Path, listener: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    address, asked = listener
    text = PREPARED[kind](private, address)
    (tmp_path / "chips").mkdir()
    for number in range(3):
        (tmp_path / "chips" / f"c{number}_image.tif").write_text(text)
        np.save(tmp_path / "chips" / f"c{number}_height.npy", np.ones((SIDE, SIDE), np.float32))
    (tmp_path / "scene.tif").write_text(text)
    (tmp_path / "map.chm.tif").write_text(text)
    write(tmp_path / "heights.tif", np.ones((1, SIDE, SIDE), np.float32))
    write_checkpoint(str(tmp_path / "run"), small_regressor())
    write_chips(tmp_path / "dataset", 4)
    said = [
        treeline(
            *("ingest", "pairs", "--images", "chips", "--heights", "chips", "--out", "set"),
            *("--chip-size", str(SIDE)),
            folder=tmp_path,
        ),
        treeline(
            *("ingest", "scenes", "--images", "scene.tif", "--heights", "heights.tif", "--out", "set"),
            folder=tmp_path,
        ),
        treeline("predict", "scene.tif", "--checkpoint", "run", "--out", "maps", folder=tmp_path),
        treeline("mosaic", "map.chm.tif", "--out", "mosaic", folder=tmp_path),
        treeline(
            "evaluate", "--maps", "map.chm.tif", "--heights", "heights.tif", "--out", "e", folder=tmp_path
        ),
        treeline("view", "map.chm.tif", folder=tmp_path),
        treeline("embed", "--scenes", "scene.tif", "--checkpoint", "run", "--out", "e", folder=tmp_path),
        treeline("attention", "scene.tif", "--checkpoint", "run", "--out", "a", folder=tmp_path),
        treeline(
            *("ingest", "labels", "dataset", "--raster", "heights.tif", "scene.tif", "--as", "x", "--mean"),
            folder=tmp_path,
        ),
        treeline(
            *("report", "run", "--maps", "map.chm.tif", "--heights", "heights.tif", "--out", "page.html"),
            folder=tmp_path,
        ),
    ]
    for done in said:
        assert done.returncode in (1, 2), done.stdout
        assert "Traceback" not in done.stderr
    assert [done.returncode for done in said[1:]] == [2] * 9, [done.stderr for done in said]
    assert not (tmp_path / "set" / "dataset.json").exists()
    assert not list(tmp_path.glob("maps/*.tif"))
    assert asked == []


ADDRESSES: dict[str, Callable[[str], dict[str, Any]]] = {
    "shards": lambda address: {"shards": [f"{address}/train/000000.tar"]},
    "a record of how it was made": lambda address: {"made_by": {"config": {"images": f"{address}/x.tif"}}},
    "where it was trained": lambda address: {"trained_on": {"data": f"{address}/chips"}},
    "names of checkpoints": lambda address: {"last": f"{address}/run", "best": [f"{address}/run"]},
    "scores": lambda address: {"data": f"{address}/chips", "checkpoint": f"{address}/run"},
}
"""Addresses that stand in JSON files of ours, by what they are in it."""
READERS = (
    "inspect {}", "verify {}", "convert {} --to zarr --out {}-new", "report {} --out page.html",
    "ingest labels {} --raster heights.tif --as x --mean", "embed {} --checkpoint run --out e",
    "attention --data {} --checkpoint run --out a", "evaluate --checkpoint {} --data dataset --split all",
    "predict scene.tif --checkpoint {} --out maps --on-mismatch ignore",
)  # fmt: skip
"""Commands that read datasets and runs; none of them follows an address that stands in one."""


@pytest.mark.parametrize("kind", ADDRESSES)
def test_no_command_follows_an_address_in_a_file_of_ours(
    kind: str, listener: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    address, asked = listener
    write_chips(tmp_path / "dataset", 8)
    write_checkpoint(tmp_path / "run", small_regressor())
    write(tmp_path / "heights.tif", np.ones((1, SIDE, SIDE), np.float32))
    write(tmp_path / "scene.tif", np.ones((4, SIDE, SIDE), np.int16))
    files = {"dataset": ("dataset.json",), "run": ("config.json", "metrics.json")}
    for thing, names in files.items():
        shutil.copytree(tmp_path / thing, tmp_path / f"{thing}-prepared")
        for name in names:
            path = tmp_path / f"{thing}-prepared" / name
            values = json.loads(path.read_text()) | ADDRESSES[kind](address)
            path.write_bytes(resealed(values))
    for names in (("checkpoints.json",), ("evaluation", "evaluation.json"), ("state.json",)):
        path = (tmp_path / "run-prepared").joinpath(*names)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(resealed(ADDRESSES[kind](address)))
    for prepared in ("dataset-prepared", "run-prepared"):
        for reader in READERS:
            done = treeline(*reader.format(prepared, prepared).split(), folder=tmp_path)
            assert done.returncode in (0, 1, 2)
            assert "Traceback" not in done.stderr
    assert asked == []


def test_a_virtual_raster_of_this_machine_is_read(tmp_path: Path) -> None:
    image_CHW = np.arange(4 * SIDE * SIDE, dtype=np.int16).reshape(4, SIDE, SIDE)
    write(tmp_path / "image.tif", image_CHW)
    (tmp_path / "inner.vrt").write_text(virtual("image.tif", relativeToVRT="1"))
    (tmp_path / "outer.vrt").write_text(virtual("inner.vrt", relativeToVRT="1"))
    with open_raster(str(tmp_path / "outer.vrt")) as raster:
        np.testing.assert_array_equal(raster.read(), image_CHW)


def test_what_gdal_itself_writes_as_a_virtual_raster_is_read(tmp_path: Path) -> None:
    from rasterio.shutil import copy
    from rasterio.vrt import WarpedVRT

    image_CHW = np.ones((4, SIDE, SIDE), np.int16)
    image = write(tmp_path / "image.tif", image_CHW, nodata=0)
    with rasterio.open(image, "r+") as raster:
        raster.descriptions = ("blue", "green", "red", "nir")
        raster.update_tags(sensor="WV02")
    copy(str(image), str(tmp_path / "copy.vrt"), driver="VRT")
    with rasterio.open(image) as raster, WarpedVRT(raster, crs="EPSG:3338") as warped:
        copy(warped, str(tmp_path / "warped.vrt"), driver="VRT")
    for name in ("copy.vrt", "warped.vrt"):
        with open_raster(str(tmp_path / name)) as raster:
            assert raster.count == 4
            assert raster.read().max() == 1


PYTHON = (
    "<PixelFunctionType>f.f</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage>"
    "<PixelFunctionCode><![CDATA[open('ran', 'w')\ndef f(*all, **more): open('ran', 'w')]]>"
    "</PixelFunctionCode>"
)


def with_python(private: Path, _: str) -> str:
    return virtual(str(private), kind=' subClass="VRTDerivedRasterBand"', inner=PYTHON)


def raw(private: Path, _: str) -> str:
    bands = f'<VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand"><SourceFilename>{private}'
    return (
        f'<VRTDataset rasterXSize="8" rasterYSize="8">{bands}</SourceFilename><ImageOffset>0</ImageOffset>'
        "<PixelOffset>1</PixelOffset><LineOffset>8</LineOffset></VRTRasterBand></VRTDataset>"
    )


def of_overviews(private: Path, _: str) -> str:
    said = f'<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{private}</MDI></Metadata>'
    return virtual(str(private)).replace("<SRS>", f"{said}<SRS>")


def itself(private: Path, _: str) -> str:
    return virtual("scene.vrt", relativeToVRT="1")


VIRTUAL: dict[str, tuple[Callable[[Path, str], str], str]] = {
    "of a server": (lambda _, address: virtual(f"/vsicurl/{address}/x.tif"), "is no file of this machine"),
    "of a server by its address": (
        lambda _, address: virtual(f"{address}/x.tif"),
        "is no file of this machine",
    ),
    "of a bucket": (lambda *_: virtual("/vsis3/private/x.tif"), "is no file of this machine"),
    "of an archive": (lambda *_: virtual("/vsizip/x.zip/x.tif"), "is no file of this machine"),
    "of a text": (
        lambda private, _: virtual(str(private.with_name("text.tif"))),
        "cannot be read as a raster",
    ),
    "of a service": (lambda *_: virtual("WMS:http://127.0.0.1"), "is no file of this machine"),
    "with Python": (with_python, "VRTDerivedRasterBand"),
    "of raw bytes": (raw, "VRTRawRasterBand"),
    "with overviews elsewhere": (of_overviews, "names a file of overviews"),
    "of itself": (itself, "more than 8 deep"),
    "an entity": (
        lambda *_: '<!DOCTYPE x [<!ENTITY y SYSTEM "file:///etc/passwd">]><VRTDataset>&y;</VRTDataset>',
        "is damaged or no virtual raster",
    ),
    "entities without end": (
        lambda *_: (
            "<!DOCTYPE x [<!ENTITY a0 'x'>"
            + "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 12))
            + "]><VRTDataset>&a11;</VRTDataset>"
        ),
        "is damaged or no virtual raster",
    ),
    "no XML": (lambda *_: "II*\0", "is damaged or no virtual raster"),
}


@pytest.mark.parametrize("kind", VIRTUAL)
def test_virtual_rasters_are_made_of_rasters_of_this_machine_alone(
    kind: str,
    private: Path,
    listener: tuple[str, list[bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, asked = listener
    private.with_name("text.tif").write_text(web_map(address))
    make, why = VIRTUAL[kind]
    path = tmp_path / "scene.vrt"
    path.write_text(make(private, address))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refused:
        open_raster(str(path))
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)
    assert asked == []
    assert not Path("ran").exists()


def test_python_in_a_virtual_raster_never_runs_whatever_the_environment_says(
    private: Path, tmp_path: Path
) -> None:
    path = tmp_path / "scene.vrt"
    path.write_text(with_python(private, ""))
    code = (
        "import rasterio, shards.raster.opening\n"
        f"with rasterio.open({str(path)!r}) as raster:\n"
        "    try: raster.read()\n"
        "    except rasterio.errors.RasterioIOError: print('refused')\n"
    )
    env = os.environ | {"GDAL_VRT_ENABLE_PYTHON": "YES", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == "refused\n", done.stderr
    assert not (tmp_path / "ran").exists()


NO_PLACE = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
"""Files beside a raster have no place of their own; outside tests this warning is ignored."""


@pytest.mark.parametrize("ending", [".ovr", ".msk", ".OVR", ".msk.ovr"])
def test_files_beside_a_raster_are_rasters(
    ending: str, private: Path, listener: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    address, asked = listener
    scene = write(tmp_path / "scene.tif", np.zeros((4, SIDE, SIDE), np.int16))
    beside = scene.with_name(f"scene.tif{ending}")
    for text in (virtual(str(private)).replace(f'"{SIDE}"', f'"{SIDE // 2}"'), web_map(address)):
        beside.write_text(text)
        with pytest.raises(InputError, match=rf"scene\.tif{ending}: cannot be read as a raster"):
            open_raster(str(scene))
    assert asked == []


@NO_PLACE
def test_overviews_beside_a_raster_are_read(tmp_path: Path) -> None:
    scene = write(tmp_path / "scene.tif", np.ones((4, SIDE, SIDE), np.int16))
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(scene, "r+") as raster:
        raster.build_overviews([2])
    assert scene.with_name("scene.tif.ovr").exists()
    with open_raster(str(scene)) as raster:
        assert raster.overviews(1) == [2]


@NO_PLACE
@pytest.mark.parametrize("which", ["scene.tif", "scene.tif.ovr"])
def test_no_tag_leads_to_overviews_elsewhere(which: str, private: Path, tmp_path: Path) -> None:
    scene = write(tmp_path / "scene.tif", np.ones((4, SIDE, SIDE), np.int16))
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(scene, "r+") as raster:
        raster.build_overviews([2])
    with rasterio.open(tmp_path / which, "r+") as raster:
        raster.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(private))
    with pytest.raises(InputError, match=rf"{which}: names a file of overviews"):
        open_raster(str(scene))


def test_an_old_kind_of_file_beside_a_raster_is_refused(tmp_path: Path) -> None:
    scene = write(tmp_path / "scene.tif", np.ones((4, SIDE, SIDE), np.int16))
    (tmp_path / "scene.aux").write_bytes(b"EHFA_HEADER_TAG")
    with pytest.raises(InputError, match=r"scene\.aux: files of this kind beside a raster are not read"):
        open_raster(str(scene))


STATED = {
    "a nodata value": "<NoDataValue>0</NoDataValue>",
    "a unit": "<UnitType>ft</UnitType>",
    "a scale": "<Scale>0.1</Scale>",
    "an offset": "<Offset>100</Offset>",
}


@pytest.mark.parametrize("what", STATED)
def test_what_stands_beside_a_raster_is_not_passed_over(what: str, tmp_path: Path) -> None:
    scene = write(tmp_path / "scene.tif", np.ones((1, SIDE, SIDE), np.int16))
    beside = scene.with_name("scene.tif.aux.xml")
    beside.write_text(f'<PAMDataset><PAMRasterBand band="1">{STATED[what]}</PAMRasterBand></PAMDataset>')
    with pytest.raises(
        InputError, match=re.escape(f"{beside}: states {what}, and such files beside a raster")
    ):
        open_raster(str(scene))


def test_statistics_beside_a_raster_do_not_matter(tmp_path: Path) -> None:
    scene = write(tmp_path / "scene.tif", np.ones((1, SIDE, SIDE), np.int16), nodata=0)
    scene.with_name("scene.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><NoDataValue>0</NoDataValue><Metadata>'
        '<MDI key="STATISTICS_MAXIMUM">9</MDI></Metadata></PAMRasterBand></PAMDataset>'
    )
    with open_raster(str(scene)) as raster:
        assert raster.nodata == 0


@pytest.mark.parametrize(
    "name", ["/vsicurl/{}/x.tif", "/vsicurl?url={}", "/vsizip//x.zip/x.tif", "/vsis3/b/x"]
)
def test_gdals_own_file_systems_are_not_followed(name: str, listener: tuple[str, list[bytes]]) -> None:
    address, asked = listener
    with pytest.raises(InputError, match="local paths and s3:// only"):
        open_raster(name.format(address))
    assert asked == []


def test_a_pipe_is_no_raster_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "scene.tif")
    with pytest.raises(InputError, match=r"scene\.tif: is no regular file"):
        open_raster(str(tmp_path / "scene.tif"))


def test_further_formats_are_named_by_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = write(tmp_path / "scene.img", np.ones((1, SIDE, SIDE), np.int16), driver="HFA")
    with pytest.raises(InputError, match=FURTHER_DRIVERS):
        open_raster(str(scene))
    monkeypatch.setenv(FURTHER_DRIVERS, "NITF, HFA")
    with open_raster(str(scene)) as raster:
        assert raster.driver == "HFA"
    monkeypatch.setenv(FURTHER_DRIVERS, "VRT")
    with pytest.raises(InputError, match="leave it out"):
        open_raster(str(scene))


def peak_megabytes(folder: Path, *arguments: str) -> tuple[int, str, int]:
    """Run a command; return its exit code, what it said, and how much memory it took beyond its imports."""
    code = (
        "import resource, sys\n"
        "import ingest.work.run, inference.predict.run, cluster.cli\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: code = cluster.cli.run(sys.argv[1:])\n"
        "except Exception as error: code = 2; print(error, file=sys.stderr)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
        "sys.exit(code)\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=env, cwd=folder, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stderr, int(done.stdout.splitlines()[-1]) // 1024


def sparse(path: Path, side: int, count: int, dtype: str) -> None:
    with rasterio.open(
        path, "w", driver="GTiff", dtype=dtype, count=count, height=side, width=side, crs="EPSG:32606",
        transform=PLACE, tiled=True, blockxsize=4096, blockysize=4096, SPARSE_OK=True, BIGTIFF="YES",
    ):  # fmt: skip
        pass


HUGE: dict[str, Callable[[Path], object]] = {
    "complex128.tif": lambda path: sparse(path, 1 << 14, 1, "complex128"),
    "float64.tif": lambda path: sparse(path, 1 << 14, 1, "float64"),
    "zeros.npy": lambda path: os.truncate(_npy(path, (1 << 14, 1 << 14)), (1 << 31) + 128),
    "promises.npy": lambda path: _npy(path, (1 << 20, 1 << 20)),
    "zeros.npz": lambda path: np.savez_compressed(path, np.zeros((1 << 13, 1 << 13))),
    "pipe.npy": os.mkfifo,
}


def _npy(path: Path, shape: tuple[int, ...]) -> Path:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", HUGE)
def test_a_small_file_of_many_pixels_takes_no_memory(name: str, tmp_path: Path) -> None:
    chips = tmp_path / "chips"
    chips.mkdir()
    for number in range(4):
        np.save(chips / f"c{number}_image.npy", np.arange(100, 356, dtype=np.int16).reshape(4, 8, 8))
        np.save(chips / f"c{number}_height.npy", np.ones((8, 8), np.float32))
    stem, _, ending = name.partition(".")
    HUGE[name](chips / f"{stem}_image.{ending}")
    np.save(chips / f"{stem}_height.npy", np.ones((8, 8), np.float32))
    code, said, megabytes = peak_megabytes(
        *(tmp_path, "ingest", "pairs", "--images", "chips", "--heights", "chips", "--out", "set"),
        *("--image-name", "(?P<key>.*)_image", "--height-name", "(?P<key>.*)_height"),
        *("--chip-size", "8", "--shares", "1"),
    )
    assert code == 0, said
    assert megabytes < MOST_MEGABYTES
    assert (tmp_path / "set" / "dataset.json").exists()


@pytest.mark.slow
def test_a_scene_of_a_million_pixels_a_side_is_refused(tmp_path: Path) -> None:
    sparse(tmp_path / "scene.tif", 1 << 20, 4, "int16")
    write(tmp_path / "heights.tif", np.ones((1, SIDE, SIDE), np.float32))
    code, said, megabytes = peak_megabytes(
        *(tmp_path, "ingest", "scenes", "--images", "scene.tif", "--heights", "heights.tif", "--out", "set"),
        *("--chip-size", "64"),
    )
    assert code == 2
    assert "scene.tif: this image and those before it: 268,435,456 chips are more than" in said
    assert megabytes < MOST_MEGABYTES


def test_a_table_names_files_of_this_machine_and_of_s3_alone(
    listener: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    address, asked = listener
    for name in (f"{address}/x.npy", "github://a:b@/x.npy", "memory://x.npy", "https://x/y.npy?sig=hunter2"):
        (tmp_path / "table.csv").write_text(f"filename\n{name}\n")
        done = treeline(
            *("ingest", "pairs", "--images", ".", "--table", "table.csv", "--out", "set"), folder=tmp_path
        )
        assert done.returncode == 2
        assert "table.csv: row 1 names" in done.stderr
        assert "neither a local path nor s3://" in done.stderr
        assert "hunter2" not in done.stderr
    assert asked == []


def test_a_geopackage_is_one_by_its_bytes(private: Path, tmp_path: Path) -> None:
    prepared = {
        "text.gpkg": f"<OGRVRTDataSource><OGRVRTLayer name='x'><SrcDataSource>{private}</SrcDataSource>"
        "</OGRVRTLayer></OGRVRTDataSource>",
        "area.shp": "x",
    }
    for name, text in prepared.items():
        (tmp_path / name).write_text(text)
    with sqlite3.connect(tmp_path / "plain.gpkg") as database:
        database.execute("create table t (file text)")
    os.mkfifo(tmp_path / "pipe.gpkg")
    for name in (*prepared, "plain.gpkg", "pipe.gpkg"):
        with pytest.raises(InputError, match=rf"{name}: ") as refused:
            read_area(str(tmp_path / name))
        assert "\n" not in str(refused.value)


GEOJSON = {
    "nothing": "",
    "no object": "[]",
    "wrong types": '{"type": "FeatureCollection", "features": 3}',
    "no geometry": '{"type": "Feature"}',
    "a text for a number": '{"type": "Polygon", "coordinates": [[["x", 1], [2, 3], [4, 5], ["x", 1]]]}',
    "an open ring": '{"type": "Polygon", "coordinates": [[[0, 1], [2, 3], [4, 5]]]}',
    "a point": '{"type": "Point", "coordinates": [0, 1]}',
    "no such CRS": '{"type": "Polygon", "coordinates": [[[0, 0], [2, 3], [4, 5], [0, 0]]], '
    '"crs": {"properties": {"name": "x"}}}',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("kind", GEOJSON)
def test_an_area_that_is_none_is_refused_in_a_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "area.geojson"
    path.write_text(GEOJSON[kind])
    with pytest.raises(InputError, match=re.escape(str(path))) as refused:
        read_area(str(path))
    assert "\n" not in str(refused.value)
