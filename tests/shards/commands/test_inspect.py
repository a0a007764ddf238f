"""`treeline inspect` says and draws what is in a dataset, whatever that is.

- every split, reason, source and sensor is on the page; text and page say the same; all text is escaped
- pictures can be decoded, are the same bytes each time, and a browser shows all of them
- any label or none, any type and number of bands, one chip, no training chips, no positions, several CRSs
- nothing is written into a dataset, and nothing of an earlier state is left beside a page
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from browser import NARROW, laid_out, needs_browser
from markupsafe import escape
from matplotlib.image import imread
from policies import assert_forbidding

from shards.commands.inspect import describe, inspect
from shards.commands.inspect_folder import default_folder
from shards.commands.inspect_page import chips_of
from shards.config import InspectConfig
from shards.draw.chip_map import MOST_POINTS, MapPanel, map_chart
from shards.draw.picture import drawable
from shards.errors import InputError
from shards.format.schema import Chip, Schema
from shards.read.dataset import open_dataset
from shards.wording import number
from shards.write.places import places_of
from shards.write.split_rule import SplitRule, assign, resolved
from shards.write.writer import DatasetWriter

Made = Callable[..., str]
NewChip = Callable[..., Chip]
PAN = Schema(("pan",), chip_size=16)
NASTY = "<script>alert(\"1\")</script> & $x^2$ 'ü' 树"


def placed(chip: Chip, x: float, y: float, crs: str = "EPSG:32606") -> Chip:
    return replace(chip, x=x, y=y, crs=crs)


def write(
    url: str,
    chips: Sequence[Chip],
    splits: Sequence[str],
    schema: Schema,
    rejected: Sequence[tuple[str, str, str]] = (),
    **more: Any,
) -> str:
    """A dataset of these chips; `splits` are dealt in turn. Returns its URL."""
    with DatasetWriter(url, schema, {"config": {"images": NASTY}}, 16, **more) as writer:
        for chip, split in zip(chips, cycle(splits), strict=False):
            writer.add(chip, split)
        for refused in rejected:
            writer.reject(*refused)
        writer.finish()
    return url


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """made(chips, splits, schema): a dataset in a folder of the test's own."""

    def make(chips: Sequence[Chip], splits: Sequence[str] = ("train",), schema: Schema = PAN) -> str:
        return write(str(tmp_path / "chips"), chips, splits, schema)

    return make


def page_and_text(url: str, **options: Any) -> tuple[str, str]:
    text = inspect(InspectConfig(url, **options))
    return (Path(options.get("out") or f"{url}-inspect") / "index.html").read_text(), text


def pictures(url: str) -> dict[str, np.ndarray]:
    return {path.name: imread(path) for path in Path(f"{url}-inspect").glob("*.png")}


@dataclass(frozen=True)
class Inspected:
    """A dataset with something of everything, and what was made of it."""

    url: str
    text: str
    page: str


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory, new_chip: NewChip) -> Inspected:
    """42 chips in all four splits, with places, a copy, attributes, refused ones, and nasty names."""
    schema = Schema(("blue", "green", "red", "nir"), chip_size=16)
    rng = np.random.default_rng(0)
    chips = [
        replace(
            placed(new_chip(n, schema), *rng.uniform(500_000, 520_000, 2)),
            source=NASTY if n % 4 == 0 else "AK_IFSAR",
            attributes={"cloud": n / 64 if n % 5 else None, "biome": NASTY, "rank": n, "clear": n % 2 == 0},
        )
        for n in range(42)
    ]
    chips[9] = replace(chips[9], image_CHW=chips[4].image_CHW, height_HW=chips[4].height_HW)
    kinds = {"cloud": "float64", "biome": "string", "rank": "int64", "clear": "bool"}
    refused = [(f"chip {n} {NASTY}", "height-range" if n else NASTY, f"detail {n}") for n in range(8)]
    splits = ("train", "val", "test", "val", "train", "buffer", "train")
    url = str(tmp_path_factory.mktemp("everything") / "chips")
    write(url, chips, splits, schema, refused, attributes=kinds, split_rule=asdict(SplitRule()))
    page, text = page_and_text(url)
    return Inspected(url, text, page)


def test_the_page_says_all_that_the_text_says(everything: Inspected) -> None:
    said = [line[12:] for line in everything.text.splitlines()]
    facts, table = said[:10], said[10:-1]
    for fact in facts:
        assert f"<td>{escape(fact)}</td>" in everything.page
    for value in " ".join(table[1:]).replace("..", " ").split():
        assert value in everything.page
    assert facts[4] == f"7 height-range, 1 {NASTY}"
    assert facts[6] == "1 with the same pixels as an earlier chip, 1 of them as one of another split"
    assert facts[7] == "known of 42 chips, in EPSG:32606"


def test_the_page_names_every_split_reason_source_sensor_and_attribute(everything: Inspected) -> None:
    page = everything.page
    splits = {"train": 18, "val": 12, "test": 6, "buffer": 6}
    for split, chips in splits.items():
        assert f"<td>{split}</td><td class=number>{chips}</td>" in page
    for name, chips in {"AK_IFSAR": 31, NASTY: 11, "height-range": 7}.items():
        assert f"<td>{escape(name)}</td><td class=number>{chips}</td>" in page
    for name in ("WV02", "WV03", "blue", "green", "red", "nir", "height m"):
        assert f"<td>{name}</td>" in page
    assert re.findall(r"<td>detail (\d)", page) == ["1", "2", "3", "4", "5", "0"], "5 of 7, and 1"
    nulls, different, low, mean, high = 9, 33, 1 / 64, np.mean([n for n in range(42) if n % 5]) / 64, 41 / 64
    cells = (nulls, different, *(f"{value:.4g}" for value in (low, mean, high)))
    numbers = "".join(f"<td class=number>{cell}</td>" for cell in cells)
    assert f"<td>cloud</td><td>float64</td>{numbers}" in page
    copies = [row for row in open_dataset(everything.url).index.to_pylist() if row["duplicate_of"]]
    pair = (copies[0]["key"], copies[0]["duplicate_of"])
    assert f"<td>{copies[0]['split']}</td><td>train</td><td>{pair[0]}</td><td>{pair[1]}</td>" in page


def test_all_text_is_escaped(everything: Inspected) -> None:
    assert "<script" not in everything.page
    assert "alert(&#34;1&#34;)" in everything.page
    assert "alert(\\&#34;1" in everything.page, "in the JSON of what made it"


def test_the_page_needs_nothing_else(everything: Inspected) -> None:
    targets = re.findall(r"""(?:src|href|url|action)\s*[=(]\s*["']?([^"'>)]{0,22})""", everything.page)
    elsewhere = [target for target in targets if not target.startswith("#section-")]
    assert elsewhere == ["data:image/png;base64,"] * 5
    assert "@import" not in everything.page
    assert_forbidding(everything.page)


@pytest.mark.slow
def test_pictures_can_be_decoded_and_are_the_same_each_time(everything: Inspected, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in Path(f"{everything.url}-inspect").iterdir()}
    assert set(files) == {"index.html", "bands.png", "heights.png", "map.png", "chips.png", "sources.png"}
    for name, image_HWC in pictures(everything.url).items():
        assert min(image_HWC.shape[:2]) > 100, name
        assert image_HWC[..., :3].std() > 0.01, name
    page_and_text(everything.url, out=str(tmp_path / "again"))
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}


def test_how_independent_splits_are(everything: Inspected) -> None:
    index = open_dataset(everything.url).index
    rows = index.to_pylist()
    said = []
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        a_N2, b_M2 = (
            np.array([(row["x"], row["y"]) for row in rows if row["split"] == split])
            for split in (one, other)
        )
        gap_NM2 = np.maximum(abs(a_N2[:, None] - b_M2[None]) - 16 * 2.0, 0)
        said.append(f"{one}-{other} {number(float(np.hypot(*np.moveaxis(gap_NM2, -1, 0)).min()))} m")
    assert f"\n{'distances':12}{', '.join(said)}\n" in everything.text
    trained = {row["scene"] for row in rows if row["split"] == "train"}
    shared = {s: sum(row["split"] == s and row["scene"] in trained for row in rows) for s in ("val", "test")}
    told = f"{shared['val']} of 12 val, {shared['test']} of 6 test chips share a scene with train"
    assert f"\n{'scenes':12}{told}\n" in everything.text


def test_several_crss_are_compared_in_the_first(made: Made, new_chip: NewChip) -> None:
    chips = [
        placed(new_chip(0, PAN), 500_000, 7_200_000),
        placed(new_chip(1, PAN), 303_000, 1_655_000, "EPSG:3338"),
        new_chip(2, PAN),
    ]
    page, text = page_and_text(made(chips, ("train", "val")))
    assert "known of 2 chips, in EPSG:32606, EPSG:3338" in text
    assert re.search(r"train-val [\d,.]+ m \(measured in EPSG:32606\)", text)
    assert "Positions of the chips" in page


@pytest.mark.slow
def test_regions_with_bands_have_panels_and_distances_of_their_own(new_chip: NewChip, tmp_path: Path) -> None:
    """Each is measured in its own CRS: here one lies in Alaska and one in Europe."""
    kinds = {"region": "string"}
    systems = {"alaska": "EPSG:3338", "europe": "EPSG:3035"}
    chips = [
        replace(
            placed(
                new_chip(n, PAN), 32.0 * (n % 8) + 5e5, (40.0 + 8 * (n % 2)) * (n // 8) + 1e6, systems[region]
            ),
            attributes={"region": region},
        )
        for n, region in enumerate(["alaska"] * 64 + ["europe"] * 64)
    ]
    asked = SplitRule(
        "bands", (0.6, 0.2, 0.2), band_count=5, angle=("alaska=15", "europe=-70"), region_column="region"
    )
    index = pa.table(
        {name: [getattr(chip, name) for chip in chips] for name in ("key", "x", "y", "crs")}
        | {"region": [chip.attributes["region"] for chip in chips]}
    )
    rule = resolved(asked, places := places_of(index, PAN, "region"))
    splits = assign(rule, places).tolist()
    url = write(str(tmp_path / "chips"), chips, splits, PAN, attributes=kinds, split_rule=rule.to_json())
    page, text = page_and_text(url)
    said = []
    for pair in (("train", "val"), ("train", "test"), ("val", "test")):
        nearest = {}
        for region, crs in systems.items():
            a_N2, b_M2 = (
                np.array(
                    [(c.x, c.y) for c, s in zip(chips, splits, strict=True) if s == split and c.crs == crs]
                )
                for split in pair
            )
            gap_NM2 = np.maximum(abs(a_N2[:, None] - b_M2[None]) - 16 * 2.0, 0)
            nearest[region] = float(np.hypot(*np.moveaxis(gap_NM2, -1, 0)).min())
        region = min(nearest, key=lambda name: nearest[name])
        said.append(f"{'-'.join(pair)} {number(nearest[region])} m ({region})")
    assert f"\n{'distances':12}{', '.join(said)}; within regions\n" in text
    for (region, crs), grid, start in zip(systems.items(), rule.grids, (0, 64), strict=True):
        counts = [splits[start : start + 64].count(split) for split in ("train", "val", "test", "buffer")]
        numbers = "".join(f"<td class=number>{count}</td>" for count in (64, *counts))
        angle = {"alaska": 15, "europe": -70}[region]
        assert f"<td>{region}</td>{numbers}<td>{crs}</td><td>{angle} degrees</td>" in page
        assert f"<td>{number(grid.width)} m</td>" in page
    assert "grids" not in page
    rows, columns = pictures(url)["map.png"].shape[:2]
    assert columns > 1.8 * rows, "two panels, side by side"


def test_borders_are_drawn_below_the_chips() -> None:
    x_N, y_N = (axis.ravel() for axis in np.meshgrid(np.arange(6.0), np.arange(6.0)))
    lines_K22 = np.array([[(0, y + 0.5), (5, y + 0.5)] for y in range(5)])
    panel = MapPanel(np.stack([x_N, y_N], axis=1), ["train"] * 36, "")
    without, drawn = (
        imread(BytesIO(map_chart([one])))[..., :3] for one in (panel, replace(panel, borders_K22=lines_K22))
    )
    assert without.shape == drawn.shape
    darker_HW = (drawn < without - 0.1).any(axis=-1)
    rows = np.flatnonzero(darker_HW.sum(axis=1) > 300)
    assert np.count_nonzero(np.diff(rows) > 1) + 1 == 5
    is_blue_HW = (abs(without * 255 - (0x00, 0x72, 0xB2)) < 3).all(axis=-1)
    assert not (darker_HW & is_blue_HW).any()


def test_an_unknown_crs_hinders_nothing_else(made: Made, new_chip: NewChip) -> None:
    systems = ("EPSG:32606", "nonsense")
    chips = [placed(new_chip(n, PAN), 100.0 * n, 0, systems[n % 2]) for n in range(4)]
    url = made(chips, ("train", "val"))
    assert "distances   unknown: " in inspect(InspectConfig(url))
    assert "map.png" in pictures(url)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:2225", None])
def test_distances_have_the_unit_of_their_crs(made: Made, new_chip: NewChip, crs: str | None) -> None:
    schema = Schema(("pan",), chip_size=16, pixel_size=1e-5)
    chips = [replace(new_chip(n, schema), x=-147.0 + n, y=65.0, crs=crs) for n in range(2)]
    unit = {"EPSG:4326": "degrees", "EPSG:2225": "US survey foot", None: "units"}[crs]
    text = describe(open_dataset(made(chips, ("train", "val"), schema)))
    assert re.search(rf"train-val [\d.]+ {unit}\n", text)


ODD: dict[str, tuple[Schema, int, tuple[str, ...], str]] = {
    "no label": (
        Schema(("red",), label="", label_unit="", chip_size=16),
        5,
        ("train", "val"),
        "label       none",
    ),
    "another label": (
        Schema(("red", "nir"), label="biomass $", label_unit="Mg/ha", chip_size=16),
        5,
        ("train",),
        "biomass $ Mg/ha",
    ),
    "decibels": (Schema(("vv", "vh"), dtype="float32", nodata=None, chip_size=16), 5, ("train",), "vh"),
    "20 bands": (Schema(tuple(f"b{n}" for n in range(20)), chip_size=8), 2, ("train",), "b19"),
    "one chip": (Schema(("red",), chip_size=16), 1, ("train",), "1 train, 0 val"),
    "one pixel": (Schema(("red",), chip_size=1), 1, ("train",), "1 train, 0 val"),
    "no training": (Schema(("red",), chip_size=16), 3, ("val", "test"), "statistics  none"),
}


@pytest.mark.parametrize(("schema", "count", "splits", "said"), ODD.values(), ids=ODD.keys())
def test_odd_datasets(
    made: Made, new_chip: NewChip, schema: Schema, count: int, splits: tuple[str, ...], said: str
) -> None:
    url = made([new_chip(n, schema) for n in range(count)], splits, schema)
    page, text = page_and_text(url)
    assert said in text
    assert "positions   unknown, so there is no map" in text
    assert "distances   unknown, since no chip has a position" in text
    assert ("none shared, since no chip is in train" in text) == ("train" not in splits)
    assert ("none shared, since no chip is held out" in text) == (splits == ("train",))
    drawn = {"chips.png"} | ({"bands.png"} if "train" in splits else set())
    drawn |= {"heights.png"} if "train" in splits and schema.label else set()
    drawn |= {"sources.png"} if count > 1 else set()
    assert set(pictures(url)) == drawn
    assert page.count("<img") == len(drawn)
    assert ("Height classes" in page) == (schema.label == "height" and "train" in splits)
    assert describe(open_dataset(url)) in text


def test_missing_pixels_and_labels_leave_blanks(made: Made, new_chip: NewChip) -> None:
    schema = Schema(("red", "nir"), dtype="float32", nodata=None, label="biomass", chip_size=16)
    chips = [new_chip(n, schema) for n in range(3)]
    nothing_CHW, none_HW = np.full_like(chips[0].image_CHW, np.nan), np.full_like(chips[0].height_HW, np.nan)
    url = made([replace(chips[0], image_CHW=nothing_CHW, height_HW=none_HW), *chips[1:]], schema=schema)
    assert "\nbiomass m " in inspect(InspectConfig(url))
    assert set(pictures(url)) >= {"chips.png", "bands.png", "heights.png"}


def test_a_constant_band_and_flat_ground(made: Made, new_chip: NewChip) -> None:
    flat = new_chip(0, PAN)
    flat = replace(flat, image_CHW=np.full_like(flat.image_CHW, 7), height_HW=np.zeros_like(flat.height_HW))
    assert "\npan                  7         0" in inspect(InspectConfig(made([flat])))


def test_a_wrong_place_or_number_is_refused(made: Made, new_chip: NewChip) -> None:
    url = made([new_chip(0, PAN)])
    for out in (url, f"{url}/page", f"{url}/../chips/page"):
        with pytest.raises(InputError, match="lies in the dataset"):
            inspect(InspectConfig(url, out=out))
    with pytest.raises(InputError, match="--chips 0"):
        inspect(InspectConfig(url, chips=0))
    assert not Path(f"{url}-inspect").exists()


def test_the_folder_is_beside_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_folder("data/chips/") == "data/chips-inspect"
    assert default_folder("s3://bucket/chips/") == "chips-inspect"
    assert default_folder(".") == f"{tmp_path}-inspect"


def test_two_datasets_of_one_name_have_two_pages(
    new_chip: NewChip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pages = dict[str, str]()
    for place in ("memory://first-bucket/the chips", "memory://second-bucket/the chips/", "the chips"):
        write(place, [new_chip(0, PAN)], ["train"], PAN)
        pages[place] = inspect(InspectConfig(place, chips=1)).splitlines()[-1].split(maxsplit=1)[1]
    first, second, local = pages.values()
    assert first == "the chips-inspect/index.html", "as it was for one dataset"
    assert re.fullmatch("the chips-[0-9a-f]{6}-inspect/index.html", second)
    assert len({first, second, local}) == 3
    for place, page in pages.items():
        assert f"{default_folder(place)}/index.html" == page, "which is replaced when it is made again"
        assert f"{place} (fingerprint" in (tmp_path / page).read_text()
    assert len(list(tmp_path.glob("*-inspect"))) == 3
    for bucket in ("first-bucket", "second-bucket"):
        fsspec.filesystem("memory").rm(f"memory://{bucket}", recursive=True)


def test_pictures_of_an_earlier_state_are_removed(made: Made, new_chip: NewChip, tmp_path: Path) -> None:
    out = str(tmp_path / "page")
    chip = new_chip(0, PAN)
    page_and_text(made([placed(chip, 100.0, 0)]), out=out)
    assert (tmp_path / "page" / "map.png").exists()
    shutil.rmtree(tmp_path / "chips")
    page_and_text(made([chip]), out=out)
    assert not (tmp_path / "page" / "map.png").exists()


def test_a_map_of_many_chips_draws_some_of_each_split() -> None:
    rng = np.random.default_rng(0)
    split_N = np.array(["train", "val", "test"])[rng.choice(3, 4 * MOST_POINTS, p=(0.8, 0.15, 0.05))]
    centre_N2 = rng.uniform(0, 1e5, (split_N.size, 2))
    centre_N2[:100] = np.nan
    panels = [MapPanel(centre_N2, split_N.tolist(), "EPSG:3338")]
    data = map_chart(panels)
    assert data == map_chart(panels)
    colours = (imread(BytesIO(data))[..., :3] * 255).astype(int).reshape(-1, 3)
    for colour in ((0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00), (0xCC, 0x79, 0xA7)):
        assert (abs(colours - colour).max(axis=1) < 3).sum() > 100


def test_chips_without_a_source_are_counted_as_unknown(made: Made, new_chip: NewChip) -> None:
    names = ("A", None, "B", "", "B", "unknown", "B", "B")
    chips = [replace(new_chip(n, PAN), source=name) for n, name in enumerate(names)]
    index = open_dataset(made(chips)).index
    assert list(chips_of(index, "source").items()) == [("B", 4), ("unknown", 3), ("A", 1)]


def test_numbers_and_names_as_they_are_shown() -> None:
    values = {0.0: "0", 0.012345: "0.01235", -12.345: "-12.35", 999.94: "999.9", 12345.6: "12,346"}
    assert {value: number(value) for value in values} == values
    assert drawable("a $x$ é Ж 树\n") == r"a \$x\$ é Ж ??"


def test_a_source_with_the_name_of_a_number_is_shown_as_a_name(made: Made, new_chip: NewChip) -> None:
    page, _ = page_and_text(made([replace(new_chip(0, PAN), source="50%")]))
    assert "<td>50%</td><td class=number>1</td>" in page


@needs_browser
def test_a_browser_shows_every_picture(everything: Inspected, tmp_path: Path) -> None:
    layout = laid_out(everything.page, tmp_path, width=NARROW)
    assert len(layout.picture_widths) == everything.page.count("<img") == 5
    assert min(layout.picture_widths) > 100
    assert layout.page_width == NARROW
