"""Whether pretraining helped."""
