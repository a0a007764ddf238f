"""The house stands as drawn: rooms import one way, Ray and storage libraries stay in their places.

A room is a folder of a package, or a module that stands in the package itself (`shards.errors`).
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("shards", "ingest", "trainer", "inference", "cluster")
FRONT = "treeline"
"""Module that Python code imports. It stands above all packages but cluster, and none of them knows it."""
PURE = {
    "shards.addresses",
    "shards.errors",
    "shards.foreign_text",
    "shards.next_step",
    "shards.progress",
    "shards.said",
    "shards.wording",
}
"""Rooms that every room may import."""
ROOMS: dict[str, set[str]] = {
    "shards.commands": {
        "shards.config",
        "shards.draw",
        "shards.format",
        "shards.raster",
        "shards.read",
        "shards.storage",
        "shards.write",
    },
    "shards.config": {"shards.draw", "shards.roles"},
    "shards.draw": {"shards.format", "shards.read"},
    "shards.format": {"shards.storage"},
    "shards.raster": {"shards.format", "shards.storage"},
    "shards.read": {"shards.format", "shards.raster", "shards.storage"},
    "shards.nested": set(),
    "shards.own_parts": {"shards.nested", "shards.roles"},
    "shards.roles": {"shards.nested"},
    "shards.storage": set(),
    "shards.version": set(),
    "shards.write": {"shards.config", "shards.format", "shards.raster", "shards.storage"},
    "ingest.chips": {
        "shards.format",
        "shards.own_parts",
        "shards.raster",
        "ingest.config",
    },
    "ingest.config": {
        "shards.config",
        "shards.format",
        "shards.own_parts",
        "shards.raster",
        "shards.roles",
        "shards.version",
    },
    "ingest.files": {
        "shards.format",
        "shards.raster",
        "shards.storage",
        "shards.write",
        "ingest.chips",
        "ingest.config",
    },
    "ingest.labels": {
        "shards.format",
        "shards.raster",
        "shards.read",
        "shards.storage",
        "shards.write",
        "ingest.chips",
        "ingest.config",
    },
    "ingest.scenes": {"shards.format", "shards.raster", "shards.storage", "ingest.chips", "ingest.config"},
    "ingest.synthetic": {"shards.format", "shards.storage", "ingest.chips", "ingest.config"},
    "ingest.work": {
        "shards.config",
        "shards.format",
        "shards.nested",
        "shards.own_parts",
        "shards.raster",
        "shards.read",
        "shards.roles",
        "shards.storage",
        "shards.write",
        "ingest.chips",
        "ingest.config",
    },
    "trainer.commands": {
        "shards.format",
        "shards.nested",
        "shards.own_parts",
        "shards.read",
        "shards.roles",
        "shards.storage",
        "shards.version",
        "shards.write",
        "trainer.config",
        "trainer.data",
        "trainer.devices",
        "trainer.evaluate",
        "trainer.fit",
        "trainer.losses",
        "trainer.matrix",
        "trainer.matrix_config",
        "trainer.model",
        "trainer.options",
        "trainer.pretrain",
        "trainer.pretrain_config",
        "trainer.run_folder",
        "trainer.score",
        "trainer.weights",
    },
    "trainer.evaluate": {
        "shards.format",
        "shards.read",
        "shards.version",
        "shards.write",
        "trainer.config",
        "trainer.data",
        "trainer.devices",
        "trainer.fit",
        "trainer.model",
        "trainer.score",
    },
    "trainer.losses": {
        "shards.own_parts",
    },
    "trainer.weights": {
        "shards.format",
        "shards.storage",
        "trainer.devices",
    },
    "trainer.matrix": {
        "shards.draw",
        "shards.format",
        "shards.nested",
        "shards.read",
        "shards.storage",
        "shards.write",
        "trainer.config",
        "trainer.matrix_config",
        "trainer.options",
        "trainer.score",
    },
    "trainer.matrix_config": {"shards.roles", "trainer.config", "trainer.devices", "trainer.options"},
    "trainer.pretrain": {
        "shards.format",
        "shards.read",
        "trainer.data",
        "trainer.devices",
        "trainer.fit",
        "trainer.model",
        "trainer.options",
        "trainer.pretrain_config",
        "trainer.score",
    },
    "trainer.pretrain_config": {
        "shards.roles",
        "trainer.devices",
        "trainer.options",
        "trainer.run_config",
    },
    "trainer.chip_options": {"shards.roles", "trainer.options"},
    "trainer.config": {
        "shards.nested",
        "shards.own_parts",
        "shards.raster",
        "shards.roles",
        "trainer.devices",
        "trainer.chip_options",
        "trainer.options",
        "trainer.run_config",
    },
    "trainer.data": {
        "shards.format",
        "shards.read",
        "shards.storage",
        "trainer.decoders",
        "trainer.devices",
        "trainer.model",
        "trainer.chip_options",
        "trainer.options",
    },
    "trainer.decoders": {
        "shards.own_parts",
    },
    "trainer.devices": {"shards.format", "shards.roles", "trainer.score"},
    "trainer.fit": {
        "shards.draw",
        "shards.format",
        "shards.nested",
        "shards.read",
        "shards.roles",
        "trainer.config",
        "trainer.data",
        "trainer.decoders",
        "trainer.devices",
        "trainer.losses",
        "trainer.model",
        "trainer.chip_options",
        "trainer.options",
        "trainer.score",
    },
    "trainer.model": {
        "shards.format",
        "shards.own_parts",
        "shards.read",
        "shards.roles",
        "shards.storage",
        "trainer.decoders",
        "trainer.devices",
        "trainer.options",
        "trainer.score",
        "trainer.weights",
    },
    "trainer.options": {"shards.nested", "shards.roles", "trainer.devices"},
    "trainer.run_config": {
        "shards.nested",
        "shards.read",
        "shards.roles",
        "trainer.devices",
        "trainer.options",
    },
    "trainer.run_folder": {
        "shards.format",
        "shards.nested",
        "shards.own_parts",
        "shards.read",
        "shards.storage",
        "shards.version",
        "trainer.config",
        "trainer.devices",
        "trainer.fit",
        "trainer.options",
        "trainer.pretrain_config",
        "trainer.score",
        "trainer.weights",
    },
    "trainer.score": {"shards.draw", "shards.format", "shards.read", "shards.storage"},
    "inference.attention": {
        "shards.draw",
        "shards.format",
        "shards.raster",
        "shards.read",
        "shards.storage",
        "shards.version",
        "shards.write",
        "trainer.devices",
        "trainer.model",
        "trainer.score",
        "inference.config",
        "inference.scenes",
        "inference.tiling",
    },
    "inference.config": {
        "shards.draw",
        "shards.own_parts",
        "shards.raster",
        "shards.roles",
        "trainer.devices",
    },
    "inference.distances": {
        "shards.draw",
        "shards.format",
        "shards.roles",
        "shards.storage",
        "shards.version",
        "trainer.score",
        "inference.config",
        "inference.embed",
    },
    "inference.embed": {
        "shards.format",
        "shards.raster",
        "shards.read",
        "shards.roles",
        "shards.storage",
        "shards.version",
        "trainer.devices",
        "trainer.model",
        "inference.config",
        "inference.scenes",
        "inference.tiling",
        "inference.workers_on_ray",
    },
    "inference.maps": {"shards.draw", "shards.format", "shards.raster", "shards.storage", "inference.tiling"},
    "inference.mosaic": {
        "shards.raster",
        "shards.storage",
        "shards.version",
        "inference.config",
        "inference.maps",
        "inference.scenes",
        "inference.tiling",
    },
    "inference.predict": {
        "shards.draw",
        "shards.format",
        "shards.raster",
        "shards.roles",
        "shards.storage",
        "shards.version",
        "trainer.devices",
        "trainer.model",
        "trainer.score",
        "inference.config",
        "inference.maps",
        "inference.scenes",
        "inference.tiling",
        "inference.workers_on_ray",
    },
    "inference.report": {
        "shards.draw",
        "shards.format",
        "shards.nested",
        "shards.raster",
        "shards.read",
        "shards.roles",
        "shards.storage",
        "shards.write",
        "trainer.config",
        "trainer.pretrain_config",
        "trainer.run_folder",
        "trainer.score",
        "trainer.weights",
        "inference.config",
        "inference.maps",
        "inference.view",
    },
    "inference.scenes": {
        "shards.format",
        "shards.raster",
        "shards.storage",
        "inference.tiling",
    },
    "inference.score": {
        "shards.raster",
        "shards.storage",
        "shards.version",
        "trainer.score",
        "inference.config",
        "inference.maps",
    },
    "inference.tiling": {"inference.config"},
    "inference.view": {
        "shards.draw",
        "shards.raster",
        "shards.storage",
        "inference.config",
        "inference.maps",
        "inference.scenes",
        "inference.score",
    },
    "inference.workers_on_ray": {"trainer.devices"},
    FRONT: {
        "shards.format",
        "shards.raster",
        "shards.read",
        "trainer.config",
        "trainer.data",
        "trainer.devices",
        "trainer.evaluate",
        "trainer.model",
        "inference.config",
        "inference.embed",
        "inference.predict",
        "inference.score",
    },
    "cluster.cli": {"cluster.options"},
    "cluster.commands": {
        "shards.commands",
        "shards.config",
        "shards.read",
        "shards.storage",
        "ingest.chips",
        "ingest.config",
        "ingest.files",
        "ingest.labels",
        "ingest.scenes",
        "ingest.synthetic",
        "ingest.work",
        "trainer.commands",
        "trainer.config",
        "trainer.devices",
        "trainer.evaluate",
        "trainer.matrix_config",
        "trainer.model",
        "trainer.pretrain_config",
        "inference.attention",
        "inference.config",
        "inference.distances",
        "inference.embed",
        "inference.mosaic",
        "inference.predict",
        "inference.report",
        "inference.score",
        "inference.view",
        "cluster.config",
        "cluster.demo",
        "cluster.jobs",
        "cluster.last_lines",
        "cluster.options",
        "cluster.steps",
        "cluster.verifying",
    },
    "cluster.config": {"shards.roles"},
    "cluster.demo": {
        "shards.commands",
        "shards.config",
        "shards.draw",
        "shards.read",
        "shards.storage",
        "ingest.config",
        "ingest.scenes",
        "ingest.synthetic",
        "ingest.work",
        "trainer.commands",
        "trainer.config",
        "trainer.devices",
        "trainer.evaluate",
        "trainer.matrix",
        "trainer.matrix_config",
        "trainer.chip_options",
        "trainer.pretrain_config",
        "trainer.run_folder",
        "trainer.score",
        "inference.attention",
        "inference.config",
        "inference.distances",
        "inference.embed",
        "inference.predict",
        "inference.report",
        "cluster.config",
        "cluster.jobs",
    },
    "cluster.jobs": {
        "shards.own_parts",
        "shards.roles",
        "shards.version",
        "cluster.cli",
        "cluster.config",
        "cluster.options",
        "cluster.steps",
    },
    "cluster.steps": {
        "shards.format",
        "shards.nested",
        "shards.roles",
        "shards.storage",
        "shards.version",
        "trainer.run_folder",
        "trainer.weights",
        "inference.maps",
        "inference.scenes",
        "cluster.cli",
        "cluster.config",
        "cluster.last_lines",
        "cluster.options",
    },
    "cluster.help": {"shards.nested", "shards.roles"},
    "cluster.verifying": {
        "shards.commands",
        "shards.config",
        "shards.format",
        "shards.storage",
        "trainer.commands",
        "trainer.model",
        "inference.embed",
        "inference.predict",
    },
    "cluster.last_lines": {
        "shards.format",
        "shards.read",
        "shards.storage",
        "shards.write",
        "trainer.config",
        "trainer.matrix_config",
        "trainer.pretrain_config",
        "trainer.score",
        "inference.config",
        "inference.embed",
        "inference.mosaic",
        "cluster.cli",
    },
    "cluster.wrong_flags": {"shards.nested", "shards.roles"},
    "cluster.options": {
        "cluster.help",
        "cluster.wrong_flags",
        "shards.nested",
        "shards.roles",
        "shards.storage",
    },
}
"""Room: the rooms that it imports, besides PURE. An arrow that nobody uses any more goes from here, too."""
STORAGE_LIBRARIES = {"s3fs", "boto3", "botocore", "obstore", "fsspec"}
LIBRARY_ROOMS = {"ray": {"cluster.jobs"}} | {name: {"shards.storage"} for name in STORAGE_LIBRARIES}
"""Library: the rooms that import it. Ray is also imported in files named on_ray.py or ..._on_ray.py."""
WITHOUT_TORCH = {
    *("shards", "ingest", "trainer.score", "trainer.config", "trainer.options", "trainer.run_config"),
    *("inference.distances", "inference.report"),
    *("trainer.matrix", "trainer.matrix_config"),
}
"""Packages and rooms that neither import torch nor anything of ours that does."""
SAYS_NOTHING = {"utils", "util", "common", "helpers", "helper", "base", "core", "misc", "manager"}
MAX_LINES = 400
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
} | {FRONT: ROOT / f"{FRONT}.py"}


VERSIONS = {f"{package}.__version__" for package in PACKAGES}


def room_of(module: str) -> str:
    """shards.read of shards.read.order, shards.errors of itself."""
    return ".".join(module.split(".")[:2])


def imports_of(source: str) -> set[str]:
    """Every module that `source` imports, anywhere in its code."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            own = {name for name in names if name in MODULES or node.module in PACKAGES}
            found |= own - VERSIONS or {str(node.module)}
    return found


IMPORTS = {module: imports_of(path.read_text()) for module, path in MODULES.items()}


def trespasses(module: str, imports: set[str]) -> list[str]:
    """The imports of `module` that the table of rooms, or the places of libraries, do not allow."""
    room = room_of(module)
    wrong = []
    for name in sorted(imports):
        package = name.split(".")[0]
        if package == FRONT:
            wrong.append(f"{module} imports {name}, which is for others")
        elif (
            package in PACKAGES and "." in name and module not in PACKAGES
        ):  # a package's front is in no room
            if room_of(name) not in {room, *PURE, *ROOMS.get(room, ())}:
                wrong.append(f"{module} imports {name}: {room} may not know {room_of(name)}")
        elif package in LIBRARY_ROOMS and room not in LIBRARY_ROOMS[package]:
            if package != "ray" or not module.endswith("on_ray"):
                wrong.append(f"{module} imports {name}, which is for {sorted(LIBRARY_ROOMS[package])}")
        elif package == "torch" and {room, room.split(".")[0]} & WITHOUT_TORCH:
            wrong.append(f"{module} imports torch")
    return wrong


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.replace("_", "-"))
def test_rooms_import_what_the_table_allows(module: str) -> None:
    assert not trespasses(module, IMPORTS[module])


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("shards.format.schema", "from shards.read.dataset import Dataset"),
        ("trainer.decoders.dpt", "from trainer.run_folder import mlflow_log"),
        ("trainer.fit.loop", "def run():\n    import ray.train"),
        ("ingest.work.task", "import torch.nn"),
        ("inference.maps.map_file", "import fsspec"),
        ("inference.predict.block", "from trainer.fit.loop import Fit"),
        ("shards.errors", "from cluster import cli"),
        ("trainer.decoders.dpt", "from shards import DatasetWriter"),
        ("cluster.demo.run", "import treeline"),
        ("treeline", "from cluster.commands import evaluate"),
        ("treeline", "def load():\n    import ray"),
    ],
)
def test_a_planted_import_is_found(module: str, planted: str) -> None:
    assert module in MODULES
    assert trespasses(module, imports_of(planted))


def test_nothing_that_is_without_torch_reaches_it() -> None:
    with_torch = {
        module for module, imports in IMPORTS.items() if "torch" in {n.split(".")[0] for n in imports}
    }
    assert "trainer.fit.loop" in with_torch
    while more := {module for module, imports in IMPORTS.items() if imports & with_torch} - with_torch:
        with_torch |= more
    assert not {m for m in with_torch if {room_of(m), m.split(".")[0]} & WITHOUT_TORCH}


def test_every_room_is_in_the_table_and_every_arrow_is_used() -> None:
    used: dict[str, set[str]] = {}
    for module, imports in IMPORTS.items():
        if module not in PACKAGES:
            mine = used.setdefault(room_of(module), set())
            mine |= {room_of(n) for n in imports if n.split(".")[0] in PACKAGES and "." in n}
    rooms = {room for room in used if room not in PURE}
    assert rooms == ROOMS.keys()
    for room in rooms:
        assert ROOMS[room] == used[room] - PURE - {room}, f"{room}: the table says otherwise"


@pytest.mark.parametrize("graph", ["rooms", "modules"])
def test_nothing_goes_in_circles(graph: str) -> None:
    arrows = ROOMS if graph == "rooms" else {name: found & MODULES.keys() for name, found in IMPORTS.items()}
    # A package's __init__ offers its readers' names, and imports them when they are asked for.
    left = {name: needs - set(PACKAGES) - {name} for name, needs in arrows.items() if name not in PACKAGES}
    while leaves := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in leaves}
    assert not left, f"these import each other: {sorted(left)}"


def test_packages_go_one_way() -> None:
    order = {"shards": 0, "ingest": 1, "trainer": 1, "inference": 2, "cluster": 3, FRONT: 3}
    for room, needs in ROOMS.items():
        for needed in needs:
            own, other = room.split(".")[0], needed.split(".")[0]
            assert own == other or order[other] < order[own], f"{room} knows {needed}"


def test_of_the_trainer_inference_knows_regressors_scores_and_devices() -> None:
    allowed = {"trainer.model", "trainer.score", "trainer.devices"}
    # A report is of a training: what that left, and the options that it had.
    of_a_run = {"trainer.run_folder", "trainer.config", "trainer.pretrain_config", "trainer.weights"}
    for room, needs in ROOMS.items():
        if room.startswith("inference."):
            known = {needed for needed in needs if needed.startswith("trainer.")}
            assert known <= allowed | (of_a_run if room == "inference.report" else set()), room


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.replace("_", "-"))
def test_modules_fit_the_head_and_their_names_say_something(module: str) -> None:
    assert module.split(".")[-1] not in SAYS_NOTHING
    lines = MODULES[module].read_text().splitlines()
    assert len(lines) <= MAX_LINES
    assert lines[0].startswith('"""'), "a module begins with what it is for"


def test_a_room_names_its_files() -> None:
    for module, path in MODULES.items():
        if path.name == "__init__.py" and "." in module:
            said = ast.get_docstring(ast.parse(path.read_text())) or ""
            listed = {line.split()[0] for line in said.splitlines()[2:] if line.strip()}
            assert listed == {p.stem for p in path.parent.glob("*.py")} - {"__init__"}, module


def test_nothing_is_unpickled() -> None:
    for module, path in MODULES.items():
        assert not {"pickle", "dill", "joblib"} & IMPORTS[module], module
        assert "allow_pickle=True" not in path.read_text(), module
        assert "weights_only=False" not in path.read_text(), module


def test_no_test_imports_a_conftest() -> None:
    """Two folders have one, and which is meant depends on the folders that pytest is given."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        found = {name.split(".")[0] for name in imports_of(path.read_text())}
        assert "conftest" not in found, f"{path}: what it imports belongs in tests/support"
