"""Run by another environment's Python: nnU-Net trains from an exported checkpoint, and from scratch.

PYTHON nnunet_peer.py FOLDER     FOLDER has checkpoint_final.pth, adaptation_plan.json and expected.pt
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import SimpleITK
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    nnUNetPlannerResEncL,
)
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprint_dataset,
    plan_experiment_dataset,
    preprocess_dataset,
)
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

FOLDER = Path(sys.argv[1])
DATASET, PLANS, SIDE = 999, "nnUNetResEncUNetLPlans", 64


def raw_dataset() -> None:
    """Five noisy balls, whose masks are the balls."""
    folder = FOLDER / "raw" / f"Dataset{DATASET}_Balls"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    generator = np.random.default_rng(0)
    axes = np.indices((SIDE + 8,) * 3) - SIDE / 2
    for case in range(5):
        ball = np.linalg.norm(axes, axis=0) < 12 + 3 * case
        image = generator.normal(ball, 0.5).astype(np.float32)
        SimpleITK.WriteImage(
            SimpleITK.GetImageFromArray(image), str(folder / "imagesTr" / f"ball_{case:03}_0000.nii.gz")
        )
        SimpleITK.WriteImage(
            SimpleITK.GetImageFromArray(np.uint8(ball)), str(folder / "labelsTr" / f"ball_{case:03}.nii.gz")
        )
    about = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "ball": 1}, "numTraining": 5}
    (folder / "dataset.json").write_text(json.dumps(about | {"file_ending": ".nii.gz"}))


def plan_resenc_l() -> None:
    """nnU-Net's own plan and preprocessing; six stages, which its planner has for larger volumes."""
    extract_fingerprint_dataset(DATASET, num_processes=1)
    plan_experiment_dataset(DATASET, experiment_planner_class=nnUNetPlannerResEncL)
    path = FOLDER / "preprocessed" / f"Dataset{DATASET}_Balls" / f"{PLANS}.json"
    plans = json.loads(path.read_text())
    full = plans["configurations"]["3d_fullres"]
    full |= {"patch_size": [SIDE] * 3, "batch_size": 2}
    full["architecture"]["arch_kwargs"] |= {
        "n_stages": 6, "features_per_stage": [32, 64, 128, 256, 320, 320], "kernel_sizes": [[3, 3, 3]] * 6,
        "strides": [[1, 1, 1], *[[2, 2, 2]] * 5], "n_blocks_per_stage": [1, 3, 4, 6, 6, 6],
        "n_conv_per_stage_decoder": [1] * 5,
    }  # fmt: skip
    path.write_text(json.dumps(plans))
    preprocess_dataset(DATASET, PLANS, ["3d_fullres"], [1])


def trained(pretrained: str | None) -> list[float]:
    """The losses of three iterations, after ``-pretrained_weights`` if any."""
    np.random.seed(0)
    torch.manual_seed(0)
    trainer = get_trainer_from_args(str(DATASET), "3d_fullres", 0, "nnUNetTrainer", PLANS, device=torch.device("cpu"))
    trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch, trainer.num_epochs = 3, 1, 1
    trainer.disable_checkpointing = True
    losses: list[float] = []
    step = trainer.train_step
    trainer.train_step = lambda batch: losses.append(float((told := step(batch))["loss"])) or told
    maybe_load_checkpoint(trainer, False, False, pretrained)
    if pretrained:
        compare(trainer.network)
    trainer.run_training()
    assert np.isfinite(losses).all(), losses
    return losses


def compare(network: torch.nn.Module) -> None:
    """Every tensor is the file's, and encoder and decoder give what ours gave."""
    stored = torch.load(FOLDER / "checkpoint_final.pth", weights_only=True)["network_weights"]
    state, expected = network.state_dict(), torch.load(FOLDER / "expected.pt", weights_only=True)
    assert {name for name in state if ".seg_layers." not in name} == stored.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in stored.items())
    kept = []
    network.decoder.stages[-1].register_forward_hook(lambda module, given, result: kept.append(result))
    with torch.no_grad():
        last = network.encoder(expected["x"])[-1]
        network(expected["x"])
    torch.testing.assert_close(last, expected["last"])
    torch.testing.assert_close(kept[0], expected["y"])


def like_nnssl() -> bool:
    """By the plan's keys, as nnssl's and nnU-Net's readers take it: a network by name, encoder and stem by prefix."""
    plan = json.loads((FOLDER / "adaptation_plan.json").read_text())
    assert plan["architecture_plans"]["arch_class_name"] == "ResEncL"
    stored = torch.load(FOLDER / "checkpoint_final.pth", weights_only=True)["network_weights"]
    network = ResidualEncoderUNet(
        plan["pretrain_num_input_channels"], 6, [32, 64, 128, 256, 320, 320], torch.nn.Conv3d, 3, [1, 2, 2, 2, 2, 2],
        [1, 3, 4, 6, 6, 6], 2, [1] * 5, True, torch.nn.InstanceNorm3d, {"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU, nonlin_kwargs={"inplace": True},
    )  # fmt: skip
    for ours, theirs in (("key_to_encoder", network.key_to_encoder), ("key_to_stem", network.key_to_stem)):
        prefix = f"{plan[ours]}."
        part = {name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)}
        network.get_submodule(theirs).load_state_dict(part)
    return all(f"{name}.weight" in stored for name in plan["keys_to_in_proj"])


if __name__ == "__main__":
    raw_dataset()
    plan_resenc_l()
    os.environ.update(nnUNet_n_proc_DA="0")  # the planner takes no 0, training then loads in this process
    told = {"like_nnssl": like_nnssl(), "pretrained": trained(str(FOLDER / "checkpoint_final.pth"))}
    told |= {"scratch": trained(None)}
    told |= {"loaded": len(torch.load(FOLDER / "checkpoint_final.pth", weights_only=True)["network_weights"])}
    print(json.dumps(told))
