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

    By default, that is the file's own: ``data/test_order.py`` of ``data/order.py``.
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
    Mutation(
        "order-off-by-one",
        "data/order.py",
        "np.divmod(np.array(steps)[:, None, None], self.steps_per_epoch)",
        "np.divmod(np.array(steps)[:, None, None] + 1, self.steps_per_epoch)",
    ),
    Mutation(
        "order-without-the-epochs-offset",
        "data/order.py",
        "start = epoch * self._used",
        "start = 0",
    ),
    Mutation(
        "view-without-the-epoch",
        "data/views/draw.py",
        "return random.uniform(seed, epoch, index, occurrence, view, n",
        "return random.uniform(seed, 0, index, occurrence, view, n",
        ("data/test_views.py",),
    ),
    Mutation(
        "target-not-flipped-with-its-input",
        "pretrain/objective.py",
        'if self.target_flip == "with_input":',
        'if self.target_flip == "released":',
        ("data/loaders/test_target_flip.py",),
    ),
    Mutation(
        "damaged-sample-is-trained-on",
        "data/samples.py",
        "if xxhash.xxh3_64_intdigest(payload) != self.datasets[number].checksums[row]:",
        "if not payload:",
        ("data/loaders/test_faults.py",),
    ),
    Mutation(
        "steps-drawn-together-have-one-epoch",
        "data/requests.py",
        "epoch = np.repeat(epochs, [len(part.index) for part in parts])",
        "epoch = np.repeat(epochs[:1], len(index))",
    ),
    # ------------------------------------------------------------------ loaders
    Mutation(
        "shards-counted-for-skipped-samples",
        "data/loaders/stream.py",
        "self.cache.seconds.add(skipped=int(lost.sum()))",
        "self.cache.seconds.add(skipped=len(missing))",
        ("data/loaders/test_stream.py",),
    ),
    Mutation(
        "slot-filled-again-while-it-is-copied",
        "data/loaders/helper.py",
        "                    if event is not None:\n                        event.synchronize()\n",
        "",
    ),
    Mutation(
        "partner-cut-from-the-first-views-image",  # of views.pair=patient
        "data/loaders/dali.py",
        "showing.setdefault(images.tobytes(), [])",
        "showing.setdefault(request.index.tobytes(), [])",
        ("data/loaders/test_dali.py",),
    ),
    # ------------------------------------------------------------------ networks and losses
    Mutation(
        "running-statistics-of-one-rank",
        "models/norm.py",
        "sums = reduce_mean(torch.cat(noted))",
        "sums = torch.cat(noted)",
        ("models/test_norm.py", "methods/test_processes.py"),
    ),
    Mutation(
        "running-statistics-of-one-group",
        "models/grouped_norm.py",
        "for part in parts]), self.noted.mean(0)",
        "for part in parts]), self.noted[0]",
    ),
    Mutation(
        "recomputed-statistics-counted-twice",
        "models/grouped_norm.py",
        "if not _recomputing:",
        "if True:",
    ),
    Mutation(
        "keys-normalised-among-their-queries",  # BatchNorm gives the answer away
        "methods/shuffle.py",
        "np.random.Generator(np.random.Philox([step, micro_batch])).permutation(count)",
        "np.arange(count)",
        ("methods/test_key_shuffle.py",),
    ),
    Mutation(
        "keys-stay-in-their-groups",
        "methods/shuffle.py",
        "(np.arange(block)[:, None] - sample) % block",
        "(np.arange(block)[:, None] - 0 * sample) % block",
        ("methods/test_key_shuffle.py",),
    ),
    Mutation(
        "momentum-update-skipped",
        "methods/moco.py",
        "ema_update(key, query, 1.0 - self.momentum)",
        "ema_update(key, query, 0.0)",
    ),
    Mutation(
        "momentum-inverted",
        "methods/moco.py",
        "ema_update(key, query, 1.0 - self.momentum)",
        "ema_update(key, query, self.momentum)",
    ),
    Mutation(
        "validation-fills-the-queue",
        "methods/moco.py",
        "if not self.training:\n            terms.monitors",
        "if False:\n            terms.monitors",
    ),
    Mutation(
        "distillation-of-the-same-view",
        "methods/dino.py",
        "others = [target for other, target in enumerate(targets) if other != view]",
        "others = [target for other, target in enumerate(targets) if other != view or view == 0]",
    ),
    Mutation(
        "distillation-centre-of-one-process",
        "methods/dino.py",
        "found, centre = reduce_sum(torch.stack(seen).sum(0)), self.get_buffer(name)",
        "found, centre = torch.stack(seen).sum(0), self.get_buffer(name)",
        ("methods/test_processes.py",),
    ),
    Mutation(
        "sinkhorn-counts-absent-rows",
        "losses/distillation.py",
        "None if present is None else present.to(columns.dtype)",
        "None",
    ),
    Mutation(
        "koleo-nearest-is-itself",
        "losses/distillation.py",
        ".scatter(1, itself[:, None], -2)",
        "",
    ),
    Mutation(
        "student-sees-hidden-patches",
        "methods/dino.py",
        "student = encoded(self.encoder, distorted, self.finer, **self.hiding(batch, GLOBAL))",
        "student = encoded(self.encoder, distorted, self.finer)",
        ("methods/test_dinov2.py",),
    ),
    Mutation(
        "info-nce-without-temperature",
        "losses/info_nce.py",
        "logits = similarities(queries, keys, queue) / temperature",
        "logits = similarities(queries, keys, queue)",
        ("methods/test_moco.py",),
    ),
    Mutation(
        "mixture-of-targets-by-another-share",
        "methods/pcrl.py",
        "blend(clean[0], clean[1], share)",
        "blend(clean[0], clean[1], self.share(batch.step, 1))",
    ),
    Mutation(
        "shuffled-maps-shuffled-again",  # the right images where a permutation is its own inverse
        "methods/pcrl.py",
        "(exchange.back(x) for",
        "(exchange(x) for",
    ),
    Mutation(
        "target-turned-otherwise-than-the-attention-says",
        "methods/pcrl.py",
        "reorient(x2, orientation2)",
        "reorient(x2, orientation1)",
        ("methods/test_pcrl.py",),
    ),
    Mutation(
        "a-turn-without-the-attention-taken-out",
        "methods/pcrl.py",
        'return orientations if self.transform == "all" else torch.zeros_like(orientations)',
        "return orientations",
    ),
    Mutation(
        "keys-mixed-by-the-other-share",
        "methods/c2l.py",
        "blend(keys, other(keys), share)",
        "blend(keys, other(keys), 1 - share)",
    ),
    Mutation(
        "turned-blocks-named-where-they-belong",
        "methods/rubiks_cube.py",
        "drawn[TURN][TURN].gather(1, places) > 0",
        "drawn[TURN][TURN] > 0",
        ("methods/test_puzzles.py",),
    ),
    Mutation(
        "maps-of-blocks-left-where-they-are-seen",
        "methods/rubiks_cube.py",
        "joined(exchanged(level, places.argsort(1)), self.blocks)",
        "joined(level, self.blocks)",
        ("methods/test_puzzles.py",),
    ),
    Mutation(
        "a-prediction-told-from-itself",
        "methods/cpc.py",
        "another[order] = np.roll(order, 1)",
        "another[order] = order",
    ),
    Mutation(
        "a-stage-whose-rate-begins-anew-in-a-span-of-the-run",
        "training/schedule.py",
        "span=(round(start * plan.per_epoch),",
        "span=(0,",
    ),
    Mutation(
        "better-features-called-worse",
        "runs/remarks.py",
        "if began - ended > 2",
        "if ended - began > 2",
        ("report/test_report.py",),
    ),
    Mutation(
        "generator-step-reaches-the-discriminator",
        "methods/adversary.py",
        "self._scores(restored, frozen)",
        "self._scores(restored)",
    ),
    Mutation(
        "generator-step-reaches-the-critic",
        "methods/adversary.py",
        "[restored, given], 1), frozen)",
        "[restored, given], 1))",
        ("methods/test_wasserstein.py",),
    ),
    Mutation(
        "discriminator-on-undetached-images",
        "methods/adversary.py",
        "torch.cat([real, fake.detach()])",
        "torch.cat([real, fake])",
    ),
    Mutation(
        "penalty-without-the-filters-second-gradient",
        "losses/adversarial.py",
        "mask = [False, ctx.needs_input_grad[1], False]",
        "mask = [False, False, False]",
        ("methods/test_wasserstein.py",),
    ),
    Mutation(
        "terms-without-their-weights",
        "pretrain/objective.py",
        "self.weights[term] * loss.float()",
        "loss.float()",
    ),
    Mutation(
        "gradients-summed-over-ranks",
        "engine/parallel/model.py",
        "    flat /= processes()\n",
        "",
        ("engine/test_parallel.py",),
    ),
    Mutation(
        "a-fused-optimizer-that-is-not-told",
        "engine/nan_guard.py",
        "optimizer.found_inf = self._broken.float()",
        "optimizer.found_inf = self._broken.new_zeros((), dtype=torch.float32)",
    ),
    Mutation(
        "gradients-summed-over-micro-batches",
        "engine/step.py",
        "factor * (self.scale.value / self.accumulate)",
        "factor * self.scale.value",
        ("pretrain/test_objective.py",),
    ),
    Mutation(
        "positions-of-the-first-patches",  # those that are left out shift the others
        "models/volume/vit3d.py",
        "rope[visible][:, None]",
        "rope[: visible.shape[1]]",
        ("models/test_vit3d.py",),
    ),
    Mutation(
        "published-positions-in-another-order",
        "models/volume/vit3d.py",
        "tensor[0].T.unflatten(1, stored)",
        "tensor.reshape(-1, *stored)",
        ("models/test_vit3d.py",),
    ),
    Mutation(
        "a-kernel-inflated-to-its-sum",
        "models/volume/inflated.py",
        ".expand(-1, -1, planes, -1, -1) / planes",
        ".expand(-1, -1, planes, -1, -1)",
        ("models/test_inflated.py",),
    ),
    Mutation(
        "rotary-positions-of-another-plane",
        "models/volume/inflated.py",
        "torch.cat([rope.get_embed(shape=plane)] * depth, -2)",
        "rope.get_embed(shape=plane).repeat_interleave(depth, -2)",
        ("models/test_inflated.py",),
    ),
    Mutation(
        "a-decoder-without-its-filler",
        "models/layouts.py",
        "if not names or self._filled:",
        "if not names:",
        ("models/test_vit3d.py",),
    ),
    Mutation(
        "hidden-patches-are-given",
        "methods/mae.py",
        "argsort(stable=True)[:, : self.visible]",
        "argsort(stable=True)[:, -self.visible :]",
    ),
    # ------------------------------------------------------------------ runs that go on
    Mutation(
        "checkpoint-without-the-queue",
        "methods/moco.py",
        'self.register_buffer("queue", F.normalize(torch.randn(queue, dim), dim=1))',
        'self.register_buffer("queue", F.normalize(torch.randn(queue, dim), dim=1), persistent=False)',
        ("pretrain/test_stages.py",),
    ),
    Mutation(
        "resumed-without-the-discriminator",
        "engine/state.py",
        'side.module.load_state_dict(_under(f"{side.name}.", tensors))',
        "pass",
        ("pretrain/test_stages.py",),
    ),
    Mutation(
        "resumed-a-step-too-late",
        "engine/loop.py",
        "self.state, self.stored = RunState(**state), True",
        'self.state, self.stored = RunState(**state | {"step": state["step"] + 1}), True',
        ("pretrain/test_stages.py",),
    ),
    Mutation(
        "checkpoint-of-other-bytes-is-whole",
        "runs/checkpoint/reading.py",
        'if len(content) != part["size"] or checksum(content) != part["xxh3"]:',
        'if len(content) != part["size"]:',
        ("runs/test_checkpoint.py",),
    ),
    Mutation(
        "latest-may-be-broken",
        "runs/checkpoint/reading.py",
        "            verify(candidate)\n",
        "            _index(candidate)\n",
        ("runs/test_checkpoint.py",),
    ),
    Mutation(
        "two-take-one-lease",
        "runs/lease.py",
        "self.path.touch(exist_ok=False)",
        "self.path.touch(exist_ok=True)",
        ("runs/test_folder.py",),
    ),
    Mutation(
        "a-ghost-goes-on-writing",
        "runs/lease.py",
        "if held != number:",
        "if held < number:",
        ("runs/test_folder.py",),
    ),
    Mutation(
        "resumed-without-the-optimizer",
        "engine/parallel/model.py",
        "make(module)\n        optim.load_by_name(self.optimizer, module, OPTIMIZER, state)\n",
        "make(module)\n",
        ("engine/test_any_task.py",),
    ),
    Mutation(
        "runs-in-another-order",
        "data/order.py",
        "ORDER_VERSION = 1",
        "ORDER_VERSION = 2",
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
        "tasks/labels.py",
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
        "unknown-pixel-counts-in-the-dice",
        "tasks/masks.py",
        "truth * known[:, None], probabilities * known[:, None]",
        "truth, probabilities",
        ("finetune/test_losses.py",),
    ),
    Mutation(
        "region-of-pixels-with-all-of-its-values",
        "tasks/masks.py",
        "for value in values]).any(0)",
        "for value in values]).all(0)",
        ("finetune/test_losses.py",),
    ),
    Mutation(
        "number-in-units-of-its-deviation",
        "tasks/regression.py",
        "return logits * deviation + mean",
        "return logits + mean",
        ("finetune/test_regression.py",),
    ),
    Mutation(
        "nobody-at-risk-at-the-time-of-a-tie",
        "tasks/survival.py",
        "at_risk = (times >= times[:, None])",
        "at_risk = (times > times[:, None])",
        ("finetune/test_grades_and_times.py",),
    ),
    Mutation(
        "every-step-between-grades-is-asked-for",
        "tasks/ordinal.py",
        "(targets >= steps).to",
        "(targets >= 0 * steps).to",
        ("finetune/test_grades_and_times.py",),
    ),
    Mutation(
        "pair-of-two-events-at-one-time",
        "metrics/statistics/weighted.py",
        "(t == t[part, None]) & (e == 0)",
        "(t == t[part, None])",
        ("metrics/test_survival.py",),
    ),
    Mutation(
        "change-of-low-rank-without-its-scale",
        "runs/lora.py",
        "return scale * (b @ a)",
        "return b @ a",
        ("finetune/test_trained.py",),
    ),
    Mutation(
        "one-block-more-learns",
        "finetune/trained.py",
        "if depth > blocks - config.last_blocks)",
        "if depth >= blocks - config.last_blocks)",
        ("finetune/test_trained.py",),
    ),
    Mutation(
        "interval-over-rows-of-a-patient",  # too narrow
        "metrics/statistics/bootstrap.py",
        "_defined(statistics, row, len(members), resamples, seed)",
        "_defined(statistics, np.arange(len(row)), len(row), resamples, seed)",
    ),
    # ------------------------------------------------------------------ volumes
    Mutation(
        "slices-in-the-order-of-files",
        "imaging/volumes/series.py",
        "return self.values if (order == np.arange(len(order))).all() else self.values[order]",
        "return self.values",
    ),
    Mutation(
        "every-axis-mirrored-as-the-first",
        "data/geometry/volume.py",
        "u[:, 1 + n : 1 + 2 * n] < np.array(self.flip), np.zeros(len(u), bool)",
        "u[:, 1 + n : 2 + n] < np.array(self.flip) + np.zeros(n), np.zeros(len(u), bool)",
        ("data/test_geometry.py",),
    ),
    # ------------------------------------------------------------------ tables
    Mutation(
        "seeds-counted-as-pretraining-runs",
        "metrics/statistics/spread.py",
        "n=len(means),",
        "n=count,",
        ("metrics/statistics/test_spread.py", "finetune/test_comparison.py"),
    ),
    Mutation(
        "twin-of-other-settings",
        "pages/tables/read.py",
        "random = {alike[setting]: setting for",
        "random = {other: setting for other in alike.values() for",
        ("pages/test_report_sweep.py",),
    ),
    # ------------------------------------------------------------------ visual words
    Mutation(
        "word-of-the-farthest-patients",
        "words/search.py",
        "nearest = tuple(_ranked(each, descriptors[0][reference]) for each in descriptors)",
        "nearest = tuple(_ranked(each, descriptors[0][reference])[::-1].copy() for each in descriptors)",
        ("words/test_words.py",),
    ),
    Mutation(
        "two-volumes-of-a-patient-in-a-word",
        "words/search.py",
        "return np.asarray(order[np.sort(first)])",
        "return np.asarray(order)",
        ("words/test_words.py",),
    ),
    # ------------------------------------------------------------------ sweeps
    Mutation(
        "lost-node-is-no-failure",  # a run that takes its node down is requeued for ever
        "sweep/ending.py",
        "return attempt.ended is None and not last",
        "return False",
    ),
    Mutation(
        "name-by-where-a-value-is-written",  # what has been computed is not found again
        "sweep/command_line.py",
        "isinstance(value, list | tuple) else typed(value)",
        "isinstance(value, list | tuple) else value",
        ("sweep/test_expand.py",),
    ),
    Mutation(
        "results-of-earlier-settings",
        "sweep/results.py",
        "runs = [folder.runs[run_id] for run_id in folder.current]",
        "runs = [*folder.runs.values()]",
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
