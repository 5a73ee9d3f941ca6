"""Phantom CT: a trunk of signed distances in Hounsfield units, scanned into volumes, written as DICOM and its peers."""
