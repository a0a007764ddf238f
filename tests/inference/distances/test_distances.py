"""Regions of the SAR landscape lie further apart than halves of one; errors stand beside distances; mistakes.

The encoder learned nothing: regions differ in the level of their bands already.
"""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import laid_out, needs_browser
from encoders import sar_tiles, write_untrained
from in_process import treeline

from inference.config import DistancesConfig
from inference.distances.errors import read_errors
from inference.distances.regions import regions_of
from inference.distances.run import distances
from inference.embed.embeddings import EMBEDDINGS, read_embeddings, write_part
from shards.format.manifest import write_json
from shards.format.sealed import json_bytes

REGIONS = ("china", "conus", "europe", "southamerica")
FAST = ["--projections", "128", "--draws", "2", "--no-tsne"]
SLOPE = 6.0
"""Rise of the invented error with the distance between regions."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings of two checkpoints, one of them also with mean tokens, and of one region."""
    folder = tmp_path_factory.mktemp("distances")
    tiles = sar_tiles(folder / "tiles", 320)
    for number, name in enumerate(("before", "after")):
        run = write_untrained(folder / f"run-{name}", tiles, seed=number)
        assert treeline("embed", tiles.url, "--checkpoint", run, "--out", str(folder / name)).returncode == 0
    run = str(folder / "run-before")
    for name, options in {
        "mean": ["--tokens", "mean"],
        "patches": ["--tokens", "patches", "--limit", "9"],
        "one": ["--where", "region == 'conus'"],
        "few": ["--limit", "20"],
    }.items():
        done = treeline("embed", tiles.url, "--checkpoint", run, "--out", str(folder / name), *options)
        assert done.returncode == 0, done.stderr
    return folder


def measured(folder: Path, *options: str, names: tuple[str, ...] = ("before",)) -> dict[str, Any]:
    """What distances.json says; the page is beside it."""
    out = folder / "out"
    places = [str(folder / name) for name in names]
    done = treeline("distances", *places, "--out", str(out), *FAST, *options)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((out / "distances.json").read_text())
    return found


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    (found,) = measured(folder)["embeddings"]
    return dict(found)


@pytest.fixture(scope="module")
def predictions(folder: Path, found: dict[str, Any]) -> Path:
    """Errors that rise with the distance between regions, of two kinds of training with two draws each."""
    apart = {frozenset(one["regions"]): one["sliced_wasserstein"] for one in between(found, "as they are")}
    columns = read_embeddings(str(folder / "before")).columns.filter(
        pa.array(
            [
                split == "test"
                for split in read_embeddings(str(folder / "before")).columns["split"].to_pylist()
            ]
        )
    )
    rows = []
    for tile in columns.to_pylist():
        for init, trained_on, draw in [
            (i, t, d) for i in ("a", "b") for t in (*REGIONS, "all") for d in (0, 1)
        ]:
            distance = apart.get(frozenset((trained_on, tile["region"])), 0.0)
            error = (1 + SLOPE * distance) if init == "a" else 5 - 2 * distance
            origin = {"key": tile["key"], "tested_on": tile["region"], "trained_on": trained_on}
            cell = {"init": init, "tune": "all", "limit": "1%", "draw": draw}
            sign = 1 if draw else -1
            rows.append({**origin, **cell, "truth": 50.0, "predicted": 50.0 + sign * error})
    path = folder / "predictions.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def between(found: dict[str, Any], view: str) -> list[dict[str, Any]]:
    return list(found["distances"][view]["between"])


def within(found: dict[str, Any], view: str) -> dict[str, float]:
    return {one["region"]: one["sliced_wasserstein"] for one in found["distances"][view]["within"]}


@pytest.mark.parametrize("view", ["as they are", "whitened"])
def test_every_two_regions_lie_further_apart_than_halves_of_either(found: dict[str, Any], view: str) -> None:
    assert len(between(found, view)) == 6
    halves = within(found, view)
    for one in between(found, view):
        assert one["sliced_wasserstein"] > max(halves[region] for region in one["regions"]), one
        assert one["energy"] > 0
    if view == "as they are":
        assert found["every_pair_further_apart_than_halves"]


def test_a_line_tells_regions_apart_on_tiles_it_has_not_seen(found: dict[str, Any]) -> None:
    told = found["told_apart"]["as they are"]
    assert told["chance"] == 0.25
    assert told["accuracy"] > 0.75
    assert found["held_out"] == "fitted on the split train, scored on test"
    np.testing.assert_allclose(np.sum(told["shares"], 1), 1)


def test_centred_distances_are_those_of_shapes(found: dict[str, Any]) -> None:
    """Without their means, regions lie nearer: W2^2 falls by the squared shift."""
    for whole, centred in zip(between(found, "as they are"), between(found, "centred"), strict=True):
        assert 0 < centred["sliced_wasserstein"] < whole["sliced_wasserstein"]


def test_without_a_split_every_other_strip_is_held_out(folder: Path) -> None:
    embeddings = read_embeddings(str(folder / "before"))
    place = embeddings.columns.column_names.index("split")
    unsplit = pa.nulls(embeddings.columns.num_rows, pa.string())
    object.__setattr__(embeddings, "columns", embeddings.columns.set_column(place, "split", unsplit))
    regions = regions_of(embeddings, DistancesConfig(embeddings=("e",), out="o"))
    assert (regions.is_fitted_N ^ regions.is_scored_N).all()
    x_N = embeddings.columns["x"].to_numpy()[regions.all_rows]
    for number in range(len(REGIONS)):
        of_region = regions.region_N == number
        order = np.argsort(x_N[of_region], kind="stable")
        changes = np.count_nonzero(np.diff(regions.is_fitted_N[of_region][order]))
        assert changes == 7, "eight strips, in turn"


def test_source_tiles_are_those_that_training_could_learn_from(folder: Path) -> None:
    embeddings = read_embeddings(str(folder / "before"))
    regions = regions_of(embeddings, DistancesConfig(embeddings=("e",), out="o"))
    found = embeddings.columns.take(regions.sources("europe", "region")).to_pylist()
    expected = [
        row for row in embeddings.columns.to_pylist() if row["region"] == "europe" and row["split"] == "train"
    ]
    assert found == expected
    assert len(found) > 20


@pytest.mark.slow
def test_the_same_numbers_again_and_of_the_same_tiles_for_every_checkpoint(folder: Path) -> None:
    one, other = (measured(folder, "--tiles", "40", names=("before", "after")) for _ in range(2))
    assert one == other
    before, after = (read_embeddings(str(folder / name)) for name in ("before", "after"))
    config = DistancesConfig(embeddings=("e",), out="o", tiles=40)
    keys = [
        embeddings.columns["key"].take(regions_of(embeddings, config).all_rows).to_pylist()
        for embeddings in (before, after)
    ]
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == 160
    assert [one["made_with"]["checkpoint"] for one in one["embeddings"]] == [
        before.made_with["checkpoint"],
        after.made_with["checkpoint"],
    ]


@pytest.mark.slow
def test_errors_stand_beside_distances(folder: Path, predictions: Path) -> None:
    """The correlation is 1 where errors rise with distance, else -1; p is what permutations allow."""
    result = measured(folder, "--errors", str(predictions), "--label", "tree_percent")
    rises, falls = result["embeddings"][0]["errors"]
    assert (rises["kind"], falls["kind"]) == ("a all 1%", "b all 1%")
    for one, rho in ((rises, 1), (falls, -1)):
        correlation = one["rank_correlation"]["as they are"]
        assert correlation["rho"] == pytest.approx(rho)
        assert (correlation["pairs"], correlation["permutations"]) == (12, 24)
        assert correlation["p"] >= 1 / 24
        assert correlation["low"] < 0 < correlation["high"]
    points = {(one["trained_on"], one["tested_on"]): one for one in rises["points"]}
    assert len(points) == 16, "the pair of a region with itself is there, and the training on all is not"
    for (trained_on, tested_on), one in points.items():
        if trained_on != tested_on:
            assert one["rmse"] == pytest.approx(1 + SLOPE * one["distance"])
    assert {(t["trained_on"], t["tested_on"]) for t in rises["tiles"]} == {p for p in points if p[0] != p[1]}
    page = (folder / "out" / "index.html").read_text()
    assert "With 4 regions no p can be below 0.042" in page
    assert page.count("<img") == 4


def test_the_error_of_a_tile_is_that_of_its_repetitions(predictions: Path) -> None:
    errors = read_errors(str(predictions))
    rmse_RR = errors.rmse_RR("a all 1%", REGIONS)
    by_tile = errors.of_tiles("a all 1%", "conus", "europe")
    assert list(by_tile.values()) == pytest.approx([rmse_RR[1, 2]] * len(by_tile))
    assert np.isnan(errors.rmse_RR("a all 1%", ("conus", "elsewhere"))[0, 1])


@needs_browser
def test_the_page_shows_its_pictures_on_any_screen(folder: Path, predictions: Path, tmp_path: Path) -> None:
    measured(folder, "--errors", str(predictions), names=("before", "after"))
    page = (folder / "out" / "index.html").read_text()
    for width in (500, 1200):
        layout = laid_out(page, tmp_path, width)
        assert len(layout.picture_widths) == 8
        assert all(layout.picture_widths)
        assert layout.page_width <= width


@pytest.mark.slow
def test_the_picture_is_by_tsne_where_it_can_be(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Without scikit-learn one line says what is drawn instead."""
    pytest.importorskip("sklearn")
    config = DistancesConfig(
        embeddings=(str(folder / "before"),), out=str(folder / "tsne"), projections=64, draws=1, tiles=30
    )
    distances(config)
    assert "On a plane: t-SNE" in (folder / "tsne" / "index.html").read_text()
    numbers = (folder / "tsne" / "distances.json").read_bytes()
    assert "scikit-learn" not in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)  # as where it is not installed
    distances(config)
    assert "On a plane: principal components" in (folder / "tsne" / "index.html").read_text()
    assert (folder / "tsne" / "distances.json").read_bytes() == numbers
    said = capsys.readouterr().err
    assert len(re.findall(r"^treeline: no t-SNE without scikit-learn \(pip install", said, re.M)) == 1


@pytest.fixture(scope="module")
def bad(folder: Path, predictions: Path) -> dict[str, str]:
    """Inputs, some of which cannot be used, by name."""
    places = {path.name: str(path) for path in folder.iterdir()} | {"nothing": str(folder / "nothing")}
    for name in ("mixed", "stranger", "unfinished", "newer"):
        shutil.copytree(folder / "before", folder / name)
        places[name] = str(folder / name)
    shutil.copy(folder / "after" / "part-000000.parquet", folder / "mixed")
    shutil.copy(folder / "after" / "part-000000.parquet", folder / "stranger" / "part-000001.parquet")
    (folder / "unfinished" / EMBEDDINGS).rename(folder / "unfinished" / "plan.json")
    about = json.loads((folder / "newer" / EMBEDDINGS).read_text())
    write_json(str(folder / "newer" / EMBEDDINGS), {**about, "version": 2})
    table = pq.read_table(predictions)
    for name, changed in {
        "headless": table.drop_columns(["predicted"]),
        "of_pixels": table.drop_columns(["truth", "predicted"]).append_column(
            "right_predicted", pa.array([3] * table.num_rows)
        ),
        "empty": table.slice(0, 0),
        "elsewhere": table.set_column(1, "tested_on", pa.array(["moon"] * table.num_rows)),
        "strange": table.set_column(0, "key", pa.array(["unknown"] * table.num_rows)),
    }.items():
        pq.write_table(changed, folder / f"{name}.parquet")
        places[name] = str(folder / f"{name}.parquet")
    return places


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("{nothing}", "no embeddings here (embeddings.json is missing); make some with treeline embed"),
        ("{unfinished}", "its embeddings are unfinished; run the command that makes them again"),
        ("{newer}", "is treeline-embeddings 2, not treeline-embeddings 1; embed again"),
        ("{mixed}", "part-000000.parquet: was made with another checkpoint, dataset or options"),
        ("{stranger}", "holds part-000001.parquet, which embeddings.json does not name"),
        ("{before} {mean}", "holds mean tokens, but {before} holds class tokens"),
        ("{before} {before}", "the same embeddings are named twice"),
        ("{patches}", "holds patches, and distances compare tiles"),
        ("{one}", "all its tiles are of one region in the column region (conus); distances need two or more"),
        ("{few}", "8 or more are needed"),
        (
            "{before} --region-column continent",
            "--region-column continent: {before} has no such column; it has",
        ),
        ("{before} --label continent", "--label continent: {before} has no such column of numbers; it has"),
        ("{before} --label region", "--label region: {before} has no such column of numbers"),
        ("{before} --projections 0", "--projections 0: give 1 or more"),
        ("{before} --draws 0", "--draws 0: give 1 or more"),
        ("{before} --tiles 7", "--tiles 7: give 8 or more"),
        ("{before} --neighbours 3", "--neighbours: does nothing without --errors"),
        ("{before} --errors {nothing}", "no such file"),
        ("{before} --errors {before}/embeddings.json", "is not a Parquet file"),
        ("{before} --errors {headless}", "has no column predicted; give predictions.parquet"),
        ("{before} --errors {of_pixels}", "holds classes, which have no squared error; give a matrix of"),
        ("{before} --errors {empty}", "no tile has both a truth and a prediction"),
        ("{before} --errors {elsewhere}", "no training on one of china, conus, europe, southamerica was"),
        ("{before} --errors {strange}", "none of its keys is in {before}"),
        ("{before} --errors {predictions.parquet} --neighbours 0", "--neighbours 0: give 1 or more"),
    ],
)
def test_a_mistake_is_one_line(arguments: str, says: str, bad: dict[str, str], tmp_path: Path) -> None:
    for name, place in bad.items():
        arguments, says = (text.replace(f"{{{name}}}", place) for text in (arguments, says))
    out = tmp_path / "out"
    done = treeline("distances", *shlex.split(arguments), "--out", str(out), "--no-tsne")
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("treeline: ")]
    assert len(lines) == 1, done.stderr
    assert says in lines[0]
    assert not out.exists()


def test_a_part_of_two_rows_comes_back(tmp_path: Path) -> None:
    """What is written is read: numbers of float16, and the columns beside them."""
    vectors_ND = np.array([[1.5, -2.25, 65504.0], [0.1, 0.2, 0.3]], np.float16)
    made_with = {"tokens": "class"}
    stored = write_part(str(tmp_path), 0, pa.table({"key": ["a", "b"]}), vectors_ND, made_with)
    part = {"stored": {"name": stored.name, "nbytes": stored.nbytes, "xxh3": stored.xxh3}}
    about = {"format": "treeline-embeddings", "version": 1, "made_with": made_with, "tokens": "class"}
    about |= {"checkpoint": "run", "checkpoint_fingerprint": "0123456789abcdef", "weights": "student"}
    about |= {"width": 3, "tiles": 2, "rows": 2, "without_pixels": 0}
    about["parts"] = [{**part, "rows": 2, "left_out": 0}]
    (tmp_path / EMBEDDINGS).write_bytes(json_bytes(about))
    found = read_embeddings(str(tmp_path))
    assert np.array_equal(found.vectors_ND, vectors_ND.astype(np.float32))
    assert found.columns.to_pylist() == [{"key": "a"}, {"key": "b"}]
