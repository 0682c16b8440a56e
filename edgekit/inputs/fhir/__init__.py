"""A patient's record in FHIR R4 to what a model can read of it in one question, and back from its answer to the record.

`reader` takes a bundle of one patient within limits, `facts` makes lines with ids of its resources, `digest` chooses
what fits a budget of tokens, `cite` looks whether an answer cites what the record says.
"""
