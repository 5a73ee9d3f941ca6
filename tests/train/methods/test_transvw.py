"""TransVW and DiRA on it: losses and gradients in float64 beside plain formulas, sizes, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from train.data.volumes import NONE, make, random_volumes, spec
from train.methods.masked import UNET3D, built
from train.methods.tiny import Facts

from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.pretrain import main
from dira_scale.train import methods
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.methods.adversary import adversary_of
from dira_scale.train.methods.dira import DiRA
from dira_scale.train.models.architecture import architecture
from dira_scale.train.models.heads import WordHead

SIZE, COUNT, WORDS = (8, 16, 16), 4, 3


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def node_of(experiment: str, *overrides: str) -> Any:
    return compose("pretrain", ["data.shards=any", f"experiment={experiment}", *overrides])


def transvw(experiment: str, *overrides: str) -> DiRA:
    """As the experiment has it, with a narrow network and few words."""
    method = built(
        node_of(experiment, f"method.base.classes={WORDS}", *overrides).method, UNET3D, spec(*SIZE, count=1), groups=1
    )
    assert isinstance(method, DiRA)
    return method


def cubes(words: tuple[int, ...] = (2, 0, 1, 2)) -> tuple[Tensor, Tensor, Any]:
    """Clean and deformed, and the batch with their words."""
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.rand(len(words), 1, *SIZE, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = F.one_hot(torch.tensor(words), WORDS).float()
    return clean, (clean + noise) / 2, Facts(labels=labels, step=0)


def plain_logits(head: WordHead, x: Tensor) -> Tensor:
    """Convolution, BatchNorm, ReLU, mean over space, one linear layer or two with a ReLU."""
    convolution, norm, *_ = head
    linear = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
    y = F.conv3d(x, convolution.weight, convolution.bias, padding=1)
    mean, variance = y.mean((0, 2, 3, 4), keepdim=True), y.var((0, 2, 3, 4), keepdim=True, unbiased=False)
    scale, shift = (part.view(1, -1, 1, 1, 1) for part in (norm.weight, norm.bias))
    y = ((y - mean) / (variance + norm.eps).sqrt() * scale + shift).clamp(min=0).mean((2, 3, 4))
    for layer in linear[:-1]:
        y = (y @ layer.weight.T + layer.bias).clamp(min=0)
    return y @ linear[-1].weight.T + linear[-1].bias


@pytest.mark.parametrize(
    ("experiment", "overrides", "network", "classifier"),
    [("transvw", [], 19_073_665, 14_203_948), ("dira_transvw", [], 19_073_665, 7_649_836),
     ("dira_transvw", ["preset=released"], 16_320_257, 7_649_836)],
)  # fmt: skip
def test_parameters_are_those_of_the_authors_networks(
    experiment: str, overrides: list[str], network: int, classifier: int
) -> None:
    cfg = node_of(experiment, *overrides)
    views = methods.views_of(cfg)
    with torch.device("meta"):
        method: Any = methods.construct(cfg.method, cfg.model, views)
        critic = adversary_of("wgan_gp", 100.0, architecture(cfg.model), views.size)
        x = torch.empty(2, 2, *views.sides)
        assert critic.discriminator(x).shape == (2, 1, 4, 8, 8)  # theirs: 8 x 8 x 4
        assert method.base.classifier(method.encoder(x[:, :1])[-1]).shape == (2, 44)
    assert count(method.encoder, method.decoder, method.head) == network
    assert count(method.encoder) == 7_027_776
    assert count(method.base.classifier) == classifier
    assert count(critic) == 7_029_153


@pytest.mark.parametrize(("experiment", "restoration"), [("transvw", "mse"), ("dira_transvw", "l1")])
def test_losses_and_gradients_equal_the_formulas(experiment: str, restoration: str) -> None:
    method = transvw(experiment, f"method.restoration={restoration}")
    clean, deformed, batch = cubes()
    method.enter_stage(["di", "re"])
    terms = method((clean,), (deformed,), batch)
    parameters = list(method.parameters())
    total = sum(method.weights[name] * loss for name, loss in terms.losses.items())
    ours = torch.autograd.grad(total, parameters)

    pyramid = method.encoder(deformed)
    scores = plain_logits(method.base.classifier, pyramid[-1]).exp()
    probability = scores / scores.sum(1, keepdim=True)
    restored = 1 / (1 + torch.exp(-method.head(method.decoder(pyramid))))
    error = (restored - clean).abs() if restoration == "l1" else (restored - clean) ** 2
    expected = {"di": -sum(probability[i, word].log() for i, word in enumerate((2, 0, 1, 2))) / 4}
    expected["re"] = error.sum() / clean.numel()
    torch.testing.assert_close(terms.losses, expected, rtol=1e-9, atol=1e-12)
    di, re = {"transvw": (0.01, 1), "dira_transvw": (1, 100)}[experiment]
    theirs = torch.autograd.grad(di * expected["di"] + re * expected["re"], parameters)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
    hits = sum(int(row.argmax() == word) for row, word in zip(probability, (2, 0, 1, 2), strict=True))
    assert terms.monitors == {"accuracy": hits / 4, "chance": pytest.approx(1 / 3)}
    assert torch.equal(terms.target, clean)
    torch.testing.assert_close(terms.restored, restored)


def test_the_first_of_two_steps_is_encoder_and_classifier() -> None:
    """As the authors' ``en`` before ``en_de``: of deformed cubes, too; the decoder waits."""
    config = node_of("transvw", "stages.di.epochs=400")
    trained = {name: [*stage.terms] for name, stage in config.stages.items() if stage.epochs}
    assert trained == {"di": ["di"], "dir": ["di", "re"]}
    method = transvw("transvw")
    clean, deformed, batch = cubes()
    method.enter_stage(trained["di"])
    terms = method((clean,), (deformed,), batch)
    assert method.corrupted and [*terms.losses] == ["di"] and terms.restored is None
    terms.losses["di"].backward()
    waiting = {name.partition(".")[0] for name, p in method.named_parameters() if p.grad is None}
    assert waiting == {"decoder", "head"}
    method.enter_stage(["re"])  # restoration alone leaves the classifier
    assert not any(p.requires_grad for p in method.base.classifier.parameters())


def test_in_half_precision_losses_stay_in_float32() -> None:
    method, (clean, deformed, batch) = transvw("dira_transvw").float(), cubes()
    exact = method((clean.float(),), (deformed.float(),), batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = method((clean.float(),), (deformed.float(),), batch)
    for name, loss in rough.losses.items():
        assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact.losses[name].item(), rel=0.05)


@pytest.mark.parametrize(
    ("settings", "views", "output"),
    [({}, ViewSpec(size=SIZE, **NONE), "views.count=2: expected 1: TransVW takes one view"),
     ({"label": ["word", "nodule"]}, spec(*SIZE, count=1), "method.label=[word, nodule]: expected text")],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], views: ViewSpec, output: str) -> None:
    node = {"_target_": "TransVW", "label": "word", "classes": 3}
    with pytest.raises(UserError) as raised:
        built(node | settings, UNET3D, views)
    assert str(raised.value) == output


@pytest.mark.parametrize(
    ("words", "overrides", "output"),
    [(None, [], "method.base.label: expected labels of {data}, which has no label 'word', but nodule"),
     ((0, 1, 2, 0, 1, 2, 0), [],
      "method.base.classes=8: expected 3, as label 'word' of the shards has"),
     ((0, 1, None, 1, 0, 1, 0), ["method.base.classes=2"], "{data}, split 'train': label 'word' is unknown in 1 of 4 "
      "samples, and every sample needs it: shard again without these"),
     ((0, 1, 2, 0, 1, 2, 0), ["method.base.label=[word,nodule]"], "method.base.label=[word, nodule]: expected text")],
)  # fmt: skip
def test_datasets_without_these_words_are_refused(
    words: Any, overrides: list[str], output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make(tmp_path / "toy", random_volumes(7), val=3, words=words).root
    code = main(
        ["experiment=small_transvw", f"data.shards={data}", f"run={tmp_path / 'run'}", "data.size=[16,16,16]",
         "data.batch=4", "model.width=0.0625", "parallel.threads=1", *overrides]
    )  # fmt: skip
    printed = capsys.readouterr()
    assert code == 2
    assert (printed.out + printed.err).strip() == f"pretrain: {output.format(data=data)}"
    assert not (tmp_path / "run").exists()
