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
from dira_scale.models.volume.vit3d import ViT3DEncoder

MONAI_FILE = "monai_swinunetr.safetensors"
NNUNET_FILE, NNSSL_FILE = "checkpoint_final.pth", "adaptation_plan.json"  # the names that nnssl's readers ask for
PRIMUS = {(396, 12, 6): "PrimusS", (792, 12, 12): "PrimusB", (864, 16, 12): "PrimusM", (1056, 24, 16): "PrimusL"}
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
    """``checkpoint_final.pth``: all of ``ResidualEncoderUNet`` but its segmentation layers, for nnU-Net and nnssl; of
    ``Primus`` the encoder, as the shape of its decoder follows from the number of classes.

    Pickled, as both ask for; it holds tensors, numbers and text alone, so ``weights_only=True`` reads it. With
    ``adaptation_plan.json``, which is in the checkpoint, too: what nnssl's users adapt it by. Without a decoder, if
    none was trained: nnU-Net's own ``-pretrained_weights`` then refuses it.

    Raises UserError for another network.
    """
    encoder, why = network.encoder, "" if network.unet else "none was trained"
    if isinstance(encoder, ResEncEncoder):
        state = _repeated(encoder.state_dict(), "encoder.", "decoder.encoder.")
        state |= _repeated(network.unet.decoder.state_dict(), "decoder.") if network.unet else {}
        use = f"`nnUNetv2_train DATASET 3d_fullres FOLD -p PLANS -pretrained_weights {NNUNET_FILE}`, for plans with "
        use += f"features_per_stage {encoder.features} and kernels of 3 x 3 x 3 everywhere"
    elif isinstance(encoder, ViT3DEncoder):
        state, why = _primus(encoder), "its own has another shape"
    else:
        raise UserError(f"formats: nnunet takes model=resenc_l or model=vit3d; this run has {encoder.name}: use plain")
    if why:
        use = f"not for nnU-Net's `-pretrained_weights`, which asks for a decoder, and {why}"
    plan, file = adaptation_plan(network, encoder), io.BytesIO()
    torch.save({"network_weights": state, "nnssl_adaptation_plan": plan, "trainer_name": "dira_scale"}, file)
    text = json.dumps(plan, indent=4).encode()
    code = f"""
        checkpoint = torch.load("{NNUNET_FILE}", weights_only=True)
        weights, plan = checkpoint["network_weights"], checkpoint["nnssl_adaptation_plan"]
    """
    use = f"Pickled. {use}; by `{NNSSL_FILE}` for `nnUNetv2_preprocess_like_nnssl -pc {NNUNET_FILE}`, which takes the "
    use += "encoder. Both begin with new segmentation layers, and normalise images in their own way."
    return Exported({NNUNET_FILE: file.getvalue(), NNSSL_FILE: text}, dedent(code).strip(), use=use)


def _primus(encoder: ViT3DEncoder) -> dict[str, Tensor]:
    """Named as in ``Primus``, learnt positions row by row. Raises UserError for sizes that nnssl has no name for."""
    if _size(encoder) not in PRIMUS or encoder.registers:
        raise UserError(
            "formats: nnunet takes vit3d in the sizes S, B, M and L (docs/how-to/weights.md) without register tokens, "
            "which nnssl has names for; use plain"
        )
    state = dict(encoder.state_dict())
    state["transformer.pos_embed"] = state["transformer.pos_embed"].flatten(1).T[None]
    names = {name: name.replace("embed.", "down_projection.proj.", 1) for name in state if name.startswith("embed.")}
    names |= {name: name.replace("transformer.", "eva.", 1) for name in state if name.startswith("transformer.")}
    return {names[name]: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _size(encoder: ViT3DEncoder) -> tuple[int, int, int]:
    return encoder.dim, len(encoder.transformer.blocks), encoder.heads


def _repeated(state: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """Under each name that the library has for a tensor: a convolution block lists its layers a second time."""
    names = {
        name: {name, name.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1.")} for name in state
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    return {prefix + alias: tensors[name] for prefix in prefixes for name in state for alias in sorted(names[name])}


def _architecture(encoder: ResEncEncoder | ViT3DEncoder) -> dict[str, Any]:
    """By nnssl's name, or by the arguments of a class in dynamic_network_architectures."""
    name = PRIMUS[_size(encoder)] if isinstance(encoder, ViT3DEncoder) else "ResEncL"
    architecture: dict[str, Any] = {"arch_class_name": name, "arch_kwargs": None}
    architecture |= {"arch_kwargs_requiring_import": None}
    if isinstance(encoder, ResEncEncoder) and (encoder.features, encoder.blocks) != RESENC_L:
        blocks, stages = encoder.blocks, len(encoder.blocks)
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
    return architecture


def adaptation_plan(network: TrainedNetwork, encoder: ResEncEncoder | ViT3DEncoder) -> dict[str, Any]:
    """nnssl's ``AdaptationPlan`` as JSON: the architecture, how it was pretrained, and where which tensors are."""
    size = list(network.run.input.size)
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
    keys: dict[str, Any] = {
        "key_to_encoder": "encoder.stages", "key_to_stem": "encoder.stem",
        "keys_to_in_proj": [f"{stem}.conv", f"{stem}.all_modules.0"], "key_to_lpe": None,
    }  # fmt: skip
    if isinstance(encoder, ViT3DEncoder):
        keys = {
            "key_to_encoder": "eva", "key_to_stem": "down_projection", "keys_to_in_proj": ["down_projection.proj"],
            "key_to_lpe": "eva.pos_embed",
        }  # fmt: skip
    return {
        "architecture_plans": _architecture(encoder),
        "pretrain_plan": {
            "dataset_name": " and ".join(each.name or "unknown" for each in network.run.data.datasets),
            "plans_name": "dira_scale", "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
            "image_reader_writer": "SimpleITKIO", "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2],
            "configurations": {"noresample": configuration}, "experiment_planner_used": "dira_scale",
        },
        "pretrain_num_input_channels": encoder.channels[0],
        "recommended_downstream_patchsize": size,
    } | keys  # fmt: skip
