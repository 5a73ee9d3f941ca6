"""The processes of a run: launch, rendezvous, agreement, shared numbers and precision."""
