"""``accelerate launch -m dira_scale.pretrain experiment=phantom data.shards=OUT run=out/runs/demo``"""

import faulthandler
import os
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from dira_scale import methods
from dira_scale.config.compose import run_verb
from dira_scale.data.inputs import Inputs
from dira_scale.data.views import ViewSpec
from dira_scale.distributed.control import AgreedError, from_main, on_main, together
from dira_scale.distributed.launcher import check_launch
from dira_scale.distributed.rendezvous import lost
from dira_scale.distributed.timings import TIMINGS
from dira_scale.engine import optim, parallel
from dira_scale.engine.nan_guard import NotANumberError
from dira_scale.engine.signals import Signals
from dira_scale.engine.trainer import Trainer
from dira_scale.errors import UserError, say
from dira_scale.methods.adversary import Adversary
from dira_scale.pretraining import preflight
from dira_scale.pretraining.config import Pretrain
from dira_scale.pretraining.schedule import batches_of, plan
from dira_scale.runs import folder as runs
from dira_scale.runs.checkpoint import NotSavedError
from dira_scale.runs.lease import LeaseLostError
from dira_scale.runs.reader import start_tensors

STDERR = 2  # sys.stderr is no file in a notebook


def pretrain(cfg: DictConfig) -> int:
    """Train as ``cfg`` says, going on where the run folder stands; returns the exit code."""
    config: Any = OmegaConf.to_object(cfg)
    assert isinstance(config, Pretrain)
    check_launch(config.parallel, config.precision, config.optim.clip)
    accelerator = parallel.start(config.parallel, config.precision)
    try:
        with Signals() as signals:
            return _ended(cfg, config, accelerator, signals)
    except LeaseLostError as error:
        say("pretrain", error)
        return runs.FAILED


def _ended(cfg: DictConfig, config: Pretrain, accelerator: Accelerator, signals: Signals) -> int:
    """``_pretrain``, and what is to be said once of what ended it on several processes."""
    try:
        return _pretrain(cfg, config, accelerator, signals)
    except AgreedError as error:
        if accelerator.is_main_process:
            print(f"pretrain: {error}", file=sys.stderr, flush=True)
        accelerator.wait_for_everyone()  # a launcher ends all when the first ends: not before it is said
        return runs.BAD_INPUT
    except RuntimeError as error:
        if not lost(error):
            raise
        if _first_here(Path(config.run)):
            print(f"pretrain: {_lost(error, accelerator)}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(runs.FAILED)  # gloo would abort a process that ends with its connections broken


def _pretrain(cfg: DictConfig, config: Pretrain, accelerator: Accelerator, signals: Signals) -> int:
    rank, ranks = accelerator.process_index, accelerator.num_processes
    inputs, tensors = together(lambda: _open(cfg, config, rank, ranks))
    preflight.check_alike(cfg, [dataset.hash for dataset in inputs.datasets])
    torch.manual_seed(config.seed)
    method = build(config, cfg, inputs.views, tensors)
    adversary = Adversary(config.adversary.loss)
    optim.build(config.optim.discriminator, list(adversary.parameters()), "optim.discriminator")
    content: Any = OmegaConf.to_container(cfg)
    run = on_main(accelerator, lambda: runs.Run(Path(config.run), content | inputs.identity()))
    lease = from_main(run.lease.path.name if run else "")
    together(lambda: preflight.check_shared(Path(config.run), lease))
    trainer: Trainer | None = None
    try:
        trainer = Trainer(config, accelerator, inputs, method, adversary, run)
        if run is not None:
            run.log(f"from step {trainer.progress.step}, {inputs.loader_choice}")
            print(_summary(trainer, inputs), flush=True)
        return _train(trainer, accelerator, run, signals)
    except (NotANumberError, NotSavedError) as error:  # on all ranks alike
        if run is not None and isinstance(error, NotSavedError):
            print(f"pretrain: {error}", file=sys.stderr, flush=True)
        # Written after it is said, and in bounded time: the disk that hangs may be that of the run's folder, too.
        faulthandler.dump_traceback_later(TIMINGS.last, exit=True, file=STDERR)
        if run is not None:
            run.status("failed", exit_code=runs.FAILED, reason=str(error))
        _end(accelerator, run)
        return runs.FAILED
    except LeaseLostError:
        raise
    except BaseException as error:
        if run is None:
            if trainer is not None:
                trainer.checkpointer.guard()  # a ghost writes nothing
            with suppress(OSError), (Path(config.run) / "log.txt").open("a") as log:  # the error itself is raised
                log.write(f"rank {accelerator.process_index}\n{traceback.format_exc()}")
        else:
            run.log(traceback.format_exc())
            code = runs.BAD_INPUT if isinstance(error, UserError) else runs.FAILED
            reason = _lost(error, accelerator) if lost(error) else f"{type(error).__name__}: {error}"
            run.status("failed", exit_code=code, reason=reason)
        raise
    finally:
        if trainer is not None:
            trainer.close()
        if run is not None:
            run.lease.release()
        faulthandler.cancel_dump_traceback_later()


def _open(cfg: DictConfig, config: Pretrain, rank: int, ranks: int) -> tuple[Inputs, dict[str, Tensor] | None]:
    """The data, and the tensors to start from where ``model.weights`` is a run: all that lies on disks."""
    preflight.check_division(config, ranks)
    inputs = Inputs(
        config.data, methods.views_of(cfg), config.seed, rank, ranks, tuple(set(batches_of(config).values()))
    )
    plan(config, inputs.steps_per_epoch)
    return inputs, start_tensors(Path(config.model.weights)) if config.model.weights else None


def _lost(error: BaseException, accelerator: Accelerator) -> str:
    return (
        f"rank {accelerator.process_index} on {socket.gethostname()} lost the other processes "
        f"({str(error).splitlines()[0]}): look for what ended or hung first, in the other nodes' output, and at the "
        "network between them; the same command goes on from the last checkpoint"
    )


def _first_here(run: Path) -> bool:
    """Whether this is the first process of its machine that says so under this lease."""
    leases = sorted(run.glob("leases/*.json"))
    if not leases:
        return int(os.environ.get("LOCAL_RANK", "0")) == 0
    try:
        leases[-1].with_suffix(f".lost-{socket.gethostname()}").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # a full or vanished disk
        return int(os.environ.get("LOCAL_RANK", "0")) == 0
    return True


def build(
    config: Pretrain, cfg: DictConfig, views: ViewSpec, tensors: dict[str, Tensor] | None = None
) -> methods.Method:
    """The method, with every stage tried: what is wrong with one or its optimizer is found out now, not hours later."""
    batches, accumulate = batches_of(config), config.parallel.accumulate
    method = methods.build(cfg.method, cfg.model, views, next(iter(batches.values())), accumulate, tensors)
    for name, batch in batches.items():
        try:
            method.enter_stage(config.stages[name].terms)
            methods.check_groups(batch, config.model.bn_groups)
            method.check(batch, accumulate)
        except UserError as error:
            raise UserError(f"stage {name}: {error}") from error
        optimizer = optim.generator(config.optim, method, batch)
        if config.parallel.strategy.startswith("zero"):
            parallel.refuse_layerwise(optimizer)
    return method


def _train(trainer: Trainer, accelerator: Accelerator, run: runs.Run | None, signals: Signals) -> int:
    ended = trainer.train(signals)
    trainer.close()
    code = runs.INTERRUPTED if ended == "interrupted" else runs.DONE
    if run is not None:
        run.status(ended, trainer.progress.step, exit_code=code)
        again = "the same command goes on" if code else f"next: python -m dira_scale.report run={run.folder}"
        trainer.bar.say(trainer.stall())
        trainer.bar.say(f"{run.folder}: {ended} at step {trainer.progress.step}; {again}")
    _end(accelerator, run)
    return code


def _end(accelerator: Accelerator, run: runs.Run | None) -> None:
    """Leave the group, the lease let go first: a launcher ends all processes soon after the first has ended."""
    if run is not None:
        run.lease.release()
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _summary(trainer: Trainer, inputs: Inputs) -> str:
    """What is about to be trained, on what, by what."""
    config, accelerator, orders = trainer.config, trainer.accelerator, inputs.orders
    order = orders[next(iter(trainer.plans.values())).batch]
    parameters = sum(p.numel() for p in trainer.method.parameters() if p.requires_grad) / 1e6
    stages = ", ".join(
        f"{name} {plan.steps}" + f" of {plan.batch} images" * (len(orders) > 1) for name, plan in trainer.plans.items()
    )
    fits = preflight.fitting(config)
    lines = [
        f"run {config.run}, from step {trainer.progress.step} of {trainer.total_steps()}",
        f"data: {sum(order.sizes)} images, {order.steps_per_epoch} steps an epoch, {order.dropped} dropped in turn",
        str(inputs.loader_choice),
        f"method: {parameters:.1f} M parameters; steps by stage: {stages}",
        f"machine: {accelerator.num_processes} process(es) of {torch.get_num_threads()} thread(s) on "
        f"{accelerator.device}, {config.precision}; this run fits {', '.join(map(str, fits))} processes",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The verb; of several processes each ends in here."""
    return parallel.leave(lambda: run_verb("pretrain", pretrain, argv))


if __name__ == "__main__":
    raise SystemExit(main())
