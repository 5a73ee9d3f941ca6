"""A card's sections that a run does not record by itself, and the gaps that a release may not have."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dira_scale.base.errors import UserError
from dira_scale.export.config import CardWords
from dira_scale.train.runs.description import Description
from dira_scale.train.runs.reader import RunRow, TrainingData

NOT_STATED = "not stated"  # as recipes of one's own images have it where no licence is given
NOT_WRITTEN = "Not written: `card.{}=…`."


@dataclass(frozen=True)
class Compute:
    """The compute that training took, as the run has recorded it.

    Attributes:
        hours: of all steps, validation and checkpoints; None: not recorded.
        device: its name.
        devices: their number at the last start; None: not recorded.
    """

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
        lines = [f"- Device: {self.device}; number: {self.devices or 'unknown'}.", f"- Hours: {hours}."]
        formula = "devices x power x hours x PUE"
        if words.watts is None or self.hours is None or not self.devices:
            lacking = [] if words.watts else ["the power of a device (`card.watts=…`)"]
            lacking += [] if self.hours is not None else ["the hours"]
            lacking += [] if self.devices else ["the number of devices"]
            lines.append(f"- Energy: unknown. It would be {formula}; not recorded: {', '.join(lacking)}.")
        else:
            energy = self.devices * words.watts / 1000 * self.hours * words.pue
            factors = f"{self.devices} x {words.watts:g} W x {hours} h x {words.pue:g}"
            lines.append(f"- Energy: {energy:.3g} kWh = {formula} = {factors}.")
        return "\n".join(["## Compute", "", *lines])


@dataclass(frozen=True)
class Release:
    """The content of a card beyond the run's description.

    Attributes:
        words: of its author.
        evaluation: Markdown of each evaluation.
        run: a name or path of the run for the commands that fill a gap, and ``shards`` one of its datasets.
    """

    words: CardWords = field(default_factory=lambda: CardWords(intended_use="Research.", out_of_scope="Diagnosis."))
    compute: Compute = field(default_factory=Compute)
    evaluation: Sequence[str] = ()
    run: str = "RUN"
    shards: str = "SHARDS"

    def sections(self) -> list[str]:
        """Use, compute, evaluation, authors."""
        words, use = self.words, "## Intended use\n\n{}\n\n## Out of scope\n\n{}"
        figures = "\n\n".join(self.evaluation) or f"Not evaluated, run {self._evaluate()}."
        authors = [f"- Developers: {words.developers or NOT_WRITTEN.format('developers')}"]
        authors.append(f"- Contact: {words.contact or NOT_WRITTEN.format('contact')}")
        return [
            use.format(words.intended_use, words.out_of_scope),
            self.compute.text(words),
            f"## Evaluation\n\n{figures}",
            "\n".join(["## Authors", "", *authors]),
            f"## Citation\n\n{words.citation or NOT_WRITTEN.format('citation')}",
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

    def require_complete(self, run: Description, datasets: Sequence[TrainingData]) -> None:
        """Raise UserError if the card has gaps, with all of them."""
        if gaps := self.gaps(run, datasets):
            count = "a gap" if len(gaps) == 1 else f"{len(gaps)} gaps"
            raise UserError(f"release=true: the card has {count}: {'; '.join(gaps)}")

    def without_paths(self) -> "Release":
        """For the card, which names no folders of this machine."""
        return replace(self, run=Path(self.run).resolve().name, shards=Path(self.shards).name)

    def _evaluate(self) -> str:
        command = f"python -m dira_scale.probe run={self.run} data.shards={self.shards} out={self.run}/probe"
        return f"`{command}`, then export with `card.evaluation={self.run}/probe`"
