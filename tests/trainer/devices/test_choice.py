"""The device is decided once, from --device and the GPUs there are; every shortage is told with its cure.

The GPUs are faked: nothing is computed on them here.
"""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import treeline
from regressors import scene_to_map

from cluster import cli
from cluster.jobs.connection import may_be_there
from shards.errors import InputError
from trainer.devices.cards import CODE_126, CODE_130, INDEX_126, chosen_here, has_kernels, usable
from trainer.devices.choice import Choice, choose
from trainer.devices.out_of_memory import is_out_of_memory, wanted_memory

ROOT = Path(__file__).parents[3]
V100, T4, A100, H200, B200 = (7, 0), (7, 5), (8, 0), (9, 0), (10, 0)


class FakeGpus:
    """What torch.cuda says of a machine with these cards."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.are(0)

    def are(self, count: int, capability: tuple[int, int] = H200, built_for: list[str] = CODE_130) -> None:
        says: dict[str, Any] = {
            "is_available": lambda: count > 0,
            "device_count": lambda: count,
            "get_device_name": lambda number: f"Fake GPU {number}",
            "get_device_capability": lambda number: capability,
            "get_arch_list": lambda: built_for,
        }
        for name, function in says.items():
            self._patch.setattr(torch.cuda, name, function)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    return FakeGpus(monkeypatch)


# --- a cluster ---


@pytest.mark.parametrize("machines", [(4,), (2, 2), (1, 1, 1, 1)])
def test_workers_get_gpus_where_each_has_room_for_its_share(machines: tuple[int, ...]) -> None:
    """With 4 GPUs there is room for floor(1 / share) workers on each, never for a worker on two halves."""
    for share, room in ((1.0, 4), (0.6, 4), (0.5, 8), (0.34, 8), (1 / 3, 12), (0.3333, 12), (0.1, 40)):
        assert choose("auto", room, machines, share) == Choice("cuda", share)
        with pytest.raises(
            InputError, match=f"room for {room} workers; give --workers {room}, or --device cpu"
        ):
            choose("auto", room + 1, machines, share)


def test_fewer_gpus_than_workers_is_refused_whoever_asks() -> None:
    for wanted in ("auto", "gpu"):
        with pytest.raises(InputError) as refused:
            choose(wanted, 4, (2,))  # type: ignore[arg-type]
        assert str(refused.value) == (
            "--workers 4: the cluster has 2 GPUs, room for 2 workers; give --workers 2, or --device cpu"
        )


def test_shares_that_do_not_pack_are_refused() -> None:
    with pytest.raises(InputError, match=r"^--workers 3 --gpus-per-worker 0\.6: .*give --workers 2"):
        choose("auto", 3, (2,), 0.6)


@pytest.mark.parametrize("machines", [(), (8,)])
def test_more_than_one_gpu_for_a_worker_is_refused(machines: tuple[int, ...]) -> None:
    with pytest.raises(
        InputError, match=r"--gpus-per-worker 2: a worker computes on one GPU; give 1 or less"
    ):
        choose("auto", 1, machines, 2.0)


def test_no_share_of_a_gpu_means_cpus_and_is_said() -> None:
    choice = choose("auto", 9, (2,), 0.0)
    assert (choice.device, choice.share) == ("cpu", 0.0)
    assert choice.remark == "computes on CPUs (--gpus-per-worker 0), although the cluster has 2 GPUs"
    with pytest.raises(InputError, match=r"--device gpu: .* leaves workers no GPU"):
        choose("gpu", 1, (2,), 0.0)


def test_cpus_on_request_are_said_only_where_there_are_gpus() -> None:
    assert choose("cpu", 9, (1,)).remark == "computes on CPUs (--device cpu), although the cluster has 1 GPU"
    assert choose("cpu", 9, ()) == choose("auto", 9, ()) == Choice("cpu", 0.0)


def test_gpus_that_are_nowhere_are_refused() -> None:
    with pytest.raises(InputError, match="--device gpu: no machine of the cluster has a GPU"):
        choose("gpu", 1, ())


# --- this machine ---


def test_this_machine_computes_on_its_gpu_unless_told_otherwise(gpus: FakeGpus, capsys: Any) -> None:
    gpus.are(2)
    assert (chosen_here("auto"), chosen_here("gpu")) == ("cuda", "cuda")
    assert not capsys.readouterr().err
    assert chosen_here("cpu") == "cpu"
    said = capsys.readouterr().err
    assert said == "treeline: computes on a CPU (--device cpu), although this machine has 2 GPUs\n"


def test_without_a_gpu_it_computes_on_its_cpu_and_says_nothing(gpus: FakeGpus, capsys: Any) -> None:
    assert (chosen_here("auto"), chosen_here("cpu")) == ("cpu", "cpu")
    assert not capsys.readouterr().err
    with pytest.raises(InputError, match=r"^--device gpu: .*, (or|else) give --device cpu$"):
        chosen_here("gpu")


def test_a_torch_without_cuda_is_refused_with_the_command_that_replaces_it(
    gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = {
        None: "is built for CPUs alone; if this machine has an NVIDIA card: pip install --force-reinstall "
        "torch==2.13.0 (for older cards see docs/gpu.md), else give --device cpu",
        "13.0": "--device gpu: torch finds no GPU; look at nvidia-smi, or give --device cpu",
    }
    monkeypatch.setattr(torch.version, "hip", None)
    for cuda, said in says.items():
        monkeypatch.setattr(torch.version, "cuda", cuda)
        with pytest.raises(InputError) as refused:
            chosen_here("gpu")
        assert str(refused.value).endswith(said)


@pytest.mark.parametrize("command", ["train", "pretrain", "sweep", "predict", "embed"])
def test_workers_of_this_machine_alone_are_refused_with_the_same_cause_before_ray_starts(
    command: str, gpus: FakeGpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "ray"))
    out = tmp_path / "out"
    out.mkdir()
    scene = scene_to_map(tmp_path)
    rest = {"predict": [scene, "--checkpoint", "../c"], "embed": ["--scenes", scene, "--checkpoint", "../c"]}
    given = [command, *rest.get(command, ["--data", "d"]), "--out", "o", "--device", "gpu"]
    alone, workers = (treeline(*given, *more, folder=out) for more in ([], ["--workers", "2"]))
    assert (alone.returncode, workers.returncode) == (2, 2)
    assert "--device gpu: " in alone.stderr
    # With workers the dataset is looked at before the cluster, whose machines may have GPUs.
    assert workers.stderr == alone.stderr or "no dataset here" in workers.stderr
    lines = [line for line in workers.stderr.splitlines() if "bands have no names" not in line]
    assert len(lines) == 1
    assert not (tmp_path / "ray").exists()  # Ray's own notes


def test_a_cluster_that_is_there_is_asked_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its other machines may have GPUs."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert not may_be_there()
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text("10.0.0.1:6379")
    assert may_be_there()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "other"))
    assert not may_be_there()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert may_be_there()


@pytest.mark.parametrize(
    ("capability", "built_for", "cure"),
    [
        (V100, CODE_130, f"pip install torch==2.13.0+cu126 --index-url {INDEX_126}, or"),
        ((6, 1), CODE_130, f"pip install torch==2.13.0+cu126 --index-url {INDEX_126}, or"),
        (B200, CODE_126, "pip install --force-reinstall torch==2.13.0, or"),
        ((3, 5), CODE_126, "no build of torch 2.13.0 has them: use another card, or"),
    ],
)
def test_a_card_without_kernels_is_refused_with_the_build_that_has_them(
    gpus: FakeGpus, capability: tuple[int, int], built_for: list[str], cure: str
) -> None:
    """torch finds the card all the same: the first kernel would fail."""
    gpus.are(1, capability, built_for)
    assert torch.cuda.is_available()
    for refuses in (lambda: chosen_here("auto"), lambda: chosen_here("gpu"), lambda: usable("cuda:0")):
        with pytest.raises(InputError) as refused:
            refuses()
        said = str(refused.value)
        assert "Fake GPU 0 (compute capability" in said
        assert cure in said
        assert "\n" not in said
    assert chosen_here("cpu") == "cpu"


def test_a_worker_whose_torch_sees_no_gpu_says_so(gpus: FakeGpus) -> None:
    assert usable("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="but Ray counts a GPU there"):
        usable("cuda")


@pytest.mark.parametrize(
    ("built_for", "runs", "does_not"),
    [
        (CODE_130, [T4, A100, (8, 6), (8, 9), H200, B200, (10, 3), (12, 0), (12, 1)], [V100, (6, 1), (8, 7)]),
        (CODE_126, [(5, 2), (6, 1), V100, T4, A100, (8, 9), H200], [(3, 7), (7, 2), B200, (12, 0)]),
        (["sm_80", "compute_80"], [A100, (8, 6), H200, B200], [V100, T4]),
        (["sm_90a", "sm_86"], [H200, (8, 6), (8, 9)], [A100, (9, 1)]),
        (["sm_100f"], [B200, (10, 3)], [H200, (12, 0)]),
    ],
    ids=["13.0", "12.6", "with PTX", "one card", "a family"],
)
def test_code_runs_on_its_own_and_later_minor_versions(
    built_for: list[str], runs: list[tuple[int, int]], does_not: list[tuple[int, int]]
) -> None:
    assert all(has_kernels(built_for, one) for one in runs)
    assert not any(has_kernels(built_for, one) for one in does_not)


def test_cards_of_other_makers_are_left_to_torch(gpus: FakeGpus) -> None:
    gpus.are(1, (9, 4), ["gfx90a", "gfx942"])
    assert chosen_here("auto") == "cuda"


def test_builds_hold_what_torch_says_of_its_releases() -> None:
    if torch.__version__.partition("+")[0] != "2.13.0":
        pytest.skip("another torch")
    for cuda, code in (("12.6", CODE_126), ("13.0", CODE_130)):
        released = torch.cuda.PYTORCH_RELEASES_CODE_CC[cuda]["x86_64"]
        assert {int(one[3:]) for one in code if one.startswith("sm_")} == released


# --- commands ---


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--data", "d", "--out", "o"],
        ["pretrain", "--data", "d", "--out", "o"],
        ["sweep", "--data", "d", "--out", "o"],
        ["matrix", "--data", "d", "--out", "o"],
        ["evaluate", "--checkpoint", "c", "--data", "d"],
        ["predict", "s.tif", "--checkpoint", "c", "--out", "o"],
        ["embed", "d", "--checkpoint", "c", "--out", "o"],
        ["attention", "s.tif", "--checkpoint", "c", "--out", "o"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_that_computes_with_torch_takes_the_option(command: list[str]) -> None:
    name, *rest = command
    assert cli.parse(name, rest).device == "auto"
    assert cli.parse(name, [*rest, "--device", "cpu"]).device == "cpu"


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--data", "d", "--out", "o"],
        ["pretrain", "--data", "d", "--out", "o"],
        ["sweep", "--data", "d", "--out", "o"],
        ["evaluate", "--checkpoint", "c", "--data", "d"],
        ["predict", "SCENE", "--checkpoint", "c", "--out", "o"],
        ["embed", "--scenes", "SCENE", "--checkpoint", "c", "--out", "o"],
        ["attention", "s.tif", "--checkpoint", "c", "--out", "o"],
    ],
    ids=lambda command: command[0],
)
def test_a_gpu_that_is_not_there_ends_a_command_at_once(
    command: list[str], gpus: FakeGpus, tmp_path: Path
) -> None:
    scene = scene_to_map(tmp_path) if "SCENE" in command else ""
    before = set(tmp_path.rglob("*"))
    arguments = [scene if word == "SCENE" else word for word in command]
    done = treeline(*arguments, "--device", "gpu", folder=tmp_path)
    assert done.returncode == 2
    assert "--device gpu: " in done.stderr.splitlines()[-1]
    assert set(tmp_path.rglob("*")) == before


def test_nobody_but_the_driver_looks_for_a_gpu() -> None:
    """Workers are told their device: a call that looks for one stands in one file."""
    looking = set()
    for package in ("shards", "ingest", "trainer", "inference", "cluster"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and node.attr in ("is_available", "device_count"):
                    looking.add(path.relative_to(ROOT).as_posix())
    assert looking == {"trainer/devices/cards.py"}


def test_the_index_of_builds_is_named_where_it_is_needed_alone() -> None:
    """A host outside, in the line that needs it and on the page on GPUs."""
    host = INDEX_126.split("/")[2]
    folders = ("shards", "ingest", "trainer", "inference", "cluster", "benchmarks", "docs", ".ci")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    text = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in files if path.suffix != ".pyc"}
    naming = {name for name, content in text.items() if host.encode() in content}
    assert naming - {"Dockerfile"} == {"trainer/devices/cards.py", "docs/gpu.md"}


# --- memory ---


def test_want_of_memory_is_known_by_every_name() -> None:
    real = None
    try:
        torch.empty(2**50)
    except RuntimeError as error:
        real = error
    assert real is not None
    assert is_out_of_memory(real)
    assert wanted_memory(real) == f"{2**52} bytes"
    texts = (
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "NCCL Error 1: unhandled cuda error; Cuda failure 2 'out of memory'",
    )
    assert all(is_out_of_memory(RuntimeError(text)) for text in texts)
    assert is_out_of_memory(torch.AcceleratorError(texts[0]))
    assert is_out_of_memory(
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
    )
    assert wanted_memory(torch.OutOfMemoryError("Tried to allocate 2.00 GiB. GPU 0")) == "2.00 GiB"
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(ValueError("out of memory"))
