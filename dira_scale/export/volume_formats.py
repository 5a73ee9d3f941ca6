"""Networks of volumes as files for MONAI, nnU-Net and nnssl."""

import io
import json
from collections.abc import Mapping
from textwrap import dedent
from typing import Any

import torch
from torch import Tensor, nn

from dira_scale.base.errors import UserError
from dira_scale.export.network import Exported, TrainedNetwork, weights_file
from dira_scale.train.models.architecture import XYZ
from dira_scale.train.models.network import Network
from dira_scale.train.models.volume.architecture import primus_widths
from dira_scale.train.models.volume.resenc import SLOPE, ResEncEncoder
from dira_scale.train.models.volume.swinunetr import SwinEncoder
from dira_scale.train.models.volume.vit3d import ViT3DEncoder

MONAI_FILE = "monai_swinunetr.safetensors"
NNUNET_FILE, NNSSL_FILE = "checkpoint_final.pth", "adaptation_plan.json"  # the names that nnssl's readers ask for
PRIMUS = {(396, 12, 6): "PrimusS", (792, 12, 12): "PrimusB", (864, 16, 12): "PrimusM", (1056, 24, 16): "PrimusL"}
RESENC_L = ([32, 64, 128, 256, 320, 320], [1, 3, 4, 6, 6, 6])  # features and blocks of what nnssl calls ResEncL


def to_monai_swinunetr(network: TrainedNetwork) -> Exported:
    """``monai_swinunetr.safetensors``: MONAI's ``SwinUNETR``, for volumes [x, y, z] as it reads them."""
    assert isinstance(network.encoder, SwinEncoder) and network.unet is not None, "checked"
    channels, state = network.encoder.channels[0], swinunetr_state(network.encoder, network.unet)
    code = f"""
        from monai.networks.nets import SwinUNETR
        from safetensors.torch import load_file

        swinunetr = SwinUNETR({channels}, {network.classes}, feature_size={network.encoder.feature_size})
        swinunetr.eval().load_state_dict(load_file("{MONAI_FILE}"))
        # For volumes as MONAI's LoadImage reads them: [b, C, x, y, z].
        {network.result}_by_monai = swinunetr(image.transpose(2, 4)).transpose(2, 4){network.last}
    """
    return Exported({MONAI_FILE: weights_file(state, network.run, XYZ)}, dedent(code).strip())


def swinunetr_state(encoder: SwinEncoder, unet: Network) -> dict[str, Tensor]:
    """The tensors under MONAI's names, still for volumes [z, y, x]."""
    names = {"encoder": encoder, "decoder": unet.decoder, "out": unet.head}
    return {
        f"out.{name}" if part == "out" else name: tensor
        for part, module in names.items()
        for name, tensor in module.state_dict().items()
    }


def to_nnunet(network: TrainedNetwork) -> Exported:
    """``checkpoint_final.pth``: all of ``ResidualEncoderUNet`` but its segmentation layers, or all of ``Primus``, for
    nnU-Net and nnssl.

    Pickled, as both ask for; it holds tensors, numbers and text alone, so ``weights_only=True`` reads it. With
    ``adaptation_plan.json``, which is in the checkpoint, too: what nnssl's users adapt it by. Without a decoder, if
    none was trained: nnU-Net's own ``-pretrained_weights`` then refuses it.

    Raises UserError for another network.
    """
    encoder, trainer, why = network.encoder, "", "" if network.unet else "none was trained"
    if isinstance(encoder, ResEncEncoder):
        state = _repeated(encoder.state_dict(), "encoder.", "decoder.encoder.")
        state |= _repeated(network.unet.decoder.state_dict(), "decoder.") if network.unet else {}
        fitting = f"features_per_stage {encoder.features}, kernels of 3 x 3 x 3 and strides of 2 everywhere"
    elif isinstance(encoder, ViT3DEncoder):
        state, widths = _primus(encoder, network.unet), primus_widths(encoder.dim, network.classes)
        trainer = f" -tr nnUNet_Primus_{PRIMUS[_size(encoder)][-1]}_Trainer"
        outputs = f"{network.classes} output{'s' * (network.classes > 1)}"
        fitting = f"patch_size {list(network.run.input.size)} and heads for {outputs}"
        layers = network.unet.decoder.modules() if network.unet else ()
        if network.unet and [each.out_channels for each in layers if isinstance(each, nn.ConvTranspose3d)] != widths:
            why = f"its own for {outputs} has decoder_channels {widths}"
    else:
        raise UserError(f"formats: nnunet takes model=resenc_l or model=vit3d; this run has {encoder.name}: use plain")
    use = f"`nnUNetv2_train DATASET 3d_fullres FOLD -p PLANS{trainer} -pretrained_weights {NNUNET_FILE}`, for plans "
    use += f"with {fitting}"
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
    use += "encoder. nnU-Net normalises images in its own way."
    return Exported({NNUNET_FILE: file.getvalue(), NNSSL_FILE: text}, dedent(code).strip(), use=use)


def _primus(encoder: ViT3DEncoder, unet: Network | None) -> dict[str, Tensor]:
    """Named as in ``Primus``, learnt positions row by row. Raises UserError for sizes that nnssl has no name for."""
    if _size(encoder) not in PRIMUS or encoder.registers:
        raise UserError(
            "formats: nnunet takes vit3d in the sizes S, B, M and L (docs/how-to/nnunet.md) without register tokens, "
            "which nnssl has names for; use plain"
        )
    names = {"embed.": "down_projection.proj.", "transformer.": "eva."}
    state = _renamed(encoder.state_dict(), names)
    state["eva.pos_embed"] = state["eva.pos_embed"].flatten(1).T[None].contiguous()
    if unet:
        names = {"decoder.stages.": "up_projection.decode.", "head.": "up_projection.decode.2."}
        state |= _renamed(unet.state_dict(), names)
        state["mask_token"] = torch.zeros(1, 1, encoder.dim)  # a buffer of theirs, which nothing trains
    return state


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with one of ``names``, which its value replaces."""
    return {
        new + name.removeprefix(old): tensor.detach().cpu().contiguous()
        for name, tensor in state.items()
        for old, new in names.items()
        if name.startswith(old)
    }


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
    name, kwargs, importing = "ResEncL", None, None
    if isinstance(encoder, ViT3DEncoder):
        name = PRIMUS[_size(encoder)]
    elif (encoder.features, encoder.blocks) != RESENC_L:
        name, importing, stages = "ResidualEncoderUNet", ["conv_op", "norm_op", "nonlin"], len(encoder.blocks)
        kwargs = {
            "n_stages": stages, "features_per_stage": encoder.features, "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages, "strides": [[1, 1, 1], *[[2, 2, 2]] * (stages - 1)],
            "n_blocks_per_stage": encoder.blocks, "n_conv_per_stage_decoder": [1] * (stages - 1), "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.modules.activation.LeakyReLU",
            "nonlin_kwargs": {"negative_slope": SLOPE, "inplace": True},
        }  # fmt: skip
    return {"arch_class_name": name, "arch_kwargs": kwargs, "arch_kwargs_requiring_import": importing}


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
