"""Networks of volumes as files for MONAI, nnU-Net and nnssl."""

import io
import json
from textwrap import dedent
from typing import Any

import torch
from torch import Tensor

from dira_scale.errors import UserError
from dira_scale.export.exported import Exported, TrainedNetwork, weights_file
from dira_scale.models.architecture import XYZ
from dira_scale.models.volume.resenc import SLOPE, ResEncEncoder
from dira_scale.models.volume.swinunetr import SwinEncoder

MONAI_FILE = "monai_swinunetr.safetensors"
NNUNET_FILE, NNSSL_FILE = "checkpoint_final.pth", "adaptation_plan.json"  # the names that nnssl's readers ask for
RESENC_L = ([32, 64, 128, 256, 320, 320], [1, 3, 4, 6, 6, 6])  # features and blocks of what nnssl calls ResEncL


def to_monai_swinunetr(network: TrainedNetwork) -> Exported:
    """``monai_swinunetr.safetensors``: MONAI's ``SwinUNETR``, for volumes [x, y, z] as it reads them."""
    assert isinstance(network.encoder, SwinEncoder) and network.unet is not None, "checked"
    channels = network.encoder.channels[0]
    names = {"encoder": network.encoder, "decoder": network.unet.decoder, "out": network.unet.head}
    state = {
        f"out.{name}" if part == "out" else name: tensor
        for part, module in names.items()
        for name, tensor in module.state_dict().items()
    }
    code = f"""
        from monai.networks.nets import SwinUNETR
        from safetensors.torch import load_file

        swinunetr = SwinUNETR({channels}, {network.classes}, feature_size={network.encoder.feature_size})
        swinunetr.eval().load_state_dict(load_file("{MONAI_FILE}"))
        # For volumes as MONAI's LoadImage reads them: [b, C, x, y, z].
        {network.result}_by_monai = swinunetr(image.transpose(2, 4)).transpose(2, 4){network.last}
    """
    return Exported({MONAI_FILE: weights_file(state, network.run, XYZ)}, dedent(code).strip())


def to_nnunet(network: TrainedNetwork) -> Exported:
    """``checkpoint_final.pth``: all of ``ResidualEncoderUNet`` but its segmentation layers, for nnU-Net and nnssl.

    Pickled, as both ask for; it holds tensors, numbers and text alone, so ``weights_only=True`` reads it. With
    ``adaptation_plan.json``, which is in the checkpoint, too: what nnssl's users adapt it by. Without a decoder, if
    none was trained: nnU-Net's own ``-pretrained_weights`` then refuses it.

    Raises UserError for another network.
    """
    encoder = network.encoder
    if not isinstance(encoder, ResEncEncoder):
        raise UserError(f"formats: nnunet takes model=resenc_l; this run has {encoder.name}: use plain")
    state = _repeated(encoder.state_dict(), "encoder.", "decoder.encoder.")
    if network.unet:
        state |= _repeated(network.unet.decoder.state_dict(), "decoder.")
    plan, file = adaptation_plan(network, encoder), io.BytesIO()
    torch.save({"network_weights": state, "nnssl_adaptation_plan": plan, "trainer_name": "dira_scale"}, file)
    text = json.dumps(plan, indent=4).encode()
    code = f"""
        checkpoint = torch.load("{NNUNET_FILE}", weights_only=True)
        weights, plan = checkpoint["network_weights"], checkpoint["nnssl_adaptation_plan"]
    """
    use = f"`nnUNetv2_train DATASET 3d_fullres FOLD -p PLANS -pretrained_weights {NNUNET_FILE}`, for plans with "
    use += f"features_per_stage {encoder.features} and kernels of 3 x 3 x 3 everywhere"
    if not network.unet:
        use = "not for nnU-Net's `-pretrained_weights`, which asks for a decoder, and none was trained"
    use = f"Pickled. {use}; by `{NNSSL_FILE}` for `nnUNetv2_preprocess_like_nnssl -pc {NNUNET_FILE}`, which takes the "
    use += "encoder. Both begin with new segmentation layers, and normalise images in their own way."
    return Exported({NNUNET_FILE: file.getvalue(), NNSSL_FILE: text}, dedent(code).strip(), use=use)


def _repeated(state: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """Under each name that the library has for a tensor: a convolution block lists its layers a second time."""
    names = {
        name: {name, name.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1.")} for name in state
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    return {prefix + alias: tensors[name] for prefix in prefixes for name in state for alias in sorted(names[name])}


def adaptation_plan(network: TrainedNetwork, encoder: ResEncEncoder) -> dict[str, Any]:
    """nnssl's ``AdaptationPlan`` as JSON: the architecture, how it was pretrained, and where which tensors are."""
    blocks, stages, size = encoder.blocks, len(encoder.blocks), list(network.run.input.size)
    architecture: dict[str, Any] = {"arch_class_name": "ResEncL", "arch_kwargs": None}
    architecture |= {"arch_kwargs_requiring_import": None}
    if (encoder.features, blocks) != RESENC_L:
        kwargs = {
            "n_stages": stages, "features_per_stage": encoder.features, "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages, "strides": [[1, 1, 1], *[[2, 2, 2]] * (stages - 1)],
            "n_blocks_per_stage": blocks, "n_conv_per_stage_decoder": [1] * (stages - 1), "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.modules.activation.LeakyReLU",
            "nonlin_kwargs": {"negative_slope": SLOPE, "inplace": True},
        }  # fmt: skip
        importing = ["conv_op", "norm_op", "nonlin"]
        architecture = {"arch_class_name": "ResidualEncoderUNet", "arch_kwargs": kwargs}
        architecture |= {"arch_kwargs_requiring_import": importing}
    resampling: dict[str, Any] = {"order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "dira_scale", "preprocessor_name": "DefaultPreprocessor", "spacing_style": "noresample",
        "normalization_schemes": ["RescaleTo01"], "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3} | resampling,
        "resampling_fn_mask": "resample_data_or_seg_to_shape",
        "resampling_fn_mask_kwargs": {"is_seg": True, "order": 1} | resampling, "spacing": None, "patch_size": size,
    }  # fmt: skip
    stem = "encoder.stem.convs.0"
    return {
        "architecture_plans": architecture,
        "pretrain_plan": {
            "dataset_name": " and ".join(each.name or "unknown" for each in network.run.data.datasets),
            "plans_name": "dira_scale", "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
            "image_reader_writer": "SimpleITKIO", "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2],
            "configurations": {"noresample": configuration}, "experiment_planner_used": "dira_scale",
        },
        "pretrain_num_input_channels": encoder.channels[0],
        "recommended_downstream_patchsize": size,
        "key_to_encoder": "encoder.stages", "key_to_stem": "encoder.stem",
        "keys_to_in_proj": [f"{stem}.conv", f"{stem}.all_modules.0"], "key_to_lpe": None,
    }  # fmt: skip
