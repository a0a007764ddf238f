"""What the user names -> scenes, their order, their maps' names. No file here is a raster: none is opened.

- Files, patterns, folders, text, CSV and STAC lists name the same scenes, on disk and on a real S3 server.
- The order is that of the names and of the lists, and of no file system.
- What is missing, empty, ambiguous or not understood is one line that says where it is named.
"""

import csv
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import S3Server, environment_of

from inference.scenes.scene_list import COLUMNS, find_scenes, map_name
from shards.errors import InputError
from shards.storage.objects import join, publish, remove_folder

NAMES = tuple(
    f"WV0{sensor}_2020072{day}_M1BS_10300100AB1FD1{day:02d}-sr-02m.tif"
    for sensor in (2, 3)
    for day in range(3)
)
COG = "image/tiff; application=geotiff; profile=cloud-optimized"


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty folder, on disk and on S3."""
    if request.param == "local":
        yield str(tmp_path)
        return
    with environment_of(request.getfixturevalue("moto")):
        url = "s3://bucket/lists"
        yield url
        remove_folder(url)


def written(folder: str, *names: str) -> list[str]:
    """Files of nothing with these names; their URLs."""
    for name in names:
        publish(join(folder, name), b"")
    return [join(folder, name) for name in names]


def listed(url: str, text: str | dict[str, Any]) -> str:
    """A list at `url` that holds `text`; its URL."""
    publish(url, (text if isinstance(text, str) else json.dumps(text)).encode())
    return url


def scene_urls(given: tuple[str, ...], asset: str = "") -> list[str]:
    return find_scenes(given, asset).urls


def why_not(*given: str, asset: str = "") -> str:
    with pytest.raises(InputError) as raised:
        scene_urls(given, asset)
    why = str(raised.value)
    assert "\n" not in why
    return why


def item(name: str, **assets: dict[str, Any]) -> dict[str, Any]:
    """A STAC item of what matters here."""
    return {"type": "Feature", "stac_version": "1.1.0", "id": name, "assets": assets, "links": []}


def scene_item(href: str) -> dict[str, Any]:
    overview = {"href": "overview.tif", "type": COG, "roles": ["overview"]}
    return item(Path(href).stem, data={"href": href, "type": COG, "roles": ["data"]}, preview=overview)


def linked(kind: str, *links: tuple[str, str]) -> dict[str, Any]:
    """A catalog or collection with links (relation, href), and those that each has besides."""
    besides = [{"rel": rel, "href": "catalog.json"} for rel in ("root", "parent", "self")]
    return {
        "type": kind,
        "id": "a",
        "links": [*besides, *({"rel": rel, "href": href} for rel, href in links)],
    }


# --- the same scenes, however they are named ---


def test_every_way_of_naming_gives_the_same_scenes(place: str) -> None:
    scenes = written(join(place, "scenes"), *NAMES)
    relative = [f"../scenes/{name}" for name in NAMES]
    lists = join(place, "lists")
    listed(join(lists, "plain.txt"), "# all scenes\r\n\r\n" + "\r\n".join(relative) + "  # the last\n")
    rows = "\n".join(f'{number},"Scene {number}, clear",{path}' for number, path in enumerate(relative))
    listed(join(lists, "table.csv"), f"\ufeffnumber,scene,Path\n{rows}\n\n")
    items = [scene_item(path) for path in relative]
    listed(join(lists, "items.geojson"), {"type": "FeatureCollection", "features": items})
    for path, stac in zip(NAMES, items, strict=True):
        listed(join(lists, "items", f"{path}.json"), scene_item(f"../../scenes/{path}"))
        listed(join(lists, f"{path}.json"), stac)
    listed(join(lists, "catalog.json"), linked("Catalog", ("child", "./one.json"), ("child", "two.json")))
    for half, name in ((NAMES[:3], "one.json"), (NAMES[3:], "two.json")):
        links = [("item", f"./items/{path}.json") for path in half]
        listed(join(lists, name), linked("Collection", ("child", "catalog.json"), *links))  # and round again
    for given in (
        (*scenes,),
        (join(place, "scenes"),),
        (join(place, "scenes/"),),
        (join(place, "scenes/*.tif"),),
        (join(place, "**/*.tif"),),
        (join(place, "scenes/WV02*"), join(place, "scenes/WV0[23]*")),
        (join(lists, "plain.txt"),),
        (join(lists, "table.csv"),),
        (join(lists, "items.geojson"),),
        (join(lists, f"{NAMES[0]}.json"), join(lists, "catalog.json")),
        (join(lists, "catalog.json"), join(lists, "plain.txt")),
        (join(lists, "items/*.json"),),
    ):
        assert scene_urls(given) == scenes, given


def test_lists_may_name_other_places(place: str, moto: S3Server, tmp_path: Path) -> None:
    with environment_of(moto):
        (here,), (there,) = (
            written(str(tmp_path / "disk"), "a.tif"),
            written("s3://bucket/lists/there", "b.tif"),
        )
        given = listed(join(place, "both.txt"), f"{there}\nfile://{here}\n{here}\n")
        assert scene_urls((given,)) == [there, here]


def test_relative_names_are_those_of_the_present_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = written(str(tmp_path / "scenes"), *NAMES)
    listed(str(tmp_path / "some.txt"), f"scenes/{NAMES[5]}")
    monkeypatch.chdir(tmp_path / "scenes")
    assert scene_urls(("../some.txt", "*WV02*", NAMES[4], f"./{NAMES[4]}", ".")) == [
        scenes[number] for number in (5, 0, 1, 2, 4, 3)
    ]


def test_a_name_may_look_like_a_pattern_or_hold_what_begins_a_comment(tmp_path: Path) -> None:
    scenes = written(str(tmp_path), "a [1].tif", "a [2]#3.tif")
    assert scene_urls((scenes[0],)) == scenes[:1]
    assert scene_urls((listed(str(tmp_path / "list.txt"), "\n".join(scenes)),)) == scenes


def test_the_order_is_not_the_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of a folder come in any order; here each time in another one."""
    written(str(tmp_path), *(f"{folder}/{name}{folder}.tif" for folder in "cab" for name in "zxy"))
    shuffled, orders = random.Random(0), set()
    scan = os.scandir

    class Scan(list[Any]):
        def __enter__(self) -> "Scan":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __next__(self) -> Any:
            raise StopIteration

    def scandir(path: Any = ".") -> Scan:
        with scan(path) as entries:
            found = Scan(entries)
        shuffled.shuffle(found)
        orders.add(tuple(entry.name for entry in found))
        return found

    given = (str(tmp_path / "c"), str(tmp_path / "**" / "*.tif"))
    expected = scene_urls(given)
    assert [Path(url).stem for url in expected] == ["xc", "yc", "zc", "xa", "ya", "za", "xb", "yb", "zb"]
    monkeypatch.setattr(os, "scandir", scandir)
    for _ in range(8):
        assert scene_urls(given) == expected
    assert len(orders) > 8, "the shuffled folders were those that were read"


def test_many_scenes_are_checked_with_few_requests(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with environment_of(moto):
        scenes = written("s3://bucket/lists/many", *(f"{number:02d}.tif" for number in range(40)))
        given = listed("s3://bucket/lists/many.txt", "\n".join(scenes))
        monkeypatch.setattr("inference.scenes.scene_list.exists", None)
        assert scene_urls((given,)) == scenes
        remove_folder("s3://bucket/lists")


# --- the scene of a STAC item ---


@pytest.mark.parametrize(
    "assets",
    [
        {"a": {"href": "a.tif"}, "b": {"href": "b.png"}, "c": {"href": "c.json", "roles": ["metadata"]}},
        {"a": {"href": "a.tif", "type": "image/tiff"}, "b": {"href": "b.tif", "type": "application/zip"}},
        {"a": {"href": "a.tif", "type": COG}, "b": {"href": "b.tif", "type": COG, "roles": ["visual"]}},
        {"a": {"href": "a.tif", "roles": ["reflectance"]}, "b": {"href": "b.tif", "type": COG}},
        {"a": {"href": "a.tif", "roles": ["data"]}, "b": {"href": "b.xml", "roles": ["data", "metadata"]}},
        {"a": {"href": "a.tif", "type": "image/jp2", "roles": ["data"]}, "b": {"href": "b.png"}},
    ],
)
def test_the_asset_that_is_the_scene(tmp_path: Path, assets: dict[str, Any]) -> None:
    scenes = written(str(tmp_path), "a.tif", "b.tif")
    given = listed(str(tmp_path / "item.json"), item("x", **assets))
    assert scene_urls((given,)) == scenes[:1]
    assert scene_urls((given,), asset="a") == scenes[:1]


def test_the_asset_that_is_named(tmp_path: Path) -> None:
    scenes = written(str(tmp_path), "a.tif", "b.tif")
    two = {key: {"href": f"{key}.tif", "type": COG, "roles": ["data"]} for key in "ab"}
    given = listed(str(tmp_path / "item.json"), item("x", **two))
    assert scene_urls((given,), asset="b") == scenes[1:]
    assert why_not(given) == f"{given}, item x: the scene can be any of a, b; choose with --asset from a, b"
    assert why_not(given, asset="c") == f"{given}, item x: has no asset c; its assets are a, b"


# --- bad input ---


def test_what_is_missing_is_named_with_its_line(place: str) -> None:
    (there,) = written(place, "there.tif")
    given = listed(join(place, "list.txt"), f"# scenes\n{there}\n\nnot.tif\nnot/either.tif")
    assert (
        why_not(given)
        == f"{given}, line 4: {join(place, 'not.tif')}: does not exist; 2 listed scenes are missing in all"
    )
    given = listed(
        join(place, "list.csv"), "path\nthere.tif\n" + "\n".join(f"far/{n}.tif" for n in range(20))
    )
    assert why_not(given).startswith(f"{given}, line 3: ")
    given = listed(join(place, "item.json"), scene_item("gone.tif"))
    assert why_not(given) == f"{given}, item gone: {join(place, 'gone.tif')}: does not exist"
    given = listed(join(place, "catalog.json"), linked("Catalog", ("item", "lost.json")))
    assert why_not(given).startswith(f"{given}: {join(place, 'lost.json')}: no such file")
    for given in (join(place, "x.tif"), join(place, "x*.tif"), join(place, "x.txt"), join(place, "nowhere")):
        assert why_not(given).startswith(given)


def test_two_scenes_of_one_name(tmp_path: Path) -> None:
    one, two = written(str(tmp_path), "one/a.tif", "two/a.TIF")
    assert map_name(one) == map_name(two)
    assert why_not(one, two).startswith(f"{two}: has the same name as {one}, and maps are named after scenes")
    given = listed(str(tmp_path / "list.txt"), f"one/a.tif\none/a.tif\n{one}\ntwo/a.TIF")
    assert why_not(given).startswith(f"{given}, line 4: {two}: has the same name as {given}, line 1: {one},")


@pytest.mark.parametrize(
    ("ending", "text", "why"),
    [
        ("txt", "# nothing\n\n", "lists no scene"),
        ("csv", "", "its columns are none"),
        ("csv", "name;place\na;b\n", "its columns are name;place;"),
        ("csv", "path\n", "lists no scene"),
        ("csv", "id,path\n1,a.tif\n2\n", ", line 3: column path is empty"),
        ("csv", "id,path\n1,a.tif\n2, \n", ", line 3: column path is empty"),
        ("csv", f"path\n{'x' * (csv.field_size_limit() + 1)}\n", "cannot be read as CSV"),
        (
            "txt",
            "https://example.org/a.tif",
            ", line 1: https://example.org/a.tif: is neither a local path",
        ),
        ("txt", "gs://bucket/a.tif", ", line 1: gs://bucket/a.tif: is neither a local path"),
        ("json", "{", "is not JSON"),
        ("json", "[" * 100_000, "is not JSON"),
        ("json", "[]", "is not STAC"),
        ("json", '{"type": "Topology"}', "its type is 'Topology'"),
        ("geojson", '{"type": "FeatureCollection", "features": []}', "has no items"),
        ("geojson", '{"type": "FeatureCollection", "features": {}}', "its features are not a list"),
        ("geojson", '{"type": "FeatureCollection", "features": [1]}', "one of its features"),
        ("geojson", '{"type": "FeatureCollection", "features": [{"properties": {}}]}', "has no assets with"),
        ("json", '{"type": "Feature", "id": "x", "assets": {"a": {}}}', "item x: is not a STAC item"),
        ("json", '{"type": "Feature", "id": "x", "assets": {}}', "none of its assets by role or type"),
        ("json", '{"type": "Catalog", "links": [null]}', "one of its links"),
        ("json", '{"type": "Catalog", "links": [{"rel": "item"}]}', "link item: is not STAC"),
        ("json", '{"type": "Feature", "assets": {"a": {"href": "a.png", "roles": 5}}}', "item without id: "),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, ending: str, text: str, why: str) -> None:
    written(str(tmp_path), "a.tif")
    given = listed(str(tmp_path / f"list.{ending}"), text)
    said = why_not(given)
    assert said.startswith(given)
    assert why in said


def test_pages_of_a_search_are_not_left_out(tmp_path: Path) -> None:
    scenes = written(str(tmp_path), "a.tif", "b.tif")
    page = {"type": "FeatureCollection", "features": [scene_item("a.tif")]}
    given = listed(str(tmp_path / "page.json"), page | {"links": [{"rel": "next", "href": "second.json"}]})
    listed(str(tmp_path / "second.json"), page | {"features": [scene_item("b.tif")]})
    assert scene_urls((given,)) == scenes
    listed(given, page | {"links": [{"rel": "next", "href": "https://example.org/?page=2"}]})
    assert why_not(given).startswith(
        f"{given}, link next: https://example.org/?page=2: is neither a local path"
    )


def test_other_bad_names(tmp_path: Path) -> None:
    latin = tmp_path / "list.txt"
    latin.write_bytes("Höhe.tif".encode("latin-1"))
    assert "byte 1 is not UTF-8" in why_not(str(latin))
    assert "name at least one" in why_not()
    assert "is empty" in why_not("")
    assert "neither a local path nor s3://" in why_not("https://example.org/a.tif")
    (tmp_path / "empty").mkdir()
    assert "this folder has no .tif or .tiff files" in why_not(str(tmp_path / "empty"))


def test_columns_are_found_by_any_of_their_names(tmp_path: Path) -> None:
    scenes = written(str(tmp_path), "a.tif")
    for column in COLUMNS:
        assert scene_urls((listed(str(tmp_path / "list.csv"), f"id,{column.upper()}\n1,a.tif\n"),)) == scenes


def test_maps_are_named_after_scenes() -> None:
    stem = "WV02_20200722_M1BS_10300100AB1FD100-sr-02m"
    for ending in ("tif", "TIF", "tiff", "vrt"):
        assert map_name(f"s3://bucket/scenes/{stem}.{ending}") == f"{stem}.chm.tif"


def test_maps_that_are_left_out_are_named(place: str) -> None:
    kinds = ("chm", "chm", "classes", "tiles")
    scenes = written(place, *NAMES)
    maps = written(place, *(f"{name[:-4]}.{kind}.tif" for name, kind in zip(NAMES, kinds, strict=False)))
    found = find_scenes((place,))
    assert (found.urls, found.maps) == (sorted(scenes), sorted(maps))
    first = ", ".join(name.rpartition("/")[2] for name in sorted(maps)[:3])
    assert found.remark == (
        f"left out as maps: 4 of 10 rasters ({first}, ...), whose names end in .chm.tif or .classes.tif or "
        ".tiles.tif; give a name in full to take it as a scene"
    )
    one = find_scenes((join(place, f"{NAMES[0][:-4]}*.tif"),))
    assert one.remark.startswith(f"left out as maps: 1 of 2 rasters ({NAMES[0][:-4]}.chm.tif), whose names")
    assert find_scenes((place, *maps)).remark == ""
    assert find_scenes((listed(join(place, "all.txt"), "\n".join([*scenes, *maps])),)).remark == ""


@pytest.mark.parametrize(
    "name", ["s3://bucket/../other/x.tif", "s3://b/x/../../y.tif", "s3://../x.tif", "s3://b/.."]
)
def test_no_name_leads_out_of_its_bucket(name: str, tmp_path: Path) -> None:
    (tmp_path / "scenes.csv").write_text(f"scene\n{name}\n")
    for given in (name, str(tmp_path / "scenes.csv")):
        with pytest.raises(InputError, match="leads out of its bucket"):
            find_scenes((given,))
