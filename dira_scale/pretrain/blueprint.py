"""The blueprint of `pretrain`, by its configuration alone."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from etils.epy import lazy_imports
from omegaconf import OmegaConf
from torch import Tensor

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.border import advised, at
from dira_scale.base.errors import DimensionsError, UserError
from dira_scale.pretrain.config import Pretrain
from dira_scale.pretrain.description import describe
from dira_scale.pretrain.step import Pretraining, freeze_blocks
from dira_scale.pretrain.task import PretrainTask, remarks, rows_before
from dira_scale.train import methods
from dira_scale.train.blueprint import Blueprint, MakeDistort, Networks, in_stage
from dira_scale.train.data.config import as_stored
from dira_scale.train.data.distort import build
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.control import check_equal, on_main, raise_on_all
from dira_scale.train.distributed.world import World
from dira_scale.train.engine import optim, parallel, preflight
from dira_scale.train.engine.task import StagePlan, StepTask
from dira_scale.train.methods.adversary import Adversary, adversary_of
from dira_scale.train.methods.method import Method
from dira_scale.train.models.discriminator import check_size
from dira_scale.train.models.hub import local, weights_fact
from dira_scale.train.models.network import Encoder, moved
from dira_scale.train.models.precheck import starts
from dira_scale.train.models.teacher import teachers_in
from dira_scale.train.runs.description import Description
from dira_scale.train.schedule import batches_of, stage_plans
from dira_scale.train.shapes import ViewShapes
from dira_scale.train.task import taken_at_first

with lazy_imports():
    from dira_scale.train import inputs
    from dira_scale.train.runs import choice


class PretrainBlueprint(Blueprint):
    """A method and its adversary."""

    command = "pretrain"
    config: Pretrain

    @cached_property
    def views(self) -> ViewSpec:
        return methods.views_of(self.cfg)

    @property
    def shapes(self) -> ViewShapes:
        learned = methods.learned_label(self.cfg.method)
        return ViewShapes(self.views, self.config.channels or 1, labels=learned.classes if learned else None)

    def networks(self) -> tuple[Method, Adversary]:
        model = OmegaConf.merge(self.cfg.model, {"weights": None})
        about = self.config.channels, self.config.normalise
        return methods.construct(self.cfg.method, model, self.views, None, *about), self.adversary()

    @property
    def nodes(self) -> dict[str, Any]:
        plain: Any = OmegaConf.to_container(self.cfg)
        nodes = {
            name: plain[name] for name in ("channels", "normalise", "frozen_blocks", "method", "views", "adversary")
        }
        data = {"size": plain["data"]["size"], **as_stored(plain["data"])}
        return nodes | {"model": plain["model"] | {"weights": None}, "data": data}

    def step(self, world: World, networks: Networks, distort: MakeDistort = build) -> Pretraining:
        method, adversary = networks
        assert isinstance(method, Method) and isinstance(adversary, Adversary)
        return Pretraining(self.config, world, method, adversary, distort)

    def try_stages(self, networks: Networks) -> None:
        method, adversary = networks
        assert isinstance(method, Method)
        freeze_blocks(method, self.config.frozen_blocks)
        for name, batch in batches_of(self.config).items():
            terms = self.config.stages[name].terms
            with at(f"stages.{name}"):
                method.enter_stage(terms)
                self._check_size(method, self.config.stages[name].size)
            try:
                methods.check_batch(method, batch, self.config.bn_groups(batch), self.config.parallel.accumulate)
                if "ad" in terms:
                    with at("model", methods.SIZE):
                        check_size(method.views.sides)
            except UserError as error:
                raise in_stage(name, error) from error
            optimizer = optim.stage_optimizer(self.config.optim, method, batch)
            if self.config.parallel.strategy.startswith("zero"):
                parallel.refuse_layerwise(optimizer, method)
        optim.build(self.config.optim.discriminator, list(adversary.parameters()), "optim.discriminator")
        anchored = self.config.method.get("base", self.config.method).get("anchor")
        if anchored and not any("gram" in self.config.stages[name].terms for name in batches_of(self.config)):
            raise UserError(f"method.anchor={anchored}: no stage has the term gram: add it to stages.NAME.terms")

    def _check_size(self, method: Method, size: int | None) -> None:
        """Raise ArgumentError unless the method takes views of a stage's ``size``; None: as all others."""
        if size is None:
            return
        if not method.resizes:
            raise ArgumentError("size", size, f"null: {type(method).__name__} has views of one size in all stages")
        for entry in method.views.resized(size).entries:
            assert isinstance(method.encoder, Encoder)
            self.config.model.check_view(method.encoder, entry.size)

    def task(self, world: World) -> PretrainTask:
        config, weights = self.config, self.config.model.weights

        def opened() -> tuple[inputs.Inputs, list[StagePlan], choice.RunWeights | None]:
            learned = methods.learned_label(self.cfg.method)
            try:
                with at("data", {"names": f"{learned.node}.label"} if learned else None):
                    data = inputs.Inputs.of(config, self.views, world, labels=learned.choice if learned else None)
            except DimensionsError as error:
                raise UserError(
                    f"{advised(error)}; docs/reference/experiments.md lists the experiments on each"
                ) from error
            if learned:
                with at(learned.node):
                    learned.check(data.labels)
            data.require_channels(config.model.name, config.channels or 1, weights, repeats=False)
            stages = stage_plans(config, data.steps_per_epoch)
            for key, where in starts(self.cfg).items():
                with at(key):
                    local(where)
            if not weights:
                self._check_random()
                return data, stages, None
            with at("model.weights"):
                return data, stages, choice.run_weights(local(weights), config.init_stage, "model.weights")

        data, stages, run = raise_on_all(opened)
        preflight.check_alike(self.cfg, data.facts() | weights_fact(weights, "model.weights"))
        share = parallel.share(world, config.parallel, self.networks)
        torch.manual_seed(config.seed)
        tensors, about = run.tensors if run else None, (config.channels, config.normalise)
        method = parallel.built(
            lambda: methods.construct(self.cfg.method, self.cfg.model, self.views, tensors, *about),
            share,
        )
        check_equal({"the weights of method.teachers": " ".join(teacher.hash for teacher in teachers_in(method))})
        adversary = self.adversary()
        self.try_stages((method, adversary))  # so that an error shows now, not hours later
        moved(adversary, world.device, config.parallel.channels_last)
        now = run.sentence if run else None
        taken = on_main(world, lambda: taken_at_first(config, now))
        rows = on_main(world, lambda: rows_before(config, self.views.dimensions)) or ()
        return PretrainTask(config, world, method, adversary, stages, data, taken, rows)

    def _check_random(self) -> None:
        """Raise UserError for an anchor, and blocks, that stay as the network starts, which is at random."""
        key, count = "method.base" if "base" in self.config.method else "method", self.config.frozen_blocks
        anchored = self.config.method.get("base", self.config.method).get("anchor") == "start"
        if given := [(f"{key}.anchor=start", "teacher")] * anchored + [(f"frozen_blocks={count}", "0")] * bool(count):
            setting, other = given[0]
            raise UserError(
                f"{setting}: without model.weights the network starts at random: name the weights that training goes "
                f"on from, or use {other} (docs/how-to/continue.md)"
            )

    def adversary(self) -> Adversary:
        """Return the discriminator with its loss, of random weights."""
        config, adversary = self.config, self.config.adversary
        about = config.model, self.views.size, adversary.precision, config.channels or 1
        with at("adversary", methods.SIZE):
            return adversary_of(adversary.loss, adversary.penalty, *about)

    def described(self, config: Mapping[str, Any]) -> Description:
        return describe(config)

    def buffers(self, task: StepTask) -> Sequence[Tensor]:
        assert isinstance(task, Pretraining)
        modules = (module for of_size in task.objective.by_size.values() for module in of_size)
        buffers = [buffer for module in modules for buffer in module.buffers()]
        frozen = [tensor for teacher in teachers_in(task.module) for tensor in teacher.tensors()]
        return [*dict.fromkeys(buffers + frozen)]

    def remarks(self, networks: Networks) -> list[str]:
        method = networks[0]
        assert isinstance(method, Method)
        return remarks(self.config, method)
