"""Masked autoencoders of images and volumes (He et al., CVPR 2022): dense, sparse (SparK: Tian et al., ICLR 2023), of
visible patches alone, or with mask tokens (SimMIM: Xie et al., CVPR 2022)."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from dira_scale.base.arguments import AtLeast, checked
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.distort.corruptions.mask import spread
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.losses.restoration import block_moments, hidden_mean
from dira_scale.train.methods.method import Method, Terms
from dira_scale.train.methods.restoration import blocks_hidden, check_single, mask_blocks, of_known, patch_grid
from dira_scale.train.models.network import Encoder, Network
from dira_scale.train.models.sparse import sparsify

LOSSES: Mapping[str, Callable[[Tensor], Tensor]] = {"mse": torch.square, "l1": torch.abs}  # of an error


class MAE(Method):
    """Encoder and decoder must tell what is in the blocks that the view's mask hides: L = mean over hidden voxels of
    (prediction - target)^2; visible ones teach nothing.

    ``dense``: the encoder sees the mask's constant in hidden blocks (the 3D MAE of nnssl). ``sparse``, for
    convolutional networks (SparK): the encoder computes as if hidden voxels were not there, at every layer
    (``dira_scale.train.models.sparse``), and before the decoder a learnt token for each level takes their places. For
    transformers with a ``visible_patch`` (``vit3d``): ``drop`` (MAE; nnssl's for Primus) gives the encoder visible
    patches alone, and a learnt token takes the places of hidden ones before ``blocks`` transformer blocks and the
    decoder, which is of no use without them: such a run hands on its encoder alone; ``token`` (SimMIM) puts it in
    before the encoder.

    In a dense encoder the constant spreads, and the network sees a distribution that no image has. In a sparse one
    hidden voxels are zeroed before every layer that mixes positions (SparK: after each layer, which is the same at
    visible positions), and norms take their statistics of the visible ones. Attention and layers that pool the whole
    image are refused.

    Different from the sources: the decoder is the network's own, with skips (SparK: a light U-Net), after ``drop`` with
    ``blocks`` of the encoder's width before it (MAE: 8 narrower ones, and a linear layer); the mean is of each sample,
    then over samples (theirs: over all hidden patches of a batch), so it does not matter how processes share the batch;
    intensities are in [0, 1], nnssl's are z-scores, and hidden blocks are as dark as the darkest voxel, nnssl's as the
    mean. nnssl's views are also turned by up to 30 degrees about each axis and scaled by 0.7 to 1.4, with a probability
    of 0.2 each.

    Either way the encoder does not see them: its output is the same whatever they are. Predictions are linear. The
    restored view has them in the hidden blocks, and is the given view elsewhere.

    Args:
        masking: ``dense``, ``sparse``, ``drop`` or ``token``.
        norm_target: predict each block's voxels minus their mean, divided by their deviation (MAE, sec. 4.1). Then the
            restored view takes both from the clean one.
        loss: of a hidden voxel's error: ``mse``, or ``l1`` (SimMIM): |prediction - target|.
        blocks: transformer blocks after ``drop``, in which hidden patches ask visible ones; at least 1.

    Raises ArgumentError unless there is one view with a mask, for an unknown ``masking`` or ``loss``, and for a network
    or blocks that cannot be masked so.
    """

    encoder: Encoder
    decoder: nn.Module
    bounded = False
    remark = (
        "The decoder was trained to fill in hidden blocks only (with `method.norm_target` in units of a block's "
        "deviation): what it returns of visible ones means nothing."
    )

    @checked
    def __init__(
        self,
        network: Network,
        views: ViewSpec,
        masking: Literal["dense", "sparse", "drop", "token"] = "dense",
        norm_target: bool = False,
        loss: Literal["mse", "l1"] = "mse",
        blocks: Annotated[int, AtLeast(1)] = 2,
    ) -> None:
        super().__init__(views, weights={"re": 1.0})
        check_single("MAE", views)
        mask = mask_blocks(views)
        self.encoder, self.decoder, self.head = network.encoder, network.decoder, network.head
        self.norm_target, self.masking, self.error = norm_target, masking, LOSSES[loss]
        if masking == "sparse":
            self.hidden = sparsify(network.encoder, views.sides, mask.shape)
            self.tokens = nn.ParameterDict(
                {f"{level}": nn.Parameter(nn.init.trunc_normal_(torch.empty(channels), std=0.02))  # SparK's
                 for level, channels in enumerate(network.encoder.channels) if level and channels}
            )  # fmt: skip
        elif masking in ("drop", "token"):
            self.grid = patch_grid(network.encoder, views.sides, mask.shape, masking)
            # patches of each view: a mask hides exactly its share
            self.visible = int((~mask).sum()) * math.prod(self.grid) // mask.size
            if masking == "drop":
                self.filler = network.encoder.filler(blocks, views.sides)
            else:
                token = torch.empty(network.encoder.channels[-1])
                self.token = nn.Parameter(nn.init.trunc_normal_(token, std=0.02))  # SimMIM's

    def enter_stage(self, terms: Sequence[str]) -> None:
        super().enter_stage(terms)
        self.requires_grad_("re" in self.active)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        view, target, blocks = distorted[0], clean[0], blocks_hidden(batch, 0)
        hidden = spread(blocks, view.shape[2:])[:, None]
        pyramid, filled = self.encoded(view, blocks)
        predicted = self.head(self.decoder(filled)).to(target.dtype)
        aim = target
        if self.norm_target:
            mean, deviation = block_moments(target, tuple(blocks.shape[1:]))
            aim = (target - mean) / deviation
        predicted = of_known(predicted, aim, batch)
        loss = hidden_mean(self.error(predicted - aim), hidden)
        if self.norm_target:
            predicted = predicted * deviation + mean
        restored = torch.where(hidden, predicted, view)
        return Terms({"re": loss}, restored, target, pyramids=(pyramid,))

    def encoded(self, view: Tensor, blocks: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The pyramid of what is not in hidden ``blocks``, and the decoder's, with tokens where it has nothing."""
        if self.masking == "dense":
            return (pyramid := self.encoder(view)), pyramid
        if self.masking == "sparse":
            self.hidden.blocks = blocks
            return (pyramid := self.encoder(view)), self.with_tokens(pyramid)
        hidden = spread(blocks, self.grid).flatten(1)
        if self.masking == "token":
            return (pyramid := self.encoder.tokens(view, hidden, self.token).maps), pyramid
        visible = hidden.byte().argsort(stable=True)[:, : self.visible]
        *finer, last = pyramid = self.encoder(view, visible)
        return pyramid, [*finer, self.filler(last, visible)]

    def with_tokens(self, pyramid: list[Tensor]) -> list[Tensor]:
        """``pyramid`` with each level's token at its hidden positions; its first map, the view itself, as it is."""
        filled = list(pyramid)
        for level, token in self.tokens.items():
            x = pyramid[int(level)]
            filled[int(level)] = torch.where(self.hidden.at(x), token.to(x.dtype).view(-1, *(1,) * (x.dim() - 2)), x)
        return filled
