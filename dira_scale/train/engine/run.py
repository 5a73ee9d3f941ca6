"""Runs a task on all processes from start to end, however it ends, and gives the command's exit code."""

import faulthandler
import logging
import os
import re
import shlex
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from dira_scale.base.errors import UserError, counted, local_rank
from dira_scale.train.distributed import flight_recorder, processes
from dira_scale.train.distributed.config import AUTO, FAST
from dira_scale.train.distributed.control import (
    AgreedError,
    RunEndedError,
    broadcast_from_main,
    check_equal,
    on_main,
    raise_on_all,
)
from dira_scale.train.distributed.precision import set_fp32
from dira_scale.train.distributed.rendezvous import is_connection_lost
from dira_scale.train.distributed.timings import TIMINGS
from dira_scale.train.distributed.world import World
from dira_scale.train.engine import parallel, preflight
from dira_scale.train.engine.config import Training
from dira_scale.train.engine.loop import Loop
from dira_scale.train.engine.nan_guard import NotFiniteError
from dira_scale.train.engine.signals import Signals
from dira_scale.train.engine.step import adds_in_any_order
from dira_scale.train.engine.task import Detail, Task
from dira_scale.train.engine.tracker import require_tracker
from dira_scale.train.runs.exit_codes import BAD_INPUT, DONE, FAILED, INTERRUPTED
from dira_scale.train.runs.folder import RunFolder, recorded_in
from dira_scale.train.runs.lease import LeaseLostError

Train = Callable[[Training, DictConfig, Callable[[World], Task]], int]  # a run with these arguments of run_task
STDERR = 2  # in a notebook, sys.stderr has no file descriptor
logger = logging.getLogger(__name__)


def run_task(
    config: Training,
    cfg: DictConfig,
    make: Callable[[World], Task],
    before: Callable[[World, Train], int] = lambda *_: DONE,
) -> int:
    """Train the task that ``make`` builds, from the run folder's newest checkpoint if any; returns the exit code.

    Args:
        config, cfg: the resolved configuration, as its schema's object and as composed.
        make: called once the processes are connected; its errors end all of them before anything is written.
        before: trains other runs in these processes first, and may change ``config`` and ``cfg`` by what they have
            shown; what it returns, unless that is DONE, is the exit code.
    """
    world = processes.start(config.parallel, config.precision)
    try:
        with Signals() as signals:
            try:
                on_main(world, lambda: require_tracker(config.tracker))
                world = _keep_choices(config, cfg, world)
                code = before(world, partial(_train_before, world))
                return code or _train(config, cfg, make(world), world, signals)
            except AgreedError as error:
                if world.main:
                    logger.error(error)
                world.wait()  # a launcher ends all when the first exits, which must not precede the message
                return BAD_INPUT
            except RuntimeError as error:
                if not is_connection_lost(error):
                    raise
                if _is_first_of_machine(Path(config.run)):
                    logger.error(_lost_message(error, world), extra={"every_rank": True})
                sys.stdout.flush()
                os._exit(FAILED)  # gloo would abort a process that ends with its connections broken
    except LeaseLostError as error:  # on all ranks; the run folder is another's now, so nothing is written there
        if local_rank() == 0:
            logger.error(error, extra={"every_rank": True})
        return FAILED


def _keep_choices(config: Training, cfg: DictConfig, world: World) -> World:
    """Keep what ``auto`` stood for in the run in the folder: ``precision`` on whatever machine it began,
    ``parallel.threads`` of a single process as far as this machine has cores, ``parallel.shard`` of as many processes.

    A run that began with a precision of its own keeps it, too: ``cfg`` gets what was written then. Collective.
    """
    read = partial(recorded_in, Path(config.run), config.checkpoint.folder)
    before = broadcast_from_main(on_main(world, read))
    if before:
        config.keep(cfg, before)
    alone = world.ranks == 1 and world.device.type == "cpu"
    if config.parallel.threads == AUTO and alone and before and "threads_used" in before:
        torch.set_num_threads(min(before["threads_used"], processes.default_threads()))
    world = replace(world, shard=0 if config.parallel.shard == AUTO else config.parallel.shard)
    match before and before.get("mesh_used"):
        case [int(replicas), int(shard)] if shard > 0 and replicas * shard == world.ranks:
            world = replace(world, shard=world.shard or shard)
    if config.precision != AUTO:
        return world
    if before:
        cfg.precision = before["precision"]
        world = replace(world, precision=before["precision_used"])
        set_fp32(world.precision)
    check_equal({"what precision=auto stands for": world.precision})
    return world


def _train_before(world: World, config: Training, cfg: DictConfig, make: Callable[[World], Task]) -> int:
    """Train a run that another follows in the same processes. Raises NotFiniteError, on all of them, if it diverges."""
    world = _keep_choices(config, cfg, world)
    with Signals() as signals:
        code = _train(config, cfg, make(world), world, signals, last=False)
        if not code and signals.agreed(wait=True):  # one that came after the last step
            code = INTERRUPTED
            world.end()
    world.accelerator.free_memory()
    return code


def _train(config: Training, cfg: DictConfig, task: Task, world: World, signals: Signals, last: bool = True) -> int:
    """Claim the run folder, train, and record how it ended. Every way a run ends passes through here.

    ``last``: leave the process group, too, as after a run that is not done. Before others a NotFiniteError is raised.
    """
    folder, trainer = Path(config.run), None
    content: Any = OmegaConf.to_container(cfg, resolve=True)
    world = parallel.with_shard(world, config.parallel, lambda: task.module)
    content |= task.data.identity() | task.identity() | world.used
    run = on_main(world, lambda: RunFolder(folder, content, task.describe(content)))
    try:
        lease = broadcast_from_main(run.lease.path.name if run else "")
        raise_on_all(lambda: preflight.check_shared(folder, lease))
        trainer = Loop(config, task, world, run)
        if run is not None:
            for line in _summary(trainer):
                run.log(line)
                if not isinstance(line, Detail):
                    print(line, flush=True)
        ended = trainer.train(signals)
        trainer.close()
        code = INTERRUPTED if ended == "interrupted" else DONE
        if run is not None:
            stopped = "" if code else trainer.stopped()
            run.status(ended, trainer.state.step, exit_code=code, reason=stopped)
            report = f"; next: python -m dira_scale.report {shlex.quote(f'run={folder}')}" * last
            advice = "; the same command continues" if code else report
            trainer.bar.print_line(f"{folder}: {stopped or f'{ended} at step {trainer.state.step}'}{advice}")
        if last or code:
            _leave(world, run)
        return code
    except RunEndedError as error:
        # In bounded time: a disk that hangs may be that of the run folder, too, where log.txt and status.json are.
        faulthandler.dump_traceback_later(TIMINGS.exit_report, exit=True, file=STDERR)
        if not error.reported and run is not None:
            logger.error(error)
        if run is not None:
            run.status("failed", exit_code=FAILED, reason=str(error))
        if not last and isinstance(error, NotFiniteError):
            raise
        _leave(world, run)
        return FAILED
    except LeaseLostError:
        raise
    except KeyboardInterrupt:
        # Before the first step, or a second one. The others are not waited for: they may be in a collective.
        if run is not None:
            step = trainer.state.step if trainer is not None else 0
            follows = "resumes from the newest checkpoint" if trainer is not None and trainer.stored else "starts again"
            what = f"interrupted at step {step}, without a checkpoint of it"
            logger.error("%s: %s; the same command %s", run.folder, what, follows)
            run.status("interrupted", step, exit_code=INTERRUPTED)
        return INTERRUPTED
    except BaseException as error:
        _record_error(error, folder, world, run, trainer)
        raise
    finally:
        if trainer is not None:
            trainer.close()
        if run is not None:
            run.release()
        faulthandler.cancel_dump_traceback_later()


def _leave(world: World, run: RunFolder | None) -> None:
    """Release the lease, then leave the process group: a launcher ends all processes soon after the first exits."""
    if run is not None:
        run.release()
    world.end()


def _record_error(
    error: BaseException, folder: Path, world: World, run: RunFolder | None, trainer: Loop | None
) -> None:
    """Write an error to status.json and, unless all processes agreed on it, to log.txt; the caller raises it.

    One of a lost connection gets a note on where the processes part, once they have written their last collectives.
    """
    agreed = isinstance(error, AgreedError)
    if trainer is not None and is_connection_lost(error):
        faulthandler.dump_traceback_later(TIMINGS.exit_report, exit=True, file=STDERR)  # CUDA may block the record
        trainer.checkpointer.check_lease()
        seconds = TIMINGS.linger if re.search("timed? ?out", str(error), re.I) else TIMINGS.pulse  # the dead write none
        with suppress(OSError):
            if parted := flight_recorder.exchange(folder / "stacks" / f"rank-{world.rank}.txt", seconds):
                error.add_note(parted)
    if run is not None:
        if not agreed:
            run.log(traceback.format_exc())
        code = BAD_INPUT if isinstance(error, UserError) else FAILED
        reason = _lost_message(error, world) if is_connection_lost(error) else f"{type(error).__name__}: {error}"
        run.status("failed", exit_code=code, reason=reason)
        return
    if agreed:
        return
    if trainer is not None:
        trainer.checkpointer.check_lease()  # write nothing if another process has taken over
    with suppress(OSError), (folder / "log.txt").open("a") as log:
        log.write(f"rank {world.rank}\n{traceback.format_exc()}")


def _summary(trainer: Loop) -> list[str]:
    """Return the first lines: what is trained, where to look at it, and what to act on; the rest is for log.txt."""
    config, world, task = trainer.config, trainer.world, trainer.task
    first = f"run {config.run}, from step {trainer.state.step} of {trainer.total_steps()}"
    if trainer.state.step >= trainer.total_steps():  # called again when it was done
        return [first]
    several = f"{world.ranks} processes of " if world.ranks > 1 else ""
    on = f"{world.device.type}, {several}{counted(torch.get_num_threads(), 'thread')}, {world.precision}"
    page = f"page: python -m dira_scale.report {shlex.quote(f'run={config.run}')} at any time; details: log.txt there"
    crowded = processes.crowded(world.idle, "parallel.threads") if world.ranks == 1 else ""
    sharded = f"fsdp2 shards over {world.shard} of {world.ranks} processes (parallel.shard)"
    fast = config.parallel.attention == FAST and adds_in_any_order(trainer.strategy.module, world.device)
    differing = "attention: the fastest, whose sums have no fixed order: two runs may differ (parallel.attention=fast)"
    return [
        f"{first}, on {on}",
        *task.summary(trainer.strategy.module),
        Detail(f"this run fits {', '.join(map(str, task.process_counts()))} processes"),
        *([Detail(sharded)] if world.shard and world.ranks > 1 else []),
        *([crowded] if crowded else []),
        *([Detail(differing)] if fast else []),
        page,
    ]


def _lost_message(error: BaseException, world: World) -> str:
    why = "; ".join([str(error).splitlines()[0], *getattr(error, "__notes__", ())])
    return (
        f"rank {world.rank} on {socket.gethostname()} lost the other processes ({why}): look in the other nodes' "
        "output for what ended or hung first, and check the network between them; the same command resumes from the "
        "last checkpoint"
    )


def _is_first_of_machine(run: Path) -> bool:
    """Return whether no other process of this machine has called this under the same lease."""
    leases = sorted(run.glob("leases/*.json"))
    if not leases:
        return local_rank() == 0
    try:
        leases[-1].with_suffix(f".lost-{socket.gethostname()}").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # the disk is full or gone
        return local_rank() == 0
    return True
