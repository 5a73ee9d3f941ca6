"""The 2D U-Net of DiRA: a timm encoder, segmentation_models_pytorch's decoder and a head."""

from collections.abc import Sequence

from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder, UnetDecoderBlock
from torch import Tensor, nn

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.models.network import Network
from dira_scale.train.models.pyramid import DEPTH, TimmEncoder
from dira_scale.train.models.upsample import nearest, nearest_beside


class UNetBlock(UnetDecoderBlock):
    """smp's without attention: a coarser map [b, C, ...] and a skip [b, c, H, W], or None -> [b, K, H, W]."""

    def forward(
        self, feature_map: Tensor, target_height: int, target_width: int, skip_connection: Tensor | None = None
    ) -> Tensor:
        if skip_connection is None:
            x = nearest(feature_map, (target_height, target_width))
        else:
            x = nearest_beside(feature_map, skip_connection)
        return self.conv2(self.conv1(x))


class UNet(Network):
    """[b, 1 or 3, H, W] -> logits [b, classes, H, W]. DiRA restores one channel; a segmentation has one for each class.

    Every decoder block doubles the resolution (nearest), concatenates the skip and applies Conv3x3-BN-ReLU twice;
    the head is a Conv3x3 (DiRA, sec. 3, and the released code). Layers and initialisation equal
    ``segmentation_models_pytorch.Unet("tu-NAME", classes=classes, decoder_channels=decoder_channels)``.

    Raises ArgumentError when ``decoder_channels`` is not one count per halving of the encoder.
    """

    def __init__(
        self, encoder: TimmEncoder, decoder_channels: Sequence[int] = (256, 128, 64, 32, 16), classes: int = 1
    ) -> None:
        super().__init__()
        if len(decoder_channels) != DEPTH:
            raise ArgumentError("decoder_channels", [*decoder_channels], f"{DEPTH} counts, coarsest first")
        self.encoder = encoder
        self.decoder = UnetDecoder(encoder_channels=encoder.channels, decoder_channels=decoder_channels, n_blocks=DEPTH)
        for block in self.decoder.modules():
            if isinstance(block, UnetDecoderBlock):
                block.__class__ = UNetBlock  # with smp's layers, as they are
        self.head = nn.Conv2d(decoder_channels[-1], classes, kernel_size=3, padding=1)
        initialize_decoder(self.decoder)
        initialize_head(self.head)
