"""Why return is lost, and what a decision costs in operations, energy and time."""

from snnkern.former import attributes

__getattr__ = attributes(__name__)
