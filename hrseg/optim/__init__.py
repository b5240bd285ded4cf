"""Optimisation: parameter groups, learning-rate schedules, frozen layers and the optimiser Muon."""

from hrseg.optim.groups import create_optimizer, parameter_groups
from hrseg.optim.muon import Muon
from hrseg.optim.patterns import freeze_layers
from hrseg.optim.schedule import Schedule, create_schedule

__all__ = ["Muon", "Schedule", "create_optimizer", "create_schedule", "freeze_layers", "parameter_groups"]
