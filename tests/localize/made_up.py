"""Fine-tuned networks without training: one that sees what is bright, and a run's folder of random weights."""

from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf
from recorded import derived
from train.models.stub_classifier import Patches

from dira_scale.base.config.compose import compose
from dira_scale.judge.evaluation.finetuned_network import TrainedRun
from dira_scale.train.models.architecture import architecture
from dira_scale.train.models.classifier import Classifier
from dira_scale.train.runs.checkpoint import Checkpointer, replicated
from dira_scale.train.runs.description import FILE

NAMES = ("bright", "dark")
WORDS = ["data.shards=any", "model.encoder=test_resnet", "data.size=32"]


def sees_brightness(*size: int) -> TrainedRun:
    """Its map for ``bright`` is what is brighter than a half, for ``dark`` nothing."""
    encoder = Patches(len(size), side=1, channels=1)
    encoder.convolution.weight.data.fill_(2.0)
    encoder.convolution.bias.data.fill_(-1.0)
    network = Classifier(encoder, len(NAMES))
    network.head.fc.weight.data[:] = torch.tensor([[1.0], [-1.0]])
    config: Any = OmegaConf.to_container(compose("finetune", ["init=random", *WORDS, "task=labels"]))
    about = {name: config[name] for name in ("task", "evaluate", "normalise")} | {"model": {}}
    about |= {"network": "made up", "stage": "finetune", "step": 1, "facts": {"outputs": [*NAMES]}, "size": [*size]}
    about |= {"stored": {}}
    return TrainedRun(network.eval(), about)


def tuned(run: Path, *words: str, hash: str = "0") -> Path:
    """As fine-tuning leaves it, of random weights. ``hash``: of its dataset."""
    config: Any = OmegaConf.to_container(compose("finetune", ["init=random", *WORDS, f"run={run}", *words]))
    config |= {"facts": {"outputs": [*NAMES]}, "datasets": [{"hash": hash}], "precision_used": "fp32"}
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / FILE).write_text((described := derived("finetune", config)).to_json())
    torch.manual_seed(0)
    model = architecture(config["model"])
    network = model.build_classifier(model.build_encoder(32), len(NAMES))
    network.head.fc.weight.data.normal_()
    tensors = {f"{described.tensors.module}.{name}": tensor for name, tensor in network.state_dict().items()}
    writer = Checkpointer(run / "checkpoints", keep=5, rank=0, world=1)
    writer.save(3, replicated(tensors), {"stage": 0, "step": 3, "best": {"finetune": 1.0}}, {"finetune": 3})
    writer.wait()
    return run
