"""Masked autoencoders of images and volumes (He et al., CVPR 2022), dense or sparse (SparK: Tian et al., ICLR 2023)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dira_scale.data.batch import Batch
from dira_scale.data.distort.corruptions.mask import spread
from dira_scale.data.views import ViewSpec
from dira_scale.errors import UserError, nearest
from dira_scale.losses.restoration import block_moments, hidden_mean
from dira_scale.methods.method import Method, Terms
from dira_scale.methods.restoration import blocks_hidden, check_single, mask_blocks
from dira_scale.models.network import Network
from dira_scale.models.sparse import sparsify

MASKINGS = ("dense", "sparse")


class MAE(Method):
    """Encoder and decoder must tell what is in the blocks that the view's mask hides: L = mean over hidden voxels of
    (prediction - target)^2; visible ones teach nothing.

    ``dense``: the encoder sees the mask's constant in hidden blocks (the 3D MAE of nnssl; SimMIM). ``sparse``, for
    convolutional networks (SparK): the encoder computes as if hidden voxels were not there, at every layer
    (``dira_scale.models.sparse``), and before the decoder a learnt token for each level takes their places.

    In a dense encoder the constant spreads, and the network sees a distribution that no image has. In a sparse one
    hidden voxels are zeroed before every layer that mixes positions (SparK: after each layer, which is the same at
    visible positions), and norms take their statistics of the visible ones. Attention and layers that pool the whole
    image are refused. MAE's own encoder, which is given visible tokens only, is not built: its gain is speed.

    Different from the sources: the decoder is the network's own, with skips (MAE: 8 transformer blocks; SparK: a light
    U-Net); the mean is of each sample, then over samples (theirs: over all hidden patches of a batch), so it does not
    matter how processes share the batch; intensities are in [0, 1], nnssl's are z-scores, and hidden blocks are as dark
    as the darkest voxel, nnssl's as the mean. nnssl's views are also turned by up to 30 degrees about each axis and
    scaled by 0.7 to 1.4, with a probability of 0.2 each.

    Either way the encoder does not see them: its output is the same whatever they are. Predictions are linear. The
    restored view has them in the hidden blocks, and is the given view elsewhere.

    Args:
        masking: ``dense`` or ``sparse``.
        norm_target: predict each block's voxels minus their mean, divided by their deviation (MAE, sec. 4.1). Then the
            restored view takes both from the clean one.

    Raises ``UserError`` unless there is one view with a mask, for an unknown ``masking``, and for a network or blocks
    that cannot be sparse.
    """

    decoder: nn.Module
    bounded = False
    remark = (
        "The decoder was trained to fill in hidden blocks only (with `method.norm_target` in units of a block's "
        "deviation): what it returns of visible ones means nothing."
    )

    def __init__(self, network: Network, views: ViewSpec, masking: str = "dense", norm_target: bool = False) -> None:
        super().__init__(views, weights={"re": 1.0})
        check_single("MAE", views)
        blocks = mask_blocks(views, "method=mae")
        if masking not in MASKINGS:
            raise UserError(f"method.masking={masking}: expected {' or '.join(MASKINGS)}{nearest(masking, MASKINGS)}")
        self.encoder, self.decoder, self.head = network.encoder, network.decoder, network.head
        self.norm_target, self.sparse = norm_target, masking == "sparse"
        if self.sparse:
            self.hidden = sparsify(network.encoder, views.sides, blocks)
            self.tokens = nn.ParameterDict(
                {f"{level}": nn.Parameter(nn.init.trunc_normal_(torch.empty(channels), std=0.02))  # SparK's
                 for level, channels in enumerate(network.encoder.channels) if level and channels}
            )  # fmt: skip

    def enter_stage(self, terms: Sequence[str]) -> None:
        super().enter_stage(terms)
        self.requires_grad_("re" in self.active)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        view, target, blocks = distorted[0], clean[0], blocks_hidden(batch, 0)
        hidden = spread(blocks, view.shape[2:])[:, None]
        if self.sparse:
            self.hidden.blocks = blocks
        pyramid = self.encoder(view)
        filled = self.with_tokens(pyramid) if self.sparse else pyramid
        predicted = self.head(self.decoder(filled)).to(target.dtype)
        if self.norm_target:
            mean, deviation = block_moments(target, tuple(blocks.shape[1:]))
            loss = hidden_mean((predicted - (target - mean) / deviation).square(), hidden)
            predicted = predicted * deviation + mean
        else:
            loss = hidden_mean((predicted - target).square(), hidden)
        restored = torch.where(hidden, predicted, view)
        return Terms({"re": loss}, restored, target, pyramids=(pyramid,))

    def with_tokens(self, pyramid: list[Tensor]) -> list[Tensor]:
        """``pyramid`` with each level's token at its hidden positions; its first map, the view itself, as it is."""
        filled = list(pyramid)
        for level, token in self.tokens.items():
            x = pyramid[int(level)]
            filled[int(level)] = torch.where(self.hidden.at(x), token.to(x.dtype).view(-1, *(1,) * (x.dim() - 2)), x)
        return filled
