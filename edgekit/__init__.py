"""edgekit: MedGemma and MedSigLIP on the edge: convert, prove, serve, measure."""
