"""nnU-Net's trainer with a schedule that ends in time, for its environment, by ``nnUNet_extTrainer``."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class BudgetTrainer(nnUNetTrainer):
    """Has as many epochs as BUDGET says, of as many iterations of validation and five times as many of training, as 50
    are to 250; writes their seconds and Dice down, and predicts no whole volumes at the end, of which none learns."""

    def __init__(  # by these names, which it looks up
        self, plans: dict[str, Any], configuration: str, fold: int, dataset_json: dict[str, Any], device: torch.device
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_val_iterations_per_epoch = map(int, os.environ["BUDGET"].split())
        self.num_iterations_per_epoch = 5 * self.num_val_iterations_per_epoch

    def on_train_end(self) -> None:
        super().on_train_end()
        began, ended, dice = (
            [float(value) for value in self.logger.get_value(name, None)]
            for name in ("epoch_start_timestamps", "epoch_end_timestamps", "mean_fg_dice")
        )
        seconds = [end - start for start, end in zip(began, ended, strict=True)]
        about = {"patch": list(self.configuration_manager.patch_size), "batch": self.configuration_manager.batch_size}
        about |= {"iterations": self.num_iterations_per_epoch, "seconds": seconds, "dice": dice}
        Path(self.output_folder, "epochs.json").write_text(json.dumps(about))

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        pass
