"""The neighbours' vote against a plain loop, and its areas under the curve against counted pairs."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from dira_scale.dataset.metrics import neighbours
from dira_scale.dataset.metrics.neighbours import knn_scores, mean_auc


def slow_scores(bank, labels, queries, k, temperature, own=None):
    """One query, one label at a time."""
    table = np.full((len(queries), labels.shape[1]), np.nan)
    for i, query in enumerate(queries):
        for j in range(labels.shape[1]):
            voters = [n for n in range(len(bank)) if not np.isnan(labels[n, j]) and not (own and n == i)]
            cosine = {n: bank[n] @ query / np.linalg.norm(bank[n]) / np.linalg.norm(query) for n in voters}
            nearest = sorted(voters, key=lambda n: -cosine[n])[:k]
            weights = [np.exp(cosine[n] / temperature) for n in nearest]
            if nearest:
                table[i, j] = np.dot(weights, [labels[n, j] for n in nearest]) / np.sum(weights)
    return table


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = (generator.random((60, 4)) < 0.4).astype(np.float64)
    labels[generator.random((60, 4)) < 0.2] = np.nan
    labels[:, 2] = np.where(np.arange(60) < 3, labels[:, 2], np.nan)  # fewer than k know it
    labels[:, 3] = np.nan
    return generator.normal(size=(60, 7)), labels


@pytest.mark.parametrize("chunk", [1024, 16])
def test_votes_are_those_of_a_plain_loop(data, chunk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    bank, labels = data
    queries = np.random.default_rng(1).normal(size=(40, 7))
    ours = knn_scores(bank, labels, queries, k=5, temperature=0.1)
    np.testing.assert_allclose(ours.numpy(), slow_scores(bank, labels, queries, 5, 0.1), rtol=1e-4, atol=1e-6)
    ours = knn_scores(torch.tensor(bank), torch.tensor(labels), torch.tensor(bank), k=5, leave_one_out=True)
    expected = slow_scores(bank, labels, bank, 5, 0.07, own=True)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_the_only_one_that_knows_a_label_does_not_judge_itself() -> None:
    labels = torch.tensor([[1.0], [torch.nan], [torch.nan]])
    scores = knn_scores(torch.eye(3), labels, torch.eye(3), leave_one_out=True)
    assert scores[0].isnan().all() and scores[1:].tolist() == [[1.0], [1.0]]


def test_area_is_the_share_of_pairs_in_order_over_labels_with_both_classes(data) -> None:
    _, labels = data
    scores = np.random.default_rng(2).random(labels.shape).round(1)  # with ties
    areas = []
    for score, label in zip(scores.T[:2], labels.T[:2], strict=True):
        pairs = [(p, n) for p in score[label == 1] for n in score[label == 0]]
        areas.append(np.mean([1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs]))
    alone = np.column_stack([labels[:, :2], np.ones(60), np.full(60, np.nan)])
    assert mean_auc(scores, alone) == pytest.approx(np.mean(areas))
    assert np.isnan(mean_auc(scores[:, 2:], alone[:, 2:]))
    for seed in range(200):  # to the last bit
        generator = np.random.default_rng(seed)
        label, score = np.append([0, 1], generator.integers(0, 2, seed)), generator.random(seed + 2).round(1 + seed % 4)
        assert mean_auc(score[:, None], label[:, None] * 1.0) == roc_auc_score(label, score)
