"""Commands in messages do what they are named for, with the program that comes with rasterio."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio import Affine

from shards.raster import gdal_advice
from shards.raster.gdal_advice import (
    assign_bounds,
    assign_crs,
    convert_to,
    declare_alpha,
    declare_nodata,
    loses_names,
    resample,
    take_band,
)

RIO = Path(sys.executable).parent / "rio"


@pytest.fixture
def no_gdal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path without GDAL's programs, but with rio."""
    monkeypatch.setenv("PATH", str(RIO.parent))


def write(folder: Path, name: str, placed: bool = True) -> Path:
    place = {"crs": "EPSG:32606", "transform": Affine(1, 0, 500_000, 0, -1, 7_200_000)} if placed else {}
    with rasterio.open(
        folder / name, "w", driver="GTiff", dtype="int16", count=2, height=8, width=8, **place
    ) as raster:
        raster.write(np.arange(128, dtype=np.int16).reshape(2, 8, 8))
    return folder / name


def run_rio(folder: Path, said: str, **words: str) -> None:
    """Run the command of rio's in a line, with the user's words for those in capitals."""
    command = said.partition("is not installed here, ")[2].partition(", by ")[0].partition("; if ")[0]
    for name, value in words.items():
        command = command.replace(name, value)
    path = f"{RIO.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        shlex.split(command), cwd=folder, check=True, env={**os.environ, "PATH": path}, stderr=subprocess.PIPE
    )
    assert b"blocksize" not in done.stderr.lower(), "a warning that would read as a fault"


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.usefixtures("no_gdal")
def test_what_rio_is_said_to_do_it_does(tmp_path: Path) -> None:
    write(tmp_path, "IN.tif")
    with rasterio.open(tmp_path / "IN.tif", "r+") as raster:
        raster.descriptions = ("red", "nir")
    run_rio(tmp_path, resample("EPSG:3338", (2, 4)))
    with rasterio.open(tmp_path / "OUT.tif") as raster:
        assert raster.crs == "EPSG:3338"
        assert raster.res == (2, 4)
        assert loses_names(resample("EPSG:3338", (2, 4))) == (raster.descriptions == (None, None))
    (tmp_path / "OUT.tif").unlink()
    run_rio(tmp_path, resample("", (2, 2)))
    with rasterio.open(tmp_path / "OUT.tif") as raster:
        assert (raster.crs, raster.shape) == ("EPSG:32606", (4, 4))
        np.testing.assert_allclose(raster.read(1)[0, 0], np.mean([0, 1, 8, 9]), atol=1)
    (tmp_path / "OUT.tif").unlink()
    run_rio(tmp_path, convert_to("float32"))
    with rasterio.open(tmp_path / "OUT.tif") as raster:
        assert raster.dtypes == ("float32", "float32")
    (tmp_path / "OUT.tif").unlink()
    run_rio(tmp_path, take_band("2"))
    with rasterio.open(tmp_path / "OUT.tif") as raster:
        assert raster.read().tolist() == [np.arange(64, 128).reshape(8, 8).tolist()]
    run_rio(tmp_path, declare_alpha(["gray", "undefined"], 2), FILE="IN.tif")
    with rasterio.open(tmp_path / "IN.tif") as raster:
        assert [kind.name for kind in raster.colorinterp] == ["gray", "alpha"]
    run_rio(tmp_path, declare_nodata(-32767), FILE="IN.tif")
    with rasterio.open(tmp_path / "IN.tif") as raster:
        assert raster.nodata == -32767
    write(tmp_path, "nowhere.tif", placed=False)
    run_rio(tmp_path, assign_crs(), **{"EPSG:...": "EPSG:3338", "FILE": "nowhere.tif"})
    bounds = {"WIDTH": "2", "HEIGHT": "2", "LEFT": "10", "TOP": "20", "FILE": "nowhere.tif"}
    run_rio(tmp_path, assign_bounds(), **bounds)
    with rasterio.open(tmp_path / "nowhere.tif") as raster:
        assert (raster.crs, raster.bounds) == ("EPSG:3338", (10, 4, 26, 20))


@pytest.mark.usefixtures("no_gdal")
def test_a_cloud_optimised_file_is_edited_as_a_copy(tmp_path: Path) -> None:
    """Maps are such files, and rio does not edit them in place."""
    rasterio.shutil.copy(write(tmp_path, "IN.tif"), tmp_path / "FILE", driver="COG")
    said = declare_nodata(-32767)
    with pytest.raises(subprocess.CalledProcessError):
        run_rio(tmp_path, said)
    first = said.partition("edit its copy by ")[2].partition(", ")[0]
    run_rio(tmp_path, f"is not installed here, {first}")
    run_rio(tmp_path, said, FILE="COPY.tif")
    with rasterio.open(tmp_path / "COPY.tif") as raster:
        assert raster.nodata == -32767


def test_gdals_own_command_is_alone_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "gdalwarp"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("gdalwarp")
    assert resample("EPSG:3338", (2, 2)) == "gdalwarp -t_srs EPSG:3338 -tr 2 2 -r average IN.tif OUT.tif"
    assert not loses_names(resample("", (2, 2)))
    assert "; or, as gdal_edit.py is not installed here, rio edit-info" in declare_nodata(0)
    monkeypatch.setattr(gdal_advice, "_has_rio", lambda: False)
    assert declare_nodata(0) == "gdal_edit.py -a_nodata 0 -oo IGNORE_COG_LAYOUT_BREAK=YES FILE"
