"""How a network learns: parameter groups, the learning-rate schedule, and an optimiser that torch does not have."""

from hrseg.optim.groups import create_optimizer, parameter_groups
from hrseg.optim.muon import Muon
from hrseg.optim.schedule import poly_schedule

__all__ = ["Muon", "create_optimizer", "parameter_groups", "poly_schedule"]
