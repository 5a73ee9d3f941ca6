"""Volumes with several channels in one file: 4D NIfTI, NRRD, MetaImage or NumPy."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from dira_scale.archive.imaging.volumes.channels import Channels
from dira_scale.archive.sources.base import SourceImage, SourceRecord
from dira_scale.archive.sources.label_columns import ClassSpec
from dira_scale.archive.sources.volumes import Volumes
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.schema import PathStr


class ChannelFiles(Volumes):
    """Files below ``images`` that have the same channels in the same order.

    Args:
        channels: their names, in the files' order: at least two, and different.

    Others as ``Volumes``. DICOM series, which have one channel, are rejected.

    Raises:
        UserError: as ``Volumes``; for ``channels`` that are fewer than two or alike.
    """

    def __init__(
        self,
        images: PathStr,
        channels: Sequence[str],
        labels: PathStr | None = None,
        boxes: PathStr | None = None,
        columns: Mapping[str, str | None] | None = None,
        label_columns: Sequence[str] | None = None,
        label_rules: Mapping[str, Mapping[str, str]] | None = None,
        class_columns: ClassSpec = None,
        patient_pattern: str | None = None,
        attributes: Sequence[str] = (),
        structures: Mapping[str, str] | None = None,
    ):
        if not 1 < len(channels) == len({*channels}):
            raise ArgumentError("channels", channels, "two or more different names, in the files' order")
        super().__init__(
            images, labels, boxes, columns, label_columns, label_rules, class_columns, patient_pattern, attributes,
            structures,
        )  # fmt: skip
        self.channels = tuple(channels)

    def _all(self, workers: int) -> Iterator[SourceRecord]:
        for record in super()._all(workers):
            if isinstance(record.image, SourceImage):
                yield replace(record, rejected="a DICOM series, which has one channel: use recipe=sequences")
            else:
                yield replace(record, image=Channels(self.channels, (record.image,)))
