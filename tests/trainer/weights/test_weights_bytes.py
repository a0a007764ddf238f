"""Files of weights that are written or merged piece by piece have the bytes that safetensors writes."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import save

from trainer.weights.weights_bytes import merged_pieces, pieces_of


def tensors() -> dict[str, torch.Tensor]:
    """Tensors of all types and all kinds of shape, one with a name that JSON escapes."""
    kinds = ("uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "bool")
    generator = torch.Generator().manual_seed(1)
    found = {
        f"{name}.{number}": torch.randint(0, 2, (number, 3), generator=generator).to(getattr(torch, name))
        for name in (*kinds, "uint16", "uint32", "uint64")
        for number in (0, 1, 4)
    }
    return found | {'ä"\\': torch.tensor(1.5), "view": torch.arange(12.0).view(3, 4).T}


def test_files_have_the_bytes_that_safetensors_writes() -> None:
    whole = tensors()
    expected = save({name: tensor.contiguous() for name, tensor in whole.items()})
    assert b"".join(pieces_of(whole)) == expected
    for seed in range(5):
        draw = random.Random(seed)
        dealt: list[dict[str, torch.Tensor]] = [{}, {}, {}]
        for name, tensor in whole.items():
            draw.choice(dealt)[name] = tensor.contiguous()
        files = {str(number): in_pieces(save(part), draw) for number, part in enumerate(dealt)}
        assert b"".join(merged_pieces(files)) == expected


def in_pieces(data: bytes, draw: random.Random) -> Iterator[bytes]:
    while data:
        length = draw.randint(1, 40)
        yield data[:length]
        data = data[length:]


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: data[:30], lambda data: data + b"0"])
def test_cut_or_longer_files_are_not_merged(spoil: Any) -> None:
    one, other = save({"a": torch.ones(9)}), save({"b": torch.ones(9)})
    with pytest.raises(ValueError, match="second: "):
        list(merged_pieces({"first": [one], "second": [spoil(other)]}))
