"""The figures at the top of a page, each with a verdict where the project has a threshold to judge it by."""

from dira_scale.base.errors import duration
from dira_scale.judge.evaluation.results import overall
from dira_scale.judge.pages.template import rate
from dira_scale.judge.pages.verdict import Grade, Headline, Verdict
from dira_scale.report.content import RunContent
from dira_scale.report.summary import BASELINES, RESTORERS, throughput
from dira_scale.train.runs.description import CHOSEN_RATE
from dira_scale.train.runs.remarks import ABOVE_CHANCE, COLLAPSED_RANK, COLLAPSED_STD, ENOUGH_STEPS, RECOGNISED, SETTLED

# experiments.md: every base that was seen to learn had less than half of the best trivial restorer's error.
RESTORES = 0.5
WORSE = 1.05  # times the error: below it "1.0 × worse" would be read
LEARNS = 5.0  # methods.md: five times chance shows that a method learns
SPREAD = 0.15  # training.md: the normal spread of directions
WAITING = 0.1  # health.md: a larger share of time waiting for the loader needs more workers
NOISE = 100  # training.md: with fewer held-out images the neighbours' AUC is noise


SUBJECTS = ("run", "result", "restoration", "discrimination", "embeddings", "neighbours", "speed")


def headlines(run: RunContent, warnings: int) -> dict[str, Headline]:
    """By their ``SUBJECTS``, those that the run has."""
    candidates = (
        _state(run, warnings), _result(run), _restoration(run), _discrimination(run), _embeddings(run),
        _neighbours(run), _speed(run),
    )  # fmt: skip
    return {subject: each for subject, each in zip(SUBJECTS, candidates, strict=True) if each is not None}


def _state(run: RunContent, warnings: int) -> Headline:
    step = run.rows[-1]["step"] if run.rows else 0
    spent = sum(stage.total for stage in throughput(run))
    state = run.status.get("state", "state unknown")
    reason = run.reason() if state != "failed" else ""
    restarts = len(run.restarts())
    again = f"; resumed {restarts} time{'s' * (restarts > 1)}" if restarts else ""
    epochs = f", {run.rows[-1]['epoch']:.1f} epochs" if run.rows else ""
    enough = run.description.enough_steps or 0
    verdict: Verdict | None
    if state == "failed":
        verdict = Verdict(Grade.poor, "the reason is above")
    elif warnings:
        verdict = Verdict(Grade.fair, f"{warnings} warning{'s' * (warnings > 1)}, above")
    elif state == "done" and reason:
        verdict = Verdict(Grade.short, "it was to stop before its last step")
    elif step < enough:
        verdict = Verdict(_early(run), f"this experiment needed {enough} steps to learn; no warnings")
    else:
        verdict, again = None, f"{again}; no warnings"  # it ran; whether it is good the results say
    return Headline(
        "Stopped" if state == "done" and reason else state.capitalize(),  # by steps=N, before its last step
        f"{step} steps{epochs}",
        f"{duration(spent)} of computing{again}{': ' * bool(reason)}{reason}",
        verdict,
    )


def _result(run: RunContent) -> Headline | None:
    """Return the headline of the best checkpoint. No threshold: what is good depends on the labels, and on what random
    weights reach."""
    splits = run.results.get("figures", {})
    split = "test" if "test" in splits else "val"
    figures = overall(splits.get(split, []), run.description.best)
    if not figures:
        return None
    first, *others = figures
    others_of = splits.get("val", []) if split == "test" else []
    validated = next((row for row in overall(others_of, run.description.best)), None)
    chosen = "".join(f"; {line}" for line in run.description.training if line.startswith(CHOSEN_RATE))
    validation = f"; on the validation split {validated.in_words()}" if validated else ""
    return Headline(
        first.with_interval(),
        f"on the {'test' if split == 'test' else 'validation'} split ({first.patients} patients)",
        f"checkpoint of step {run.results['step']}; {', '.join(each.in_words() for each in others)}{validation}"
        + chosen,
    )


def _restoration(run: RunContent) -> Headline | None:
    """The last stage's error relative to the best trivial restorer's."""
    stages = list(dict.fromkeys(row["stage"] for row in run.restoration))
    if not stages:
        return None
    by_name = {row["restorer"]: row for row in run.restoration if row["stage"] == stages[-1]}
    ours = by_name.pop("restored", None)
    if ours is None or not by_name:
        return None
    best = min(by_name.values(), key=lambda row: row["mse"])
    if not best["mse"]:
        return None  # the views had nothing to restore
    ratio, than = ours["mse"] / best["mse"], BASELINES[best["restorer"]]
    grade = Grade.good if ratio <= RESTORES else Grade.fair if ratio < 1 else Grade.poor
    detail = (
        f"restoring {ours['n']} held-out images after stage {stages[-1]}: mean squared error {ours['mse']:.4f}, "
        f"against {best['mse']:.4f} for {RESTORERS[best['restorer']]}, the best of the methods that learn nothing"
    )
    if ratio < WORSE:
        figure, what = f"{ratio:.2f} ×", f"{than}'s error at restoring images"
    else:
        figure, what = f"{_times(ratio)} worse", f"than {than} at restoring images"
    return Headline(
        figure, what, detail, _unless_early(run, grade, f"good: at most {RESTORES:g} × its error; poor: 1 × or more")
    )


def _discrimination(run: RunContent) -> Headline | None:
    """Judge how often an image's other view is found, or its class is right: on held-out images, where their batches
    have at least two.

    Of training images, views are judged of the stages that corrupt none, if there are such: those of the others are cut
    out and shuffled, and even good runs distinguish them less well.
    """
    name = run.recognised
    rows = [row for row in run.rows if 0 < (row.get("chance") or 1.0) <= 0.5 and name and row.get(name) is not None]
    if not rows or not name:
        return None
    measured = run.description.metrics.get(name)
    alone = [row for row in rows if name == "top1" and measured and run.terms(row["stage"]) == [measured.term]]
    rows = [row for row in rows if row["split"] == "val"] or alone or rows
    row = rows[-1]
    times = {row["stage"]: _times(row[name] / row["chance"]) for row in rows}
    del times[row["stage"]]
    before = "".join(f"; {multiple} after stage {stage}" for stage, multiple in times.items())
    samples = f"{'held-out' if row['split'] == 'val' else 'training'} {run.description.unit}"
    right, chance = row[name], row["chance"]
    if chance > 1 / 2 / LEARNS:
        verdict = Verdict(Grade.open, f"among {1 / chance:.0f} a guess is right too often")
    else:
        grade = Grade.good if right >= LEARNS * chance else Grade.fair if right >= ABOVE_CHANCE * chance else Grade.poor
        why = f"good: at least {LEARNS:g} × chance; poor: below {ABOVE_CHANCE:g} ×"
        verdict = _unless_early(run, grade, why)
    return Headline(
        f"{_times(right / chance)} chance",
        measured.title[0].lower() + measured.title[1:] if measured else name,
        f"the {RECOGNISED[name]} for {100 * right:.0f} % of the {samples}, by chance for {100 * chance:.0f} %, at step "
        f"{row['step']} (stage {row['stage']}){before}",
        verdict,
    )


def _embeddings(run: RunContent) -> Headline | None:
    rows = [row for row in run.rows if None not in (row.get("health/std"), row.get("health/rank"))]
    if not rows:
        return None
    row, spread, rank = rows[-1], rows[-1]["health/std"], rows[-1]["health/rank"]
    collapsed = spread < COLLAPSED_STD or rank < COLLAPSED_RANK
    grade = Grade.poor if collapsed else Grade.fair if spread < SPREAD else Grade.good
    stage = next(stage for stage in throughput(run) if stage.stage == row["stage"])
    if collapsed and stage.fraction is not None and stage.fraction < SETTLED:
        verdict = Verdict(Grade.early, f"the first {100 * SETTLED:.0f} % of a stage is not judged")
    else:
        collapse = f"rank below {COLLAPSED_RANK:g} or spread below {COLLAPSED_STD:g} (collapse)"
        verdict = Verdict(grade, f"good: spread from {SPREAD:g}; poor: {collapse}")
    return Headline(
        f"rank {rank:.1f}",
        "effective rank of the embeddings: the number of directions they use",
        f"spread of directions {spread:.2f} (1: even; 0: all images become one), step {row['step']}",
        verdict,
    )


def _neighbours(run: RunContent) -> Headline | None:
    """No threshold: what a good AUC is depends on the labels."""
    rows = [row for row in run.rows if row.get("health/knn_auc") is not None]
    if not rows:
        return None
    first, last, images = rows[0], rows[-1], run.held_out_samples
    noise = f"{images} held-out images: with fewer than about {NOISE} it is noise" if images < NOISE else ""
    before = f"; at step {first['step']}: {first['health/knn_auc']:.2f}" if first is not last else ""
    return Headline(
        f"AUC {last['health/knn_auc']:.2f}",
        "nearest neighbours find the labels of held-out images, by the encoder's features",
        f"mean over labels at step {last['step']}{before}; chance: 0.50",
        Verdict(Grade.open, noise) if noise else None,
    )


def _speed(run: RunContent) -> Headline | None:
    """No threshold: what is fast depends on network and machine. Waiting for images is slow on any."""
    stages = throughput(run)
    if not stages:
        return None
    machine, gpus, unit = run.environment, run.environment.get("gpus"), run.description.unit
    where = f", on {len(gpus)} × {gpus[0]}" if gpus else f", on {machine['cores']} CPU cores" if machine else ""
    each = f"medians: {', '.join(f'{t.stage} {rate(t.speed[1])}' for t in stages)}"
    waiting = stages[-1].share("data")
    waits = f"waits for {unit} {100 * waiting:.0f} % of the time"
    loading = stages[-1].loading
    longest = f", in which its loader's threads mostly {max(loading, key=loading.__getitem__)}" if loading else ""
    slowed = waiting > WAITING
    return Headline(
        f"{rate(stages[-1].speed[1])} {unit}/s",
        f"in the last stage{where}",
        each if slowed else f"{waits}; {each}",
        Verdict(Grade.fair, f"{waits}{longest}: more data.workers") if slowed else None,
    )


def _unless_early(run: RunContent, grade: Grade, why: str) -> Verdict:
    """Withhold a verdict that is not good before the steps that the experiment needed to learn."""
    done, enough = run.rows[-1]["step"] if run.rows else 0, run.description.enough_steps or ENOUGH_STEPS
    if grade is not Grade.good and done < enough:
        return Verdict(_early(run), f"{done} of about {enough} steps; {why}")
    return Verdict(grade, why)


def _early(run: RunContent) -> Grade:
    return Grade.short if run.status.get("state") == "done" else Grade.early


def _times(multiple: float) -> str:
    return f"{multiple:.{0 if multiple >= 10 else 1}f} ×"
