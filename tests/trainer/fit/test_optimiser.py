"""What learns, how fast, and on what average.

- Each way to tune lets exactly the named parameters learn; adapters change nothing at first, and folded in
  they leave a plain DINOv3 with the same tokens.
- Every parameter that learns has one learning rate, the one computed by hand; the order is always the same.
- Rates are those computed by hand, or torch's own; stopped and continued they are the same, bit for bit.
- Averages follow the recurrence by hand, and leave the weights as they were.
"""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from regressors import BANDS, SCHEMA, SMALL_BACKBONE, SMALL_DECODER, statistics_of
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import DINOv3ViTModel

from shards.errors import InputError
from trainer.config import TrainConfig
from trainer.fit.optimiser import Schedule, by_place, new_optimiser, parameter_groups
from trainer.fit.weight_average import Average
from trainer.model.backbone import build_backbone
from trainer.model.regressor import Regressor
from trainer.model.trainable import merge, merged, recompute_activations, tune
from trainer.options import Mode, OptimiserOptions

CPU = torch.device("cpu")
BLOCKS = 4
SIXTEENTHS = OptimiserOptions(
    learning_rate=1.0, output_rate_factor=4.0, backbone_rate_factor=0.25, layer_decay=0.5
)
"""Rates that are exact in binary."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only wait for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small_backbone() -> DINOv3ViTModel:
    torch.manual_seed(0)
    return build_backbone({**SMALL_BACKBONE, "num_hidden_layers": BLOCKS}).eval()


def small_regressor(mode: Mode = "all") -> Regressor:
    statistics = statistics_of(dict.fromkeys(BANDS, (3000.0, 0.5, 0.2)), height_m=1.0)
    backbone = tune(small_backbone(), mode, blocks=2, rank=2)
    return Regressor(SCHEMA, BANDS, statistics, backbone, SMALL_DECODER)


def pixels() -> Tensor:
    """pixels_BCHW, normalised."""
    return torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))


def learnt_names(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def draw_adapters(backbone: nn.Module) -> None:
    """As if they had learnt something."""
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)


def through_bytes(state: Any) -> Any:
    """What another process reads of a saved state."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# --- what learns ---


def test_each_mode_lets_learn_what_it_names() -> None:
    everything = set(dict(small_backbone().named_parameters()))
    assert learnt_names(tune(small_backbone(), "frozen")) == set()
    assert learnt_names(tune(small_backbone(), "all")) == everything - {"embeddings.mask_token"}
    last = {name for name in everything if name.startswith(("model.layer.2.", "model.layer.3.", "norm."))}
    assert learnt_names(tune(small_backbone(), "last", blocks=2)) == last
    adapters = {
        f"model.layer.{block}.attention.{layer}.{matrix}.default.weight"
        for block in range(BLOCKS)
        for layer in ("q_proj", "v_proj")
        for matrix in ("lora_A", "lora_B")
    }
    assert learnt_names(tune(small_backbone(), "lora", rank=3)) == adapters


@pytest.mark.parametrize("mode", ["last", "lora", "all"])
def test_recomputed_activations_give_the_same_tokens_and_gradients_from_less_memory(mode: Mode) -> None:
    gradients, kept = [], []
    for recompute in (False, True):
        backbone = tune(small_backbone(), mode, blocks=2, rank=2)
        draw_adapters(backbone)
        if recompute:
            recompute_activations(backbone)
        saved = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal saved
            saved += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            out = backbone(pixels(), output_hidden_states=True)
        out.last_hidden_state.square().sum().backward()
        kept.append(saved)
        assert len(out.hidden_states) == BLOCKS + 1
        gradients.append({n: p.grad for n, p in backbone.named_parameters() if p.grad is not None})
    plain, recomputed = gradients
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        assert torch.equal(gradient, recomputed[name]), name
    assert kept[1] < 0.5 * kept[0]


@pytest.mark.parametrize("mode", ["last", "lora", "all"])
def test_all_that_learns_has_a_gradient_and_nothing_else_has(mode: Mode) -> None:
    backbone = tune(small_backbone(), mode, blocks=2, rank=2)
    draw_adapters(backbone)
    backbone(pixels()).last_hidden_state.square().sum().backward()
    moved = {n for n, p in backbone.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved == learnt_names(backbone)


@pytest.mark.parametrize("mode", ["frozen", "last", "lora", "all"])
def test_tuning_changes_no_token_before_the_first_step(mode: Mode) -> None:
    expected = small_backbone()(pixels(), output_hidden_states=True)
    actual = tune(small_backbone(), mode)(pixels(), output_hidden_states=True)
    assert torch.equal(actual.last_hidden_state, expected.last_hidden_state)
    for state, expected_state in zip(actual.hidden_states, expected.hidden_states, strict=True):
        assert torch.equal(state, expected_state)


def test_merged_adapters_leave_a_plain_backbone_with_the_same_tokens() -> None:
    plain, backbone = small_backbone(), tune(small_backbone(), "lora", rank=3)
    draw_adapters(backbone)
    tokens_BND = backbone(pixels()).last_hidden_state
    assert (tokens_BND - plain(pixels()).last_hidden_state).abs().max() > 0.1
    merge(backbone)
    torch.testing.assert_close(backbone(pixels()).last_hidden_state, tokens_BND, rtol=0, atol=1e-5)
    assert list(backbone.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(backbone.state_dict())
    assert torch.equal(plain(pixels()).last_hidden_state, backbone(pixels()).last_hidden_state)
    assert learnt_names(backbone) == set()
    assert learnt_names(tune(backbone, "lora", rank=2))


def test_merged_for_a_while_it_learns_on_as_if_nothing_had_been() -> None:
    backbone = tune(small_backbone(), "lora", rank=3)
    draw_adapters(backbone)
    before, parameters = {k: v.clone() for k, v in backbone.state_dict().items()}, list(backbone.parameters())
    tokens_BND, drawn = backbone(pixels()).last_hidden_state, torch.get_rng_state()
    with merged(backbone):
        assert list(backbone.state_dict()) == list(small_backbone().state_dict())
        torch.set_rng_state(drawn)
        within_BND = backbone(pixels()).last_hidden_state
    torch.testing.assert_close(within_BND, tokens_BND, rtol=0, atol=1e-5)
    after = backbone.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(a is b for a, b in zip(backbone.parameters(), parameters, strict=True))
    assert torch.equal(backbone(pixels()).last_hidden_state, tokens_BND)


def test_merging_draws_no_random_number() -> None:
    backbone = tune(small_backbone(), "lora")
    drawn = torch.get_rng_state()
    with merged(backbone):
        assert torch.equal(torch.get_rng_state(), drawn)


def test_without_adapters_merging_changes_nothing() -> None:
    backbone = small_backbone()
    names, weights = list(backbone.state_dict()), [id(weight) for weight in backbone.parameters()]
    with merged(backbone):
        merge(backbone)
    assert (list(backbone.state_dict()), [id(weight) for weight in backbone.parameters()]) == (names, weights)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "last", "blocks": 0}, "--tune-blocks 0"),
        ({"mode": "last", "blocks": BLOCKS + 1}, "choose 1 to 4"),
        ({"mode": "lora", "rank": 0}, "--lora-rank 0"),
        ({"mode": "some"}, "--tune some"),
    ],
)
def test_wrong_ways_to_tune_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        tune(small_backbone(), **options)


def test_adapters_are_not_put_on_adapters() -> None:
    with pytest.raises(ValueError, match="merge it first"):
        tune(tune(small_backbone(), "lora"), "all")


# --- how fast ---


def rates_of(
    regressor: Regressor, options: OptimiserOptions, decay_norms: bool = False
) -> dict[str, tuple[float, float]]:
    """(learning rate, weight decay) of each parameter that has one, by name; none may have two."""
    names = {id(parameter): name for name, parameter in regressor.named_parameters()}
    groups = parameter_groups(regressor, options, decay_norms)
    listed = [(names[id(weight)], group) for group in groups for weight in group["params"]]
    rates = {name: (group["lr"], group["weight_decay"]) for name, group in listed}
    assert len(rates) == len(listed)
    return rates


@pytest.mark.parametrize("mode", ["frozen", "last", "lora", "all"])
def test_all_that_learns_has_one_learning_rate(mode: Mode) -> None:
    regressor = small_regressor(mode)
    assert set(rates_of(regressor, SIXTEENTHS)) == learnt_names(regressor)


def test_learning_rates_by_hand() -> None:
    rates = rates_of(small_regressor(), SIXTEENTHS)
    # The backbone's last block learns at 1/4, each one before it at half of the next: 1/8, 1/16, 1/32, 1/64.
    expected = {
        "decoder.0.0.weight": 1.0,
        "decoder.8.12.weight": 4.0,
        "decoder.8.12.bias": 4.0,
        "backbone.norm.weight": 1 / 4,
        "backbone.model.layer.3.mlp.up_proj.weight": 1 / 4,
        "backbone.model.layer.2.mlp.up_proj.bias": 1 / 8,
        "backbone.model.layer.1.layer_scale1.lambda1": 1 / 16,
        "backbone.model.layer.0.attention.q_proj.weight": 1 / 32,
        "backbone.embeddings.patch_embeddings.weight": 1 / 64,
        "backbone.embeddings.cls_token": 1 / 64,
    }
    assert {name: rates[name][0] for name in expected} == expected


def test_adapters_learn_at_the_rate_of_their_block() -> None:
    rates = rates_of(small_regressor("lora"), SIXTEENTHS)
    of_adapters = {name.split(".")[3]: rate for name, (rate, _) in rates.items() if "lora" in name}
    assert of_adapters == {"0": 1 / 32, "1": 1 / 16, "2": 1 / 8, "3": 1 / 4}


def test_matrices_and_kernels_decay_and_the_rest_only_if_asked() -> None:
    regressor, spared = small_regressor(), ("cls_token", "register_tokens")
    shapes = {name: weight.ndim for name, weight in regressor.named_parameters()}
    for name, (_, decay) in rates_of(regressor, SIXTEENTHS).items():
        assert decay == (0.0 if shapes[name] == 1 or name.endswith(spared) else 0.01), name
    decayed = rates_of(regressor, SIXTEENTHS, decay_norms=True)
    assert {decay for _, decay in decayed.values()} == {0.01}


def test_the_order_of_groups_and_parameters_is_always_the_same() -> None:
    def order() -> list[tuple[str, list[torch.Size]]]:
        groups = parameter_groups(small_regressor(), SIXTEENTHS)
        return [(group["name"], [weight.shape for weight in group["params"]]) for group in groups]

    assert order() == order()
    stages = ["decoder", "decoder.output", "backbone.embeddings"]
    stages += [f"backbone.block.{number}" for number in range(BLOCKS)]
    decayed_and_not = [name for stage in stages for name in (stage, f"{stage}, no weight decay")]
    # The final norm learns at the rate of the last block.
    last = f"backbone.block.{BLOCKS - 1} to backbone.norm, no weight decay"
    assert [name for name, _ in order()] == [*decayed_and_not[:-1], last]


@pytest.mark.parametrize(("output_rate_factor", "groups"), [(4.0, 6), (1.0, 4)])
def test_what_learns_at_one_rate_is_one_group(output_rate_factor: float, groups: int) -> None:
    """However many blocks there are; each group costs a kernel and its launch."""
    options = replace(SIXTEENTHS, output_rate_factor=output_rate_factor, layer_decay=1.0)
    regressor = small_regressor()
    merged = parameter_groups(regressor, options)
    assert len(merged) == groups
    assert merged[-1]["name"] == "backbone.embeddings to backbone.norm, no weight decay"
    # Norms are added up stage by stage all the same, so that a loss keeps its last bit.
    apart = parameter_groups(regressor, replace(options, layer_decay=0.5, output_rate_factor=4.0))
    order, merged_order = (
        [id(weight) for weight in by_place(new_optimiser(one, options, CPU)).values()]
        for one in (apart, merged)
    )
    assert merged_order == order
    names = {id(weight): name for name, weight in regressor.named_parameters()}
    blocks = [names[weight].split(".")[3] for weight in order if "backbone.model.layer" in names[weight]]
    assert blocks == sorted(blocks)


def test_a_parameter_without_a_learning_rate_is_named_an_error() -> None:
    regressor = small_regressor()
    regressor.register_parameter("forgotten", nn.Parameter(torch.zeros(1)))
    with pytest.raises(ValueError, match="have a learning rate"):
        parameter_groups(regressor, SIXTEENTHS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"output_rate_factor": -1.0},
        {"backbone_rate_factor": 0.0},
        {"layer_decay": 1.5},
        {"weight_decay": -0.1},
        {"schedule": "stairs"},
        {"warm_up": 1.0},
        {"plateau_patience": -1},
        {"schedule": "plateau", "lowest_learning_rate": 2.0},
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"--[a-z-]+ .*"):
        replace(SIXTEENTHS, **wrong)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("dropout", 1.5),
        ("brightness", -0.1),
        ("band_dropout", 1.0),
        ("gradient_norm", 0.0),
        ("stop_patience", -1),
        ("checkpoint_steps", 0),
        ("keep_best", 0),
    ],
)
def test_an_option_out_of_range_is_refused(option: str, value: float) -> None:
    flag = option.replace("_", "-")
    with pytest.raises(InputError, match=f"^--{flag} {value}: choose "):
        TrainConfig.of("chips", "run", **{option: value})


def test_a_training_without_a_step_is_refused() -> None:
    with pytest.raises(InputError, match=r"--[a-z-]+ .*"):
        new_schedule(SIXTEENTHS, 0)


# --- how rates change ---


def step_rates(options: OptimiserOptions, steps: int, total_steps: int = 100) -> list[float]:
    """Of the decoder, step by step."""
    schedule, rates = new_schedule(options, total_steps), []
    for _ in range(steps):
        rates.append(schedule.learning_rate)
        schedule.after_step()
    return rates


def new_schedule(options: OptimiserOptions, total_steps: int = 100) -> Schedule:
    groups = [
        {"params": [nn.Parameter(torch.zeros(2, 2))], "lr": rate, "highest_rate": rate} for rate in (1.0, 4.0)
    ]
    return Schedule(new_optimiser(groups, options, CPU), options, total_steps)


def test_cosine_by_hand() -> None:
    # 12 steps, 4 of them up: 1/4, 2/4, 3/4, 1; then half a cosine over 8: at its middle 1/2, at its end 0.
    actual = step_rates(replace(SIXTEENTHS, warm_up=1 / 3), 14, 12)
    falling = [1.0, 0.9619397663, 0.8535533906, 0.6913417162, 0.5, 0.3086582838, 0.1464466094, 0.0380602337]
    assert actual == pytest.approx([0.25, 0.5, 0.75, 1.0, *falling, 0.0, 0.0], abs=1e-9)


def test_constant_by_hand() -> None:
    options = replace(SIXTEENTHS, warm_up=0.2, schedule="constant")
    assert step_rates(options, 6, 10) == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_without_warm_up_the_first_step_is_at_the_highest_rate() -> None:
    assert step_rates(replace(SIXTEENTHS, warm_up=0.0), 3) == pytest.approx([1.0, 1.0, 0.99974829], abs=1e-7)


def test_plateau_by_hand() -> None:
    options = replace(SIXTEENTHS, schedule="plateau", plateau_patience=1, lowest_learning_rate=0.2)
    schedule, actual = new_schedule(options), []
    # Two epochs in a row that are not better halve it; better by less than 1e-4 of the best is not better.
    for value in (5.0, 4.0, 4.0, 3.9999, float("nan"), 3.0, 3.5, 3.0, 3.0, 3.0, 3.0, 3.0):
        schedule.after_step()
        schedule.after_epoch(value)
        actual.append(schedule.learning_rate)
    assert actual == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2]


def test_plateau_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(3)
    losses = (torch.rand(200, generator=generator) * torch.linspace(1, 0.7, 200)).tolist()
    options = replace(SIXTEENTHS, schedule="plateau", lowest_learning_rate=0.0)
    torchs = torch.optim.SGD([nn.Parameter(torch.zeros(1))], options.learning_rate)
    reference = ReduceLROnPlateau(torchs, factor=0.5, patience=options.plateau_patience, eps=0)
    schedule = new_schedule(options)
    for loss in losses:
        schedule.after_epoch(loss)
        reference.step(loss)
        assert schedule.learning_rate == torchs.param_groups[0]["lr"]
    assert schedule.learning_rate < 1e-6


@pytest.mark.parametrize("kind", ["cosine", "plateau", "constant"])
def test_groups_keep_their_proportions(kind: Any) -> None:
    schedule = new_schedule(replace(SIXTEENTHS, schedule=kind, plateau_patience=0), 10)
    for _ in range(9):
        first, second = (group["lr"] for group in schedule._optimiser.param_groups)
        assert 0 < first == second / 4
        schedule.after_step()
        schedule.after_epoch(1.0)


def learning(kind: Any, steps: int = 12) -> tuple[nn.Module, torch.optim.Optimizer, Schedule, Average]:
    torch.manual_seed(4)
    regressor = small_regressor("lora")
    options = replace(SIXTEENTHS, learning_rate=1e-3, schedule=kind, plateau_patience=0)
    optimiser = new_optimiser(parameter_groups(regressor, options), options, CPU)
    return regressor, optimiser, Schedule(optimiser, options, steps), Average(regressor, 0.9)


@pytest.mark.parametrize("kind", ["cosine", "plateau", "constant"])
@pytest.mark.parametrize("stop", [1, 4])
def test_stopped_and_continued_it_learns_the_same_bit_for_bit(kind: Any, stop: int) -> None:
    def go_on(parts: Any, first: int, last: int) -> list[list[float]]:
        regressor, optimiser, schedule, average = parts
        rates = []
        for step in range(first, last):
            pixels_BCHW = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(step))
            regressor.heights(pixels_BCHW).square().mean().backward()
            optimiser.step()
            optimiser.zero_grad()
            rates.append([group["lr"] for group in optimiser.param_groups])
            schedule.after_step()
            schedule.after_epoch((3.0, 1.0, 2.0, 0.5)[step % 4])
            average.update()
        return rates

    whole, stopped, continued = learning(kind), learning(kind), learning(kind)
    expected = go_on(whole, 0, 6)
    actual = go_on(stopped, 0, stop)
    for part, other in zip(stopped, continued, strict=True):
        other.load_state_dict(through_bytes(part.state_dict()))
    assert actual + go_on(continued, stop, 6) == expected
    for ours, theirs in ((continued[0], whole[0]), (continued[3], whole[3])):
        states = ours.state_dict(), theirs.state_dict()
        assert list(states[0]) == list(states[1])
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("epochs", [0, 3])
def test_the_state_of_a_schedule_is_strict_json(epochs: int) -> None:
    schedule = new_schedule(replace(SIXTEENTHS, schedule="plateau", plateau_patience=0))
    for _ in range(epochs):
        schedule.after_epoch(1.0)
    state = schedule.state_dict()
    assert json.loads(json.dumps(state, allow_nan=False)) == state


def test_a_rounding_error_is_no_step() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimiser = new_optimiser([{"params": [weight]}], replace(SIXTEENTHS, weight_decay=0.0), CPU)
    weight.grad = torch.full((1,), 1e-9)
    optimiser.step()
    # Adam's first step is rate * g / (|g| + epsilon): 1e-9 / (1e-9 + 1e-6).
    assert weight.item() == pytest.approx(-0.001, rel=2e-3)


# --- averages ---


def test_the_average_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([8.0]))
    average = Average(nn.ParameterDict({"w": weight}), decay=0.15)
    expected = 8.0
    # Decays: 1/10, then 2/11 and 3/12, which are more than 0.15.
    for value, decay in ((0.0, 0.1), (4.0, 0.15), (-2.0, 0.15)):
        weight.data.fill_(value)
        average.update()
        expected = decay * expected + (1 - decay) * value
        assert average.state_dict()["w"].item() == pytest.approx(expected, rel=1e-6)


def test_a_decay_of_0_is_the_weights_themselves() -> None:
    linear = nn.Linear(3, 2)
    average = Average(linear, 0.0)
    nn.init.normal_(linear.weight)
    average.update()
    assert torch.equal(average.state_dict()["weight"], linear.weight)


STATISTICS = {"1.running_mean", "1.running_var"}


def with_batch_norm() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3).requires_grad_(False))


def test_only_what_learns_and_running_statistics_are_averaged() -> None:
    module = with_batch_norm()
    average = Average(module, 0.9)
    averaged = learnt_names(module) | STATISTICS
    assert set(average.state_dict()) == averaged | {"updates"}
    module(torch.randn(8, 3))
    average.update()
    others = {name: value.clone() for name, value in module.state_dict().items()}
    with average.swapped():
        for name in set(others) - averaged:
            assert torch.equal(module.state_dict()[name], others[name])


def test_running_statistics_are_averaged_as_weights_are() -> None:
    module, decays = with_batch_norm(), (1 / 10, 2 / 11, 3 / 12)
    average = Average(module, 0.9)
    wanted = {name: module.state_dict()[name].clone() for name in STATISTICS}
    for decay in decays:
        module(torch.randn(8, 3))
        average.update()
        wanted = {name: one * decay + (1 - decay) * module.state_dict()[name] for name, one in wanted.items()}
    before = {name: module.state_dict()[name].clone() for name in STATISTICS}
    with average.swapped():
        for name, one in wanted.items():
            torch.testing.assert_close(module.state_dict()[name], one)
    assert all(torch.equal(module.state_dict()[name], one) for name, one in before.items())


def test_a_run_whose_averages_have_no_statistics_goes_on_without_them() -> None:
    module = with_batch_norm()
    older = {name: one for name, one in Average(module, 0.9).state_dict().items() if name not in STATISTICS}
    average = Average(module, 0.9)
    average.begin_as(older)
    average.load_state_dict(older)
    module(torch.randn(8, 3))
    average.update()
    assert average.state_dict().keys() == older.keys()
    measured = module.state_dict()["1.running_mean"].clone()
    with average.swapped():
        assert torch.equal(module.state_dict()["1.running_mean"], measured)


@pytest.mark.parametrize("failing", [False, True])
def test_weights_are_as_they_were_after_the_averages_took_their_place(failing: bool) -> None:
    regressor = small_regressor("last")
    average = Average(regressor, 0.9)
    with torch.no_grad():
        for weight in regressor.parameters():
            weight.add_(torch.randn(weight.shape))
    average.update()
    before, averages = ({k: v.clone() for k, v in one.state_dict().items()} for one in (regressor, average))
    expects: AbstractContextManager[Any] = pytest.raises(KeyboardInterrupt) if failing else nullcontext()
    with expects, average.swapped():
        within = regressor.state_dict()
        for name in learnt_names(regressor):
            assert torch.equal(within[name], averages[name])
            assert not torch.equal(within[name], before[name])
        if failing:
            raise KeyboardInterrupt
    for old, new in ((before, regressor.state_dict()), (averages, average.state_dict())):
        assert all(torch.equal(old[name], new[name]) for name in old)


@pytest.mark.parametrize(
    "misuse", [Average.update, Average.state_dict, lambda average: average.swapped().__enter__()]
)
def test_while_averages_are_in_place_nothing_else_is_done(misuse: Callable[[Average], Any]) -> None:
    average = Average(nn.Linear(2, 2), 0.9)
    with average.swapped(), pytest.raises(RuntimeError, match="leave `swapped` first"):
        misuse(average)


def test_adapters_can_be_averaged_and_merged_to_be_saved() -> None:
    regressor = small_regressor("lora")
    average = Average(regressor, 0.5)
    draw_adapters(regressor)
    average.update()
    with average.swapped(), torch.no_grad():
        heights_BHW = regressor.heights(pixels())
        with merged(regressor.backbone):
            saved = {name: value.clone() for name, value in regressor.state_dict().items()}
    plain = small_regressor("frozen")
    plain.load_state_dict(saved)
    torch.testing.assert_close(plain.heights(pixels()), heights_BHW, rtol=1e-4, atol=1e-5)


def test_averages_of_other_weights_are_refused() -> None:
    average = Average(nn.Linear(2, 2), 0.9)
    with pytest.raises(InputError, match="other weights"):
        average.load_state_dict(Average(nn.Linear(2, 3), 0.9).state_dict())


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_wrong_decays_are_refused(decay: float) -> None:
    with pytest.raises(InputError, match="--average"):
        Average(nn.Linear(2, 2), decay)


def test_weights_of_half_precision_are_not_averaged() -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        Average(nn.Linear(2, 2).bfloat16(), 0.9)
