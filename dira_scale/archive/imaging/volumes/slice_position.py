"""The positions of a series' slices, and whether they form a volume."""

from collections.abc import Sequence

import numpy as np

from dira_scale.archive.imaging.dicom.frames import DicomFile, Plane, plane_of
from dira_scale.archive.imaging.rejection import GeometryError, RejectedError, rejects
from dira_scale.archive.imaging.volumes.geometry import LPS_TO_RAS, RIGHT_ANGLE, Grid
from dira_scale.archive.imaging.volumes.regrid import Stack

EXTRA = ("GridFrameOffsetVector", "SpacingBetweenSlices", "SliceThickness")  # header elements for ``planes_of``
SAME_POSITION = 0.01  # mm: slices closer than this are at one position
TOLERANCE = 0.1  # voxels by which a segmentation's pixels may be off: headers are rounded
MAX_GAP = 3.0  # median distances: across a larger gap, interpolation would invent anatomy


def planes_of(dicom: DicomFile) -> list[Plane]:
    """The plane of each frame. Raises RejectedError.

    Frames without individual positions (non-enhanced classes) are placed along the normal by the offsets or the
    distance in the file. Offsets that start with zero count from the first frame; if they start with that frame's z
    and the frames are transverse, each is its frame's z (PS3.3 C.8.8.3.2).
    """
    planes = [plane_of(dicom.frame_header(number)) for number in range(dicom.count)]
    if dicom.count > 1 and "PerFrameFunctionalGroupsSequence" not in dicom.header:
        first = planes[0]
        with rejects("frames without a distance between them ({})"):
            offsets = dicom.header.get("GridFrameOffsetVector")
            if offsets is None:
                step = dicom.header.get("SpacingBetweenSlices") or dicom.header.SliceThickness
                offsets = np.arange(dicom.count) * float(step)
            along = np.array([float(offset) for offset in offsets])
            if first is not None and len(along) == dicom.count:
                normal = np.cross(first.right, first.down)
                if along[0] != 0:
                    transverse, z = abs(normal[2]) > 1 - 1e-6, first.position[2]
                    if not (transverse and abs(along[0] - z) < SAME_POSITION):
                        raise GeometryError(
                            "offsets of frames that begin neither with zero nor where the first one lies"
                        )
                    along = (along - z) * np.sign(normal[2])
                planes = [first._replace(position=first.position + offset * normal) for offset in along]
    placed = [plane for plane in planes if plane is not None]
    if len(placed) < len(planes):
        raise GeometryError("slices without position, orientation or spacing")
    return placed


def place_slices(planes: Sequence[Plane], size: tuple[int, int]) -> tuple[np.ndarray, Grid | Stack]:
    """The order of the slices along their normal, and their geometry: a Grid, or a Stack if they are shifted or
    unevenly spaced. Raises GeometryError."""
    first = planes[0]
    if len(planes) == 1:
        raise GeometryError("a single slice")
    turned = [np.abs([p.right - first.right, p.down - first.down]).max() for p in planes]
    if max(turned) > 10 * RIGHT_ANGLE:
        raise GeometryError("slices of different orientations")
    if max(abs(a / b - 1) for p in planes for a, b in zip(p.spacing, first.spacing, strict=True)) > RIGHT_ANGLE:
        raise GeometryError("slices of different spacings")
    normal = np.cross(first.right, first.down)
    positions = np.array([plane.position for plane in planes])
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    along = (positions - positions[0]) @ normal
    distances = np.diff(along)
    step = float(np.median(distances))
    if distances.min() < SAME_POSITION:
        raise GeometryError("several slices at one position")
    if distances.max() > MAX_GAP * step:
        raise GeometryError("slices are missing: a gap of more than three slices")
    in_plane = positions - positions[0]
    shifts = np.stack([in_plane @ first.down / first.spacing[0], in_plane @ first.right / first.spacing[1]], axis=1)

    def stack(step: float) -> Stack:
        corner = np.eye(4)
        corner[:3, :3] = np.stack([first.right * first.spacing[1], first.down * first.spacing[0], normal * step], 1)
        corner[:3, 3] = positions[0]
        return Stack(LPS_TO_RAS @ corner, size, along, shifts, step)

    even = stack(along[-1] / (len(along) - 1))
    if even.uneven:
        return order, stack(step)
    return order, even if even.shifted else even.grid


def pixels_to_voxels(plane: Plane, grid: Grid) -> np.ndarray:
    """Matrix from (column, row, 1) of a slice to (x, y, z) indices of a volume."""
    down, right = (step * length for step, length in zip((plane.down, plane.right), plane.spacing, strict=True))
    pixels = np.array([[*right, 0], [*down, 0], [*plane.position, 1]]).T
    return np.linalg.solve(grid.affine, LPS_TO_RAS @ pixels)[:3]


def voxels_of(plane: Plane, grid: Grid, size: tuple[int, int], rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """z, y and x of the voxels of ``grid``, int [3, …], that are the pixels at ``rows`` and ``columns`` of a slice of
    ``size``. Raises RejectedError unless its pixels are voxels, to ``TOLERANCE``, and these lie in the grid."""
    matrix = pixels_to_voxels(plane, grid)
    rounded = np.rint(matrix).astype(int)
    off = np.abs(matrix - rounded) @ [size[1] - 1, size[0] - 1, 1]  # at the far corner
    voxels: np.ndarray = np.einsum("ai,i...->a...", rounded, np.stack([columns, rows, np.ones_like(rows)]))[::-1]
    sides = np.reshape(grid.shape, (3, *[1] * rows.ndim))
    axes = (np.abs(rounded[:, :2]).sum(axis=0) == 1).all()
    if off.max() > TOLERANCE or not axes or ((voxels < 0) | (voxels >= sides)).any():
        raise RejectedError("the mask's grid is not the volume's")
    return voxels
