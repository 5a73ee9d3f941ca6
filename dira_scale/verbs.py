"""The commands, a row each: all that is true of one command and that the rest of the package needs to know of it.

Imports nothing of the package: functions are named, ``module:function``, and imported by who calls them
(``pkgutil.resolve_name``). How to add a command: docs/explanation/architecture.md.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """What is typed after ``dira-scale``; to users, a command.

    Attributes:
        name: also of its module beside this one, and of its file in ``configs/``.
        help: its line in ``dira-scale --help``.
        output: the key that says where it writes; empty if it has none.
        flags: takes ``--flag VALUE``, not ``KEY=VALUE``.
        in_sweeps: may be the command of a sweep's phase.
        gpu: computes on a GPU where there is one.
        trains: makes steps, and resumes at one; in a sweep, alone may have several processes.
        reads_run: its key ``run`` names what another command has trained.
        parts: keeps the finished parts of its output when it is stopped.
        slices: makes one of N parts of its output by ``slice=n/N``.
        execution: keys and sections that say how it is computed, without effect on the result.
        check: the function that refuses, before there is data, what the command would. It gets the configuration; then
            the number of processes if the command trains, then the descriptions by name of the runs it reads.
        plan: the function that estimates memory, hours and cost of a run that the command trains, from its words and a
            machine's keys ``plan.*``; empty: a sweep starts such runs without an estimate.
        describe: the function that describes a run that the command trains, from its configuration alone.
        described: keys and sections that decide what of this description a command that reads the run may refuse.
        results: the function that reads a finished output folder: pairs of name and figure, and the configuration.
        compare: the function that compares a phase's finished runs, given what varies and the folder of each: spreads,
            differences and notes. Empty: a sweep's page has means over seeds.
        headline: regular expression of the figures by which a sweep's runs are compared; empty: none.
    """

    name: str
    help: str
    output: str = ""
    flags: bool = False
    in_sweeps: bool = False
    gpu: bool = False
    trains: bool = False
    reads_run: bool = False
    parts: bool = False
    slices: bool = False
    execution: tuple[str, ...] = ()
    check: str = ""
    plan: str = ""
    describe: str = ""
    described: tuple[str, ...] = ()
    results: str = "dira_scale.cluster.results:from_json"
    compare: str = ""
    headline: str = ""


_ROWS = (
    Verb("shard", "convert medical images into shards", output="out", in_sweeps=True, parts=True,
         slices=True, execution=("workers",), check="dira_scale.ingest.commands:check"),
    Verb("plan", "estimate memory, traffic, hours and cost of a run before it starts", output="plan.json"),
    Verb("pretrain", "self-supervised pretraining", output="run", in_sweeps=True, gpu=True, trains=True,
         execution=("run", "trust", "reach", "parallel", "log_every", "checkpoint", "data.workers", "data.prefetch",
                    "data.loader", "data.helper", "data.cache", "data.cache_size", "validate.pictures",
                    "validate.restored", "health", "watchdog", "tracker", "enough_steps"),
         check="dira_scale.planning.refused:check", plan="dira_scale.planning.configured:planned",
         describe="dira_scale.pretraining.description:describe",
         described=("stages", "model", "data.size"), results="dira_scale.cluster.results:training",
         headline="[^/]*/val/loss"),
    Verb("finetune", "train on labels or masks, from pretrained weights", output="run", in_sweeps=True, gpu=True,
         trains=True,
         execution=("run", "trust", "reach", "parallel", "log_every", "checkpoint", "data.workers", "data.prefetch",
                    "data.loader", "data.helper", "data.cache", "data.cache_size", "watchdog", "tracker",
                    "enough_steps"),
         check="dira_scale.evaluation.finetune.refused:check", plan="dira_scale.planning.finetuning:planned",
         describe="dira_scale.evaluation.finetune.description:describe",
         described=("stages", "model", "data.size", "task"),
         results="dira_scale.evaluation.finetune.results:finetuning",
         compare="dira_scale.evaluation.finetune.comparison:compared",
         headline="test/(AUROC|accuracy|Dice)/(mean|all classes)$"),
    Verb("probe", "test frozen features against random ones and raw pixels", output="out", in_sweeps=True, gpu=True,
         reads_run=True, execution=("data.workers", "trust", "reach"),
         check="dira_scale.evaluation.refused:check_probe",
         results="dira_scale.cluster.results:probing", headline="auc/.*/mean$"),
    Verb("embed", "compute features of a dataset once, as Parquet", output="out", in_sweeps=True, gpu=True,
         reads_run=True, parts=True, execution=("data.workers", "threads", "timeout", "trust", "reach"),
         check="dira_scale.evaluation.refused:check_embed",
         results="dira_scale.evaluation.embedding.folder:about_rows"),
    Verb("predict", "labels or masks of new images, by a fine-tuned run", output="out", gpu=True, reads_run=True,
         execution=("batch", "workers", "trust", "reach")),
    Verb("words", "cut visual words out of volumes, as a dataset with labels", output="out", in_sweeps=True, gpu=True,
         reads_run=True, parts=True, execution=("batch", "workers", "data.workers", "trust", "reach"),
         check="dira_scale.discovery.refused:check"),
    Verb("localize", "boxes of labels by Grad-CAM, and their accuracy", output="out", in_sweeps=True, gpu=True,
         reads_run=True, parts=True, execution=("data.workers", "trust", "reach"),
         check="dira_scale.localization.refused:check",
         results="dira_scale.localization.results:localizing",
         compare="dira_scale.localization.comparison:compared", headline="accuracy/mean/"),
    Verb("sweep", "start many runs of these, here or on SLURM", output="folder"),
    Verb("export", "write weights that plain timm and smp load", output="out", in_sweeps=True, reads_run=True,
         check="dira_scale.evaluation.refused:check_export"),
    Verb("report", "write an HTML page about a run", output="out", reads_run=True),
    Verb("doctor", "show what this machine has and lacks"),
    Verb("bench", "measure speed on this machine against baselines", flags=True, in_sweeps=True, gpu=True),
)  # fmt: skip
VERBS = {verb.name: verb for verb in _ROWS}
