"""Dropout: as often as asked, unlike for chips, channels, layers and steps, and each chip's own."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.decoders.chip_dropout import ChannelDropout, Dropouts, chip_numbers

CHANNELS = 512
CHIPS = 256


def layers(share: float, count: int = 3) -> nn.ModuleList:
    return nn.ModuleList(ChannelDropout(share, CHANNELS) for _ in range(count)).train()


def kept(modules: nn.ModuleList, numbers_B: np.ndarray) -> Tensor:
    """(layers, chips, channels): whether each channel was kept."""
    Dropouts(modules).use(torch.from_numpy(numbers_B))
    ones_BCHW = torch.ones(len(numbers_B), CHANNELS, 2, 2)
    outputs = torch.stack([module(ones_BCHW) for module in modules])
    assert torch.equal(outputs, outputs[..., :1, :1].expand_as(outputs)), "channels are dropped whole"
    return outputs[..., 0, 0] > 0


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_as_many_are_dropped_as_asked_and_the_mean_stays(share: float) -> None:
    numbers_B = chip_numbers(CHIPS, seed=3, epoch=1, seen=640)
    kept_LBC = kept(layers(share), numbers_B)
    # Of 393,216 draws: five standard deviations.
    assert kept_LBC.double().mean().item() == pytest.approx(1 - share, abs=5 * 0.5 / kept_LBC.numel() ** 0.5)
    (layer,) = modules = layers(share, 1)
    Dropouts(modules).use(torch.from_numpy(numbers_B))
    values = layer(torch.ones(CHIPS, CHANNELS, 1, 1))
    assert values.unique().tolist() == pytest.approx([0, 1 / (1 - share)])


def test_chips_channels_layers_and_steps_are_unlike_each_other() -> None:
    """Each row of draws agrees with each other one in half of its channels, within chance."""
    first, second = (
        kept(layers(0.5), chip_numbers(CHIPS, 3, epoch, seen)) for epoch, seen in ((1, 640), (1, 896))
    )
    draws_RC = torch.cat([*first, *second]).double() * 2 - 1
    for rows in (draws_RC, torch.cat([*first, *second]).double().T * 2 - 1):
        agreement = rows @ rows.T / rows.shape[1]
        agreement.fill_diagonal_(0)
        # Correlation of independent signs has deviation 1 / sqrt(n); over a million pairs stay below 6.
        assert agreement.abs().max().item() < 6 / rows.shape[1] ** 0.5
        assert agreement.std().item() == pytest.approx(rows.shape[1] ** -0.5, rel=0.05)


def test_a_chip_drops_the_same_in_any_batch() -> None:
    numbers_B = chip_numbers(CHIPS, 0, 0, 0)
    together = kept(layers(0.3), numbers_B)
    shuffled = np.random.default_rng(1).permutation(CHIPS)
    apart = torch.cat([kept(layers(0.3), numbers_B[part]) for part in np.array_split(shuffled, 5)], 1)
    assert torch.equal(apart, together[:, shuffled])


def test_a_gradient_flows_where_something_was_kept_and_nowhere_else() -> None:
    (layer,) = layers(0.5, 1)
    image_BCHW = torch.ones(4, CHANNELS, 2, 2, requires_grad=True)
    dropped_BCHW = layer(image_BCHW)
    dropped_BCHW.sum().backward()
    assert image_BCHW.grad is not None
    assert torch.equal(image_BCHW.grad, dropped_BCHW)


def test_nothing_is_dropped_when_not_training() -> None:
    (layer,) = modules = layers(0.5, 1)
    image_BCHW = torch.rand(4, CHANNELS, 2, 2)
    assert layer(image_BCHW).eq(0).any(), "without numbers torch's generator draws"
    modules.eval()
    assert layer(image_BCHW) is image_BCHW


def test_what_draws_together_draws_as_it_would_alone() -> None:
    """Dropouts of other widths and shares, or of none, in between; in half precision, too."""
    modules = nn.ModuleList(
        ChannelDropout(share, channels) for share, channels in ((0.3, 8), (0.0, 5), (0.6, 16))
    ).train()
    numbers_B = torch.from_numpy(chip_numbers(CHIPS, 0, 0, 0))
    Dropouts(modules).use(numbers_B)
    for number, (share, channels) in {0: (0.3, 8), 2: (0.6, 16)}.items():
        alone = nn.ModuleList([*(ChannelDropout(0.0, 1) for _ in range(number)), modules[number]])
        for dtype in (torch.float32, torch.bfloat16):
            ones_BCHW = torch.ones(CHIPS, channels, 1, 1, dtype=dtype)
            together = modules[number](ones_BCHW)
            Dropouts(alone).use(numbers_B)
            assert torch.equal(modules[number](ones_BCHW), together)
            assert together.max() == ones_BCHW[0, 0, 0, 0] / (1 - share)
    image_BCHW = torch.rand(4, 5, 2, 2)
    assert modules[1](image_BCHW) is image_BCHW
