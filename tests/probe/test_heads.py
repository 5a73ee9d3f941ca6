"""Linear heads at several learning rates, beside torch's own layers, optimizer and schedule."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dira_scale.dataset.metrics.classification import AUROC
from dira_scale.probe.probing import RATES, ProbeTask, batches, sgd_probe, train_heads


@pytest.mark.parametrize("numbers", [False, True])
def test_each_head_is_what_sgd_with_its_rate_makes_of_it(numbers: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    features, steps = torch.randn(200, 6, generator=generator), 10
    labels = features[:, :3] + 0.3 * torch.randn(200, 3, generator=generator)
    labels = labels if numbers else (labels > 0).float()
    labels[torch.rand(200, 3, generator=generator) < 0.2] = torch.nan
    rates = RATES[-3:]
    weights = train_heads(features, labels, rates, steps, numbers)
    for rate, trained in zip(rates, weights, strict=True):
        layer = torch.nn.Linear(6, 3)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        optimizer = torch.optim.SGD(layer.parameters(), lr=rate * 128 / 256, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for rows in batches(200, 128, steps):
            logits, targets = layer(features[rows]), labels[rows]
            losses = [
                F.mse_loss(logits[known, i], targets[known, i]) / 2
                if numbers
                else F.binary_cross_entropy_with_logits(logits[known, i], targets[known, i])
                for i in range(3)
                for known in [~targets[:, i].isnan()]
            ]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
            schedule.step()
        torch.testing.assert_close(trained, torch.cat([layer.weight, layer.bias[:, None]], 1).T, rtol=1e-4, atol=1e-6)


def test_batches_go_through_all_rows_before_one_comes_again() -> None:
    rows = batches(10, 5, 4).flatten().tolist()
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10)) and rows[:10] != rows[10:]


def test_the_validation_part_decides_on_the_rate() -> None:
    generator = np.random.default_rng(0)
    features = {part: generator.normal(size=(60, 4)) for part in ("train", "val", "test")}
    labels = {
        part: (values[:, :1] + generator.normal(size=(60, 1)) > 0).astype(float) for part, values in features.items()
    }
    patients = {part: np.arange(60).astype(str) for part in features}

    def fit(of: dict[str, np.ndarray]):
        return sgd_probe(features, ProbeTask(("a",), of, patients), np.arange(60))

    fitted = fit(labels)
    area = fitted.figures[AUROC, "a"].value
    assert fitted.chosen["a"] in RATES and area > 0.7
    flipped = fit(labels | {"test": 1 - labels["test"]})
    assert flipped.chosen == fitted.chosen and np.isclose(flipped.figures[AUROC, "a"].value, 1 - area)
