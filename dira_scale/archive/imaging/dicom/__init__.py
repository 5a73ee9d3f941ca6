"""DICOM by pydicom: headers, pixels in every common transfer syntax, modality values, windows, geometry."""
