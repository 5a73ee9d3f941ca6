"""Two real processes over gloo compute losses, gradients and scores of one, with unequal shares of what is known.

Run by pytest this file starts itself once per process: ``test_finetune_processes.py RANK WORLD FOLDER``.
"""

import os
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from harness import together

from dira_scale.judge.tasks.labels import Classification
from dira_scale.judge.tasks.masks import Segmentation
from dira_scale.judge.tasks.ordinal import Grades, Ordinal
from dira_scale.judge.tasks.regression import Regression
from dira_scale.judge.tasks.survival import Survival, Times
from dira_scale.train.data.labels import IGNORE, Labels
from dira_scale.train.data.numbers import Numbers
from dira_scale.train.distributed.collectives import rank, reduce_mean, reduce_sum, world

NAN = float("nan")


def tasks():
    """By name: the task, features [8, F, *size], its targets. Of the first half much more is known."""
    generator = torch.Generator().manual_seed(0)
    for exclusive in (False, True):
        names = ("a", "b", "c")
        labels = Labels(names, (), (NAN,) * 3, NAN, exclusive)
        one = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]), 3).double()
        targets = one if exclusive else torch.tensor([[0.0, 1, 0], [1, 0, 1]]).repeat(4, 1).double()
        targets[5:] = NAN
        yield f"labels {exclusive}", Classification(labels), torch.randn(8, 4, generator=generator).double(), targets
    numbers = Regression(Numbers(("a", "b")), {"a": (50.0, 9.0), "b": (0.5, 0.2)})
    targets = torch.randn(8, 2, generator=generator).double() * torch.tensor([9.0, 0.2]) + torch.tensor([50.0, 0.5])
    targets[5:, 1] = NAN
    yield "numbers", numbers, torch.randn(8, 4, generator=generator).double(), targets
    features = torch.randn(8, 4, generator=generator).double()
    grades = torch.tensor([[0.0, 1, 2, 3, 2, NAN, NAN, 0]]).T.double()
    yield "grades", Ordinal(Grades(("kl",), grades=4)), features, grades
    times = torch.tensor([[5.0, 2, 3, 3, 9, 3, NAN, 4], [1, 1, 0, 1, 0, 1, 1, 0]]).T.double()
    yield "times", Survival(Times(("months", "died"))), features, times
    for classes in (None, {"left": 1, "right": 2}, {"whole": [1, 2], "part": [2]}):
        targets = torch.randint(0, 2 if classes is None else 3, (8, 6, 5), generator=generator)
        targets[5:, :, 1:], targets[7] = IGNORE, IGNORE
        yield f"masks {classes}", Segmentation(classes), torch.randn(8, 4, 6, 5, generator=generator).double(), targets


def work():
    """For every task: losses, a linear layer's gradient averaged over processes, scores of a validation."""
    results = {}
    for name, task, features, targets in tasks():
        weight = torch.linspace(-1, 1, 4 * len(task.outputs)).view(len(task.outputs), 4).double().requires_grad_()
        logits = torch.einsum("oc,bc...->bo...", weight, features.chunk(world())[rank()])
        losses = task.terms(logits, targets.chunk(world())[rank()], reduce_sum)
        torch.stack([*losses.values()]).sum().backward()
        score, index = task.score(), torch.arange(8)
        for number in range(rank(), 4, world()):  # whole batches of two, dealt out
            part = slice(2 * number, 2 * number + 2)
            seen = SimpleNamespace(logits=torch.einsum("oc,bc...->bo...", weight.detach(), features[part]))
            seen.targets = targets[part]
            score.add(SimpleNamespace(index=index[part]), seen, 2)
        results[name] = {k: v.detach().double() for k, v in losses.items()} | {"gradient": reduce_mean(weight.grad)}
        results[name] |= {f"score {k}": torch.tensor(v) for k, v in score.values().items()}
    return results


@pytest.mark.system
def test_two_processes_equal_one(tmp_path):
    pytest.importorskip("monai")
    together([[sys.executable, __file__, str(number), "2", str(tmp_path)] for number in range(2)])
    expected = work()
    assert {"score auroc", "score auroc/a"} <= set(expected["labels False"])
    assert {"score r2", "score mae/b"} <= set(expected["numbers"])
    assert {"score kappa", "score mae"} <= set(expected["grades"]) and {"score concordance"} <= set(expected["times"])
    assert {"score accuracy"} <= set(expected["labels True"]) and {"score dice"} <= set(expected["masks None"])
    for number in range(2):
        results = torch.load(tmp_path / f"{number}.pt")
        assert results.keys() == expected.keys()
        for name, values in expected.items():
            assert results[name].keys() == values.keys()
            for key, value in values.items():
                got = results[name][key]
                torch.testing.assert_close(got, value, rtol=1e-6, atol=1e-7, msg=f"{name}, {key}: ".__add__)


if __name__ == "__main__":
    number, ranks, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    limit = timedelta(seconds=240)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=number, world_size=ranks, timeout=limit)
    torch.save(work(), folder / f"{number}.pt")
    dist.destroy_process_group()
    os._exit(0)
