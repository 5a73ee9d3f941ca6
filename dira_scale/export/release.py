"""A card's sections that a run does not record by itself, and the gaps that a release may not have."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from dira_scale.export.config import CardWords
from dira_scale.train.runs.description import Description
from dira_scale.train.runs.reader import RunRow, TrainingData

NOT_STATED = "not stated"  # as recipes of one's own images have it where no licence is given


@dataclass(frozen=True)
class Compute:
    """The compute that training took, as the run has recorded it, or None: the ``hours`` of all steps, validation and
    checkpoints, the ``device``'s name, and the number of ``devices`` at the last start."""

    hours: float | None = None
    device: str = "unknown"
    devices: int | None = None

    @classmethod
    def of(cls, rows: Sequence[RunRow], environment: RunRow) -> "Compute":
        """From ``metrics.jsonl`` and ``environment.json``. A process has one GPU; without GPUs, one process a CPU."""
        seconds = [value for row in rows for key, value in row.items() if key.startswith("time/")]
        gpus, processes = environment.get("gpus") or [], environment.get("processes")
        device = gpus[0] if gpus else f"CPU of {environment['cores']} cores" if environment.get("cores") else "unknown"
        devices = processes if gpus or processes == 1 else None
        return cls(sum(seconds) / 3600 if seconds else None, device, devices)

    def text(self, words: CardWords) -> str:
        """The section, with the energy by its formula."""
        hours = "unknown" if self.hours is None else f"{self.hours:.3g}"
        formula = "devices x power x hours x PUE"
        lacking = [] if words.watts else ["the power of a device (`card.watts=…`)"]
        lacking += [] if self.hours is not None else ["the hours"]
        lacking += [] if self.devices else ["the number of devices"]
        energy = f"unknown. It would be {formula}; not recorded: {', '.join(lacking)}"
        if words.watts is not None and self.hours is not None and self.devices:
            product = self.devices * words.watts / 1000 * self.hours * words.pue
            factors = f"{self.devices} x {words.watts:g} W x {hours} h x {words.pue:g}"
            energy = f"{product:.3g} kWh = {formula} = {factors}"
        device = f"- Device: {self.device}; number: {self.devices or 'unknown'}."
        return f"## Compute\n\n{device}\n- Hours: {hours}.\n- Energy: {energy}."


@dataclass(frozen=True)
class Release:
    """The content of a card beyond the run's description: the ``words`` of its author, the Markdown of each
    ``evaluation``; ``run`` and ``shards``: names or paths for the commands that fill a gap."""

    words: CardWords = field(default_factory=lambda: CardWords(intended_use="Research.", out_of_scope="Diagnosis."))
    compute: Compute = field(default_factory=Compute)
    evaluation: Sequence[str] = ()
    run: str = "RUN"
    shards: str = "SHARDS"

    def sections(self) -> list[str]:
        """Use, compute, evaluation, authors, citation."""
        words = self.words
        figures = "\n\n".join(self.evaluation) or f"Not evaluated, run {self._evaluate()}."
        developers, contact, citation = (
            getattr(words, key) or f"Not written: `card.{key}=…`." for key in ("developers", "contact", "citation")
        )
        return [
            f"## Intended use\n\n{words.intended_use}\n\n## Out of scope\n\n{words.out_of_scope}",
            self.compute.text(words),
            f"## Evaluation\n\n{figures}",
            f"## Authors\n\n- Developers: {developers}\n- Contact: {contact}",
            f"## Citation\n\n{citation}",
        ]

    def bias(self) -> str:
        """A line of the limits."""
        return self.words.bias or "Groups of patients, sites and scanners: not evaluated; write `card.bias=…`."

    def gaps(self, run: Description, datasets: Sequence[TrainingData]) -> list[str]:
        """List what a release must have and this one lacks, each with how to fill it."""
        words = self.words
        keys = {"developers": "who made the weights", "contact": "where questions go", "citation": "how to cite them"}
        gaps = [f"{about} (card.{key}=…)" for key, about in keys.items() if not getattr(words, key)]
        if not words.bias:
            gaps.append("how figures differ between groups of patients, sites and scanners (card.bias=…)")
        if not self.evaluation:
            gaps.append(f"evaluation: not evaluated, run {self._evaluate()}")
        for data in datasets:
            if data.known.licence is None or data.known.samples is None:
                gaps.append(f"licence and counts of the dataset {data.name}: {data.error}")
            elif data.known.licence == NOT_STATED:
                gaps.append(f"licence of the dataset {data.name}: not stated (shard it with recipe.licence=…)")
        if run.network.start and not words.start_data:
            gaps.append(f"data of the weights {run.network.start} that it started from (card.start_data=…)")
        if run.network.start and not (words.start_licence or run.network.licence):
            gaps.append(f"licence of the weights {run.network.start} that it started from (card.start_licence=…)")
        return gaps

    def _evaluate(self) -> str:
        command = f"python -m dira_scale.probe run={self.run} data.shards={self.shards} out={self.run}/probe"
        return f"`{command}`, then export with `card.evaluation={self.run}/probe`"
