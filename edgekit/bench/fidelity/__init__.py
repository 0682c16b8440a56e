"""How far a decoder's logits are from full precision's at the same positions of the same prompts.

Accuracy moves in steps of one answer; these figures see damage long before an answer changes. The full-precision row
runs first and leaves its logits under a hash of all that they depend on; every other row builds the same prompts,
decodes them and is compared position by position. Logits are float32 and exact, one row a position on the disk: 1 MB
each at Gemma's vocabulary, as many as a task's file allows, and one at a time in memory.
"""

from __future__ import annotations
