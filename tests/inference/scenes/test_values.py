"""A scene's values: faults are told by their names, and honest scenes are left alone.

- Forty honest scenes, of other days, places and skies, are not refused and hardly noted, whether the training
  saw cloud or not; real ones neither.
- A scene times a factor, stretched to bytes, or with its bands exchanged is refused, and the line says what
  happened and how to undo it; following it leaves nothing to say.
- A value that stands for nothing is named; shade, saturation, grey images and declared nodata are not.
- Nothing is concluded from statistics that say too little.
"""

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from honest_scenes import CONDITIONS, FAULTS, SCHEMA, honest_scene, plain_scene, statistics, stored
from numpy.typing import NDArray
from regressors import statistics_of, write_scene

from inference.scenes.check import findings_of
from inference.scenes.sample import Sample
from inference.scenes.scene import Scene
from inference.scenes.values import value_findings
from shards.format.schema import Schema
from shards.format.statistics import Statistics, Tally, summarise
from shards.raster.filled import SomePixels
from shards.raster.finding import Finding

EACH, ORDINARY = 5, 20
"""Honest scenes of each kind, and ordinary ones."""
PAGE = Path(__file__).parents[3] / "docs" / "prediction.md"
FIRST = 3000
"""Number of the first scene: none from here on was looked at while the rules were made."""
SAID = {
    "divided by 10": "all bands as if divided by 10",
    "multiplied by 4": "all bands as if multiplied by 4",
    "multiplied by 10": "all bands as if multiplied by 10",
    "stretched to bytes": "all bands as if stretched to 0 to 255",
    "red and blue exchanged": "as if blue and red were exchanged",
    "in reverse order": "as if the bands were in reverse order",
    "nir first": "as if the bands were nir blue green red",
}


def honest(kind: int, number: int) -> NDArray[np.float64]:
    return honest_scene(CONDITIONS[kind], FIRST + EACH * kind + number)


def found_in(
    folder: Path, image_CHW: NDArray[Any], trained: Statistics, bands: tuple[str, ...] = ()
) -> tuple[Finding, ...]:
    """Findings of the image as a file."""
    path = write_scene(folder / "scene.tif", stored(image_CHW))
    with Scene(str(path), SCHEMA, bands) as scene:
        return findings_of(scene, trained)


@pytest.mark.slow
@pytest.mark.parametrize("is_clear", [False, True], ids=["cloud in training", "clear training"])
def test_forty_honest_scenes_are_neither_refused_nor_noted(is_clear: bool, tmp_path: Path) -> None:
    trained = statistics(is_clear=is_clear)
    assert (trained.bands["blue"].maximum < 2000) == is_clear
    found = {
        f"{CONDITIONS[kind].__name__} {number}": findings
        for kind in range(len(CONDITIONS))
        for number in range(EACH)
        if (findings := found_in(tmp_path, honest(kind, number), trained))
    }
    assert not found


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_and_named(fault: str, tmp_path: Path) -> None:
    trained = statistics()
    for number in range(6):
        (finding,) = found_in(tmp_path, FAULTS[fault](plain_scene(FIRST + number)), trained)
        assert finding.is_gross
        assert SAID[fault] in finding.line
        assert "has the median" in finding.line


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_as_often_as_the_table_says(fault: str, tmp_path: Path) -> None:
    """The table in docs/prediction.md counts these, by kind of scene."""
    kinds, counts = counted(fault)
    assert [kind.partition(" ")[0] for kind in kinds[1:]] == [one.__name__ for one in CONDITIONS]
    scenes = [[plain_scene(FIRST + number) for number in range(ORDINARY)]]
    scenes += [[honest(kind, number) for number in range(EACH)] for kind in range(len(CONDITIONS))]
    told = [
        sum(
            any(one.is_gross for one in found_in(tmp_path, FAULTS[fault](image_CHW), statistics()))
            for image_CHW in of_kind
        )
        for of_kind in scenes
    ]
    assert told == counts
    assert sum(told[1:]) >= 34


def counted(fault: str) -> tuple[list[str], list[int]]:
    """Kinds of scenes, and how many of each are refused with this fault, from the table in the docs."""
    lines = PAGE.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("| fault |"))
    table = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in lines[first : first + 2 + len(FAULTS)]
    ]
    rows = {name: [int(cell) for cell in cells] for name, *cells in table[2:]}
    assert rows.keys() == FAULTS.keys()
    return table[0][1:], rows[fault]


@pytest.mark.parametrize(
    ("factor", "dtype", "cure"),
    [
        (10, "int16", "multiply the scene by 10"),
        (25, "int16", "no unit differs by that"),
        (25, "uint8", "bytes have no unit"),
        (40, "uint8", "bytes have no unit"),
    ],
)
def test_only_a_round_factor_is_advised(factor: float, dtype: str, cure: str, tmp_path: Path) -> None:
    """A factor of bytes is another one in each scene, and any that is not round is no unit's."""
    stored_CHW = stored(plain_scene(FIRST) / factor)
    stored_CHW = np.clip(stored_CHW, 0, np.iinfo(dtype).max).astype(dtype)
    path = write_scene(tmp_path / "scene.tif", stored_CHW, nodata=None)
    with Scene(str(path), SCHEMA, ()) as scene:
        (finding,) = (one for one in findings_of(scene, statistics()) if one.code != "type")
    assert (finding.code, finding.is_gross) == ("factor", True)
    assert finding.cure.startswith(cure)


@pytest.mark.parametrize("fault", ["red and blue exchanged", "in reverse order", "nir first"])
def test_the_bands_that_are_named_leave_nothing_to_say(fault: str, tmp_path: Path) -> None:
    image_CHW = FAULTS[fault](plain_scene(FIRST))
    (finding,) = found_in(tmp_path, image_CHW, statistics())
    named = finding.cure.partition("--bands ")[2].split()
    assert sorted(named) == sorted(SCHEMA.bands)
    assert not found_in(tmp_path, image_CHW, statistics(), tuple(named))


def test_bands_are_named_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Also where the file has more bands than the training."""
    blue_HW, green_HW, red_HW, nir_HW = stored(plain_scene(FIRST))
    path = write_scene(tmp_path / "scene.tif", np.stack([nir_HW, blue_HW, nir_HW, green_HW, red_HW]))
    names = ("yellow", "red", "nir", "green", "blue")
    with Scene(str(path), SCHEMA, names) as scene:
        (finding,) = findings_of(scene, statistics())
    assert finding.cure.endswith("--bands yellow blue nir green red")


def test_names_that_resampling_loses_are_in_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rio keeps none; followed, the cure leaves nothing to say. GDAL's own command keeps them."""
    path, names = (
        tmp_path / "IN.tif",
        ("coastal_blue", "blue", "green_i", "green", "yellow", "red", "rededge", "nir"),
    )
    bands = dict(zip(SCHEMA.bands, stored(plain_scene(FIRST)), strict=True))
    write_scene(path, np.stack([bands.get(name, bands["red"]) for name in names]))
    with rasterio.open(path, "r+") as raster:
        raster.descriptions = names
        raster.transform *= rasterio.Affine.scale(1.5)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    with Scene(str(path), SCHEMA, ()) as scene:
        (finding,) = scene.findings
    _, _, said = finding.cure.partition("is not installed here, ")
    command, _, named = said.partition(", which keeps no names of bands: name them with --bands ")
    subprocess.run(shlex.split(command), cwd=tmp_path, check=True, stderr=subprocess.DEVNULL)
    with Scene(str(tmp_path / "OUT.tif"), SCHEMA, tuple(named.split())) as scene:
        assert not scene.findings
        assert scene.band_numbers == [2, 4, 6, 8]
    monkeypatch.setattr("shards.raster.gdal_advice._has_rio", lambda: False)
    with Scene(str(path), SCHEMA, ()) as scene:
        assert "--bands" not in scene.findings[0].cure


def test_real_pixels_are_left_alone(tahoe: Path) -> None:
    """Each half of an aerial image beside a training on the other; its bands exchanged are told in a half."""
    with rasterio.open(tahoe / "tahoe_highrez.tif") as raster:
        image_CHW = raster.read()
    schema = Schema(("nir", "red", "green"), dtype="uint8", nodata=None)
    middle, told = image_CHW.shape[2] // 2, 0
    halves = image_CHW[:, :, :middle], image_CHW[:, :, middle:]
    for trained_CHW, other_CHW in (halves, halves[::-1]):
        trained = summarise(
            Tally.of(trained_CHW[None], np.zeros((1, *trained_CHW.shape[1:]), np.float32)), schema
        )
        assert trained

        def found(image_CHW: NDArray[Any], trained: Statistics = trained) -> tuple[Finding, ...]:
            pixels_BN = image_CHW.reshape(3, -1)
            return value_findings(
                Sample(SomePixels(pixels_BN, pixels_BN.shape[1]), schema.bands), schema, trained
            )

        for gain in (0.7, 0.85, 1, 1.15):
            assert not found(np.clip(other_CHW * gain, 0, 255).astype(np.uint8))
        told += [one.is_gross for one in found(other_CHW[[1, 0, 2]])] == [True]
    assert told >= 1


# --- decibels ---

RADAR = Schema(("vv", "vh"), dtype="float32", nodata=None)


def decibels(seed: int, shift: float = 0.0) -> NDArray[np.float32]:
    """(2, pixels) backscatter of some land, in dB."""
    generator = np.random.default_rng(seed)
    land_N = generator.normal(0, 3, 4000)
    return np.stack([-11 + shift + land_N, -18 + shift + land_N + generator.normal(0, 1, 4000)]).astype(
        np.float32
    )


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda image_BN: image_BN / 10, "divided by 10"),
        (lambda image_BN: image_BN * 100, "multiplied by 100"),
        (lambda image_BN: 10 ** (image_BN / 10), "in power instead of decibels"),
        (lambda image_BN: image_BN[::-1], "as if vv and vh were exchanged"),
        (lambda image_BN: image_BN - 9, ""),  # water
        (lambda image_BN: image_BN + 4, ""),
    ],
)
def test_decibels_have_no_logarithms(fault: Callable[[Any], Any], said: str) -> None:
    trained = summarise(
        Tally.of(decibels(0).reshape(1, 2, 40, 100), np.zeros((1, 40, 100), np.float32)), RADAR
    )
    assert trained
    found = value_findings(Sample(SomePixels(fault(decibels(1)), 4000), RADAR.bands), RADAR, trained)
    assert [said in one.line and one.is_gross for one in found] == [True] * bool(said)


# --- a value that stands for nothing ---


def of_pixels(stored_BN: NDArray[Any], seen: int = 0) -> list[str]:
    """Codes of what is found in these pixels, without a training."""
    sample = Sample(SomePixels(stored_BN, seen or stored_BN.shape[1]), SCHEMA.bands)
    return [one.code for one in value_findings(sample, SCHEMA, Statistics({}, None))]


def dark_pixels(count: int = 4000) -> NDArray[np.int16]:
    return np.random.default_rng(3).integers(1, 900, (4, count)).astype(np.int16)


@pytest.mark.parametrize("value", [0, -32768, 32767])
def test_a_value_that_fills_all_bands_is_named(value: int) -> None:
    stored_BN = dark_pixels()
    stored_BN[:, :1520] = value
    sample = Sample(SomePixels(stored_BN, 4000), SCHEMA.bands)
    (finding,) = value_findings(sample, SCHEMA, Statistics({}, None))
    assert finding == Finding(
        "filled",
        f"38 % of pixels are {value} in all bands; is {value} nodata?",
        f"if so, give --nodata {value} and another --out",
    )


def test_what_fills_a_scene_hides_nothing_else(tmp_path: Path) -> None:
    """The other half is divided by 10: both are said."""
    image_CHW = plain_scene(FIRST) / 10
    stored_CHW = stored(image_CHW)
    stored_CHW[:, :128] = 0
    path = write_scene(tmp_path / "scene.tif", stored_CHW, nodata=None)
    with Scene(str(path), SCHEMA, ()) as scene:
        assert [one.code for one in findings_of(scene, statistics())] == ["filled", "factor"]


@pytest.mark.parametrize("reach", [100, 6])
def test_two_values_that_fill_a_scene_get_both_cures_at_once(reach: int, tmp_path: Path) -> None:
    """Also where the second one lies in a wedge that only the windows at edges see; then nothing is left."""
    stored_CHW = stored(plain_scene(FIRST))
    stored_CHW[:, :100], stored_CHW[:, 100:, :reach] = 0, -500
    path = write_scene(tmp_path / "scene.tif", stored_CHW, nodata=None)
    with Scene(str(path), SCHEMA, ()) as scene:
        (finding,) = findings_of(scene, statistics())
    assert "in all bands; is 0 nodata?" in finding.line
    assert finding.cure.startswith("if so, give --nodata 0 and another --out; -500 fills other pixels")
    assert "gdal_edit.py -a_nodata -500 -oo" in finding.cure
    with rasterio.open(path, "r+") as raster:
        raster.nodata = -500
    with Scene(str(path), SCHEMA, (), nodata=0) as scene:
        assert not findings_of(scene, statistics())


def test_what_is_no_nodata_is_not_named() -> None:
    few_BN, shade_BN, bright_BN = dark_pixels(), dark_pixels(), dark_pixels()
    few_BN[:, :30] = 0
    for band in range(4):
        shade_BN[band, 100 * band : 100 * band + 800] = 0  # not the same pixels in each band
    bright_BN[:, :400] = 900
    assert of_pixels(few_BN) == of_pixels(shade_BN) == of_pixels(bright_BN) == []
    grey_BN = np.repeat(dark_pixels()[:1] // 20, 4, axis=0)
    assert of_pixels(grey_BN) == []


def test_declared_nodata_is_not_named(tmp_path: Path) -> None:
    stored_CHW = stored(plain_scene(FIRST))
    stored_CHW[:, :128] = 0
    path = write_scene(tmp_path / "scene.tif", stored_CHW, nodata=0)
    with Scene(str(path), SCHEMA, ()) as scene:
        assert not findings_of(scene, statistics())


# --- too little to conclude from ---


def test_statistics_that_say_little_say_nothing_of_a_scene(tmp_path: Path) -> None:
    """An imported checkpoint's may have constants alone; a scene may have no pixels."""
    little = statistics_of(dict.fromkeys(SCHEMA.bands, (3000.0, 0.5, 0.2)))
    assert not found_in(tmp_path, plain_scene(FIRST) / 10, little)
    assert found_in(tmp_path, plain_scene(FIRST) / 10, statistics())
    assert not found_in(tmp_path, np.full((4, 64, 64), np.nan), statistics())
