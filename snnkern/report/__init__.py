"""Figures, tables and pages."""

from snnkern.former import attributes

__getattr__ = attributes(__name__)
