"""Optimisation: parameter groups, learning-rate schedules, frozen parts and the optimiser Muon."""

from hrseg.optim.groups import create_optimizer, parameter_groups
from hrseg.optim.muon import Muon
from hrseg.optim.parts import freeze_parts
from hrseg.optim.schedule import Schedule, create_schedule

__all__ = ["Muon", "Schedule", "create_optimizer", "create_schedule", "freeze_parts", "parameter_groups"]
