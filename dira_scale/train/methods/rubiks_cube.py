"""Rubik's cube (Zhuang et al., MICCAI 2019; Zhu et al., MedIA 2020): what lies where, and what is turned?"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.base.arguments import UNSHOWN, ArgumentError
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.distort.corruptions import TurnBlocks
from dira_scale.train.data.distort.corruptions.blocks import PER_AXIS
from dira_scale.train.data.geometry.blocks import cut, exchanged, joined
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.losses.classification import classified
from dira_scale.train.losses.float32 import at_least_float32
from dira_scale.train.methods.jigsaw import ORDER, moved_blocks
from dira_scale.train.methods.method import Method, Terms
from dira_scale.train.methods.restoration import check_single, patch_maps
from dira_scale.train.models.heads import MLP, global_average
from dira_scale.train.models.network import Encoder, pyramid_sizes

TURN = "turn"  # the corruption that turns a view's blocks, and its parameter


class RubiksCube(Method):
    """A volume is cut into 2 x 2 x 2 blocks; each is turned by 180 degrees about an axis, or not, and they change
    places by one of K permutations y. An encoder f sees each block alone, and linear classifiers of F = f(x_1) …
    f(x_8), side by side, must tell the permutation, and of each block whether it is turned, t_i: L_di = -log p(y | F) -
    mean_i log p(t_i | F), the mean over the batch.

    f is the encoder's global average, in the order in which blocks are seen, as in DiRA's authors' 3D script. As a base
    of DiRA it returns the maps of all blocks, put back to where they belong and as they are turned, and the decoder
    returns the volume. In stages without ``di`` the base idles, and encoder and decoder get the view as it is seen.

    Different from the script: it names the turned blocks by where they belong, here by where they are seen; it restores
    each block alone, and compares it with that of another place; its discriminator has the eight blocks as channels;
    and it zeroes ten voxels where the blocks meet before it moves them, of the target, too, whose faces show where a
    block comes from: here all faces are zeroed alike, and not the target's.

    Monitors: ``accuracy`` of the permutation, ``chance``, which is 1 / K, and ``turn_accuracy``, the share of blocks
    that are rightly called turned or not; three quarters are turned, so that is what calling all turned has.

    Raises ArgumentError unless there is one view, whose corruptions are ``turn`` and ``order``, and an encoder that
    makes maps of half the size of a half.
    """

    trained_by_di = ("order", "turned")
    corrupted = True
    lesson = "tell in which order the blocks of a volume lie and which are turned"

    def __init__(self, encoder: Encoder, views: ViewSpec) -> None:
        super().__init__(views, weights={"di": 1.0})
        check_single("Rubik's cube", views)
        permutations = moved_blocks(views, "RubiksCube", "rubiks_cube").permutations
        turn = views.corruptions.get(TURN)
        self.blocks = (PER_AXIS,) * views.dimensions
        if not (isinstance(turn, TurnBlocks) and turn.counts(views.dimensions) == self.blocks):
            expected = f"{PER_AXIS} blocks on each axis that are turned, as configs/views/rubiks_cube.yaml has"
            raise ArgumentError(f"views.corruptions.{TURN}", UNSHOWN, expected)
        block = patch_maps("RubiksCube", encoder, [side // PER_AXIS for side in views.sides])
        maps = pyramid_sizes(encoder, views.sides)
        if [[PER_AXIS * side for side in level] for level in block] != maps:
            step = PER_AXIS * max(side // n for side, n in zip(views.sides, maps[-1], strict=True))
            halves = f"{encoder.name} makes maps of {block[-1]} of a block, not half of the whole view's {maps[-1]}"
            raise ArgumentError("views.size", views.sides, f"multiples of {step}: {halves}")
        self.encoder, blocks = encoder, PER_AXIS**views.dimensions
        self.order = MLP(blocks * encoder.channels[-1], permutations)
        self.turned = MLP(blocks * encoder.channels[-1], blocks)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        drawn = batch.distortions[0].corruptions
        places = drawn[ORDER]["places"]
        blocks = cut(distorted[0], self.blocks)
        levels = [level.unflatten(0, places.shape) for level in self.encoder(blocks.flatten(0, 1))]
        pyramid = [joined(exchanged(level, places.argsort(1)), self.blocks) for level in levels]
        # Of the pyramid, whose last map is what health monitors call the encoder's output.
        block_maps = exchanged(cut(pyramid[-1], self.blocks), places)
        features = torch.cat([global_average(block) for block in block_maps.unbind(1)], 1)
        loss, monitors = classified(self.order(features), drawn[ORDER][ORDER])
        logits = at_least_float32(self.turned(features))
        turned = drawn[TURN][TURN].gather(1, places) > 0
        loss = loss + F.binary_cross_entropy_with_logits(logits, turned.to(logits.dtype))
        monitors["turn_accuracy"] = ((logits.detach() > 0) == turned).float().mean()
        return Terms({"di": loss}, monitors=monitors, pyramids=(pyramid,))
