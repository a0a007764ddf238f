"""Host memory of a process that loads weights, above what its imports take, as a multiple of their file.

python benchmarks/load_memory.py                                # 2 GB of weights, about 5 minutes
python benchmarks/load_memory.py --also /path/to/another/tree   # the same with the code of another commit

Each case is a process of its own: it loads the weights as the command does, and computes two images, so that
every weight has been read. Linux tells two numbers: the peak of resident memory (VmHWM), in which pages of a
mapped file count although the system may drop them at any time, and the peak of what is the process's own
(RssAnon, looked at every 2 ms).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SHAPE = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 25,
    "num_register_tokens": 4,
    "num_channels": 3,
}
"""Shape of the backbone: 492 million weights, 1.97 GB in float32."""
RGB = ("red", "green", "blue")
TITLES = {
    "float32": "predict, float32",
    "bf16": "predict, bf16",
    "run": "train --backbone RUN",
    "pth": "train --backbone FILE.pth",
    "driver": "predict, driver",
    "embed": "embed, driver",
}


class Peaks:
    """The most memory that a process has while this is open, above what it had before."""

    def __enter__(self) -> "Peaks":
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        self._before, self.own = _status(), 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.002):
            self.own = max(self.own, _status()["RssAnon"] - self._before["RssAnon"])

    def __exit__(self, *error: Any) -> None:
        self._over.set()
        self._thread.join()
        self.resident = _status()["VmHWM"] - self._before["VmRSS"]


def _status() -> dict[str, int]:
    """Return this process's memory, in bytes."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {
        line[0][:-1]: int(line[1]) * 1024 for line in lines if line[0] in ("VmHWM:", "VmRSS:", "RssAnon:")
    }


def write_weights(folder: Path, layers: int) -> None:
    """Write the same random backbone as a checkpoint, a pre-training run and a file of Meta's names."""
    import torch

    from ingest.config import SyntheticConfig
    from ingest.synthetic.synthetic_source import SyntheticSource
    from ingest.work.run import ingest
    from shards.read.dataset import open_dataset
    from shards.storage.objects import join, publish
    from trainer.decoders.features import DecoderConfig
    from trainer.model.backbone import TINY, build_backbone
    from trainer.model.height_checkpoint import Checkpoint
    from trainer.model.pretrained import Pretrained
    from trainer.model.regressor import Regressor
    from trainer.score.baselines import Baselines

    config = SyntheticConfig(out=str(folder / "chips"), chips=8, shares=(1.0,))
    ingest(SyntheticSource(config), config)
    dataset = open_dataset(config.out)
    backbone = build_backbone({**TINY, **SHAPE, "num_hidden_layers": layers})
    about: dict[str, Any] = {"fingerprint": dataset.manifest.fingerprint}
    schema, statistics = dataset.schema, dataset.statistics
    pretrained = Pretrained("mae", schema, RGB, statistics, {"student": backbone}, about, {"epoch": 0})
    for name, data in pretrained.files().items():
        publish(join(str(folder / "run"), name), data)
    regressor = Regressor(schema, RGB, statistics, backbone, DecoderConfig(kind="linear"))
    baselines = Baselines(1.0, (0.0,) * (len(RGB) + 1), chips=8, shares=(1.0,))
    Checkpoint(regressor, about, {"epoch": 0}, baselines).save(str(folder / "checkpoint"))
    given = backbone.state_dict()
    theirs = {
        "cls_token": given["embeddings.cls_token"],
        "storage_tokens": given["embeddings.register_tokens"],
        "mask_token": given["embeddings.mask_token"][0],
        "rope_embed.periods": 100 ** (torch.arange(16) / 16),
    }
    for part in ("weight", "bias"):
        theirs[f"patch_embed.proj.{part}"] = given[f"embeddings.patch_embeddings.{part}"]
        theirs[f"norm.{part}"] = given[f"norm.{part}"]
    for number in range(layers):
        ours, block = f"model.layer.{number}", f"blocks.{number}"
        for part in ("weight", "bias"):
            for name, name_there in (
                ("norm1", "norm1"),
                ("norm2", "norm2"),
                ("attention.o_proj", "attn.proj"),
                ("mlp.up_proj", "mlp.fc1"),
                ("mlp.down_proj", "mlp.fc2"),
            ):
                theirs[f"{block}.{name_there}.{part}"] = given[f"{ours}.{name}.{part}"]
            names = (f"{ours}.attention.{letter}_proj.{part}" for letter in "qkv")
            rows = [given.get(name, torch.zeros(SHAPE["hidden_size"])) for name in names]  # keys have no bias
            theirs[f"{block}.attn.qkv.{part}"] = torch.cat(rows)
        for place in "12":
            theirs[f"{block}.ls{place}.gamma"] = given[f"{ours}.layer_scale{place}.lambda1"]
    torch.save(theirs, folder / "backbone.pth")


def case(name: str, folder: Path) -> Callable[[], object]:
    """Return what a case does once everything is imported."""
    import torch

    from inference.predict.map_header import read_map_header
    from trainer.devices.precision import autocast
    from trainer.model.backbone import TINY, build_backbone, new_backbone
    from trainer.model.frozen_backbone import placed_on
    from trainer.model.height_checkpoint import load_checkpoint
    from trainer.model.load_encoder import load_encoder
    from trainer.model.pretrained import load_pretrained

    torch.set_num_threads(1)
    device = torch.device("cpu")
    image_BCHW = torch.zeros(2, 3, 64, 64)
    with torch.no_grad():  # what the first pass imports
        build_backbone({**TINY, "num_channels": 3})(image_BCHW)

    def predict() -> object:
        precision: Any = name
        model = placed_on(load_checkpoint(str(folder / "checkpoint")).regressor, precision, device)
        with torch.no_grad(), autocast(precision, device):
            return model.backbone(image_BCHW)

    def train() -> object:
        if name == "pth":
            backbone = new_backbone(str(folder / "backbone.pth"), RGB, "red")
        else:
            backbone = load_pretrained(str(folder / "run")).backbones["student"]
        with torch.no_grad():
            return backbone.eval()(image_BCHW)

    def drive() -> object:
        url = str(folder / "checkpoint")
        if name == "driver":
            return read_map_header(url)
        asks = "with_weights" in load_encoder.__code__.co_varnames  # earlier, the driver loaded them
        return load_encoder(url, **({"with_weights": False} if asks else {}))

    return predict if name in ("float32", "bf16") else train if name in ("run", "pth") else drive


def main() -> None:
    """Measure each case with each tree's code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--also", nargs="*", default=[], help="other trees of the project to measure")
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"])
    parser.add_argument("--cases", nargs="+", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, folder, root = options.one
        sys.path.insert(0, root)
        run = case(name, Path(folder))
        with Peaks() as peaks:
            run()
        print(json.dumps([peaks.resident, peaks.own]))
        return
    with tempfile.TemporaryDirectory() as scratch:
        sys.path.insert(0, str(ROOT))
        folder = Path(scratch)
        write = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'benchmarks')!r}]; "
        write += "from pathlib import Path; from load_memory import write_weights; "
        write += f"write_weights(Path({scratch!r}), {options.layers})"
        subprocess.run([sys.executable, "-c", write], check=True, stdout=subprocess.DEVNULL)
        size = (folder / "checkpoint" / "model.safetensors").stat().st_size
        print(f"{size / 1e9:.2f} GB of weights; peaks above the imports, as multiples of that\n")
        print(f"{'':28}{'resident':>10}{'own':>8}   code")
        for name in options.cases:
            for root in (*options.also, str(ROOT)):
                command = [sys.executable, __file__, "--one", name, scratch, root]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                resident, own = json.loads(done.stdout.splitlines()[-1])
                print(f"{TITLES[name]:28}{resident / size:10.2f}{own / size:8.2f}   {root}", flush=True)


if __name__ == "__main__":
    main()
