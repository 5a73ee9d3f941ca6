"""Commands that are measured: name -> the command and its words; in rehearsals with more, at tiny sizes."""

LAST = "stages.di.epochs=0", "stages.dir.epochs=0"
DIRA = "pretrain", *LAST, "model.encoder=resnet50", "data.batch=64"
TUNE3D = "views=tune_volumes", "model=unet3d", "data.size=[32,64,64]", "data.batch=8"
SPARSE = "method.masking=sparse", "views.corruptions.mask.block=32"
RECIPES = {
    "dira_moco": (*DIRA, "experiment=dira_moco"),
    "ViT-B/16": (*DIRA, "experiment=dira_moco", "model.encoder=vit_base_patch16_224"),
    "simsiam": (*DIRA, "method=dira_simsiam", "optim=sgd_simsiam"),
    "barlow": (*DIRA, "method=dira_barlow", "optim=lars_barlow", "optim.warmup_epochs=0", "model.bn_groups=1"),
    "models_genesis": ("pretrain", "experiment=models_genesis", "data.batch=64"),
    "dira_moco3d": ("pretrain", "experiment=dira_moco3d", *LAST, "data.batch=32"),
    "pcrl3d": ("pretrain", "experiment=pcrl3d", "data.batch=32"),
    "dira_transvw": ("pretrain", "experiment=dira_transvw", *LAST, "data.batch=8"),
    "mae3d": ("pretrain", "experiment=mae3d", "data.batch=2"),
    "mae3d, sparse": ("pretrain", "experiment=mae3d", "data.batch=2", *SPARSE),
    "dinov2_vitb14": ("pretrain", "experiment=dinov2_vitb14", "data.batch=64"),
    "dino_vit3d": ("pretrain", "experiment=dino_vit3d", "data.batch=8"),
    "mae_vit3d": ("pretrain", "experiment=mae_vit3d", "data.batch=4"),
    "labels": (
        "finetune",
        "init=random",
        "task=labels",
        "task.labels=[a,b,c]",
        "model.encoder=resnet50",
        "data.batch=128",
    ),
    "masks in 3D": ("finetune", "init=random", "task=masks", "task.classes={a: 1, b: 2}", *TUNE3D),
}
SMALL = "data.batch=8", "precision=fp32", "parallel.threads=1"
IMAGES = *SMALL, "model.encoder=test_resnet", "data.size=32"
UNET = *IMAGES, "model.decoder_channels=[32,16,16,8,8]"
NARROW = *SMALL, "data.batch=2", "model.bn_groups=1", "model.width=0.125", "data.size=[16,32,32]"
CUBES = "model.features=[8,16,32]", "model.blocks=[1,1,1]", "views.corruptions.mask.block=8"
MAE = *SMALL, "data.batch=2", *CUBES, "data.size=[16,16,16]"
PRIMUS = *SMALL, "data.batch=2", "model.embed_dim=72", "model.depth=1", "model.num_heads=4"
VIT = "model.encoder=test_vit", "++model.arguments.patch_size=8"
HEADS = "method.prototypes=64", "method.hidden=32", "method.bottleneck=16"
CROPS = "views.crops.2.size=32", "views.corruptions.mask.patch=8"
CROPS3D = "data.size=[32,32,32]", "views.crops=[{count: 2, extents: [[32,32,32]]}]"
TINY = {
    "dira_moco": (*UNET, "method.base.queue=64"),
    "ViT-B/16": (*UNET, "method.base.queue=64", "model.encoder=test_vit"),
    "simsiam": (*UNET, "method.base.dim=64", "method.base.bottleneck=16"),
    "barlow": (*UNET, "method.base.dim=64"),
    "models_genesis": NARROW,
    "dira_moco3d": (*NARROW, "method.base.queue=64"),
    "pcrl3d": (*NARROW, "method.queue=64"),
    "dira_transvw": NARROW,
    "mae3d": MAE,
    "mae3d, sparse": MAE,
    "dinov2_vitb14": (*SMALL, "data.size=64", *VIT, *HEADS, *CROPS),
    "dino_vit3d": (*PRIMUS, *HEADS, *CROPS3D),
    "mae_vit3d": (*PRIMUS, "data.size=[32,32,32]"),
    "labels": IMAGES,
    "masks in 3D": NARROW,
}


def words(name: str, rehearse: bool, *more: str) -> tuple[str, ...]:
    """A recipe's command and words, with ``more``."""
    return (*RECIPES[name], "precision=bf16", *more, *(TINY[name] if rehearse else ()))
