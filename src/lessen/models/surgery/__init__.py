"""Structured removal that is real: tensors cut, numbers in the code put right, the result proved."""

from lessen.models.surgery.edits import Edit, Setting, apply_edits
from lessen.models.surgery.shrink import Shrunk, Unprovable, shrink, shrink_what_works, shrink_with_edits

__all__ = ["Edit", "Setting", "Shrunk", "Unprovable", "apply_edits", "shrink", "shrink_what_works", "shrink_with_edits"]
