"""Dimension groups: which channels of which layers can only be removed together, read from the running network."""

from lessen.models.groups.grouping import Group, Grouping, Left, Member, find_groups
from lessen.models.groups.readers import readers
from lessen.models.groups.rules import couple

__all__ = ["Group", "Grouping", "Left", "Member", "couple", "find_groups", "readers"]
