"""Check everything that only a GPU can show, then measure rates; an estimated eight minutes on one GPU.

    python benchmarks/on_gpu.py --out RESULTS          # all checks, in order of worth; again: those not done
    python benchmarks/on_gpu.py --out RESULTS --only same_maps training_rates
    python benchmarks/on_gpu.py --out RESULTS --device cpu --tiny      # try the script itself

Nothing is downloaded: data are made, weights are random. A check that needs a package which this machine
lacks is left out, and the table says so. Each runs in a process that a failed one does not take along:
RESULTS/checks/NAME.json, and at the end RESULTS/on_gpu.json and the table RESULTS/on_gpu.md. The exit code is
1 if a check failed or found what should not be, and 2 if there is no such device.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu.bench import Bench, Check, Left, read_limits  # noqa: E402
from benchmarks.gpu.devices import ray_workers  # noqa: E402
from benchmarks.gpu.inputs import feed_under_stress, same_inputs  # noqa: E402
from benchmarks.gpu.limits import limits  # noqa: E402
from benchmarks.gpu.losses import losses_as_on_cpu, run_changes_device, same_bits_twice  # noqa: E402
from benchmarks.gpu.maps import flags_are_set, same_maps  # noqa: E402
from benchmarks.gpu.memory import (  # noqa: E402
    block_by_block,
    seven_billion,
    sharded_on_one_rank,
    synchronised_norm,
    too_little_memory,
    windows_that_do_not_fit,
)
from benchmarks.gpu.prediction import batch_search, block_speed  # noqa: E402
from benchmarks.gpu.rates import pretraining_rates, training_rates  # noqa: E402
from benchmarks.gpu.scoring import scoring  # noqa: E402
from benchmarks.gpu.steps import hidden_waits, layouts, step_profile  # noqa: E402
from benchmarks.gpu.tokens import stored_tokens  # noqa: E402

CHECKS = (
    Check("limits", 30, limits),
    Check("same_inputs", 30, same_inputs),
    Check("feed_under_stress", 60, feed_under_stress),
    Check("losses_as_on_cpu", 90, losses_as_on_cpu),
    Check("run_changes_device", 30, run_changes_device),
    Check("same_bits_twice", 40, same_bits_twice),
    Check("step_profile", 90, step_profile),
    Check("hidden_waits", 20, hidden_waits),
    Check("layouts", 20, layouts),
    Check("flags_are_set", 10, flags_are_set),
    Check("same_maps", 60, same_maps),
    Check("scoring", 40, scoring),
    Check("block_speed", 40, block_speed),
    Check("batch_search", 40, batch_search),
    Check("sharded_on_one_rank", 30, sharded_on_one_rank),
    Check("synchronised_norm", 20, synchronised_norm),
    Check("too_little_memory", 30, too_little_memory),
    Check("windows_that_do_not_fit", 30, windows_that_do_not_fit),
    Check("block_by_block", 20, block_by_block),
    Check("stored_tokens", 30, stored_tokens),
    Check("ray_workers", 30, ray_workers),
    Check("training_rates", 90, training_rates),
    Check("pretraining_rates", 60, pretraining_rates),
    Check("seven_billion", 40, seven_billion),
)
"""Checks in order of worth, but for the limits, which the others are compared with."""
DONE = ("done", "left out")
"""States of a check that is not made again."""


def main() -> int:
    """Make the checks, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", default=Path("on-gpu"), type=Path, help="folder of the results; default: %(default)s"
    )
    parser.add_argument(
        "--device", default="cuda", help="cuda (or gpu), cuda:1, ..., or cpu; default: %(default)s"
    )
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the script on a CPU")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="no check begins after that many; default: %(default)g"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[check.name for check in CHECKS],
        default=[],
        metavar="CHECK",
        help="checks to make, by name (see --list); default: all",
    )
    parser.add_argument("--list", action="store_true", help="print the names of the checks, and end")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.list:
        print(json.dumps([check.name for check in CHECKS]))
        return 0
    if options.device == "gpu":  # as Treeline's own --device
        options.device = "cuda"
    if why := _why_no_device(options.device):
        print(f"on_gpu.py: --device {options.device}: {why}", file=sys.stderr)
        return 2
    if options.worker:
        for name in options.only:
            if not _make(_named(name), options):
                return 1
        return 0
    until = time.monotonic() + 60 * options.minutes
    (options.out / "checks").mkdir(parents=True, exist_ok=True)
    wanted = options.only or [check.name for check in CHECKS]
    missing = [name for name in wanted if _read(options.out, name).get("state") not in DONE]
    while missing and time.monotonic() < until:
        missing = _run(missing, options, until)
    for name in missing:
        if not _read(options.out, name):
            _write(options.out, name, {"state": "not begun", "reason": "time was up"})
    results = {name: _read(options.out, name) for name in wanted}
    about = {
        "device": _device(options.device),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    (options.out / "on_gpu.json").write_text(json.dumps({**about, "checks": results}, indent=1))
    table = _table(results, about)
    (options.out / "on_gpu.md").write_text(table)
    print(table)
    return int(any(_is_bad(result) for result in results.values()))


def _why_no_device(name: str) -> str:
    """Explain in one line why the checks cannot be made on this device; "" if they can."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cuda", "cpu"):
        return "is no device of the checks; give cuda, cuda:1, ..., or cpu"
    if device.type == "cpu":
        return ""
    if not torch.cuda.is_available():
        return (
            f"torch {torch.__version__} finds no GPU (docs/gpu.md); to try the script itself give --device "
            "cpu --tiny"
        )
    count = torch.cuda.device_count()
    return f"torch finds only {count}, from cuda:0 on" if (device.index or 0) >= count else ""


def _run(names: list[str], options: argparse.Namespace, until: float) -> list[str]:
    """Make checks in a process of their own until one fails or takes too long; return the missing ones."""
    command = [sys.executable, __file__, "--worker", "--out", str(options.out), "--device", options.device]
    command += ["--tiny"] * options.tiny + ["--only", *names]
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            time.sleep(0.2)
            running = _running(names, options.out)
            if running is None:
                continue
            name, since = running
            limit = _named(name).seconds * (10 if options.device == "cpu" else 1)
            if time.time() - since > limit or time.monotonic() > until + limit:
                process.kill()
                process.wait()
                _write(options.out, name, {**_read(options.out, name), "state": "too long"})
    running = _running(names, options.out)
    if running is not None:  # the process died in it
        name = running[0]
        reason = f"its process ended with {process.returncode}"
        _write(options.out, name, {**_read(options.out, name), "state": "failed", "reason": reason})
    states = {name: _read(options.out, name).get("state") for name in names}
    tried = [name for name in names if states[name]]
    if not tried:  # a process that makes no check never will
        _write(options.out, names[0], {"state": "failed", "reason": f"ended with {process.returncode}"})
        tried = names[:1]
    return [name for name in names if name not in tried]


def _running(names: list[str], out: Path) -> tuple[str, float] | None:
    """Return the check that is being made, and when it began; None: none."""
    for name in names:
        found = _read(out, name)
        if found.get("state") == "running":
            return name, found["began"]
    return None


def _make(check: Check, options: argparse.Namespace) -> bool:
    """Make a check here, and write what it found; return whether this process is fit for another."""
    folder = options.out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(torch.device(options.device), folder, options.tiny, read_limits(folder))
    began = time.time()
    result: dict[str, Any] = {"state": "running", "began": began, "findings": []}
    _write(options.out, check.name, result)
    print(f"{check.name} ...", file=sys.stderr, flush=True)
    fit_for_more = True
    try:
        for finding in check.run(bench):
            result["findings"].append(vars(finding))
            _write(options.out, check.name, result)
        result["state"] = "done"
    except (ModuleNotFoundError, Left) as error:
        result |= {"state": "left out", "reason": str(error)}
    except Exception as error:  # noqa: BLE001  whatever it is, the table names it
        traceback.print_exc()
        fit_for_more = False  # after some failures CUDA computes nothing more in a process
        result |= {"state": "failed", "reason": f"{type(error).__name__}: {error}"[:500]}
    result["seconds"] = time.time() - began
    _write(options.out, check.name, result)
    return fit_for_more


def _read(out: Path, name: str) -> dict[str, Any]:
    path = out / "checks" / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _write(out: Path, name: str, result: dict[str, Any]) -> None:
    path = out / "checks" / f"{name}.json"
    new = path.with_suffix(".new")
    new.write_text(json.dumps(result, indent=1))
    new.replace(path)


def _named(name: str) -> Check:
    return next(check for check in CHECKS if check.name == name)


def _is_bad(result: dict[str, Any]) -> bool:
    return result["state"] not in DONE or any(one["passed"] is False for one in result.get("findings", []))


def _device(name: str) -> str:
    return torch.cuda.get_device_name(name) if name.startswith("cuda") else platform.machine()


def _table(results: dict[str, dict[str, Any]], about: dict[str, str]) -> str:
    """Return the results as a table in Markdown."""
    words = {True: "pass", False: "**fail**", None: ""}
    lines = [f"{about['device']}, torch {about['torch']}, Python {about['python']}", ""]
    lines += ["| check | finding | figure | goal | |", "|---|---|---|---|---|"]
    for name, result in results.items():
        for found in result.get("findings", []):
            figure = f"{found['figure']:,.4g} {found['unit']}".strip()
            lines.append(
                f"| {name} | {found['what']} | {figure} | {found['goal']} | {words[found['passed']]} |"
            )
        if result["state"] != "done":
            is_left = result["state"] in (*DONE, "not begun")
            reason = result.get("reason", "").replace("|", "/").replace("\n", " ")
            lines.append(
                f"| {name} | {result['state']}: {reason} | | | {words[None if is_left else False]} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
