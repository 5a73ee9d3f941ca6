"""Pretraining methods, and ``build``: from configuration to a method ready for the training loop."""

from dira_scale.train.methods.build import SIZE, build, check_batch, construct, learned_label, method_class, views_of
from dira_scale.train.methods.method import Method, Terms

__all__ = ["SIZE", "Method", "Terms", "build", "check_batch", "construct", "learned_label", "method_class", "views_of"]
