"""Several real processes over gloo compute what one does on the concatenated batch.

Run by pytest this file starts itself once per process: ``test_processes.py RANK WORLD FOLDER WORKER …``. A worker's
name may be followed by the one of its methods that is to be computed: ``pcrl/pcrl, 4 groups``.
"""

import os
import sys
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from harness import together
from torch import nn
from train.methods.tiny import Facts

from dira_scale.train.distributed.collectives import Exchange, gather, rank, world
from dira_scale.train.models import norm
from dira_scale.train.models.drop_path import part_of_batch

WAIT = 240  # seconds


def launch(workers, ranks, folder):
    """What each of ``ranks`` processes returned from ``workers``, by name."""
    together([[sys.executable, __file__, str(rank), str(ranks), str(folder), *workers] for rank in range(ranks)])
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]


def own_part(batch):
    return batch.chunk(world())[rank()]


def batch_norm(groups, x):
    """Output, gradients and running statistics of one layer; the loss is a mean over the (part of the) batch."""
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(3).double()
    nn.init.normal_(layer.weight)
    layer = norm.convert(layer, groups)
    weight = own_part(torch.randn(16, 3, 2, 2, dtype=torch.float64))
    part = own_part(x).clone().requires_grad_()
    y = layer(part)
    (y * weight).sum(dim=(1, 2, 3)).mean().backward()
    norm.commit_statistics(layer)
    state = {"mean": layer.running_mean, "var": layer.running_var}
    return {"y": y.detach(), "x": part.grad, "weight": layer.weight.grad, "bias": layer.bias.grad} | state


def batch_norms():
    x = torch.randn(16, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3 + 2
    return {groups: batch_norm(groups, x) for groups in (1, 2, 4, 8) if groups % world() == 0 or world() % groups == 0}


def exchanges():
    """By case: whether what was exchanged is what gathering everything gives, and comes back, bit for bit."""
    from dira_scale.train.methods.shuffle import transposition

    seen = {}
    for rows, shape in ((1, (3,)), (4, (1, 5, 5)), (6, (2, 4, 4)), (24, (2,))):
        generator = torch.Generator().manual_seed(rows)
        x = own_part(torch.randn(world() * rows, *shape, generator=generator))
        x = x.to(memory_format=torch.channels_last) if x.dim() == 4 else x
        for name, order in (
            ("any", torch.randperm(world() * rows, generator=generator).numpy()),
            ("reversed", torch.arange(world() * rows).flip(0).numpy()),
            ("as it is", torch.arange(world() * rows).numpy()),
            *((f"{n} groups", transposition(world() * rows, n * world())) for n in (1, 2, 3, 12) if not rows % n),
        ):
            exchange = Exchange(order, x.device)
            there = exchange(x)
            same = torch.equal(there, own_part(gather(x)[order])) and torch.equal(exchange.back(there), x)
            seen[f"{name}, {rows}"] = same, exchange.local
    return seen


QUEUE = {"dim": 8, "queue": 48, "momentum": 0.9, "batch_norm": True}
KEYS = QUEUE | {"queue": 64}  # which two steps of 3 · 16 overwrite once and a half


def around(base, **options):
    """DiRA's node."""
    return {"_target_": "DiRA", "base": base} | options


# Method, and BatchNorm groups: of 1 group all processes share statistics, of 2 some.
IMAGES = {
    "moco, 4 groups": (around({"_target_": "MoCo"} | QUEUE), 4),
    "moco, whole batch": (around({"_target_": "MoCo", "shuffle": "batch"} | QUEUE), 4),
    "simsiam": (around({"_target_": "SimSiam", "dim": 8, "bottleneck": 4}, restore="both"), 1),
    "barlow, 1 group": (around({"_target_": "BarlowTwins", "dim": 8, "scale": 0.1}), 1),
    "byol": (around({"_target_": "BYOL", "hidden": 8, "dim": 8, "momentum": 0.9}), 4),
    "vicreg": (around({"_target_": "VICReg", "dim": 8}, restore="both"), 2),
    "simclr": (around({"_target_": "SimCLR", "dim": 8}, restore="both"), 2),
    "lejepa": (around({"_target_": "LeJEPA", "dim": 8, "hidden": 8, "slices": 16, "sigreg": 0.3}, restore="both"), 4),
    "c2l, 4 groups": (around({"_target_": "C2L"} | KEYS), 4),
    "pcrl, 1 group": ({"_target_": "PCRL"} | KEYS, 1),
    "pcrl, 4 groups": ({"_target_": "PCRL"} | KEYS, 4),
    "released, 4 groups": ({"_target_": "PCRLReleased"} | KEYS, 4),
    "rotation, 4 groups": ({"_target_": "PCRLRotation"} | KEYS, 4),
}


def images(name, node, groups):
    """Two training steps, and an evaluation in which each process has its own batch."""
    from dira_scale.train.data.views import ViewSpec

    method = built(node, groups, ViewSpec(size=32, orientations=2))
    return method, adversary() if "base" in node else None, images_of, evaluation_batch


def adversary():
    """With a narrow discriminator: the true one would take most of the time."""
    from dira_scale.train.methods.adversary import Adversary

    torch.manual_seed(0)
    adversary = Adversary()
    adversary.discriminator = nn.Sequential(nn.Conv2d(1, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 4, 2, 1))
    return adversary.double()


WORDS = {"_target_": "TransVW", "label": "word", "classes": 3, "classifier": "keras"}
# Method, and what its network has beside UNET3D's.
VOLUMES = {
    "mae, dense, 4 groups": ({"_target_": "MAE"}, {"bn_groups": 4}),
    "mae, sparse, 1 group": ({"_target_": "MAE", "masking": "sparse", "norm_target": True}, {"bn_groups": 1}),
    "mae, sparse, 4 groups": ({"_target_": "MAE", "masking": "sparse"}, {"bn_groups": 4}),
    "mae, sparse, instance": ({"_target_": "MAE", "masking": "sparse"}, {"norm": "instance", "bn_groups": 1}),
    "models_genesis": ({"_target_": "ModelsGenesis"}, {"bn_groups": 2}),
    "moco, mask": (around({"_target_": "MoCo", "dim": 8, "queue": 48}, restoration="mask"), {"bn_groups": 4}),
    "pcrl, 4 groups": ({"_target_": "PCRL", "dim": 8, "queue": 64, "bounded": True}, {"bn_groups": 4}),
    "transvw, wgan_gp, 1 group": (around(WORDS), {"bn_groups": 1}),
}


def volumes(name, node, model):
    """Methods of volumes, with masks that hide another number of blocks in each."""
    from train.methods.masked import UNET3D, built, masked

    from dira_scale.train.methods.adversary import adversary_of
    from dira_scale.train.models.architecture import architecture

    paired, critic = "queue" in node | node.get("base", {}), None
    views = replace(masked((8, 16, 16), 8, count=2 if paired else 1), orientations=2)
    method = built(node, UNET3D | model, views, batch=16, groups=model["bn_groups"])
    if "wgan_gp" in name:
        torch.manual_seed(0)
        critic = adversary_of("wgan_gp", 100.0, architecture(UNET3D), (8, 16, 16)).double()
        norm.regroup(critic, model["bn_groups"])
    return method, critic, volumes_of, lambda number: volumes_of(9, 3 - number, lambda x: x)


def volumes_of(step, count=16, part=own_part):
    """This process's part: clean views, masked views, and what is hidden: 1 to 3 of 4 blocks."""
    generator = torch.Generator().manual_seed(step)
    clean, distorted, hidden = [], [], []
    for _ in range(2):
        clean.append(part(torch.rand(count, 1, 8, 16, 16, generator=generator, dtype=torch.float64)))
        ranks = torch.rand(count, 4, generator=generator).argsort(1)
        blocks = part((ranks <= torch.arange(count)[:, None] % 3).view(count, 1, 2, 2))
        where = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2).repeat_interleave(8, 3)[:, None]
        distorted.append(clean[-1].masked_fill(where, 0.0))
        turned = part(torch.rand(count, 2, 4, generator=generator) * torch.tensor([2, 2, 2, 4])).to(torch.uint8)
        hidden.append(SimpleNamespace(corruptions={"mask": {"mask": blocks}}, orientations=turned))
    number = torch.arange(count)
    labels = part(torch.nn.functional.one_hot(number % 3, 3).float())
    return (tuple(clean), tuple(distorted), Facts(step=step, distortions=hidden, labels=labels, index=part(number)))


# Method, and the corruption that draws for it.
PRETEXTS = {
    "rotation": ({"_target_": "Rotation"}, {}),
    "position": ({"_target_": "RelativePosition", "hidden": 8}, {"patches": ("PatchPair", 8, 3, 2)}),
    "jigsaw": ({"_target_": "Jigsaw"}, {"order": ("ShuffleBlocks", 20)}),
    "cube": ({"_target_": "RubiksCube"}, {"turn": ("TurnBlocks",), "order": ("ShuffleBlocks", 20)}),
    "cpc": ({"_target_": "CPC", "dim": 6, "context": 4}, {"patches": ("CropBlocks", 2)}),
}
TAUGHT = {
    "distil": ({"_target_": "Distil", "teachers": [{"weights": "random", "encoder": "test_vit"}], "hidden": 8}, {})
}


def pretexts(name, node, corruptions):
    """Methods that classify what is drawn of a sample, on whatever process it is."""
    from dira_scale.train.data.distort import corruptions as kinds
    from dira_scale.train.data.views import ViewSpec, draw

    made = {key: getattr(kinds, kind)(*given) for key, (kind, *given) in corruptions.items()}
    views = ViewSpec(size=64 if name == "cube" else 32, count=1, corruptions=made)

    def pictures(step, count=16, part=own_part):
        generator = torch.Generator().manual_seed(step)
        x = part(torch.rand(count, 1, views.size, views.size, generator=generator, dtype=torch.float64))
        index = part(torch.arange(count)).numpy()
        drawn = draw(views, 0, step, index, 0 * index, 0, *2 * (0 * index + views.size,))[1]
        return (x,), (x,), Facts(step=step, distortions=[drawn])

    return built(node, 4, views), None, pictures, lambda number: pictures(9, 3 - number, lambda x: x)


# Encoder, method, BatchNorm groups.
V2 = {"_target_": "DINOv2", "frozen": 0}
DISTILLED = {
    "dino, 4 groups": ("test_resnet", {"_target_": "DINO"}, 4),
    "dino, sinkhorn": ("test_vit", {"_target_": "DINO", "centring": "sinkhorn", "frozen": 0}, 1),
    "dinov2": ("test_vit", V2, 1),  # paths are dropped
    "dira on dinov2": ("test_vit", around(V2, restoration="mask", restore="both"), 1),
    "dinov2, softmax": ("test_vit", {"_target_": "DINOv2", "separate": False, "warmup": 1.0, "centring": "softmax"}, 1),
    "gram": ("test_vit", V2 | {"anchor": "teacher", "anchor_every": 1}, 1),
    "swav": ("test_resnet", {"_target_": "SwAV", "queue": 16, "queue_start": 0.0}, 4),  # in step 2 full
}


def distillation(name, encoder, node, groups):
    """Methods whose targets are centred or balanced over all processes."""
    from dira_scale.train.data.distort.corruptions import BlockwiseMask
    from dira_scale.train.data.views import ViewSpec, draw

    local = {"size": 32, "count": 2, "corruptions": {}}
    views = ViewSpec(size=64, crops=({"count": 2}, local), corruptions={"mask": BlockwiseMask(16, (0.2, 0.6))})

    def crops(step, count=16, part=own_part):
        generator = torch.Generator().manual_seed(step)
        sides = [each.size for each in views.each]
        images = [torch.rand(count, 1, side, side, generator=generator, dtype=torch.float64) for side in sides]
        images, index = tuple(map(part, images)), part(torch.arange(count)).numpy()
        drawn = [draw(views, 0, step, index, 0 * index, view, 0 * index + 64, 0 * index + 64)[1] for view in range(4)]
        return images, images, Facts(step=step, distortions=drawn)

    small = {"prototypes": 24, "hidden": 8} | ({"dim": 6} if name == "swav" else {"bottleneck": 6, "momentum": 0.9})
    node = node | {"base": node["base"] | small} if "base" in node else node | small
    exact = {"dynamic_img_size": False} if encoder == "test_vit" else {}  # timm resamples positions in float32
    exact |= {"drop_path_rate": 0.3, "drop_path_uniform": True} if name == "dinov2" else {}
    method = built(node, groups, views, encoder, arguments=exact)
    with torch.no_grad():  # a ViT's initial weights see no difference between images: any would be nearest
        for parameter in method.parameters():
            parameter.mul_(4 if parameter.dim() > 1 and encoder == "test_vit" else 1)
    return method, None, crops, lambda number: crops(9, 3 - number, lambda x: x)


def micro_batches():
    """PCRL's gradients, queue and statistics after a step of 1 or 2 micro-batches.

    No BatchNorm of the momentum encoder's, whose images are shuffled within a micro-batch; the decoder's groups are
    whole in each.
    """
    from dira_scale.train.data.views import ViewSpec

    results = {}
    for accumulate in (1, 2):
        node = {"_target_": "PCRL", "dim": 8, "queue": 64}
        dropping = {"drop_path_rate": 0.4}
        method = built(node, 4, ViewSpec(size=32, orientations=2), "test_convnext", accumulate, dropping)
        clean, distorted, drawn = batch_of(16, 0)
        for i in range(accumulate):
            parts = [[x.chunk(accumulate)[i] for x in views] for views in (clean, distorted, drawn)]
            torch.manual_seed(0)
            with part_of_batch(rank() * accumulate + i, world() * accumulate):
                terms = method(tuple(parts[0]), tuple(parts[1]), facts(0, parts[2]))
            (sum(method.weights[name] * loss for name, loss in terms.losses.items()) / accumulate).backward()
        seen = {name: mean(p.grad) for name, p in method.named_parameters() if p.requires_grad}
        method.after_step()
        norm.commit_statistics(method)
        results[accumulate] = seen | {f"state/{name}": value for name, value in method.state_dict().items()}
    return results


def built(node, groups, views, encoder="test_resnet", accumulate=1, arguments=()):
    from dira_scale.train.methods import build

    torch.manual_seed(0)
    model = {
        "_target_": "TimmUNet",
        "encoder": encoder,
        "weights": None,
        "decoder_channels": (8,) * 5,
        "bn_groups": groups,
        "zero_init_residual": False,
        "arguments": dict(arguments),
    }
    # In float32 rounding grows to 1e-2 of a gradient within two steps.
    return build(node, model, views, 16, accumulate).double().train()


def two_steps(method, adversary, step_batch, held_out):
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05)
    seen = {}
    for step in range(2):
        method.progress, method.steps = step / 2, 2
        method.before_step()
        clean, distorted, batch = step_batch(step)
        torch.manual_seed(step)
        with part_of_batch(rank(), world()):
            terms = method(clean, distorted, batch)
        if adversary:
            beside = adversary.beside(terms.restored, distorted, batch)
            terms.losses["ad"] = adversary.generator_loss(terms.restored, *beside)
            judged = adversary.discriminator_loss(terms.target, terms.restored, *beside)
            slopes = torch.autograd.grad(judged, list(adversary.parameters()))
            seen[f"{step}/discriminator"] = mean(judged.detach())
            names = [name for name, _ in adversary.named_parameters()]
            seen |= {f"{step}/gradient/{name}": mean(slope) for name, slope in zip(names, slopes, strict=True)}
        optimizer.zero_grad()
        sum(method.weights[name] * loss for name, loss in terms.losses.items()).backward()
        for name, parameter in method.named_parameters():
            unseen = parameter.grad is None and ".pyramid." in name  # a ViT's, where only tokens are seen
            if parameter.requires_grad and not unseen:
                parameter.grad = mean(parameter.grad)
                seen[f"{step}/gradient/{name}"] = parameter.grad.clone()
        optimizer.step()
        method.after_step()
        norm.commit_statistics(method)
        for measure in terms.deferred:
            terms.monitors |= measure()
        seen |= {f"{step}/{name}": mean(value.detach()) for name, value in (terms.losses | terms.monitors).items()}
    seen |= {f"state/{name}": value for name, value in method.state_dict().items()}
    method.eval()
    with torch.no_grad():
        for number in range(rank(), 2, world()):
            terms = method(*held_out(number))
            values = terms.losses | terms.monitors
            seen |= {f"eval/{number}/{name}": value for name, value in values.items()}
    return seen


def images_of(step):
    clean, distorted, drawn = batch_of(16, step)
    return clean, distorted, facts(step, drawn)


def batch_of(batch, step):
    """This process's part: clean views, distorted views, and their orientations."""
    generator = torch.Generator().manual_seed(step)
    clean, noise = (torch.rand(batch, 1, 32, 32, generator=generator, dtype=torch.float64) for _ in range(2))
    parts = own_part(clean), own_part((clean + noise) / 2)
    drawn = [own_part(orientations) for orientations in (some(batch, generator), some(batch, generator))]
    return (parts[0], parts[1]), (parts[1], parts[0]), drawn


def evaluation_batch(number):
    """Validation batches have different lengths: no process may wait for another."""
    generator = torch.Generator().manual_seed(number)
    images = torch.rand(3 - number, 1, 32, 32, generator=generator, dtype=torch.float64)
    drawn = [some(len(images), generator) for _ in range(2)]
    return (images, images), (images, images.flip(-1)), facts(9, drawn)


def some(count, generator):
    """Two orientations for each of ``count`` samples."""
    drawn = torch.rand(count, 2, 3, generator=generator) * torch.tensor([2, 2, 4])
    return drawn.floor().to(torch.uint8)


def facts(step, drawn):
    """What methods read of a batch beside its views."""
    return Facts(step=step, distortions=[SimpleNamespace(orientations=each) for each in drawn])


def mean(x):
    if world() > 1:
        dist.all_reduce(x := x.clone())
    return x / world()


def check_batch_norms(single, parts):
    assert all(set(part) == set(single) for part in parts)
    for groups, expected in single.items():
        results = [part[groups] for part in parts]
        joined = {name: torch.cat([result[name] for result in results]) for name in ("y", "x")}
        joined["x"] /= len(parts)  # gradients of the processes' losses add up; their mean is the batch's loss
        joined |= {name: sum(result[name] for result in results) / len(parts) for name in ("weight", "bias")}
        for name, value in joined.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-11)
        for result in results:  # the same on every process
            torch.testing.assert_close(result["mean"], expected["mean"], rtol=1e-12, atol=0)
            torch.testing.assert_close(result["var"], expected["var"], rtol=1e-12, atol=0)


def check_exchanges(single, parts):
    """Rows that are exchanged are those that are gathered."""
    for seen in (single, *parts):
        assert len(seen) == 22 and all(same for same, _ in seen.values()), seen
        # Of 12 groups on each process, some blocks are on two of them.
        assert seen["12 groups, 24"][1] == (seen is single)
        assert seen["as it is, 24"][1]


def check_micro_batches(single, parts):
    """PCRL's step does not depend on them."""
    expected, cut = single.values()
    for state in (cut, *(state for part in parts for state in part.values())):
        assert state.keys() == expected.keys()
        for name, value in state.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-10, msg=f"{name}: ".__add__)


def check_methods(single, parts, term="re", weight="head.weight"):
    """Losses, monitors, gradients, momentum networks, queues and running statistics, of every method."""
    for method, expected in single.items():
        assert {f"1/{term}", f"eval/1/{term}"} <= set(expected)
        assert any(name.removeprefix("1/gradient/").removeprefix("base.").startswith(weight) for name in expected)
        for part in parts:
            assert {name for name in expected if not name.startswith("eval")} <= set(part[method]) < set(expected)
            for name, value in part[method].items():
                where = f"{method}, {name}: "
                torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-10, msg=where.__add__)


# One method of each way in which processes need each other: exchanged maps and a queue, statistics of all in a loss, a
# centre, logits balanced over all.
QUICK = ("batch_norms", "exchanges", "micro_batches", "images/pcrl, 4 groups", "images/barlow, 1 group")
QUICK += ("distillation/dinov2, softmax", "distillation/dinov2", "taught")


@pytest.mark.parametrize(
    ("ranks", "workers"),
    [
        (2, QUICK),
        (4, ("batch_norms", "exchanges")),
        pytest.param(2, ("images", "volumes", "pretexts", "distillation"), marks=pytest.mark.system),
        pytest.param(4, ("images", "distillation", "taught"), marks=pytest.mark.system),
    ],
)
def test_several_processes_compute_what_one_does(ranks, workers, tmp_path):
    parts = launch(workers, ranks, tmp_path)
    for worker in workers:
        kind = worker.partition("/")[0]
        check = METHODS[kind][2] if kind in METHODS else WORK[kind][1]
        check(work(worker), [part[worker] for part in parts])


def work(worker):
    """What this process computes of a worker."""
    kind, _, only = worker.partition("/")
    if kind in WORK:
        return WORK[kind][0]()
    cases, prepare, _ = METHODS[kind]
    return {name: two_steps(*prepare(name, *case)) for name, case in cases.items() if only in ("", name)}


WORK = {
    "batch_norms": (batch_norms, check_batch_norms),
    "exchanges": (exchanges, check_exchanges),
    "micro_batches": (micro_batches, check_micro_batches),
}
PROTOTYPES = "head.prototypes", "prototypes"
METHODS = {
    "images": (IMAGES, images, check_methods),
    "volumes": (VOLUMES, volumes, check_methods),
    "pretexts": (PRETEXTS, pretexts, partial(check_methods, term="di", weight="encoder.")),
    "taught": (TAUGHT, pretexts, partial(check_methods, term="dense", weight="heads.dense.")),
    "distillation": (
        DISTILLED,
        distillation,
        partial(check_methods, term="di", weight=("head.prototypes", "prototypes")),
    ),
}

if __name__ == "__main__":
    number, ranks, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    limit = timedelta(seconds=WAIT)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=number, world_size=ranks, timeout=limit)
    torch.save({worker: work(worker) for worker in sys.argv[4:]}, folder / f"{number}.pt")
    dist.destroy_process_group()
    os._exit(0)  # a Python that ends while a thread of gloo's still holds a tensor may abort (pytorch#179291)
