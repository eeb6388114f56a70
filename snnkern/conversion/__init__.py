"""From a dense actor to a spiking one: thresholds, corrections, rewriting of modules."""

from snnkern.former import attributes

__getattr__ = attributes(__name__)
