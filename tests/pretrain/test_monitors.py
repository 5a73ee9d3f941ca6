"""Monitors against plain formulas, on features whose figures are known, and alike on one process and on two; so are
neighbours at a validation, of whom the processes have unequally many.

Run by pytest this file starts itself once per process: ``test_monitors.py RANK FOLDER``.
"""

import json
import math
import os
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from harness import together
from torch import Tensor, nn

from dira_scale.pretrain import step as monitors_module
from dira_scale.pretrain.objective import Forward, PretrainLosses
from dira_scale.pretrain.step import Monitors, alignment, effective_rank, std_ratio, uniformity
from dira_scale.pretrain.task import knn_auc
from dira_scale.train.methods.adversary import Adversary
from dira_scale.train.methods.method import Method, Terms

WAIT = 120  # seconds


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 9)


def unit(x: torch.Tensor) -> np.ndarray:
    plain = x.double().numpy()
    return plain / np.linalg.norm(plain, axis=1, keepdims=True)


@pytest.mark.parametrize("transposed", [False, True])
def test_monitors_are_their_formulas(x: torch.Tensor, transposed: bool) -> None:
    x = x.T.contiguous() if transposed else x
    z, other = unit(x), unit(x.flip(0) + 1)
    assert float(std_ratio(x)) == pytest.approx(z.std(axis=0, ddof=1).mean() * math.sqrt(x.shape[1]), rel=1e-5)
    shares = np.linalg.svd(x.double().numpy(), compute_uv=False)
    shares /= shares.sum()
    assert float(effective_rank(x)) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)
    assert float(alignment(x, x.flip(0) + 1)) == pytest.approx(((z - other) ** 2).sum(axis=1).mean(), rel=1e-5)
    pairs = [np.exp(-2 * ((z[i] - z[j]) ** 2).sum()) for i in range(len(z)) for j in range(i)]
    assert float(uniformity(x)) == pytest.approx(np.log(np.mean(pairs)), rel=1e-4)
    assert float(effective_rank(torch.full((4, 4), math.nan))) == pytest.approx(1.0, abs=1.0)  # nothing is raised


class Linear(Method):
    """Losses that are linear in the encoder's output: their gradients are known."""

    def __init__(self) -> None:
        super().__init__(None, {"di": 3.0, "re": 0.5, "un": 1.0})  # type: ignore[arg-type]
        self.encoder = nn.Conv2d(1, 4, 1)

    def forward(self, clean, distorted, batch):
        first, second = self.encoder(clean), self.encoder(distorted)
        losses = {"di": (2 * first).sum() + second.sum(), "re": first.mean(), "un": torch.tensor(1.0)}
        return Terms(losses, pyramids=([clean, first], [distorted, second]), embeddings=(first.detach().flatten(1),))


def losses_of(outputs: Terms) -> PretrainLosses:
    """The unweighted sum."""
    return PretrainLosses(torch.stack(list(outputs.losses.values())).sum(), outputs.losses, outputs=outputs)


def test_the_pull_of_a_term_is_its_weighted_gradient_at_the_encoders_output() -> None:
    torch.manual_seed(0)
    method = Linear()
    images = torch.rand(5, 1, 2, 2)
    outputs = Forward(method)(images, images, None)
    assert outputs.pyramids == () and len(outputs.features) == 2  # finer maps do not leave the forward pass
    losses = losses_of(outputs)
    values = Monitors(method.weights, Adversary("lsgan")).measure(losses)
    n = 5 * 4 * 2 * 2  # numbers in a view's output
    assert float(values["health/gradient/di"]) == pytest.approx(3 * math.sqrt(n * 4 + n))
    assert float(values["health/gradient/re"]) == pytest.approx(0.5 / math.sqrt(n))
    assert float(values["health/gradient/un"]) == 0.0
    assert not any(value.requires_grad for value in values.values())
    losses.total.backward()  # the graph is still there
    assert method.encoder.weight.grad is not None


def test_fp16s_factor_keeps_a_small_pull_from_vanishing() -> None:
    """Numbers of 1e-8, half of fp16's smallest: nothing is left of it but for the factor."""
    features = torch.rand(2, 3, 2, 2).half().requires_grad_()
    pulls = []
    for scale in (1.0, 2.0**16):
        outputs = Terms({"di": features.float().sum() * 0.5e-8}, features=(features,))  # of weight 2
        values = Monitors({"di": 2.0}, Adversary("lsgan")).measure(losses_of(outputs), scale)
        pulls.append(float(values["health/gradient/di"]))
    assert pulls == [0.0, pytest.approx(1e-8 * math.sqrt(features.numel()), rel=1e-3)]


@pytest.mark.parametrize(("loss", "between"), [("lsgan", 0.5), ("minimax", 0.0)])
def test_the_discriminator_is_right_where_scores_lie_on_their_side(loss: str, between: float) -> None:
    adversary = Adversary(loss)
    adversary.discriminator = nn.Identity()
    real, fake = torch.tensor([0.1, 0.2, -0.1, 0.3]) + between, torch.tensor([-0.1, 0.2]) + between
    assert float(adversary.accuracy(real, fake)) == pytest.approx((3 / 4 + 1 / 2) / 2)


class Means(Method):
    """Losses that are means over the images, of an encoder whose output is the images."""

    def __init__(self) -> None:
        super().__init__(None, {"di": 2.0})  # type: ignore[arg-type]
        self.encoder = nn.Identity()

    def forward(self, clean, distorted, batch):
        image = clean.requires_grad_()
        losses = {"di": image.square().sum(dim=(1, 2, 3)).mean()}
        pair = image.detach().flatten(1), distorted.flatten(1)
        hidden = distorted[:, :1, :1, :1] < 0.5  # of some images nothing, as a mask may do
        restored = torch.where(hidden, image.sigmoid(), distorted)
        return Terms(losses, restored, distorted, pyramids=([image],), embeddings=pair)


def look(images: Tensor, accumulate: int = 1) -> dict[str, float]:
    """This process's part of ``images``."""
    method = Means()
    outputs = Forward(method)(images.clone(), images.flip(-1), None)
    values = Monitors(method.weights, Adversary("lsgan"), accumulate).measure(losses_of(outputs))
    return {name: float(value) for name, value in values.items()}


def images() -> Tensor:
    return torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def few(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What is seen where spread is measured among the first six images of the batch."""
    with monkeypatch.context() as patch:
        patch.setattr(monitors_module, "IMAGES", 6)
        actual = look(images()[4 * dist.get_rank() :][:4] if dist.is_initialized() else images())
    return {name: actual[name] for name in ("health/std", "health/rank", "health/features_rank", "health/alignment")}


def labelled() -> tuple[Tensor, Tensor]:
    """Features and labels of 45 images."""
    torch.manual_seed(0)
    labels = (torch.rand(45, 3) < 0.4).float()
    labels[::7, 1] = torch.nan
    labels[:, 2] = 1.0  # one class only: does not count
    return torch.cat([labels[:, :1] * 0.8, torch.randn(45, 5)], dim=1), labels


def test_two_processes_see_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, whole = look(images()), images().double()
    assert expected["health/gradient/di"] == pytest.approx(float((2.0 * 2 * whole / 8).norm()), rel=1e-5)
    together([[sys.executable, __file__, str(rank), str(tmp_path)] for rank in range(2)])
    actual = [json.loads((tmp_path / f"{rank}").read_text()) for rank in range(2)]
    neighbours = knn_auc(*labelled())
    assert 0.4 < neighbours < 1.0
    assert [single.pop("neighbours") for single in actual] == pytest.approx([neighbours] * 2, abs=1e-9)
    of_six = few(monkeypatch)
    assert of_six["health/std"] != pytest.approx(expected["health/std"], rel=1e-3)
    assert [single.pop("few") for single in actual] == [pytest.approx(of_six, rel=1e-5)] * 2
    assert actual == 2 * [pytest.approx(expected, rel=1e-5)]  # of the global batch


def test_the_pull_is_of_the_global_batch_however_many_micro_batches_share_it() -> None:
    twice = torch.cat([images()[:4], images()[:4]])  # two micro-batches alike, of which the last is measured
    assert look(images()[:4], accumulate=2)["health/gradient/di"] == pytest.approx(look(twice)["health/gradient/di"])


def test_of_a_single_image_there_is_no_spread_and_every_figure_is_a_number() -> None:
    actual = look(images()[:1])
    assert actual.keys() == {"health/gradient/di", "health/psnr"}
    assert all(math.isfinite(value) for value in actual.values())


def test_views_from_which_a_mask_hides_nothing_say_nothing_of_restoration() -> None:
    target = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    restored = target + torch.tensor([0.1, 0.0, 0.01, 0.0, 0.0, 0.1])[:, None, None, None]
    some = torch.tensor([0, 2, 5])
    found, wanted = (
        Monitors({}, Adversary()).measure(losses_of(Terms({"re": torch.zeros(())}, restored[rows], target[rows])))
        for rows in (torch.arange(6), some)
    )
    assert found["health/psnr"] == pytest.approx((20 + 40 + 20) / 3, rel=1e-4)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {name: value.item() for name, value in wanted.items()}, rel=1e-5
    )


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    limit = timedelta(seconds=WAIT)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2, timeout=limit)
    seen = look(images()[4 * rank : 4 * rank + 4]) | {"few": few(pytest.MonkeyPatch())}
    seen["neighbours"] = knn_auc(*(x[:31] if rank == 0 else x[31:] for x in labelled()))
    (folder / f"{rank}").write_text(json.dumps(seen))
    dist.destroy_process_group()
    os._exit(0)  # a Python that ends while a thread of gloo's still holds a tensor may abort (pytorch#179291)
