"""docs/security.md names every limit, and no other; defaults are those of the code."""

import re
from pathlib import Path

import shards.raster.virtual
import shards.storage.limits
import shards.write.finished_shard
from shards.raster.formats import DRIVERS, FURTHER_DRIVERS
from shards.storage.limits import Limit
from shards.storage.yaml_file import MOST_BYTES, MOST_VALUES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
MADE_IN = (shards.storage.limits, shards.raster.virtual, shards.write.finished_shard)


def limits() -> dict[str, Limit]:
    return {
        one.variable: one for module in MADE_IN for one in vars(module).values() if isinstance(one, Limit)
    }


def test_the_page_has_every_limit_of_the_code() -> None:
    packages = ("shards", "ingest", "trainer", "inference", "cluster")
    sources = [path.read_text() for package in packages for path in (ROOT / package).rglob("*.py")]
    in_code = {name for source in sources for name in re.findall(r'Limit\(\s*"(TREELINE_\w+)"', source)}
    assert in_code == limits().keys()
    assert in_code | {FURTHER_DRIVERS} == set(re.findall(r"^\| `(TREELINE_\w+)`", PAGE, re.M))


def test_the_page_has_the_defaults_of_the_code() -> None:
    units = {"GiB": 1 << 30, "MiB": 1 << 20}
    for name, limit in limits().items():
        (said,) = re.findall(rf"^\| `{name}` \| ([\d,]+)(?: (GiB|MiB))?", PAGE, re.M)
        assert int(said[0].replace(",", "")) * units.get(said[1], 1) == limit.default, name
    assert f"{MOST_BYTES >> 20} MiB, aliases that unfold into more than {MOST_VALUES:,} values" in PAGE
    for driver in DRIVERS:
        assert driver in PAGE
