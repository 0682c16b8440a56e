"""MedSigLIP with fixed labels as one small model: image in, scores out, for phones and browsers."""
