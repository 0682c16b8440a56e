"""What a model would take on a device, before anything of it is made or loaded.

    parts, models   a variant's parts, from a recipe, a checkpoint or an artifact: sizes, types of weights, shapes
    memory          weights as a library lays them out, keys and values, intermediate results
    kernels, times  how long it takes, by the device's limits and the share that each kernel reaches of them
    offload         what of it goes to a GPU
    rows            a variant on a device: settings, memory, times, and why it does not fit
    choose          every variant as a row, and the one to take
"""

from __future__ import annotations

from edgekit.planning.choose import GOALS, Goal, Plan, figure, plan
from edgekit.planning.models import of_artifact, of_checkpoint, of_recipe, planned_model
from edgekit.planning.parts import PlannedModel, PlannedPart
from edgekit.planning.rows import Loss, Row, Settings, row

__all__ = [
    "GOALS",
    "Goal",
    "Loss",
    "Plan",
    "PlannedModel",
    "PlannedPart",
    "Row",
    "Settings",
    "figure",
    "of_artifact",
    "of_checkpoint",
    "of_recipe",
    "plan",
    "planned_model",
    "row",
]
