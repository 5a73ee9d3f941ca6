"""Networks of images and volumes, BatchNorm over groups of the global batch, layouts of published weights."""
