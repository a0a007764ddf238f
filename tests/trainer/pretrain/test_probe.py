"""The probe: neighbours are the nearest."""

import numpy as np

from trainer.pretrain.probe import neighbours

GENERATOR = np.random.default_rng(5)


def test_neighbours_are_the_nearest_by_angle() -> None:
    angle_N = np.linspace(0, np.pi, 60)
    features_NF = np.stack([np.cos(angle_N), np.sin(angle_N)], 1) * GENERATOR.uniform(0.1, 9, (60, 1))
    is_train_N = np.arange(60) != 30
    predicted = neighbours(features_NF, angle_N[:, None], is_train_N)
    near = np.sort(np.abs(np.delete(angle_N, 30) - angle_N[30]))[:20]
    chosen = np.abs(np.delete(angle_N, 30) - angle_N[30]) <= near[-1]
    np.testing.assert_allclose(predicted, np.delete(angle_N, 30)[chosen].mean(), rtol=1e-6)
