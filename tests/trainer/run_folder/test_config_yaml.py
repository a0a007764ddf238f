"""config.yaml is one flat list of options, whatever parts they stand in: the same keys in the same order."""

from functools import reduce
from pathlib import Path

import yaml

from cluster.options import parse
from shards.nested import flat
from trainer.config import RECIPES, TrainConfig
from trainer.run_folder.run_writer import config_yaml

WRITTEN = """\
data: scenes
out: run-tiny
recipe: tiny
faithful: false
resume: 'no'
workers: 0
seed: 0
deterministic: true
task: height
label: ''
head: mean
bands:
- nir
- red
- green
backbone: tiny
backbone_weights: null
new_band_from: red
tune: all
tune_blocks: 4
lora_rank: 8
token_store: ''
token_dtype: bfloat16
token_variants: 1
decoder: residual
decoder_widths: []
norm: group
dropout: 0.0
upsample: 1
loss:
- squared
flips: true
brightness: 0.0
band_dropout: 0.0
learning_rate: 0.003
output_rate_factor: 10.0
backbone_rate_factor: 0.1
layer_decay: 1.0
weight_decay: 0.01
gradient_norm: 1.0
schedule: cosine
warm_up: 0.05
plateau_patience: 3
lowest_learning_rate: 1.0e-06
average: 0.9
epochs: 1
stop_patience: 0
batch_size: 16
batch_per_worker: 0
accumulate: 2
bf16: false
compile: false
shard_model: false
recompute_activations: false
on_nonfinite: stop
checkpoint_steps: 1000
keep_best: 1
mlflow: ''
where: ''
val_where: null
limit: null
per: ''
label_seed: 0
epoch_steps: 0
balance_heights: []
on_bad_shard: stop
cache: ''
cache_gigabytes: 100.0
baseline_chips: 20000
"""
"""Written by version 0.1.0, before options were in parts, and before those of `SINCE`."""
SINCE = {
    "deterministic: true\n": "deterministic: true\ndevice: auto\n",
    "bf16: false\n": "precision: float32\n",
    "band_dropout: 0.0\n": "band_dropout: 0.0\njitter: 0.0\ncrop: 0\n",
    "learning_rate: 0.003\n": "optimiser: adamw\nlearning_rate: 0.003\nmuon_rate: 0.02\n",
    "stop_patience: 0\n": "minutes: 0.0\nsteps: null\nstop_patience: 0\n",
}
"""Lines that are written otherwise now."""
NOW = reduce(lambda text, lines: text.replace(*lines), SINCE.items(), WRITTEN)
CONFIG = TrainConfig.of(
    "scenes",
    "run-tiny",
    recipe="tiny",
    **RECIPES["tiny"],
    deterministic=True,
    average=0.9,
    accumulate=2,
    epochs=1,
    batch_size=16,
)


def test_it_is_written_byte_for_byte_as_before() -> None:
    assert config_yaml(CONFIG) == NOW
    assert list(flat(CONFIG)) == list(yaml.safe_load(NOW))


def test_it_is_read_as_before(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(WRITTEN)
    assert parse(TrainConfig, ["--config", str(file)], "treeline train") == CONFIG
    changed = parse(TrainConfig, ["--config", str(file), "--no-flips", "--seed=3"], "treeline train")
    assert changed == CONFIG.with_options(flips=False, seed=3)
