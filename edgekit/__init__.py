"""edgekit: MedGemma and MedSigLIP on the edge: convert, prove, serve, measure."""

__version__ = "0.1.0"
