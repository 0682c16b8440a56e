"""The decision: which level to take here, why, and what it costs.

    readings   a row's figures by the names that people ask for them
    gates      "accuracy_drop <= 1": what a level must keep, tested at the bound of the interval
    planned    gates that no task can answer, before a run
    fit        whether a level fits a device
    pareto     which levels no other one is better than in everything
    choose     the choice of one level of each model
"""

from __future__ import annotations

from edgekit.bench.decision.choose import Candidate, Decision, Question, decide
from edgekit.bench.decision.gates import Gate, Verdict, check_known, gates

__all__ = ["Candidate", "Decision", "Gate", "Question", "Verdict", "check_known", "decide", "gates"]
