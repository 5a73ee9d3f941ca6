"""Fine-tuning on labels or masks as a task of the engine: what is learned, how it is judged, what is written."""
