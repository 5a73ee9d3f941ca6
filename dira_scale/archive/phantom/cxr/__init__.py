"""Phantom chest radiographs: a thorax of attenuating volumes, projected, degraded, written as DICOM."""
