"""nnU-Net's own commands and trainers on our weights; runs in its environment (tests/train/models/test_nnunet.py).

``python nnunet_roads.py FOLDER``: it has a dataset, ``KIND/checkpoint_final.pth`` of ResEncs and of Primus, and
images ``cube.pt`` and ``flat.pt``. For each road by which weights enter, ``ROAD.pt`` gets the network's tensors, what
it computes of an image, a batch and its loss, the losses of STEPS training steps, and how many tensors these moved;
``ROAD_scratch.pt`` the same without our weights, for roads of ``nnUNetv2_train_pretrained``.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from nnunetv2.experiment_planning import like_nnssl, plan_and_preprocess_entrypoints
from nnunetv2.run import run_training, run_training_from_pretrained

DATASET, PLANS, CPU = "Dataset001_Ball", "nnUNetResEncUNetLPlans", torch.device("cpu")
STEPS = 50  # epochs of one, as the learning rate rises by the epoch
SPACING = "Spacing__1.00_1.00_1.00___Norm__Z"


def command(entry: Callable[[], None], *words: str) -> None:
    """Call what ``pyproject.toml`` there names as a command."""
    sys.argv = ["command", "-d", "1", *words]
    entry()


def plan(name: str, **changed: object) -> None:
    """Another plan, which a user has edited: two images a batch, and ``changed``, of its configuration or network."""
    folder = Path(os.environ["nnUNet_preprocessed"], DATASET)  # noqa: SIM112
    content = json.loads((folder / f"{PLANS}.json").read_text())
    configuration = content["configurations"]["3d_fullres"] | {"batch_size": 2}
    network = configuration["architecture"]["arch_kwargs"]
    for key, value in changed.items():
        (network if key in network else configuration)[key] = value
    content |= {"plans_name": name, "configurations": {"3d_fullres": configuration}}
    (folder / f"{name}.json").write_text(json.dumps(content))


def trainer_of(weights: Path | None, name: str, plans: str, scratch: bool):
    """The trainer as ``nnUNetv2_train -pretrained_weights`` or, without them, ``nnUNetv2_train_pretrained`` has it;
    ``scratch``: with the latter's ``--from_scratch``."""
    module, more = run_training if weights else run_training_from_pretrained, {}
    if scratch:
        more["pretrained_from_scratch"] = True
    trainer = module.get_trainer_from_args(DATASET, "3d_fullres", "all", name, plans, device=CPU, **more)
    trainer.initialize()
    if weights:
        run_training.maybe_load_checkpoint(trainer, False, False, str(weights))
    return trainer


def computed(network: torch.nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """Maps of the stages, the finest first, and the decoder's last; of Primus the tokens and the output."""
    found = []
    with torch.inference_mode():
        if hasattr(network, "eva"):
            network.eva.register_forward_hook(lambda _, __, made: found.append(made[0]))
            output = network(image)
            return [*found, output]
        maps = network.encoder(image)
        network.decoder.stages[-1].register_forward_hook(lambda _, __, made: found.append(made))
        network.decoder(maps)
        return [*maps, *found]


def follow(road: str, image: str, weights: Path | None, name: str, plans: str, scratch: bool = False) -> None:
    folder = Path(sys.argv[-1])
    torch.manual_seed(0)
    trainer = trainer_of(weights, name, plans, scratch)
    state = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    found = {"state": state, "computed": computed(trainer.network.eval(), torch.load(folder / image))}
    trainer.on_train_start()
    trainer.on_epoch_start()
    batch = next(trainer.dataloader_train)
    with torch.no_grad():
        found["loss"] = float(trainer.loss(trainer.network(batch["data"]), batch["target"]))
    found["losses"], found["batch"] = [], (batch["data"], batch["target"])
    for trainer.current_epoch in range(STEPS if road.startswith("nnssl") else 1):
        trainer.on_train_epoch_start()
        found["losses"].append(float(trainer.train_step(batch)["loss"]))
        batch = next(trainer.dataloader_train)
    found["moved"] = sum(not torch.equal(state[name], now) for name, now in trainer.network.state_dict().items())
    torch.save(found, folder / f"{road}.pt")


def main() -> None:
    folder = Path(sys.argv[1])
    kinds = "resenc", "deep", "narrow", "primus"
    resenc, deep, narrow, primus = (folder / kind / "checkpoint_final.pth" for kind in kinds)
    prepare = plan_and_preprocess_entrypoints.plan_and_preprocess_entry
    command(prepare, "-pl", "nnUNetPlannerResEncL", "-c", "3d_fullres", "-np", "1", "-npfp", "1")
    plan("cubes")
    plan("flat", patch_size=[16, 24, 32])
    plan("thin", kernel_sizes=[[1, 3, 3], *3 * [[3, 3, 3]]])
    command(like_nnssl.plan_like_dynamic_entrypoint, "-n", "deep", "-pc", str(deep), "-pl", "thin")
    for name, file in (("narrow", narrow), ("primus", primus)):
        command(like_nnssl.preprocess_like_nnssl_entrypoint, "-n", name, "-pc", str(file), "-np", "1")
    sys.argv = ["", str(folder)]
    os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112  # batches by this process; planning refuses 0
    follow("weights", "cube.pt", resenc, "nnUNetTrainer", "cubes")
    follow("weights_primus", "flat.pt", primus, "nnUNet_Primus_S_Trainer", "flat")
    follow("dynamic", "cube.pt", None, "DynamicPretrainedTrainer", "ptPlans_dynamic__deep")
    for scratch in (False, True):
        end = "_scratch" * scratch
        follow(f"nnssl{end}", "cube.pt", None, "PretrainedTrainer", f"ptPlans__narrow____{SPACING}", scratch)
        primus = "PretrainedTrainer_Primusx", f"ptPlans__primus____{SPACING}"
        follow(f"nnssl_primus{end}", "flat.pt", None, *primus, scratch)


if __name__ == "__main__":
    main()
