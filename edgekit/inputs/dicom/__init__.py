"""DICOM files, series and studies to the pictures that MedGemma and MedSigLIP were trained to see.

`guard` refuses what lies about its size before a decoder sees it, `file` decodes one file in a worker process, `series`
puts slices in their order, `recipes` says which values become black and white, and `study` makes parts of a message.
"""

DEFAULT = "medgemma-1.5"  # of `recipes.RECIPES`
