"""Faults planted in the code, one at a time: the tests beside it must catch each of them.

    python tests/mutations.py               all of them, in ten to fifteen minutes
    python tests/mutations.py NAME …        these

Run by hand, not by pytest: it says whether the default tier still proves what it proved, after it was made cheaper.
Each fault is an exact text of one file, found there once, replaced in a copy of the checkout (which wins over the
installed package). The copy's tests of that room run until one fails. Then every test that caught a fault must pass on
the copy without it. Prints a line a fault; exits 1 where one survives, or is caught by a test that fails anyway.
"""

import argparse
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from harness import job

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", "out", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis")
TIER = "not system and not torture and not gpu"
SECONDS = 900  # bound on the tests of one room


class Mutation(NamedTuple):
    """``old`` becomes ``new`` in ``file``; one of ``tests``, files relative to tests/, must notice.

    By default, that is the file's own: ``train/data/test_order.py`` of ``train/data/order.py``.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()

    @property
    def catching(self) -> list[str]:
        """The files of tests, relative to the checkout."""
        room, _, name = self.file.rpartition("/")
        return [f"tests/{test}" for test in self.tests or (f"{room}/test_{name}",)]


MUTATIONS = (
    # ------------------------------------------------------------------ which sample, which view
    Mutation("order-without-the-epochs-offset", "train/data/order.py", "start = epoch * self._used", "start = 0"),
    Mutation(
        "view-without-the-epoch",
        "train/data/views/distortion.py",
        "return random.uniform(self.seed, self.epoch, self.index",
        "return random.uniform(self.seed, 0, self.index",
        ("train/data/test_views.py",),
    ),
    Mutation(
        "target-not-flipped-with-its-input",
        "pretrain/objective.py",
        'if self.target_flip == "with_input":',
        'if self.target_flip == "released":',
        ("train/data/loaders/test_target_flip.py",),
    ),
    Mutation(
        "damaged-sample-is-trained-on",
        "train/data/reader.py",
        "if xxhash.xxh3_64_intdigest(payload) != self.samples.datasets[number].checksums[row]:",
        "if not payload:",
        ("train/data/loaders/test_faults.py",),
    ),
    Mutation(
        "steps-drawn-together-have-one-epoch",
        "train/data/requests.py",
        "epoch = np.repeat(epochs, sizes)",
        "epoch = np.repeat(epochs[:1], len(index))",
    ),
    # ------------------------------------------------------------------ loaders
    Mutation(
        "slot-filled-again-while-it-is-copied",
        "train/data/loaders/helper.py",
        "                    if event is not None:\n                        event.synchronize()\n",
        "",
    ),
    # ------------------------------------------------------------------ networks and losses
    Mutation(
        "running-statistics-of-one-rank",
        "train/models/norm.py",
        "sums = reduce_mean(torch.cat(noted))",
        "sums = torch.cat(noted)",
        ("train/models/test_norm.py", "train/methods/test_processes.py"),
    ),
    Mutation(
        "running-statistics-of-one-group",
        "train/models/grouped_norm.py",
        "for part in parts]), self.noted.mean(0)",
        "for part in parts]), self.noted[0]",
        ("train/models/test_norm.py",),
    ),
    Mutation(
        "recomputed-statistics-counted-twice",
        "train/models/grouped_norm.py",
        "if not _recomputing:",
        "if True:",
        ("train/models/test_norm.py",),
    ),
    Mutation(
        "keys-normalised-among-their-queries",  # BatchNorm gives the answer away
        "train/methods/shuffle.py",
        "np.random.Generator(np.random.Philox([step, micro_batch])).permutation(count)",
        "np.arange(count)",
        ("train/methods/test_key_shuffle.py",),
    ),
    Mutation(
        "keys-stay-in-their-groups",
        "train/methods/shuffle.py",
        "(np.arange(block)[:, None] - sample) % block",
        "(np.arange(block)[:, None] - 0 * sample) % block",
        ("train/methods/test_key_shuffle.py",),
    ),
    Mutation(
        "momentum-inverted",
        "train/methods/moco.py",
        "ema_update(key, query, 1.0 - self.momentum)",
        "ema_update(key, query, self.momentum)",
    ),
    Mutation(
        "validation-fills-the-queue",
        "train/methods/moco.py",
        "if not self.training:\n            terms.monitors",
        "if False:\n            terms.monitors",
    ),
    Mutation(
        "distillation-of-the-same-view",
        "train/methods/dino.py",
        "others = [target for other, target in enumerate(targets) if other != view]",
        "others = [target for other, target in enumerate(targets) if other != view or view == 0]",
    ),
    Mutation(
        "distillation-centre-of-one-process",
        "train/methods/dino.py",
        "total, centre = reduce_sum(torch.stack(sums).sum(0)), self.get_buffer(name)",
        "total, centre = torch.stack(sums).sum(0), self.get_buffer(name)",
        ("train/methods/test_processes.py",),
    ),
    Mutation(
        "sinkhorn-counts-absent-rows",
        "train/losses/distillation.py",
        "None if present is None else present.to(columns.dtype)",
        "None",
    ),
    Mutation(
        "student-sees-hidden-patches",
        "train/methods/dino.py",
        "student = encoded(self.encoder, distorted, self.finer, **self.hiding(batch, GLOBAL))",
        "student = encoded(self.encoder, distorted, self.finer)",
        ("train/methods/test_dinov2.py",),
    ),
    Mutation(
        "generator-step-reaches-the-discriminator",
        "train/methods/adversary.py",
        "self._scores(restored, frozen)",
        "self._scores(restored)",
    ),
    Mutation(
        "discriminator-on-undetached-images",
        "train/methods/adversary.py",
        "torch.cat([real, fake.detach()])",
        "torch.cat([real, fake])",
    ),
    Mutation(
        "penalty-without-the-filters-second-gradient",
        "train/losses/adversarial.py",
        "mask = [False, ctx.needs_input_grad[1], False]",
        "mask = [False, False, False]",
        ("train/methods/test_wasserstein.py",),
    ),
    Mutation(
        "gradients-summed-over-ranks",
        "train/engine/parallel/model.py",
        ".div_(processes())",
        "",
        ("train/engine/test_parallel.py",),
    ),
    Mutation(
        "a-fused-optimizer-that-is-not-told",
        "train/engine/nan_guard.py",
        "optimizer.found_inf = skips.copy_(self._broken)",
        "optimizer.found_inf = skips",
    ),
    Mutation(
        "gradients-summed-over-micro-batches",
        "train/engine/step.py",
        "factor * (self.scale.value / self.accumulate)",
        "factor * self.scale.value",
        ("pretrain/test_objective.py",),
    ),
    Mutation(
        "hidden-patches-are-given",
        "train/methods/mae.py",
        "argsort(stable=True)[:, : self.visible]",
        "argsort(stable=True)[:, -self.visible :]",
    ),
    # ------------------------------------------------------------------ runs that go on
    Mutation(
        "checkpoint-without-the-queue",
        "train/methods/moco.py",
        'self.register_buffer("queue", F.normalize(torch.randn(queue, dim), dim=1))',
        'self.register_buffer("queue", F.normalize(torch.randn(queue, dim), dim=1), persistent=False)',
        ("pretrain/test_stages.py",),
    ),
    Mutation(
        "resumed-without-the-discriminator",
        "train/engine/state.py",
        '_fill(side.module, f"{side.name}.", found)',
        "pass",
        ("pretrain/test_stages.py",),
    ),
    Mutation(
        "resumed-a-step-too-late",
        "train/engine/loop.py",
        "self.state, self.stored, self._resumed = RunState(**found.state),",
        'self.state, self.stored, self._resumed = RunState(**found.state | {"step": found.state["step"] + 1}),',
        ("pretrain/test_stages.py",),
    ),
    Mutation(
        "checkpoint-of-other-bytes-is-whole",
        "train/runs/checkpoint/stored.py",
        "if checksum(data) != part.sums[at]:",
        "if not data:",
        ("train/runs/test_checkpoint.py",),
    ),
    Mutation(
        "latest-may-be-broken",
        "train/runs/checkpoint/reading.py",
        "    parts.verify(rank, ranks)\n",
        "",
        ("train/runs/test_checkpoint.py",),
    ),
    Mutation(
        "two-take-one-lease",
        "train/runs/lease.py",
        "write_json(self.path, self._content, new=True)",
        "write_json(self.path, self._content)",
        ("train/runs/test_folder.py",),
    ),
    Mutation(
        "a-ghost-goes-on-writing",
        "train/runs/lease.py",
        "if held != number:",
        "if held < number:",
        ("train/runs/test_folder.py",),
    ),
    Mutation(
        "resumed-without-the-optimizer",
        "train/engine/parallel/model.py",
        "        optim.load_by_name(self.optimizer, self.module, prefix, stored)\n",
        "        pass\n",
        ("train/engine/test_any_task.py",),
    ),
    # ------------------------------------------------------------------ from an archive to a dataset
    Mutation(
        "dropped-without-a-row",
        "archive/writer.py",
        "rejected.append(made._asdict())",
        "pass",
        ("archive/test_convert.py",),
    ),
    Mutation(
        "patient-cut-in-two",
        "archive/splits.py",
        "FROM person WHERE person.patient = item.patient ",
        "FROM person WHERE person.rowid = 1 + item.number % (SELECT max(rowid) FROM person) ",
        ("archive/test_plan.py",),
    ),
    Mutation(
        "patient-cut-by-the-split-column",
        "archive/splits.py",
        "    _refuse_cut(table)\n",
        "",
        ("archive/test_plan.py",),
    ),
    Mutation(
        "name-instead-of-its-hash",
        "archive/sample.py",
        '"patient": item.patient,',
        '"patient": item.record.patient or item.patient,',
        ("archive/test_deidentify.py", "archive/test_deidentify_dicom.py"),
    ),
    Mutation(
        "manufacturer-as-it-is-written",  # some write a technician's name there
        "archive/deidentify.py",
        'value.lower())), "other")',
        "value.lower())), value)",
    ),
    # ------------------------------------------------------------------ what is learned from labels
    Mutation(
        "unknown-label-is-a-negative",
        "judge/tasks/labels.py",
        "known, truth = (~targets.isnan()).float(), targets.nan_to_num().float()",
        "known, truth = torch.ones_like(targets).float(), targets.nan_to_num().float()",
        ("finetune/test_losses.py",),
    ),
    Mutation(
        "statistics-that-are-not-settled",
        "finetune/task.py",
        "norm.commit_statistics(module, momentum=1.0)",
        "norm.commit_statistics(module)",
        ("finetune/test_statistics.py",),
    ),
    Mutation(
        "interval-over-rows-of-a-patient",  # too narrow
        "dataset/metrics/statistics/bootstrap.py",
        "_defined(statistics, row, len(members), resamples, seed)",
        "_defined(statistics, np.arange(len(row)), len(row), resamples, seed)",
    ),
    # ------------------------------------------------------------------ volumes
    Mutation(
        "slices-in-the-order-of-files",
        "archive/imaging/volumes/series.py",
        "return self.values if (order == np.arange(len(order))).all() else self.values[order]",
        "return self.values",
    ),
    Mutation(
        "every-axis-mirrored-as-the-first",
        "train/data/geometry/volume.py",
        "u[:, 1 + n : 1 + 2 * n] < np.array(self.flip), np.zeros(len(u), bool)",
        "u[:, 1 + n : 2 + n] < np.array(self.flip) + np.zeros(n), np.zeros(len(u), bool)",
        ("train/data/test_geometry.py",),
    ),
    # ------------------------------------------------------------------ tables
    Mutation(
        "seeds-counted-as-pretraining-runs",
        "dataset/metrics/statistics/spread.py",
        "n=len(means),",
        "n=count,",
        ("dataset/metrics/statistics/test_spread.py", "finetune/test_comparison.py"),
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {mutation.name: mutation for mutation in MUTATIONS}
    parser.add_argument("names", nargs="*", metavar="NAME", help="all of them by default")
    names = parser.parse_args().names or known
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no fault is named {unknown[0]}; there are {', '.join(known)}")
    chosen = [known[name] for name in names]
    for mutation in chosen:
        check(mutation)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is running and the copy go with it
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT, symlinks=True)
        return report(copy, chosen)


def check(mutation: Mutation) -> None:
    """Exit where the code or the tests have moved on, and the mutation must be written anew."""
    found = (ROOT / "dira_scale" / mutation.file).read_text().count(mutation.old)
    if found != 1 or mutation.old == mutation.new:
        sys.exit(f"{mutation.name}: {mutation.old!r} is in dira_scale/{mutation.file} {found} times, not once")
    if lost := [test for test in mutation.catching if not (ROOT / test).is_file()]:
        sys.exit(f"{mutation.name}: there is no {lost[0]}")


def report(copy: Path, chosen: list[Mutation]) -> int:
    """Print a line a fault; return the exit code."""
    survived, catchers, width = 0, dict[str, str](), max(len(mutation.name) for mutation in chosen)
    for mutation in chosen:
        start = time.monotonic()
        file = copy / "dira_scale" / mutation.file
        text = file.read_text()
        file.write_text(text.replace(mutation.old, mutation.new))
        caught = failed(copy, mutation.catching, "-x")
        file.write_text(text)
        survived += not caught
        catchers |= dict.fromkeys(caught[:1], mutation.name)
        print(f"{mutation.name:{width}}  {time.monotonic() - start:5.0f} s  {(caught or ['SURVIVES'])[0]}", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} caught", flush=True)
    anyway = failed(copy, list(catchers)) if catchers else []
    for test in anyway:
        print(f"{catchers[test]}: {test} fails without it too")
    return 1 if survived or anyway else 0


def failed(copy: Path, tests: list[str], *options: str) -> list[str]:
    """Which of the copy's ``tests`` of the default tier fail."""
    command = ["env", f"--chdir={copy}", sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider"]
    command += ["-m", TIER, "-o", "addopts=--import-mode=importlib", *options, *tests]
    # Bytecode of a file whose size and second of writing are the same would be taken for the mutated file's.
    with job(command, PYTHONPATH=f"{copy}:{copy / 'tests'}", PYTHONDONTWRITEBYTECODE="1") as process:
        code, printed = process.wait(SECONDS), process.printed()
    found = re.findall(r"^(?:FAILED|ERROR) (\S+::.*?)(?: - .*)?$", printed, re.MULTILINE)
    if code not in (0, 1) or bool(found) != bool(code):
        sys.exit(f"{' '.join(command)} ended with {code} without a verdict:\n{printed}")
    return found


if __name__ == "__main__":
    sys.exit(main())
