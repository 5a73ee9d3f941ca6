"""Phantom chest radiographs: a thorax as attenuating volumes, projected, degraded and written as DICOM."""
