"""A step's arithmetic is counted once for each regressor that is trained, however often it is."""

from collections.abc import Iterator

import pytest

from trainer.commands import train
from trainer.model.regressor import Regressor


@pytest.fixture(scope="package", autouse=True)
def counted_once() -> Iterator[None]:
    """Remember what `training_flops` returned: it takes as long as ten steps of such small regressors."""
    count, known = train.training_flops, dict[object, float]()

    def remembered(regressor: Regressor, stored_tokens: bool = False, crop: int = 0) -> float:
        weights = tuple(
            (name, weight.shape, weight.requires_grad) for name, weight in regressor.named_parameters()
        )
        layers = tuple(map(type, regressor.modules()))
        key = (weights, layers, regressor.decoder_config, regressor.schema, stored_tokens, crop)
        if key not in known:
            known[key] = count(regressor, stored_tokens, crop)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "training_flops", remembered)
        yield
