"""What a model would take on a device, before anything of it is made or loaded.

    parts, models   a variant's parts, from a recipe, a checkpoint or an artifact: sizes, types of weights, shapes
    memory          weights as a library lays them out, keys and values, intermediate results
    kernels, times  how long it takes, by the device's limits and the share that each kernel reaches of them
    offload         what of it goes to a GPU
    choose          every variant as a row, the settings of each, and the one to take
"""

from __future__ import annotations

from edgekit.planning.choose import GOALS, Goal, Loss, Plan, Row, Settings, plan, row
from edgekit.planning.models import of_artifact, of_checkpoint, of_recipe, planned_model
from edgekit.planning.parts import PlannedModel, PlannedPart

__all__ = [
    "GOALS",
    "Goal",
    "Loss",
    "Plan",
    "PlannedModel",
    "PlannedPart",
    "Row",
    "Settings",
    "of_artifact",
    "of_checkpoint",
    "of_recipe",
    "plan",
    "planned_model",
    "row",
]
