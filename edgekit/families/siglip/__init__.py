"""SigLIP: MedSigLIP, and the tower that MedGemma sees with."""
