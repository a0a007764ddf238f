"""Self-distillation: loss, centre and balance equal what their formulas give; a collapse is named."""

import re
from dataclasses import replace
from math import cos, log, pi

import numpy as np
import pytest
import torch

from trainer.pretrain.collapse import STEPS, Watch
from trainer.pretrain.distillation import (
    Health,
    HealthSums,
    balanced_targets,
    centred_targets,
    cosine,
    cross_entropy_sums,
    next_centre,
)
from trainer.pretrain.objective_of_dino import agreement

VIEWS, TILES, K, D = 5, 4, 7, 6
GENERATOR = np.random.default_rng(0)
TEACHER_VBK = GENERATOR.uniform(-1, 1, (2, TILES, K))
STUDENT_WBK = GENERATOR.uniform(-1, 1, (VIEWS, TILES, K))
CENTRE_K = GENERATOR.uniform(-0.3, 0.3, K)


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_the_loss_is_the_mean_cross_entropy_over_pairs_of_views() -> None:
    """Equation 3 of the paper, worked out pair by pair."""
    total, pairs = 0.0, 0
    for taught in range(2):
        for seen in range(VIEWS):
            if taught != seen:
                target_BK = softmax((TEACHER_VBK[taught] - CENTRE_K) / 0.04)
                total -= float((target_BK * np.log(softmax(STUDENT_WBK[seen] / 0.1))).sum(-1).mean())
                pairs += 1
    targets = centred_targets(torch.tensor(TEACHER_VBK), torch.tensor(CENTRE_K, dtype=torch.float32), 0.04)
    student = torch.tensor(STUDENT_WBK)
    seen = torch.ones(VIEWS, TILES, dtype=torch.bool)
    ours = cross_entropy_sums(targets, student[:2], seen[:2], 0.1, 0)
    ours = ours + cross_entropy_sums(targets, student[2:], seen[2:], 0.1, 2)
    assert int(ours[1]) == pairs * TILES
    assert float(ours[0]) / (pairs * TILES) == pytest.approx(total / pairs, rel=1e-6)


def test_views_without_a_valid_patch_count_nowhere() -> None:
    """The sums are those of the tiles that have pixels, as if the others were not in the batch."""
    targets = centred_targets(torch.tensor(TEACHER_VBK), torch.zeros(K), 0.2)
    student, seen = torch.tensor(STUDENT_WBK), torch.ones(VIEWS, TILES, dtype=torch.bool)
    seen[:, 1] = False
    kept = [0, 2, 3]
    ours = cross_entropy_sums(targets * seen[:2, :, None], student, seen, 0.1, 0)
    expected = cross_entropy_sums(targets[:, kept], student[:, kept], seen[:, kept], 0.1, 0)
    torch.testing.assert_close(ours, expected)
    agreed = agreement(targets * seen[:2, :, None], student, seen, 0)
    assert torch.equal(agreed, agreement(targets[:, kept], student[:, kept], seen[:, kept], 0))
    assert agreed[1] == 2 * len(kept)


def test_the_centre_is_a_running_mean() -> None:
    mean_K = TEACHER_VBK.reshape(-1, K).mean(0)
    ours = next_centre(torch.tensor(CENTRE_K), torch.tensor(mean_K), 0.9)
    np.testing.assert_allclose(ours, 0.9 * CENTRE_K + 0.1 * mean_K, rtol=1e-12)


def test_schedules_go_along_half_a_cosine() -> None:
    assert cosine(0.996, 1.0, 0.0) == 0.996
    assert cosine(0.996, 1.0, 1.0) == 1.0
    assert cosine(0.04, 0.4, 0.25) == pytest.approx(0.4 - 0.36 * (1 + cos(pi / 4)) / 2)


def test_balanced_targets_use_all_prototypes_alike_over_ranks() -> None:
    scores = torch.tensor(GENERATOR.uniform(-1, 1, (2, 60, K)))
    every = torch.ones(2, 60, dtype=torch.bool)
    whole = balanced_targets(scores, 0.1, every, lambda sums: sums)
    np.testing.assert_allclose(whole.sum(-1), 1, atol=1e-6)
    used_K, unbalanced_K = whole.sum((0, 1)).numpy(), softmax(scores.numpy() / 0.1).sum((0, 1))
    assert np.ptp(used_K) < 0.5 * np.ptp(unbalanced_K)
    # Each rank asks for the sum in turn, as an all-reduce would answer.
    halves = scores[:, :20], scores[:, 20:]
    totals: list[torch.Tensor] = []
    balanced_targets(scores, 0.1, every, lambda sums: totals.append(sums) or sums)  # type: ignore[func-returns-value]
    for half, part in ((halves[0], whole[:, :20]), (halves[1], whole[:, 20:])):
        answers = iter(totals)
        torch.testing.assert_close(
            balanced_targets(half, 0.1, every[:, : half.shape[1]], lambda _, a=answers: next(a)), part
        )  # type: ignore[misc]


def test_health_adds_up_over_pieces_of_a_batch() -> None:
    sums = HealthSums(D, K)
    targets = torch.tensor(softmax(TEACHER_VBK / 0.2)).float()
    tokens = torch.tensor(GENERATOR.normal(2, 3, (2, TILES, D))).float()
    scores = torch.tensor(TEACHER_VBK).float()
    targets, tokens, scores = (values.flatten(0, 1) for values in (targets, tokens, scores))
    whole = sums.of(targets, tokens, scores)
    parts = [sums.of(targets[rows], tokens[rows], scores[rows]) for rows in (slice(0, 3), slice(3, 8))]
    torch.testing.assert_close(parts[0] + parts[1], whole)
    health = sums.health(whole, torch.tensor(CENTRE_K))
    flat_NK = targets.double().numpy()
    assert health.teacher_entropy == pytest.approx(-(flat_NK * np.log(flat_NK)).sum(1).mean() / log(K))
    mean_K = flat_NK.mean(0)
    assert health.batch_entropy == pytest.approx(-(mean_K * np.log(mean_K)).sum() / log(K))
    assert health.prototypes_in_effect == pytest.approx(np.exp(-(mean_K * np.log(mean_K)).sum()))
    assert health.prototypes_used == len(set(flat_NK.argmax(1)))
    flat_ND = tokens.double().numpy()
    assert health.token_spread == pytest.approx(flat_ND.std(0).mean())
    assert health.centre_norm == pytest.approx(float(np.linalg.norm(CENTRE_K)))
    np.testing.assert_allclose(sums.mean_scores(whole), TEACHER_VBK.reshape(-1, K).mean(0), rtol=1e-6)
    variance_D = np.linalg.eigvalsh(np.cov(flat_ND.T, bias=True)).clip(0)
    share_D = variance_D[variance_D > 1e-12] / variance_D.sum()
    assert sums.effective_rank(whole) == pytest.approx(np.exp(-(share_D * np.log(share_D)).sum()), rel=1e-4)


HEALTHY = Health(0.3, 0.6, 9.0, 40, 0.9, 1.0)


@pytest.mark.parametrize(
    ("sick", "said"),
    [
        (replace(HEALTHY, teacher_entropy=0.97), "nearly uniform .* lower --teacher-temperature"),
        (replace(HEALTHY, prototypes_in_effect=2.0), "one or two targets .* use --centring mean or sinkhorn"),
    ],
)
def test_a_collapse_is_named_once_after_fifty_steps(sick: Health, said: str) -> None:
    watch = Watch()
    assert not any(watch.after_step(sick) for _ in range(STEPS - 1))
    assert not watch.after_step(HEALTHY)  # which starts the count anew
    warnings = [watch.after_step(sick) for _ in range(3 * STEPS)]
    assert [bool(warning) for warning in warnings].index(True) == STEPS - 1
    assert sum(map(bool, warnings)) == 1
    assert re.search(said, "".join(warnings))
    stopping = Watch(stops=True)
    assert not any(stopping.after_step(sick) for _ in range(STEPS - 1))
    with pytest.raises(FloatingPointError, match=said):
        stopping.after_step(sick)
    resumed = Watch()
    resumed.restore(watch.state())
    assert resumed == replace(watch)
