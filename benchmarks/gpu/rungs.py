"""The rungs of the ladder: a network and one way to train it each, one change per rung, in the order of their worth."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rung:
    """A network and one way to train it."""

    network: str
    name: str
    keys: tuple[str, ...]
    kind: str  # of product, whose peak and tolerance count
    authors: bool = False
    free: bool = False  # cuDNN may choose among algorithms that are not reproducible
    batch: int | None = None  # another than the others'
    alike: bool = True  # it computes what the network's IEEE fp32 does, and its losses must be those

    @property
    def title(self) -> str:
        return f"{self.network}: {self.name}"


NETWORKS = {
    "MoCo ResNet-50": ("method=dira_moco", "optim=sgd_moco", "model.encoder=resnet50"),
    "SimSiam ResNet-50": ("method=dira_simsiam", "optim=sgd_simsiam", "model.encoder=resnet50"),
    "Barlow Twins ResNet-50": (
        "method=dira_barlow", "optim=lars_barlow", "optim.warmup_epochs=0", "model.encoder=resnet50"
    ),
    "MoCo ViT-B/16": ("method=dira_moco", "optim=sgd_moco", "model.encoder=vit_base_patch16_224"),
}  # fmt: skip
SMALL = "model.decoder_channels=[32,16,16,8,8]", "parallel.threads=1"
TINY = {
    "MoCo ResNet-50": (*SMALL, "model.encoder=test_resnet", "method.base.queue=64"),
    "SimSiam ResNet-50": (*SMALL, "model.encoder=test_resnet", "method.base.dim=64", "method.base.bottleneck=16"),
    "Barlow Twins ResNet-50": (*SMALL, "model.encoder=test_resnet", "method.base.dim=64"),
    "MoCo ViT-B/16": (*SMALL, "model.encoder=test_vit", "method.base.queue=64"),
}  # rehearsals: the same machinery, figures that say nothing

NCHW, NHWC = "parallel.channels_last=false", "parallel.channels_last=true"
FUSED = "+optim.optimizer.fused=true", "+optim.discriminator.fused=true"
BEST = "precision=bf16", NHWC, *FUSED
GROUPS = "model.bn_groups=4"
# torch has no fused SGD for sharded parameters, which keep NCHW; the discriminator is not sharded.
SHARDED = "precision=bf16", NHWC, FUSED[1], "parallel=fsdp2"
IEEE, COMPILED = "IEEE fp32", "torch.compile"


def rungs() -> list[Rung]:
    """In the order in which they are run: what matters most first, torch.compile, which may take minutes, last."""
    first, *others = NETWORKS
    ladder = [
        Rung(first, "bf16, NHWC, fused", BEST, "bf16"),
        Rung(first, "authors' loop", ("precision=fp32", NCHW), "tf32", authors=True),
        Rung(first, IEEE, ("precision=fp32", NCHW), "fp32"),
        Rung(first, "batch 64", BEST, "bf16", batch=64, alike=False),
        Rung(first, "authors' loop, batch 64", ("precision=fp32", NCHW), "tf32", authors=True, batch=64, alike=False),
        Rung(first, "4 BatchNorm groups", (*BEST, GROUPS), "bf16", alike=False),
        Rung(first, "4 BatchNorm groups, batch 64", (*BEST, GROUPS), "bf16", batch=64, alike=False),
        Rung(first, "batch 512", BEST, "bf16", batch=512, alike=False),
        Rung(first, "any cuDNN algorithm", BEST, "bf16", free=True),
        Rung(first, "activation checkpointing", (*BEST, "parallel.checkpoint_activations=true"), "bf16"),
        Rung(first, "FSDP2 on one GPU", SHARDED, "bf16"),
        Rung(first, "tf32, NCHW", ("precision=tf32", NCHW), "tf32"),
        Rung(first, "bf16, NCHW", ("precision=bf16", NCHW), "bf16"),
        Rung(first, "bf16, NHWC", ("precision=bf16", NHWC), "bf16"),
    ]
    for network in others:
        fused = () if "optim=lars_barlow" in NETWORKS[network] else FUSED
        ladder.append(Rung(network, "bf16, NHWC", ("precision=bf16", NHWC, *fused), "bf16"))
        ladder.append(Rung(network, IEEE, ("precision=fp32", NCHW), "fp32"))
    ladder.append(Rung(first, COMPILED, (*BEST, "parallel.compile=true"), "bf16"))
    return ladder
