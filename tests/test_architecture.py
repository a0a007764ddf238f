"""The house stands as drawn: packages are layers, no circles, Ray only in its places, telling names."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("shards", "ingest", "trainer", "inference", "cluster")
MAY_IMPORT = {
    "shards": set(),
    "ingest": {"shards"},
    "trainer": {"shards"},
    # Of the trainer: what a regressor is and how heights are scored, not how a regressor came about.
    "inference": {
        "shards",
        "trainer.model.regressor",
        "trainer.model.checkpoint",
        "trainer.model.symmetries",
        "trainer.score.evaluation",
        "trainer.score.metrics",
        "inference.score.measured_heights",
    },
    "cluster": {"shards", "ingest", "trainer", "inference"},
}
RAY_MODULES = {
    "ingest.work.on_ray",
    "trainer.commands.train_on_ray",
    "trainer.commands.sweep_on_ray",
    "inference.predict.on_ray",
    "cluster.jobs.connection",
    "cluster.jobs.submit",
}
CLOUD = {"s3fs", "boto3", "botocore", "obstore", "fsspec"}
CLOUD_MODULES = {"shards.storage.objects", "shards.storage.s3", "shards.storage.ranges"}
SAYS_NOTHING = {"utils", "util", "common", "helpers", "helper", "base", "core", "misc", "manager"}
MAX_LINES = 400
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in PACKAGES
    for path in sorted((ROOT / package).glob("*.py"))
}


def imports_of(module: str) -> set[str]:
    """Every module that `module` imports, anywhere in its code."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in names if name in MODULES} or {str(node.module)}
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module: str) -> None:
    package = module.split(".")[0]
    allowed = MAY_IMPORT[package] | {package}
    for name in imports_of(module):
        if name.split(".")[0] in PACKAGES:
            assert name in allowed or name.split(".")[0] in allowed, f"{module} imports {name}"


def test_no_circle_of_modules() -> None:
    graph = {module: imports_of(module) & MODULES.keys() for module in MODULES}
    while leaves := {module for module, needs in graph.items() if not needs & graph.keys()}:
        graph = {module: needs for module, needs in graph.items() if module not in leaves}
    assert not graph, f"these modules import each other: {sorted(graph)}"


@pytest.mark.parametrize(
    ("libraries", "places"), [({"ray"}, RAY_MODULES), (CLOUD, CLOUD_MODULES)], ids=["ray", "cloud"]
)
def test_ray_and_the_cloud_stay_in_their_places(libraries: set[str], places: set[str]) -> None:
    users = {m for m in MODULES if {name.split(".")[0] for name in imports_of(m)} & libraries}
    assert users == places


@pytest.mark.parametrize("module", MODULES)
def test_modules_fit_the_head_and_their_names_say_something(module: str) -> None:
    assert module.split(".")[-1] not in SAYS_NOTHING
    lines = MODULES[module].read_text().splitlines()
    assert len(lines) <= MAX_LINES
    assert lines[0].startswith('"""'), "a module begins with what it is for"


def test_nothing_is_unpickled() -> None:
    for module, path in MODULES.items():
        assert not {"pickle", "dill", "joblib"} & imports_of(module), module
        assert "allow_pickle=True" not in path.read_text(), module
        assert "weights_only=False" not in path.read_text(), module
